from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctai_sam2.errors import InputError
from ctai_sam2.io import read_mask_png, read_slice, write_label_png, write_mask_png
from ctai_sam2.types import Window

WINDOW = Window(level=40, width=400)
GREY = np.array([[0, 51, 255], [10, 20, 30]], dtype=np.uint8)


def read(path: Path, **options: Any) -> Any:
    return read_slice(path, **{"window": WINDOW, "spacing_mm": (0.7, 0.8), **options})


def save(array: np.ndarray[Any, Any], path: Path) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_grey_values_become_hu(tmp_path: Path) -> None:
    image = read(save(GREY, tmp_path / "a.png"), plane="sagittal")
    np.testing.assert_allclose(image.hu, -160 + GREY / 255 * 400, atol=1e-4)
    assert (image.spacing_mm, image.plane, image.affine) == ((0.7, 0.8), "sagittal", None)
    assert "HU outside -160 to 240 were cut off by the picture's window" in image.warnings


def test_sixteen_bits(tmp_path: Path) -> None:
    image = read(save(np.array([[0, 65535], [32768, 1]], np.uint16), tmp_path / "a.png"))
    np.testing.assert_allclose(image.hu, [[-160, 240], [40.003, -159.994]], atol=1e-3)
    assert len(image.warnings) == 1


@pytest.mark.parametrize("channels", [3, 4])
def test_equal_channels_are_grey(tmp_path: Path, channels: int) -> None:
    colour = np.repeat(GREY[..., None], channels, axis=2)
    if channels == 4:
        colour[..., 3] = 255
    np.testing.assert_allclose(read(save(colour, tmp_path / "a.png")).hu, -160 + GREY / 255 * 400, atol=1e-4)
    colour[0, 0, 1] += 1
    with pytest.raises(InputError, match=r"a\.png is coloured"):
        read(save(colour, tmp_path / "a.png"))


def test_jpeg_is_read_with_a_warning(tmp_path: Path) -> None:
    image = read(save(np.full((16, 16), 128, np.uint8), tmp_path / "a.jpg"))
    np.testing.assert_allclose(image.hu, -160 + 128 / 255 * 400, atol=2)
    assert "the image was compressed with loss" in image.warnings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": None}, "not specified: window"),
        ({"spacing_mm": None}, "not specified: spacing_mm"),
        ({"window": None, "spacing_mm": None}, "not specified: window and spacing_mm"),
    ],
)
def test_window_and_spacing_are_needed(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(save(GREY, tmp_path / "a.png"), **options)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("content", [b"", b"text", "cut"])
def test_damaged_pictures(tmp_path: Path, name: str, content: Any) -> None:
    path = save(np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8), tmp_path / name)
    path.write_bytes(path.read_bytes()[:600] if content == "cut" else content)
    with pytest.raises(InputError, match="not a readable PNG or JPEG"):
        read(path)


def test_huge_pictures_are_refused_before_decoding(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="larger than a CT slice"):
        read(save(np.zeros((1, 9000), np.uint8), tmp_path / "a.png"))


def test_masks_are_written_without_loss(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((33, 47)) > 0.5
    path = write_mask_png(tmp_path / "m.png", mask)
    with Image.open(path) as picture:
        assert (picture.mode, picture.size) == ("L", (47, 33))
        assert set(np.unique(np.asarray(picture))) == {0, 255}
    np.testing.assert_array_equal(read_mask_png(path), mask)


def test_labels_are_written_without_loss(tmp_path: Path) -> None:
    labels = np.arange(12).reshape(3, 4) * 20
    with Image.open(write_label_png(tmp_path / "l.png", labels)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)


@pytest.mark.parametrize(
    ("write", "array", "name", "words"),
    [
        (write_mask_png, np.zeros((3, 3)), "m.png", "boolean array"),
        (write_mask_png, np.zeros((3, 3, 1), bool), "m.png", "boolean array"),
        (write_mask_png, np.zeros((3, 3), bool), "m.jpg", "ends in .png"),
        (write_label_png, np.zeros((3, 3)), "m.png", "whole-number"),
        (write_label_png, np.full((3, 3), -1), "m.png", "0 to 255"),
    ],
)
def test_masks_that_cannot_be_written(tmp_path: Path, write: Any, array: Any, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write(tmp_path / name, array)
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_in_a_picture_is_found(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    inside = np.hypot(x - 30, y - 33) < 20
    Image.fromarray(inside.astype(np.uint8) * np.uint8(255)).save(tmp_path / "m.png")
    whole = (tmp_path / "m.png").read_bytes()
    assert read_mask_png(tmp_path / "m.png").tolist() == inside.tolist()
    for bit in range(8 * 33, 8 * len(whole), 5):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "b.png").write_bytes(bytes(data))
        with pytest.raises(InputError):
            read_mask_png(tmp_path / "b.png")
