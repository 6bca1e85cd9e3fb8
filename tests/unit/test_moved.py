"""Module paths of earlier versions still import, and say where to look now."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from ctai_sam2._moved import MOVED


def import_anew(name: str) -> ModuleType:
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_imports_with_a_warning(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        alias = import_anew(old)
    new = importlib.import_module(MOVED[old])
    public = [name for name in dir(new) if not name.startswith("_")]
    assert public
    assert getattr(alias, public[0]) is getattr(new, public[0])


def test_a_path_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ctai_sam2.core.never")
