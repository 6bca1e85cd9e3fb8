from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ctai_sam2.cohort.case_record import CaseQuality, CaseRecord
from ctai_sam2.cohort.qc import MEANINGS, QcLimits, find_flags


def record(**changes: Any) -> CaseRecord:
    row: dict[str, Any] = {"psoas_asymmetry": 0.1, "l3_certainty": "counted", "sma_cm2": 120.0}
    quality: dict[str, Any] = {"smallest_confidence": 0.9, "level_gap_mm": 0.0}
    made: dict[str, Any] = {"case_id": "P1", "status": "done", "key": ""}
    for name, value in changes.items():
        (row if name in row else quality if name in CaseQuality.model_fields else made)[name] = value
    return CaseRecord.model_validate({**made, "row": row, "quality": quality})


def flags_of(one: CaseRecord | None) -> dict[str, str]:
    return find_flags([one], confidence_threshold=0.5, sexes=[None])[0]


def test_a_plain_case_is_not_flagged() -> None:
    assert flags_of(record()) == {}


@pytest.mark.parametrize(
    ("change", "flag", "part"),
    [
        ({"missing": ["psoas_left"]}, "missing", "psoas_left"),
        ({"smallest_confidence": 0.4}, "low_confidence", "0.40"),
        ({"l3_certainty": "estimated"}, "level", "estimated"),
        ({"level_gap_mm": 25.0}, "level", "25 mm"),
        ({"psoas_asymmetry": -0.5}, "asymmetry", "the right psoas is larger, by 50 %"),
        ({"hole_share": 0.2}, "holes", "holes 20 %"),
        ({"stray_share": 0.2}, "holes", "stray parts 20 %"),
        ({"edge_mm": 80.0}, "truncated", "80 mm"),
        ({"area_cv": {"muscle": 0.25}}, "unstable", "muscle 25 %"),
        ({"acquisition_warnings": ["3 gaps"]}, "acquisition", "3 gaps"),
        ({"acquisition": {"kvp": 70.0, "slice_thickness_mm": 10.0}}, "acquisition", "10 mm; 70 kV"),
        ({"review": {"stale": True, "who": "AB", "when": "x"}}, "correction", "AB"),
        ({"status": "failed", "error": {"type": "X", "sentence": "y"}}, "failed", "X: y"),
    ],
)
def test_each_doubt_has_its_flag(change: dict[str, Any], flag: str, part: str) -> None:
    flags = flags_of(record(**change))
    assert list(flags) == [flag]
    assert part in flags[flag]
    assert flag in MEANINGS


def test_a_case_that_is_not_done_is_flagged() -> None:
    assert "run it again" in flags_of(None)["failed"]


def test_the_same_images_or_slice_twice_are_flagged() -> None:
    records = [
        record(case_id="P1", content_sha256="a", slice_sha256="s"),
        record(case_id="P2", content_sha256="b", slice_sha256="t"),
        record(case_id="P3", content_sha256="a", slice_sha256="u"),
        record(case_id="P4", content_sha256="c", slice_sha256="t"),
    ]
    found = find_flags(records, confidence_threshold=0.5, sexes=[None] * 4)
    assert [one["duplicate"].split()[-1] for one in found] == ["P3", "P4", "P1", "P2"]


def test_a_given_slice_without_a_known_level_is_no_doubt() -> None:
    assert flags_of(record(l3_certainty=None, level_gap_mm=None)) == {}
    assert flags_of(record(psoas_asymmetry=math.nan)) == {}


def test_outliers_stand_out_among_their_own_sex() -> None:
    rng = np.random.default_rng(0)
    men = [record(sma_cm2=float(v)) for v in rng.normal(160, 8, 20)]
    women = [record(sma_cm2=float(v)) for v in rng.normal(110, 8, 20)]
    small_man = record(sma_cm2=110.0)
    records, sexes = [*men, *women, small_man], ["M"] * 20 + ["F"] * 20 + ["M"]
    flags = find_flags(records, confidence_threshold=0.5, sexes=sexes)
    assert [i for i, one in enumerate(flags) if one] == [40]
    assert "sma_cm2 110" in flags[40]["outlier"]
    assert not any(find_flags(records, confidence_threshold=0.5, sexes=[None] * 41))


def test_few_cases_have_no_outliers() -> None:
    records = [record(sma_cm2=100.0 + i) for i in range(8)] + [record(sma_cm2=250.0)]
    assert not any(find_flags(records, confidence_threshold=0.5, sexes=[None] * 9))
    strict = find_flags(records, confidence_threshold=0.5, sexes=[None] * 9, limits=QcLimits(min_cases=5))
    assert "outlier" in strict[-1]
