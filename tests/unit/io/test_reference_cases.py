from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.io import read_case_npz


def save(path: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "image": np.array([[-3024, 0, 40], [60, 70, 80]], np.int16),
        "spacing": np.array([5.0, 0.8]),
        "meta": json.dumps({"plane": "sagittal", "ref_quality": {"mask_L3": "high"}, "level": "L3"}),
        "mask_L3": np.eye(2, 3, dtype=bool),
        **changes,
    }
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


def test_case(tmp_path: Path) -> None:
    case = read_case_npz(save(tmp_path / "one.npz"))
    assert case.name == "one"
    assert case.slice.hu.tolist() == [[-1024, 0, 40], [60, 70, 80]]
    assert case.slice.spacing_mm == (5.0, 0.8)
    assert case.slice.plane == "sagittal"
    assert list(case.masks) == ["L3"]
    assert case.masks["L3"].dtype == np.bool_
    assert dict(case.quality) == {"L3": "high"}
    assert case.meta["level"] == "L3"


def test_plane_without_notes(tmp_path: Path) -> None:
    assert read_case_npz(save(tmp_path / "x_sag_1.npz", meta=None)).slice.plane == "sagittal"
    assert read_case_npz(save(tmp_path / "x.npz", meta=None)).slice.plane == "axial"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": None}, "lacks image"),
        ({"spacing": None}, "lacks spacing"),
        ({"mask_L3": np.zeros((3, 3), bool)}, "another shape"),
        ({"meta": "{broken"}, "not JSON"),
        ({"image": np.array([object()])}, "not a readable case"),
    ],
)
def test_wrong_content(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_case_npz(save(tmp_path / "a.npz", **changes))


def test_damaged_or_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable case file"):
        read_case_npz(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="not a readable case file"):
        read_case_npz(tmp_path / "array.npy")
    with pytest.raises(InputError, match="there is no file"):
        read_case_npz(tmp_path / "b.npz")
