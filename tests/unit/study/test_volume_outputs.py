"""Whole volumes as files: what is read back is what was segmented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from ctai_sam2.errors import InputError
from ctai_sam2.io import read_study
from ctai_sam2.io.dicom_rtstruct import read_rtstruct
from ctai_sam2.io.dicom_seg import read_seg
from ctai_sam2.io.source_images import find_source_images
from ctai_sam2.segmentation.volume import SliceMask, VolumeResult
from ctai_sam2.study.volume_outputs import write_volume_result
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
