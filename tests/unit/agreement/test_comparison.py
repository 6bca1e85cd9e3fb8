from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctai_sam2.agreement import (
    DrawnMask,
    compare_readers,
    divide_difference,
    draw_bland_altman,
    read_readings,
    write_comparison,
)
from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_table_csv
from ctai_sam2.io import write_mask_nifti
from tests.unit.io.making import make_volume

FIRST = [111.5, 191.8, 112.5, 111.7, 124.8, 115.5, 159.7, 100.1, 177.6, 175.4, 87.9, 141.8, 99.6, 112.9]
SECOND = [122.2, 177.6, 116.4, 106.7, 124.2, 107.4, 158.7, 102.5, 183.3, 175.1, 93.3, 157.6, 105.6, 114.9]


def table(values: list[float], slices: list[int] | None = None, **more: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "case_id": f"c{i:02d}",
            "sma_cm2": value,
            "middle_slice": slices[i] if slices else 7,
            **{name: column[i] for name, column in more.items()},
        }
        for i, value in enumerate(values)
    ]


def test_values_agree_with_an_independent_package() -> None:
    # pingouin 0.6.1, intraclass_corr, ICC(A,1); the limits by numpy alone.
    [found] = compare_readers(table(FIRST), table(SECOND)).measures
    assert found.icc.value == pytest.approx(0.9733475926433746, abs=1e-9)
    assert (found.icc.low, found.icc.high) == pytest.approx((0.92145879, 0.99128678), abs=1e-7)
    assert found.bland_altman.bias == pytest.approx(-1.6214285714, abs=1e-9)
    assert found.bland_altman.sd == pytest.approx(7.5632897372, abs=1e-9)
    a, b = np.array(FIRST), np.array(SECOND)
    by_hand = 100 * np.sqrt(np.mean((a - b) ** 2 / 2 / ((a + b) / 2) ** 2))
    assert found.cv_percent == pytest.approx(by_hand)
    assert (found.n, found.scope) == (14, "all")


def test_hu_have_no_coefficient_of_variation() -> None:
    a = table(FIRST, smd_hu=[30.0 + i for i in range(14)])
    b = table(SECOND, smd_hu=[31.0 + i for i in range(14)])
    found = {entry.measure: entry for entry in compare_readers(a, b).measures}
    assert found["smd_hu"].cv_percent is None
    assert found["sma_cm2"].cv_percent is not None


def test_cases_without_a_value_are_noted_once_and_not_counted_among_the_compared() -> None:
    a = table(FIRST, smd_hu=[30.0 + i for i in range(14)])
    b = table(SECOND, smd_hu=[31.0 + i for i in range(14)])
    for name in ("sma_cm2", "smd_hu"):
        a[3][name] = None
    cautions = compare_readers(a, b).cautions
    assert "1 of 14 cases has no value of sma_cm2, smd_hu" in cautions
    assert "with 13 cases the intervals are wide; quote them with the values" in cautions


def test_slice_and_contour_are_told_apart() -> None:
    # What a reader measures is the slice's truth plus the reader's own generosity: both parts are known.
    truth = {case: np.array([100.0 + 9 * case, 104.0 + 5 * case]) for case in range(8)}
    slices_a, slices_b = [0] * 8, [0, 1] * 4
    generous = [1.0, 2.0, 3.0, 1.5, 2.5, 0.5, 2.2, 1.1]
    a = table([truth[i][0] + generous[i] for i in range(8)], slices_a)
    b = table([truth[i][slices_b[i]] for i in range(8)], slices_b)
    crossed_a = table([truth[i][slices_b[i]] + generous[i] for i in range(8)], slices_b)
    crossed_b = table([truth[i][0] for i in range(8)], slices_a)
    expected = np.array([truth[i][0] - truth[i][slices_b[i]] for i in range(8)])
    for crossed in (
        {"crossed_a": crossed_a},
        {"crossed_b": crossed_b},
        {"crossed_a": crossed_a, "crossed_b": crossed_b},
    ):
        comparison = compare_readers(a, b, **crossed)  # type: ignore[arg-type]
        division = comparison.measures[0].division
        assert division is not None
        assert (division.n, division.undivided) == (8, 0)
        assert division.slice_sd == pytest.approx(expected.std(ddof=1))
        assert division.contour_mean == pytest.approx(np.mean(generous))
        assert division.contour_sd == pytest.approx(np.std(generous, ddof=1))
        assert division.slice_share + division.contour_share == pytest.approx(1)
        assert division.slice_share > 0.8
    plain = compare_readers(a, b)
    assert plain.measures[0].division is not None
    assert (plain.measures[0].division.n, plain.measures[0].division.undivided) == (4, 4)
    assert plain.measures[0].division.slice_sd == 0
    same = next(entry for entry in plain.measures if entry.scope == "same_slice")
    assert same.n == 4
    assert same.bland_altman.bias == pytest.approx(np.mean(generous[::2]))
    assert plain.slices is not None
    assert (plain.slices.same, plain.slices.mean_distance, plain.slices.largest_distance) == (4, 0.5, 1)


