from __future__ import annotations

import inspect
import pickle

import pytest

from ctai_sam2 import errors
from ctai_sam2.errors import CtaiError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, CtaiError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_message_says_problem_received_and_hint(cls: type[CtaiError]) -> None:
    error = cls("the box has no area", received=(1, 2), hint="Drag it wider.")
    assert str(error) == "the box has no area (received (1, 2)). Drag it wider."


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_survive_pickling(cls: type[CtaiError]) -> None:
    error = pickle.loads(pickle.dumps(cls("a", received="b", hint="c")))
    assert type(error) is cls
    assert (error.problem, error.received, error.hint, str(error)) == ("a", "b", "c", "a (received b). c.")


def test_tree_in_the_docstring_is_the_tree() -> None:
    for cls in CLASSES:
        assert cls.__name__ in (errors.__doc__ or ""), f"{cls.__name__} is missing in the drawing"


def test_callers_can_catch_by_builtin_kind() -> None:
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.StorageError, OSError)
    assert issubclass(errors.WeightsMissing, errors.Unavailable)
    assert issubclass(errors.WeightsMissing, errors.WeightsError)
