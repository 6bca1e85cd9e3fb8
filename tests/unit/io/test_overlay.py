from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctai_sam2.errors import InputError
from ctai_sam2.io.overlay import _font, choose_colours, write_overlay_png
from ctai_sam2.structures import PALETTE
from ctai_sam2.types import CTSlice


def make_slice(plane: Any = "axial", spacing_mm: tuple[float, float] = (1.0, 1.0)) -> CTSlice:
    return CTSlice(hu=np.full((60, 80), 40, np.int16), spacing_mm=spacing_mm, plane=plane)


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_masks_are_drawn_where_they_lie(tmp_path: Path) -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:30, 20:40] = True
    path = write_overlay_png(tmp_path / "o.png", make_slice(), {"muscle": mask})
    plain = write_overlay_png(tmp_path / "p.png", make_slice(), {})
    image, grey = pixels(path), pixels(plain)
    scale = grey.shape[1] / 80
    top = 0.1 * 120
    at = {(y, x): image[int(top + y * scale), int(x * scale)] for y, x in ((20, 30), (20, 60), (45, 30))}
    assert at[20, 30][0] - at[20, 30][2] > 30, "orange inside"
    assert np.ptp(at[20, 60]) == np.ptp(at[45, 30]) == 0, "grey outside"
    assert abs(int(at[20, 60][0]) - 128) <= 2
    edge = image[int(top + 20 * scale), int(20 * scale) - 4 : int(20 * scale) + 5]
    assert (edge[:, 0] - edge[:, 2]).max() > 150, "the outline is saturated"
    assert image.shape[0] > grey.shape[0], "the legend has its place below"


def test_proportions_are_those_of_the_body(tmp_path: Path) -> None:
    tall = pixels(write_overlay_png(tmp_path / "a.png", make_slice("sagittal", (2.0, 1.0)), {}))
    body = tall.sum(axis=2) > 0
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    ratio = (rows[-1] - rows[0]) / (columns[-1] - columns[0])
    assert ratio == pytest.approx(120 / 80, rel=0.03)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal", "unknown"])
def test_letters_follow_the_plane(tmp_path: Path, plane: str) -> None:
    image = pixels(write_overlay_png(tmp_path / "o.png", make_slice(plane), {}))
    middle = image[image.shape[0] // 2 - 12 : image.shape[0] // 2 + 12, :40]
    assert (middle.max() > 200) == (plane != "unknown")


def test_empty_masks_and_titles_are_allowed(tmp_path: Path) -> None:
    path = write_overlay_png(
        tmp_path / "o.png",
        make_slice(),
        {"psoas": np.zeros((60, 80), bool), "all": np.ones((60, 80), bool)},
        title="mid-L3",
        labels={"all": "all 48.0 cm²"},
    )
    assert path.stat().st_size > 1000


def test_pictures_need_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    write_overlay_png(tmp_path / "o.png", make_slice(), {"muscle": np.ones((60, 80), bool)}, title="L3")
    assert "matplotlib" not in sys.modules, "its import takes half a second"


def test_text_has_its_letters() -> None:
    square, missing = (font.getmask(sign) for font in [_font(17)] for sign in "²\uffff")
    assert bytes(square) != bytes(missing)


def test_an_outline_at_the_edge_is_closed(tmp_path: Path) -> None:
    mask = np.zeros((60, 80), bool)
    mask[:20, :30] = True
    image = pixels(write_overlay_png(tmp_path / "o.png", make_slice(), {"m": mask}, colours={"m": "#FF0000"}))
    red = image[..., 0] - image[..., 1]
    assert (red[30:200, 0] > 150).all(), "left edge"
    assert (red[12, 20:300] > 150).all(), "top edge"


@pytest.mark.parametrize(
    ("name", "mask", "colours", "words"),
    [
        ("o.jpg", np.zeros((60, 80), bool), None, "ends in .png"),
        ("o.png", np.zeros((60, 81), bool), None, "slice's shape"),
        ("o.png", np.zeros((60, 80)), None, "boolean array"),
        ("o.png", np.zeros((60, 80), bool), {"m": "reddish"}, "not a colour"),
    ],
)
def test_wrong_input(tmp_path: Path, name: str, mask: Any, colours: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_overlay_png(tmp_path / name, make_slice(), {"m": mask}, colours=colours)
    assert list(tmp_path.iterdir()) == []


def test_colours_differ_as_long_as_there_are_any() -> None:
    names = ["muscle", *"abcdefg"]
    chosen = choose_colours(names)
    assert len(set(chosen.values())) == len(PALETTE)
    assert choose_colours(["a"], {"a": "#123456"}) == {"a": "#123456"}
    assert len(choose_colours(list("abcdefghijkl"))) == 12
