"""Agreement of two readers: measurements, outlines, and the choice of the slice apart from the contour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ctai_sam2.agreement.division import FEWEST_CASES, Division, divide_cases
from ctai_sam2.agreement.readings import DrawnMask, Reading, readings_of_rows
from ctai_sam2.agreement.statistics import (
    BlandAltman,
    IntraclassCorrelation,
    MeasurementError,
    bland_altman,
    icc_2_1,
    measurement_error,
    within_subject_cv,
)
from ctai_sam2.agreement.volumes import VOLUME_SUFFIX, VolumeOverlap, compare_volumes
from ctai_sam2.errors import InputError
from ctai_sam2.measure.overlap import dice, hausdorff_mm

Table: TypeAlias = Iterable[Mapping[str, Any] | Reading]

MEASURES: tuple[str, ...] = (
    "sma_cm2",
    "smi_cm2_m2",
    "smd_hu",
    "psoas_area_mm2",
    "pmi_cm2_m2",
    "sat_area_mm2",
    "vat_area_mm2",
    "imat_area_mm2",
)
"""Columns compared unless others are named; volumes, ``…_volume_cm3``, are too."""


@dataclass(frozen=True, kw_only=True)
class MeasureAgreement:
    """Agreement in one column.

    Parameters
    ----------
    measure : str
        The column.
    scope : {"all", "same_slice"}
        Every case both measured, or those where both chose one slice.
    n : int
        Cases.
    mean_first, mean_second : float
        Means of the readers.
    icc : IntraclassCorrelation
        ICC(2,1), absolute agreement.
    cv_percent : float, optional
        Within-subject coefficient of variation; None for HU and where a value is not positive.
    error : MeasurementError
        TEM, SEM and repeatability coefficient.
    bland_altman : BlandAltman
        Bias and limits of agreement, first minus second.
    division : Division, optional
        Slice apart from contour; for scope ``all`` where at least three cases can be divided.
    """

    measure: str
    scope: str
    n: int
    mean_first: float
    mean_second: float
    icc: IntraclassCorrelation
    cv_percent: float | None
    error: MeasurementError
    bland_altman: BlandAltman
    division: Division | None = None


_UNIT_FACTOR = 8.0
"""Of means; areas in mm² and cm² differ by 100, readers of one structure by far less."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Agreement of two outlines of one structure on the same slice.

    Parameters
    ----------
    case, structure : str
        Names of the case and of the structure.
    dice : float
        0 to 1.
    hd95_mm : float
        95th percentile of the distances between the outlines; infinite if one is empty.
    """

    case: str
    structure: str
    dice: float
    hd95_mm: float


@dataclass(frozen=True, kw_only=True)
class SliceChoice:
    """How far apart the chosen slices are.

    Parameters
    ----------
    n : int
        Cases in which both readers' slices are known.
    same : int
        Cases with one slice.
    mean_distance, largest_distance : float
        Absolute distances, in slices.
    """

    n: int
    same: int
    mean_distance: float
    largest_distance: int


@dataclass(frozen=True, kw_only=True)
class ReaderComparison:
    """Everything `compare_readers` found.

    Parameters
    ----------
    first, second : str
        The readers' names.
    cases : tuple of str
        Cases both read, in the first's order.
    only_first, only_second : tuple of str
        Cases only one read; left out.
    measures : tuple of MeasureAgreement
        By column and scope.
    overlaps : tuple of Overlap
        By case and structure; only where both outlined one slice.
    volumes : tuple of VolumeOverlap
        The same of outlines over whole volumes on one grid.
    slices : SliceChoice, optional
        None where slices are unknown.
    pairs : mapping of str to tuple of (case, first, second, same slice)
        The values behind each measure.
    cautions : tuple of str
        What to know before quoting the numbers.
    """

    first: str
    second: str
    cases: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    measures: tuple[MeasureAgreement, ...]
    overlaps: tuple[Overlap, ...]
    volumes: tuple[VolumeOverlap, ...]
    slices: SliceChoice | None
    pairs: Mapping[str, tuple[tuple[str, float, float, bool | None], ...]]
    cautions: tuple[str, ...] = ()


def compare_readers(
    table_a: Table,
    table_b: Table,
    *,
    masks_a: Mapping[str, Mapping[str, DrawnMask]] | None = None,
    masks_b: Mapping[str, Mapping[str, DrawnMask]] | None = None,
    crossed_a: Table | None = None,
    crossed_b: Table | None = None,
    measures: Sequence[str] | None = None,
    names: tuple[str, str] = ("first", "second"),
    confidence: float = 0.95,
) -> ReaderComparison:
    """Compare two readers, or a reader and a model, case by case.

    Parameters
    ----------
    table_a, table_b : iterable of mapping or of Reading
        One row a case, with a column ``case_id`` or ``case``, ``middle_slice`` where known, and measurements.
    masks_a, masks_b : mapping of str to mapping of str to DrawnMask, optional
        Outlines by case and structure, where the tables are not readings that carry them.
    crossed_a : iterable of mapping or of Reading, optional
        What the first reader measures on the *second's* slice; divides differences into slice and contour
        (see `ctai_sam2.agreement.division`). Its ``middle_slice``, where given, must be the second's.
    crossed_b : iterable of mapping or of Reading, optional
        What the second reader measures on the first's slice.
    measures : sequence of str, optional
        Columns; those of `MEASURES` that both tables have when omitted.
    names : tuple of (str, str)
        What to call the readers.
    confidence : float
        Level of the intervals.

    Returns
    -------
    ReaderComparison

    Raises
    ------
    InputError
        If fewer than three cases are common, a column is missing, or a crossed measurement lies on another
        slice than it should.

    Examples
    --------
    >>> a = [{"case": c, "sma_cm2": v, "middle_slice": 5} for c, v in zip("pqr", (100.0, 120.0, 140.0))]
    >>> b = [{"case": c, "sma_cm2": v, "middle_slice": 5} for c, v in zip("pqr", (101.0, 122.0, 139.0))]
    >>> found = compare_readers(a, b)
    >>> round(found.measures[0].icc.value, 3), found.slices.same
    (0.997, 3)
    """
    a, b = _by_case(table_a, masks_a, names[0]), _by_case(table_b, masks_b, names[1])
    cases = [case for case in a if case in b]
    if len(cases) < FEWEST_CASES:
        raise InputError(
            f"fewer than {FEWEST_CASES} cases were read by both",
            received=f"{len(cases)} of {len(a)} and {len(b)}",
            hint="The readers' tables must name cases alike.",
        )
    over_a = {} if crossed_a is None else _by_case(crossed_a, None, f"{names[0]}, crossed")
    over_b = {} if crossed_b is None else _by_case(crossed_b, None, f"{names[1]}, crossed")
    _require_slices(over_a, b, names[0], names[1])
    _require_slices(over_b, a, names[1], names[0])
    same = {case: _same_slice(a[case], b[case]) for case in cases}

    found: list[MeasureAgreement] = []
    pairs: dict[str, tuple[tuple[str, float, float, bool | None], ...]] = {}
    cautions: list[str] = []
    lacking: dict[int, list[str]] = {}
    for measure in _chosen_measures(measures, a, b, cases):
        both = [case for case in cases if measure in a[case].values and measure in b[case].values]
        if len(both) < len(cases):
            lacking.setdefault(len(cases) - len(both), []).append(measure)
        if len(both) < FEWEST_CASES:
            cautions.append(f"{measure}: too few cases to compare")
            continue
        pairs[measure] = tuple(
            (case, a[case].values[measure], b[case].values[measure], same[case]) for case in both
        )
        division = divide_cases(measure, both, a, b, over_a, over_b, same)
        found.append(_agreement(measure, "all", pairs[measure], confidence, division))
        cautions += _unit_caution(measure, found[-1])
        on_one = [pair for pair in pairs[measure] if pair[3]]
        if FEWEST_CASES <= len(on_one) < len(both):
            found.append(_agreement(measure, "same_slice", on_one, confidence, None))
    cautions += [
        f"{count} of {len(cases)} cases {'has' if count == 1 else 'have'} no value of {', '.join(names_of)}"
        for count, names_of in lacking.items()
    ]
    if not found:
        raise InputError("no column can be compared", received=", ".join(measures or MEASURES))
    if any(same[case] is None and not (a[case].volumes and b[case].volumes) for case in cases):
        cautions.append(
            "not every row says which slice was measured: the effects of slice and contour "
            "cannot be separated there"
        )
    cautions += _case_cautions(a, b, names)
    cautions += _masks_left_out(names[0], [a[case] for case in cases])
    cautions += _masks_left_out(names[1], [b[case] for case in cases])
    apart = [
        f"{name} of {case[:40]}"
        for case in cases
        for name, drawn in a[case].masks.items()
        if name in b[case].masks
        and _same_slice(a[case], b[case])
        and not drawn.lies_with(b[case].masks[name])
    ]
    compared, of_volumes = compare_volumes({case: (a[case].volumes, b[case].volumes) for case in cases})
    apart += of_volumes
    if apart:
        cautions.append(f"{len(apart)} masks lie on different grids and were not compared: {_some(apart)}")
    if len(cases) < 15:
        counts = sorted({one.n for one in found if one.scope == "all"})
        compared_in = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        cautions.append(f"with {compared_in} cases the intervals are wide; quote them with the values")
    return ReaderComparison(
        first=names[0],
        second=names[1],
        cases=tuple(cases),
        only_first=tuple(case for case in a if case not in b),
        only_second=tuple(case for case in b if case not in a),
        measures=tuple(found),
        overlaps=tuple(overlap for case in cases for overlap in _overlaps(a[case], b[case])),
        volumes=compared,
        slices=_slice_choice([(a[case], b[case]) for case in cases]),
        pairs=pairs,
        cautions=tuple(cautions),
    )


def _by_case(
    table: Table, masks: Mapping[str, Mapping[str, DrawnMask]] | None, what: str
) -> dict[str, Reading]:
    readings: list[Reading] = []
    rows: list[Mapping[str, Any]] = []
    for item in table:
        if isinstance(item, Reading):
            readings.append(item)
        else:
            rows.append(item)
    if readings and rows:
        raise InputError("a table is rows or readings, not both", received=what)
    result: dict[str, Reading] = {}
    for reading in readings or readings_of_rows(rows, f"the table of {what}"):
        if reading.case in result:
            raise InputError("a case occurs twice", received=reading.case[:64])
        drawn = (masks or {}).get(reading.case, reading.masks)
        result[reading.case] = replace(reading, masks=drawn)
    return result


def _require_slices(
    crossed: Mapping[str, Reading], others: Mapping[str, Reading], who: str, whose: str
) -> None:
    for case, reading in crossed.items():
        chosen = others[case].slice_index if case in others else None
        if None not in (reading.slice_index, chosen) and reading.slice_index != chosen:
            raise InputError(
                f"a crossed measurement of {who} is not on the slice of {whose}",
                received=f"slice {reading.slice_index} for {chosen} in {case[:64]}",
                hint="Measure the other reader's slice.",
            )


def _chosen_measures(
    measures: Sequence[str] | None, a: Mapping[str, Reading], b: Mapping[str, Reading], cases: Sequence[str]
) -> list[str]:
    volumes = {
        name for by in (a, b) for case in cases for name in by[case].values if name.endswith(VOLUME_SUFFIX)
    }
    present = [
        name
        for name in (measures or (*MEASURES, *sorted(volumes)))
        if any(name in a[case].values for case in cases) and any(name in b[case].values for case in cases)
    ]
    missing = sorted(set(measures or ()) - set(present))
    if missing:
        raise InputError(
            "a column is missing or empty in one of the tables", received=", ".join(missing)[:200]
        )
    return present


def _same_slice(a: Reading, b: Reading) -> bool | None:
    shared = [name for name in a.masks if name in b.masks and name != "l3"]
    placed = [name for name in shared if a.masks[name].grid is not None and b.masks[name].grid is not None]
    if placed:
        return a.masks[placed[0]].lies_with(b.masks[placed[0]])
    if a.slice_index is None or b.slice_index is None:
        return None
    return a.slice_index == b.slice_index


def _case_cautions(a: Mapping[str, Reading], b: Mapping[str, Reading], names: tuple[str, str]) -> list[str]:
    """Say which cases have no partner, and whether both readers measured with the same limits."""
    cautions = []
    for who, mine, others in ((names[0], a, b), (names[1], b, a)):
        alone = [case[:40] for case in mine if case not in others]
        if alone:
            cautions.append(
                f"{who}: {len(alone)} of {len(mine)} cases were read by nobody else: {_some(alone)}"
            )
    limits = [{mine[case].definitions for case in a if case in b} - {None} for mine in (a, b)]
    stated = sorted({str(one) for one in limits[0] | limits[1]})
    if limits[0] and limits[1] and len(stated) > 1:
        cautions.append(f"the values were measured with several definitions: {_some(stated)}")
    return cautions


def _unit_caution(measure: str, entry: MeasureAgreement) -> list[str]:
    """Say where one reader's values are ten times the other's or more, as mm² are for cm²."""
    one, other = abs(entry.mean_first), abs(entry.mean_second)
    if measure.endswith("_hu") or "_hu_" in measure or min(one, other) <= 0:
        return []
    factor = max(one, other) / min(one, other)
    if factor < _UNIT_FACTOR:
        return []
    return [f"{measure}: the values differ by a factor of {factor:.3g}: are they in one unit?"]


def _masks_left_out(who: str, readings: Sequence[Reading]) -> list[str]:
    said = [f"{reason} ({reading.case[:40]})" for reading in readings for reason in reading.left_out]
    return [f"{who}: {len(said)} files of masks were not compared: {_some(said)}"] if said else []


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _overlaps(a: Reading, b: Reading) -> list[Overlap]:
    result = []
    for name, drawn in a.masks.items():
        other = b.masks.get(name)
        # L3 is outlined on a sagittal slice of its own.
        apart = name != "l3" and _same_slice(a, b) is False
        if other is None or apart or not drawn.lies_with(other):
            continue
        result.append(
            Overlap(
                case=a.case,
                structure=name,
                dice=dice(drawn.mask, other.mask),
                hd95_mm=hausdorff_mm(drawn.mask, other.mask, drawn.spacing_mm),
            )
        )
    return result


def _agreement(
    measure: str,
    scope: str,
    pairs: Sequence[tuple[str, float, float, bool | None]],
    confidence: float,
    division: Division | None,
) -> MeasureAgreement:
    first = np.array([pair[1] for pair in pairs])
    second = np.array([pair[2] for pair in pairs])
    ratings = np.column_stack([first, second])
    relative = not measure.endswith("_hu") and "_hu_" not in measure and bool((ratings > 0).all())
    return MeasureAgreement(
        measure=measure,
        scope=scope,
        n=len(pairs),
        mean_first=float(first.mean()),
        mean_second=float(second.mean()),
        icc=icc_2_1(ratings, confidence=confidence),
        cv_percent=within_subject_cv(ratings) if relative else None,
        error=measurement_error(ratings, relative=relative),
        bland_altman=bland_altman(first, second, confidence=confidence),
        division=division,
    )


def _slice_choice(readings: Sequence[tuple[Reading, Reading]]) -> SliceChoice | None:
    distances = [
        abs(first.slice_index - second.slice_index)
        for first, second in readings
        if first.slice_index is not None and second.slice_index is not None
    ]
    if not distances:
        return None
    return SliceChoice(
        n=len(distances),
        same=sum(distance == 0 for distance in distances),
        mean_distance=float(np.mean(distances)),
        largest_distance=max(distances),
    )