@given(*[st.floats(-1e3, 1e3)] * 4)
def test_parts_add_up_and_readers_can_be_exchanged(a: float, b: float, ab: float, ba: float) -> None:
    parts = divide_difference(a, b, first_crossed=ab, second_crossed=ba)
    turned = divide_difference(b, a, first_crossed=ba, second_crossed=ab)
    assert parts is not None
    assert turned is not None
    assert sum(parts) == pytest.approx(a - b, abs=1e-6)
    assert turned == pytest.approx((-parts[0], -parts[1]), abs=1e-6)
    assert divide_difference(a, b) is None


def drawn(z: int, grow: int = 0) -> DrawnMask:
    ct = make_volume((9, 30, 30), (5.0, 0.5, 2.0)).axial(z)
    mask = np.zeros(ct.shape_hw, bool)
    mask[10 - grow : 20 + grow, 10:20] = True
    return DrawnMask.on(ct, mask)


def test_outlines_are_compared_on_one_slice_only() -> None:
    a, b = table(FIRST[:4]), table(SECOND[:4])
    masks_a = {f"c{i:02d}": {"psoas_left": drawn(4)} for i in range(4)}
    masks_b = {
        "c00": {"psoas_left": drawn(4)},
        "c01": {"psoas_left": drawn(4, grow=1)},
        "c02": {"psoas_left": drawn(5)},
        "c03": {"muscle": drawn(4)},
    }
    comparison = compare_readers(a, b, masks_a=masks_a, masks_b=masks_b)
    assert [(o.case, o.structure) for o in comparison.overlaps] == [
        ("c00", "psoas_left"),
        ("c01", "psoas_left"),
    ]
    exact, grown = comparison.overlaps
    assert (exact.dice, exact.hd95_mm) == (1.0, 0.0)
    assert grown.dice == pytest.approx(2 * 100 / (100 + 120))
    assert grown.hd95_mm == pytest.approx(0.5)
    # Where the masks lie outweighs the index a table states.
    assert [same for *_, same in comparison.pairs["sma_cm2"]] == [True, True, False, True]


def test_what_cannot_be_compared_is_said() -> None:
    a, b = table(FIRST), table(SECOND)
    with pytest.raises(InputError, match="fewer than 3 cases"):
        compare_readers(a[:2], b)
    with pytest.raises(InputError, match=r"occurs twice.*c00"):
        compare_readers([*a, a[0]], b)
    with pytest.raises(InputError, match="without a case"):
        compare_readers([{"sma_cm2": 1.0}], b)
    with pytest.raises(InputError, match=r"column is missing.*psoas_area_mm2"):
        compare_readers(a, b, measures=["psoas_area_mm2"])
    with pytest.raises(InputError, match="not on the slice of second"):
        compare_readers(a, b, crossed_a=table(FIRST, [8] * 14))
    cautious = compare_readers([{**row, "middle_slice": None} for row in a], [*b[:13], {"case_id": "z"}])
    assert cautious.only_second == ("z",)
    assert cautious.slices is None
    assert any("which slice" in text for text in cautious.cautions)


def test_a_comparison_is_written_whole(tmp_path: Path) -> None:
    from PIL import Image

    slices = [7, 8] * 7
    masks = {f"c{i:02d}": {"psoas_left": drawn(4)} for i in range(14)}
    comparison = compare_readers(
        table(FIRST), table(SECOND, slices), masks_a=masks, masks_b=masks, names=("anna", "model")
    )
    files = write_comparison(comparison, tmp_path / "out")
    rows = list(csv.DictReader(files.measures.read_text().splitlines()))
    assert [row["scope"] for row in rows] == ["all"]
    assert float(rows[0]["icc"]) == pytest.approx(0.97335, abs=1e-4)
    assert len(list(csv.DictReader(files.pairs.read_text().splitlines()))) == 14
    summary = json.loads(files.summary.read_text())
    assert (summary["first"], len(summary["overlaps"])) == ("anna", 14)
    with Image.open(files.figure) as image:
        assert image.size[0] > 400
    assert draw_bland_altman(comparison)[:4] == b"\x89PNG"


