"""An editor of a small slice whose messages to the page are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.widgets import MaskEditor, MiddleMaskEditor
from tests.unit.editor.making import make_slice
from tests.unit.widgets.recording import Recorder, recorded


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recorded() as found:
        yield found


@pytest.fixture
def opened(tmp_path: Path, recorder: Recorder) -> Iterator[Callable[..., Any]]:
    editors: list[MaskEditor] = []

    def open_editor(kind: type[MaskEditor] = MiddleMaskEditor, source: Any = None, **options: Any) -> Any:
        options = {"folder": tmp_path / "annotations", "segmenter": None, "name": "case", **options}
        if source is None:
            source = make_slice((40, 60), plane=kind.profile.plane)
        editors.append(kind(source, **options))
        return editors[-1]

    yield open_editor
    for editor in editors:
        editor.close()
