from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io.coco import read_coco, write_coco
from ctai_sam2.types import CTSlice

from .making import make_volume

VOLUME = make_volume((4, 12, 9))
RNG = np.random.default_rng(3)
MASKS = {
    "muscle": RNG.random(VOLUME.shape_zyx) > 0.5,
    "psoas_left": np.zeros(VOLUME.shape_zyx, bool),
}
MASKS["muscle"][1] = False
MASKS["psoas_left"][2, 3:9, 2:7] = True
MASKS["psoas_left"][2, 5:7, 4] = False


@pytest.mark.parametrize("encoding", ["rle", "polygon"])
def test_masks_come_back_exactly(tmp_path: Path, encoding: Any) -> None:
    path = write_coco(tmp_path / "a.json", MASKS, VOLUME, encoding=encoding)
    back = read_coco(path, VOLUME)
    for name, mask in MASKS.items():
        np.testing.assert_array_equal(back[name], mask)
    ct = VOLUME.axial(2)
    on_slice = read_coco(path, ct)
    np.testing.assert_array_equal(on_slice["psoas_left"], MASKS["psoas_left"][2])


@settings(max_examples=60, deadline=None)
@given(
    mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda m: m.any()),
    encoding=st.sampled_from(["rle", "polygon"]),
)
def test_any_mask_comes_back(tmp_path_factory: pytest.TempPathFactory, mask: Any, encoding: Any) -> None:
    ct = CTSlice(hu=np.zeros(mask.shape, np.int16), spacing_mm=(1.0, 0.5))
    path = write_coco(tmp_path_factory.mktemp("c") / "a.json", {"x": mask}, ct, encoding=encoding)
    np.testing.assert_array_equal(read_coco(path, ct)["x"], mask)


# pycocotools itself has not followed NumPy 2 yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("encoding", ["rle", "polygon"])
def test_pycocotools_decodes_the_same_pixels(tmp_path: Path, encoding: Any, capsys: Any) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    path = write_coco(tmp_path / "a.json", MASKS, VOLUME, encoding=encoding)
    known = coco.COCO(str(path))
    for annotation in known.loadAnns(known.getAnnIds()):
        [image] = known.loadImgs(annotation["image_id"])
        [category] = known.loadCats(annotation["category_id"])
        mask = MASKS[category["name"]][image["ctai_sam2"]["slice_index"]]
        np.testing.assert_array_equal(known.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum()


def test_entries_say_where_the_slice_lies(tmp_path: Path) -> None:
    content = json.loads(write_coco(tmp_path / "a.json", MASKS, VOLUME).read_text())
    assert [entry["ctai_sam2"]["slice_index"] for entry in content["images"]] == [0, 2, 3]
    entry = content["images"][1]
    assert (entry["width"], entry["height"], entry["file_name"]) == (9, 12, "axial_0002.png")
    assert entry["ctai_sam2"]["spacing_mm"] == [0.75, 0.8]
    np.testing.assert_allclose(entry["ctai_sam2"]["affine_lps"], VOLUME.axial(2).affine)
    psoas = next(a for a in content["annotations"] if a["category_id"] == 2)
    assert psoas["bbox"] == [2, 3, 5, 6]


def test_compressed_run_lengths_of_other_programs_are_read(tmp_path: Path) -> None:
    # Worked by hand from the published scheme: counts 5, 7, 100, 8 are 5, 7, 100 and 8 - 7.
    content = {
        "images": [{"id": 9, "file_name": "x.png", "width": 12, "height": 10}],
        "categories": [{"id": 1, "name": "Skeletal muscle"}],
        "annotations": [
            {"image_id": 9, "category_id": 1, "segmentation": {"size": [10, 12], "counts": "57T31"}}
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    ct = CTSlice(hu=np.zeros((10, 12), np.int16), spacing_mm=(1.0, 1.0))
    mask = read_coco(tmp_path / "a.json", ct)["Skeletal muscle"].ravel(order="F")
    assert np.flatnonzero(mask).tolist() == [*range(5, 12), *range(112, 120)]


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "a.json", MASKS, VOLUME)
    ct = VOLUME.axial(2)
    with pytest.raises(InputError, match=r"no images of a\.json fit"):
        read_coco(path, VOLUME.axial(1))
    with pytest.raises(GeometryError, match="elsewhere in the patient"):
        read_coco(path, VOLUME.axial(1), image="axial_0002.png")
    with pytest.raises(GeometryError, match="elsewhere in the patient"):
        read_coco(path, make_volume((4, 12, 9), (2.5, 0.75, 0.81)))
    with pytest.raises(InputError, match="another size"):
        read_coco(path, make_volume((4, 12, 8)).axial(2), image=2)
    with pytest.raises(InputError, match="all masks are empty"):
        write_coco(tmp_path / "b.json", {"muscle": np.zeros(ct.shape_hw, bool)}, ct)
    with pytest.raises(InputError, match="rle or polygon"):
        write_coco(tmp_path / "b.json", MASKS, VOLUME, encoding="png")  # type: ignore[arg-type]
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable JSON"),
        ("[]", "is not COCO"),
        ('{"images": [{}], "annotations": [], "categories": []}', "does not follow the COCO format"),
        (
            '{"images": [{"id": 1, "width": 9, "height": 12}], "categories": [{"id": 1, "name": "a"}],'
            ' "annotations": [{"image_id": 1, "category_id": 1,'
            ' "segmentation": {"size": [12, 9], "counts": "\u00ff"}}]}',
            "does not follow the COCO format",
        ),
        (
            '{"images": [{"id": 1, "width": 9, "height": 12}], "categories": [{"id": 1, "name": "a"}],'
            ' "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3]]}]}',
            "does not follow the COCO format",
        ),
    ],
)
def test_broken_files_give_a_typed_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_coco(tmp_path / "a.json", VOLUME.axial(2))


@pytest.mark.parametrize(
    ("corners", "left", "said"),
    [
        ([0, 0, 9, 0, 9, 12, 0, 12], 108, None),
        ([-0.4, -0.4, 9.4, -0.4, 9.4, 12.4, -0.4, 12.4], 108, None),
        ([6, 9, 30, 9, 30, 30, 6, 30], 9, "muscle: 1 polygons reach beyond the image"),
        ([20, 20, 30, 20, 30, 30, 20, 30], 6, "1 polygons outside of the image of muscle left out"),
    ],
)
def test_polygons_beyond_the_image_are_said(
    tmp_path: Path, corners: list[float], left: int, said: str | None
) -> None:
    inside = [[1, 1, 4, 1, 4, 3, 1, 3]]
    annotation = {"image_id": 1, "category_id": 1}
    content = {
        "images": [{"id": 1, "width": 9, "height": 12, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "muscle"}],
        "annotations": [
            {"id": 1, **annotation, "segmentation": inside if left < 9 else [corners]},
            {"id": 2, **annotation, "segmentation": [corners]},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = read_coco(tmp_path / "a.json", CTSlice(hu=np.zeros((12, 9), np.int16), spacing_mm=(1, 1)))
    assert int(found["muscle"].sum()) == left
    notes = [text for text in found.warnings if "overlapping" not in text]
    assert bool(notes) == (said is not None)
    assert said is None or notes[0].replace("2 polygons", "1 polygons").startswith(said)
