from __future__ import annotations

import json
import zipfile
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


def test_values_of_eight_bits_are_values(tmp_path: Path) -> None:
    for dtype in (np.int8, np.uint8):
        np.savez(tmp_path / "x.npz", image=np.full((9, 9), 100, dtype), spacing=np.ones(2))
        assert (read_case_npz(tmp_path / "x.npz").slice.hu == 100).all()


def test_text_in_place_of_pixels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.full((9, 9), "a"), spacing=np.ones(2))
    with pytest.raises(InputError, match="holds no numbers"):
        read_case_npz(tmp_path / "x.npz")


def test_a_header_of_an_array_that_does_not_end_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'shape': ((" + b" " * 20
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("image.npy", content)
    with pytest.raises(InputError, match="not a readable case file"):
        read_case_npz(tmp_path / "x.npz")
