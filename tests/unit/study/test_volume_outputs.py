"""Whole volumes as files: what is read back is what was segmented."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.io import read_study
from ctai_sam2.io.dicom_rtstruct import read_rtstruct, write_rtstruct
from ctai_sam2.io.dicom_seg import read_seg, write_seg
from ctai_sam2.io.source_images import find_source_images
from ctai_sam2.segmentation.volume import SliceMask, VolumeResult
from ctai_sam2.segmentation.volume.result import LevelRange
from ctai_sam2.study.volume_outputs import read_volume_result, remove_volume_result, write_volume_result
from ctai_sam2.types import CTVolume
from tests.fakes import FAKE_IDENTITY
from tests.unit.io.making import make_volume, write_series


def test_all_slices_come_back_from_every_format(tmp_path: Path) -> None:
    write_series(tmp_path / "s", make_volume((6, 20, 17)), orientation="negated rows", shuffle_seed=1)
    volume = read_study(tmp_path / "s")
    rng = np.random.default_rng(0)
    slices = {
        name: {
            index: SliceMask(corner_yx=(index, 2), crop=rng.random((8, 9)) > 0.4, source="automatic")
            for index in range(1, 5)
        }
        for name in ("muscle", "psoas_left")
    }
    result = VolumeResult(volume=volume, indices=(1, 2, 3, 4), levels=(), structure_slices=slices)  # type: ignore[arg-type]
    files = write_volume_result(
        result,
        tmp_path / "out",
        source=find_source_images(tmp_path / "s"),
        model=FAKE_IDENTITY,
        dicom=("seg", "rtstruct"),
    )
    seg, rtstruct = files.dicom
    assert dcmread(seg).SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    for read in (read_seg(seg, volume), read_rtstruct(rtstruct, volume)):
        for name in slices:
            np.testing.assert_array_equal(read[name], result.masks[name])
    import nibabel

    image = nibabel.load(files.masks[0])
    assert int(np.asarray(image.dataobj).sum()) == int(result.masks["muscle"].sum())


def test_dicom_needs_the_images_it_refers_to(tmp_path: Path) -> None:
    volume = read_study_of(tmp_path)
    one = SliceMask(corner_yx=(1, 2), crop=np.ones((3, 3), bool), source="automatic")
    result = VolumeResult(volume=volume, indices=(1,), levels=(), structure_slices={"muscle": {1: one}})
    with pytest.raises(InputError):
        write_volume_result(result, tmp_path / "out", dicom=("seg",))


def read_study_of(folder: Path):  # type: ignore[no-untyped-def]
    write_series(folder / "s", make_volume((3, 20, 17)))
    return read_study(folder / "s")


SHAPE = (20, 17)


def result_of(positions_mm: list[float] | None = None) -> VolumeResult:
    volume = CTVolume(
        hu_zyx=np.full((6, *SHAPE), 40, np.int16),
        affine=np.diag([1.0, 1.0, 3.0, 1.0]),
        slice_positions_mm=positions_mm,
    )
    inside = SliceMask(corner_yx=(4, 2), crop=np.ones((8, 9), bool), source="automatic", confidence=0.1 + 0.2)
    slices = {
        "muscle": {
            1: inside,
            2: SliceMask(
                corner_yx=(4, 3),
                crop=np.ones((3, 2), bool),
                source="propagated",
                gate="red",
                reasons=("the area jumps from slice to slice", "=odd"),
                predicted_overlap=0.25,
                spread_cm2=1 / 3,
            ),
            4: SliceMask(corner_yx=(0, 0), crop=np.zeros((0, 0), bool), source="absent"),
        }
    }
    level = LevelRange(name="L3", lower_mm=2.5, upper_mm=11.0, probability=0.9)
    return VolumeResult(volume=volume, indices=(1, 2, 4), levels=(level,), structure_slices=slices)  # type: ignore[arg-type]


@pytest.mark.parametrize("positions_mm", [None, [0.0, 3.0, 6.0, 14.0, 17.0, 20.0]])
def test_what_is_read_back_is_what_was_written(tmp_path: Path, positions_mm: list[float] | None) -> None:
    result = result_of(positions_mm)
    write_volume_result(result, tmp_path)
    again = read_volume_result(tmp_path, result.volume)
    assert (again.indices, again.levels) == (result.indices, result.levels)
    assert again.warnings[-1] == "muscle: implausible on 1 slices (2); look at them"
    for index, one in result.structure_slices["muscle"].items():
        read = again.structure_slices["muscle"][index]
        assert np.array_equal(read.full(SHAPE), one.full(SHAPE))
        for name in ("source", "gate", "reasons", "confidence", "predicted_overlap", "spread_cm2"):
            assert getattr(read, name) == getattr(one, name), name
    assert again.summary.equals(result.summary)


def test_a_volume_of_another_study_or_damaged_is_refused(tmp_path: Path) -> None:
    result = result_of()
    with pytest.raises(InputError, match="no segmented volume"):
        read_volume_result(tmp_path, result.volume)
    write_volume_result(result, tmp_path)
    with pytest.raises(InputError, match="another study"):
        read_volume_result(tmp_path, result_of([0.0, 2.0, 4.0, 6.0, 8.0, 10.0]).volume)
    table = tmp_path / "slices.csv"
    content = table.read_text()
    for damaged in (content.replace("propagated", "guessed"), content.replace(",0.25,", ",a,"), "a,b\n1,2\n"):
        table.write_text(damaged)
        with pytest.raises(DamagedFile):
            read_volume_result(tmp_path, result.volume)


def test_nothing_of_an_earlier_result_is_left(tmp_path: Path) -> None:
    result = result_of()
    both = {**result.structure_slices, "psoas_left": result.structure_slices["muscle"]}
    write_volume_result(
        VolumeResult(volume=result.volume, indices=(1, 2, 4), levels=(), structure_slices=both), tmp_path
    )
    (tmp_path / "seg.dcm").write_bytes(b"of the earlier result")
    (tmp_path / "notes.txt").write_text("mine")
    write_volume_result(result, tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["levels.csv", "muscle.nii.gz", "notes.txt", "slices.csv"]
    remove_volume_result(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]


class OneByOne(Mapping[str, np.ndarray]):
    """Masks that say how many of them are held at the same time."""

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        self._masks, self._given, self.most = masks, [], 0  # type: ignore[var-annotated]

    def __getitem__(self, name: str) -> np.ndarray:
        held = sum(one() is not None for one in self._given)
        self.most = max(self.most, held + 1)
        stack = self._masks[name].copy()
        self._given.append(weakref.ref(stack))
        return stack

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_dicom_objects_hold_one_structure_at_a_time(tmp_path: Path, write: Any) -> None:
    write_series(tmp_path / "s", make_volume((6, 20, 17)))
    volume = read_study(tmp_path / "s")
    stack = np.zeros(volume.shape_zyx, bool)
    stack[2, 4:9, 3:8] = True
    masks = OneByOne({name: stack for name in ("muscle", "psoas_left", "psoas_right")})
    write(tmp_path / "out.dcm", masks, volume, find_source_images(tmp_path / "s"))
    assert masks.most == 1
