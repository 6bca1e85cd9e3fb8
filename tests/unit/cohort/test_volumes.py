"""Ranges of levels in a cohort."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2 import run_cohort
from ctai_sam2.cohort import CohortConfig, read_table, volumes
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.segmentation.volume import SliceMask, VolumeResult
from ctai_sam2.types import CTVolume
from tests.fakes import FakeSegmenter
from tests.unit.cohort.making import QUICK, make_cases


def result_of(volume: CTVolume) -> VolumeResult:
    one = SliceMask(corner_yx=(2, 3), crop=np.ones((4, 5), bool), source="automatic")
    return VolumeResult(
        volume=volume,
        indices=(0, 1),
        levels=(),
        structure_slices={"muscle": {0: one, 1: one}},
        warnings=("odd",),
    )


def test_a_case_has_its_tables_and_masks_and_an_earlier_one_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = CTVolume(hu_zyx=np.full((2, 9, 9), 50, np.int16), affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    store, config = CohortStore(tmp_path), CohortConfig(levels=("L1", "L4"), structures=("muscle",))
    monkeypatch.setattr(volumes, "segment_volume", lambda *args, **options: result_of(volume))
    assert volumes.write_levels(store, config, "P1", volume, FakeSegmenter) == ("odd",)
    folder = tmp_path / "volumes" / "P1"
    rows = list(csv.DictReader((folder / "levels.csv").read_text().splitlines()))
    assert float(rows[0]["volume_cm3"]) == pytest.approx(0.06)
    assert (folder / "masks" / "muscle.nii.gz").is_file()

    def missing(*args: object, **options: object) -> VolumeResult:
        raise AnatomyNotFound("no spine is visible")

    monkeypatch.setattr(volumes, "segment_volume", missing)
    (said,) = volumes.write_levels(store, config, "P1", volume, FakeSegmenter)
    assert said == "levels L1-L4: no spine is visible."
    assert not (folder / "levels.csv").exists()


def test_a_single_slice_says_that_it_has_no_range(tmp_path: Path) -> None:
    cases = make_cases(tmp_path / "in", 1)
    out = tmp_path / "out"
    done = run_cohort(cases, out, config=CohortConfig(**QUICK, levels=("L1", "L4")))
    assert (done.inferred, done.failed) == (1, 0)
    assert "levels L1-L4: a single slice" in read_table(out)["warnings"][0]
    assert (out / "levels.csv").read_text().strip() == "case_id"


def test_a_range_is_part_of_what_a_case_is_made_again_for(tmp_path: Path) -> None:
    (case,) = make_cases(tmp_path, 1)
    plain, ranged = CohortConfig(), CohortConfig(levels=("L1", "L4"))
    assert "levels" not in plain.inference_part(case)
    assert ranged.inference_part(case) != plain.inference_part(case)
    with pytest.raises(InputError):
        CohortConfig(levels=("L1", "S1"))
