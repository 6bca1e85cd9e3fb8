"""JSON that others wrote: nested without end or with a key twice, it ends in one of our errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.cli.evaluate import _read_notes
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.cohort.table import read_summary
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.exchange import import_masks
from ctai_sam2.io import read_case_npz
from ctai_sam2.io.label_tables import read_label_table
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, load_definitions
from ctai_sam2.models.calibration import Calibration
from ctai_sam2.segmentation.quality import read_trust
from ctai_sam2.study.outputs import claim_folder
from tests.unit.io.making import make_volume

DEEP = "[" * 100_000
VOLUME = make_volume((3, 9, 8))


def _npz(path: Path) -> object:
    np.savez(path / "a.npz", image=VOLUME.hu_zyx[1], spacing=np.ones(2), meta=DEEP)
    return read_case_npz(path / "a.npz")


def _reading(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        (folder / name).write_text(DEEP, encoding="utf-8")
        return read(folder / name)

    return run


@pytest.mark.parametrize(
    "read",
    [
        _reading("a.json", load_definitions),
        _reading("a.json", read_label_table),
        _reading("a.json", lambda path: import_masks(path, VOLUME)),
        _reading("study.json", lambda path: claim_folder(path.parent, VOLUME)),
        _reading("summary.json", lambda path: read_summary(CohortStore(path.parent))),
        _reading("a.json", _read_notes),
        lambda _: Calibration.from_json(DEEP),
        lambda _: read_trust(DEEP),
        _npz,
    ],
    ids=["definitions", "labels", "COCO", "study", "summary", "notes", "calibration", "trust", "npz"],
)
def test_nesting_without_end_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(CtaiError):
        read(tmp_path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = DEFAULT_DEFINITIONS.to_json().rstrip().removesuffix("}") + ', "version": "2"}'
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load_definitions(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"1": "muscle", "1": "psoas_left"}', encoding="utf-8")
    with pytest.raises(InputError):
        read_label_table(tmp_path / "b.json")