def test_a_cohorts_folder_stands_for_its_table(tmp_path: Path) -> None:
    write_table_csv(tmp_path / "table.csv", table(FIRST[:3]))
    (tmp_path / "masks").mkdir()
    readings = read_readings(tmp_path)
    assert [reading.values["sma_cm2"] for reading in readings] == list(FIRST[:3])


def test_the_words_of_a_table_are_no_measures(tmp_path: Path) -> None:
    rows = [{**row, "contrast_source": "akamatsu-2026@1"} for row in table(FIRST[:3])]
    write_table_csv(tmp_path / "table.csv", rows)
    readings = read_readings(tmp_path / "table.csv")
    assert all("contrast_source" not in reading.values for reading in readings)


def test_folders_of_cases_are_read(tmp_path: Path) -> None:
    volume = make_volume((9, 30, 30), (5.0, 0.5, 2.0))
    for number, row in enumerate(table(FIRST[:3])):
        folder = tmp_path / "anna" / f"case{number}"
        write_table_csv(folder / "measurements.csv", [{k: v for k, v in row.items() if k != "case_id"}])
        ct, side = volume.axial(4), volume.sagittal(3)
        write_mask_nifti(folder / "masks" / "muscle.nii.gz", ct.hu > 0, ct)
        write_mask_nifti(folder / "masks" / "l3.nii.gz", side.hu > 0, side)
    first = read_readings(tmp_path / "anna")
    assert [reading.case for reading in first] == ["case0", "case1", "case2"]
    assert first[0].values["sma_cm2"] == FIRST[0]
    assert first[0].masks["muscle"].spacing_mm == pytest.approx((0.5, 2.0))
    assert first[0].masks["l3"].spacing_mm == pytest.approx((5.0, 0.5))
    comparison = compare_readers(first, first)
    assert {overlap.structure for overlap in comparison.overlaps} == {"muscle", "l3"}
    assert all(overlap.dice == 1 for overlap in comparison.overlaps)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no case"):
        read_readings(tmp_path / "none")
    with pytest.raises(InputError, match="no file"):
        read_readings(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00case")
    with pytest.raises(InputError, match=r"no CSV|without a case|no row"):
        read_readings(tmp_path / "b.csv")


def test_masks_that_cannot_be_compared_are_said(tmp_path: Path) -> None:
    volume = make_volume((9, 30, 30), (5.0, 0.5, 2.0))
    ct = volume.axial(4)
    for reader in ("anna", "bert"):
        for number, row in enumerate(table(FIRST[:3])):
            folder = tmp_path / reader / f"case{number}"
            write_table_csv(folder / "measurements.csv", [{k: v for k, v in row.items() if k != "case_id"}])
            write_mask_nifti(folder / "masks" / "muscle.nii.gz", ct.hu > 0, ct)
    lost = tmp_path / "anna" / "case1" / "masks" / "muscle.nii.gz"
    image = nibabel.load(lost)
    bare = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
    bare.header["qform_code"] = bare.header["sform_code"] = 0
    nibabel.save(bare, lost)
    found = compare_readers(
        read_readings(tmp_path / "anna"), read_readings(tmp_path / "bert"), names=("anna", "bert")
    )
    [said] = [text for text in found.cautions if "not compared" in text]
    assert said.startswith("anna: 1 files of masks")
    assert "muscle.nii.gz states no orientation (case1)" in said
    assert {overlap.case for overlap in found.overlaps} == {"case0", "case2"}


def test_what_the_tables_are_not_alike_in_is_said() -> None:
    """Areas in mm² for cm², other HU limits, and pseudonyms that a spreadsheet took for numbers."""
    areas = {f"{number:03d}": 100.0 + 7 * number for number in range(4)}
    first = [
        {"case": c, "sma_cm2": v, "smd_hu": 40.0 + v / 9, "definitions": "a@1"} for c, v in areas.items()
    ]
    second = [dict(row) for row in first]
    said = " ".join(compare_readers(first, second).cautions)
    assert not any(word in said for word in ("factor", "definitions", "nobody"))
    for row in second:
        row |= {"sma_cm2": 100 * float(str(row["sma_cm2"])), "definitions": "b@2"}
    second += [{"case": "7", "sma_cm2": 90.0, "smd_hu": 41.0}]
    cautions = compare_readers(first, second, names=("anna", "ben")).cautions
    assert "sma_cm2: the values differ by a factor of 100: are they in one unit?" in cautions
    assert "the values were measured with several definitions: a@1, b@2" in cautions
    assert "ben: 1 of 5 cases were read by nobody else: 7" in cautions
    assert not any(text.startswith(("smd_hu", "anna")) for text in cautions)
