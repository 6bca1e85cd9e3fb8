from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import GeometryError, InputError
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
        ({"image": np.full((2, 3), "40")}, "holds no numbers"),
        ({"image": np.ones((2, 3), bool)}, "holds no numbers"),
        ({"spacing": np.array(["a", "b"])}, "holds no numbers"),
        ({"meta": json.dumps({"plane": "transversal"})}, "unknown plane"),
        ({"mask_L3": np.full((2, 3), 0.7)}, "mask_L3 in a.npz holds fractions"),
        ({"mask_L3": np.full((2, 3), np.nan)}, "not finite"),
        ({"mask_L3": -np.eye(2, 3, dtype=np.int8)}, "negative"),
        ({"mask_L3": np.arange(6).reshape(2, 3)}, "several labels"),
        ({"mask_L3": np.full((2, 3), "x")}, "holds no numbers"),
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


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i2", "i8", "f4"])
def test_images_of_any_number_type(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 40, 50], [60, 70, 80]], dtype)
    assert read_case_npz(save(tmp_path / "a.npz", image=values)).slice.hu.tolist() == values.tolist()


def test_values_of_masks_and_planes_as_others_write_them(tmp_path: Path) -> None:
    drawn = np.eye(2, 3, dtype=bool)
    for mask in (drawn * np.uint8(255), drawn * 0.9999999998, drawn.astype(np.float32)):
        case = read_case_npz(save(tmp_path / "a.npz", mask_L3=mask, meta=json.dumps({"plane": "Axial "})))
        assert case.masks["L3"].tolist() == drawn.tolist()
        assert case.slice.plane == "axial"


@pytest.mark.parametrize("spacing", [(0.0008, 0.0008), (800.0, 800.0)])
def test_spacing_in_another_unit(tmp_path: Path, spacing: tuple[float, float]) -> None:
    with pytest.raises(GeometryError, match="no CT has this pixel spacing"):
        read_case_npz(save(tmp_path / "a.npz", spacing=np.array(spacing)))


def test_values_that_are_no_hu_are_warned_of(tmp_path: Path) -> None:
    case = read_case_npz(save(tmp_path / "a.npz", image=np.array([[0, 128, 255]] * 2, np.uint8)))
    assert "do not look like Hounsfield units" in case.slice.warnings[0]


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


def test_an_image_without_pixels_and_notes_without_characters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="non-empty"):
        read_case_npz(save(tmp_path / "empty.npz", image=np.zeros((9, 0), np.int16), mask_L3=None))
    notes = np.array('{"plane": "axial"}')
    notes.reshape(1).view(np.uint32)[5] = 0xFFFFFFFF
    with pytest.raises(InputError, match="not a readable case file"):
        read_case_npz(save(tmp_path / "notes.npz", meta=notes))
