from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io import write_mask_png
from ctai_sam2.io.label_maps import read_labels, write_labels

from .making import make_volume

VOLUME = make_volume((4, 12, 9))
MASKS = {"psoas_left": np.zeros(VOLUME.shape_zyx, bool), "muscle": np.zeros(VOLUME.shape_zyx, bool)}
MASKS["psoas_left"][1:3, 2:5, 1:4] = True
MASKS["muscle"][:, 7:, 5:] = True


def test_a_volume_comes_back_from_nifti(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "m.nii.gz", MASKS, VOLUME)
    back = read_labels(path, VOLUME)
    assert list(back) == ["psoas_left", "muscle"]
    for name, mask in MASKS.items():
        np.testing.assert_array_equal(back[name], mask)
    image: Any = nibabel.load(path)
    # Stored as 32-bit floats: exact to their precision, and in RAS.
    np.testing.assert_array_equal(
        image.affine, (np.diag([-1.0, -1, 1, 1]) @ VOLUME.affine).astype(np.float32).astype(float)
    )


@pytest.mark.parametrize("ending", [".png", ".nii", ".nii.gz"])
def test_a_slice_comes_back(tmp_path: Path, ending: str) -> None:
    ct = VOLUME.axial(2)
    masks = {name: mask[2] for name, mask in MASKS.items()}
    path = write_labels(tmp_path / f"m{ending}", masks, ct)
    back = read_labels(path, ct)
    assert list(back) == ["psoas_left", "muscle"]
    np.testing.assert_array_equal(back["muscle"], masks["muscle"])
    table = json.loads((tmp_path / "m.labels.json").read_text())
    assert table == {"labels": {"1": "psoas_left", "2": "muscle"}}
    lines = (tmp_path / "m.itksnap.txt").read_text().splitlines()
    assert lines[1] == '0 0 0 0 0 0 0 "Clear Label"'
    assert lines[3] == '2 230 159 0 1 1 1 "muscle"'


def test_labels_without_a_table_have_numbers_or_given_names(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "m.nii", MASKS, VOLUME)
    (tmp_path / "m.labels.json").unlink()
    assert list(read_labels(path, VOLUME)) == ["label_1", "label_2"]
    (tmp_path / "own.json").write_text(json.dumps({"2": "sat"}))
    assert list(read_labels(path, VOLUME, table=tmp_path / "own.json")) == ["label_1", "sat"]
    ct = VOLUME.axial(2)
    black_white = write_mask_png(tmp_path / "one.png", MASKS["muscle"][2])
    np.testing.assert_array_equal(read_labels(black_white, ct)["label_1"], MASKS["muscle"][2])


def test_overlaps_are_refused_or_go_to_the_later(tmp_path: Path) -> None:
    masks = {"muscle": MASKS["muscle"] | MASKS["psoas_left"], "psoas_left": MASKS["psoas_left"]}
    with pytest.raises(InputError, match=r"masks overlap.*psoas_left and muscle"):
        write_labels(tmp_path / "m.nii", masks, VOLUME)
    back = read_labels(write_labels(tmp_path / "m.nii", masks, VOLUME, overlaps="later"), VOLUME)
    np.testing.assert_array_equal(back["psoas_left"], MASKS["psoas_left"])
    np.testing.assert_array_equal(back["muscle"], MASKS["muscle"])


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "m.nii", MASKS, VOLUME)
    with pytest.raises(GeometryError, match="another grid"):
        read_labels(path, make_volume((4, 12, 9), origin_mm=(0.0, 0.0, 0.0)))
    with pytest.raises(InputError, match="PNG holds one slice"):
        write_labels(tmp_path / "m.png", MASKS, VOLUME)
    with pytest.raises(InputError, match="1 to 255 masks"):
        write_labels(tmp_path / "m.nii", {}, VOLUME)
    picture = write_labels(tmp_path / "m.png", {"muscle": MASKS["muscle"][0]}, VOLUME.axial(0))
    with pytest.raises(InputError, match="another shape than the slice"):
        read_labels(picture, VOLUME.sagittal(0))
    with pytest.raises(InputError, match="belongs to one slice"):
        read_labels(picture, VOLUME)
    (tmp_path / "m.labels.json").write_text('{"labels": {"a": 1}}')
    with pytest.raises(InputError, match=r"table m\.labels\.json cannot be read"):
        read_labels(path, VOLUME)
