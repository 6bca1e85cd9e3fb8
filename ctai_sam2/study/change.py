"""Two dates of one patient: the same vertebra, the change of each number, and what else differs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ctai_sam2.errors import AnatomyNotFound, InputError
from ctai_sam2.files.atomic import write_bytes, write_table_csv
from ctai_sam2.io import write_overlay_png
from ctai_sam2.io.study import first_header
from ctai_sam2.measure.columns import COLUMN_TABLE
from ctai_sam2.measure.contrast import acquisition_cautions
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation import StudyResult, segment_study
from ctai_sam2.segmentation.axial_session import CONFIDENCE_THRESHOLD
from ctai_sam2.segmentation.slice_match import SliceMatch, match_slice
from ctai_sam2.study.row import TableRow, estimate_slice_phase, measure_study
from ctai_sam2.types import Acquisition
from ctai_sam2.types.checks import require_type

if TYPE_CHECKING:
    import pandas as pd

    from ctai_sam2.segmentation import PredictsMasks

CHANGED_COLUMNS: tuple[str, ...] = (
    "sma_cm2",
    "smi_cm2_m2",
    "smd_hu",
    "psoas_area_mm2",
    "imat_percent",
    "sat_area_mm2",
    "vat_area_mm2",
    "circumference_cm",
)
"""What is compared, by column of the measurements' table."""

LSC_PERCENT: Mapping[str, tuple[float, str]] = {
    "sma_cm2": (
        1.8,
        "least significant change at the abdomen, one reader: Assessing dynamic change in muscle during "
        "treatment of patients with cancer: precision testing standards (38 patients); checked against the "
        "abstract",
    )
}
"""Least significant change in per cent by column, and its source."""

SDD_SAME_KVP = 5.6
SDD_OTHER_KVP = 19.9
SDD_SOURCE = (
    "smallest detectable difference of SMA, same and other tube voltage: van der Werf et al.; "
    "not checked against the paper"
)

_GOOD_MATCH = 0.6


@dataclass(frozen=True, kw_only=True)
class MeasureChange:
    """One number at two dates.

    Parameters
    ----------
    column, unit : str
        Name of the column, and its unit.
    first, second : float
        Its values.
    least_change : float or None
        What a change has to exceed to be more than error, in the unit; None where nothing is published and
        nothing was given.
    source : str
        Of ``least_change``.
    """

    column: str
    unit: str
    first: float
    second: float
    least_change: float | None = None
    source: str = ""

    @property
    def change(self) -> float:
        """Second minus first, in the unit."""
        return self.second - self.first

    @property
    def change_percent(self) -> float | None:
        """Change in per cent of the first; None where that is 0."""
        return None if self.first == 0 else 100.0 * self.change / self.first

    @property
    def exceeds(self) -> bool | None:
        """Whether the change is more than ``least_change``; None where that is not known."""
        return None if self.least_change is None else abs(self.change) > self.least_change


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StudyChange:
    """Two studies of one patient, compared at the same height.

    Parameters
    ----------
    first, second : StudyResult
        The second at the slice that matches.
    rows : tuple of dict
        Their measurements.
    measures : tuple of MeasureChange
        What was measured at both dates.
    match : SliceMatch or None
        How the second slice was matched; None where no vertebra was found to match by.
    flags : tuple of str
        Why the change may not be the patient's: scanner, phase, voltage, level; and the
        warnings of each study.
    """

    first: StudyResult
    second: StudyResult
    rows: tuple[TableRow, TableRow]
    measures: tuple[MeasureChange, ...]
    match: SliceMatch | None
    flags: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        return f"StudyChange({len(self.measures)} measures, {len(self.flags)} flags)"

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per measure, for a table."""
        return [
            {
                "measure": one.column,
                "unit": one.unit,
                "first": one.first,
                "second": one.second,
                "change": one.change,
                "change_percent": one.change_percent,
                "least_change": one.least_change,
                "exceeds": one.exceeds,
                "source": one.source,
            }
            for one in self.measures
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per measure."""
        import pandas as pd

        return pd.DataFrame(self.to_rows())


@dataclass(frozen=True, kw_only=True)
class ChangeFiles:
    """Files of a comparison: the table, and the picture with both slices side by side."""

    table: Path
    picture: Path


def compare_studies(
    first: StudyResult,
    second: StudyResult,
    segmenter: PredictsMasks | None = None,
    *,
    height_m: float | None = None,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    least_changes: Mapping[str, float] | None = None,
    confidence_threshold: float = CONFIDENCE_THRESHOLD,
) -> StudyChange:
    """Compare two studies of one patient at the same height of the same vertebra.

    Parameters
    ----------
    first, second : StudyResult
        From `segment_study`, in order of their dates.
    segmenter : PredictsMasks, optional
        Segments the second study again where another slice matches better; without one its slice stays, and
        the distance is flagged.
    height_m : float, optional
        Body height in metres.
    definitions : TissueDefinitions
        HU ranges and density rule, the same for both.
    least_changes : mapping of str to float, optional
        What a change has to exceed, by column and in its unit: your own repeatability, as from
        `ctai-sam2 agreement`, instead of what is published.
    confidence_threshold : float
        As in `segment_study`, where the second study is segmented again.

    Raises
    ------
    InputError
        If nothing was measured at both dates, or a least change is for no column.
    Unavailable
        If the segmenter is not available.
    """
    require_type(first, StudyResult, "first")
    require_type(second, StudyResult, "second")
    unknown = sorted(set(least_changes or ()) - set(CHANGED_COLUMNS))
    if unknown:
        raise InputError("no such measure", received=unknown, hint=f"One of {', '.join(CHANGED_COLUMNS)}.")
    flags: list[str] = []
    match = _match(first, second, flags)
    if match is not None and match.axial_index != second.axial_index:
        if segmenter is None:
            flags.append(
                f"level: slice {match.axial_index} of the second study matches better, "
                f"{abs(match.offset_mm):.1f} mm from the one measured"
            )
        else:
            second = segment_study(
                second.volume,
                segmenter,
                axial_index=match.axial_index,
                structures=[name for name in second.masks if name != "l3"],  # type: ignore[misc]
                definitions=definitions,
                confidence_threshold=confidence_threshold,
            )
    rows = tuple(
        measure_study(study, height_m=height_m, definitions=definitions) for study in (first, second)
    )
    flags += _differences(first, second)
    heights = {row["height_m"] for row in rows} - {None}
    if len(heights) > 1:
        flags.append("body height: it differs between the studies, and the indices change with it alone")
    measures = _changes(rows, least_changes or {}, _kvp_differs(first, second))
    if not measures:
        raise InputError("nothing was measured at both dates")
    return StudyChange(
        first=first,
        second=second,
        rows=(rows[0], rows[1]),
        measures=measures,
        match=match,
        flags=tuple(flags),
    )


def compare_headers(first: str | Path, second: str | Path) -> list[str]:
    """Say where the headers of two DICOM studies speak against comparing them in this order.

    Nothing of what they state is repeated.

    Parameters
    ----------
    first, second : path-like
        The earlier and the later study. Of other files, and where a header is silent, nothing is known.

    Returns
    -------
    list of str
        Flags: studies in the wrong order, one study given twice, two patients.
    """
    headers = [first_header(path) for path in (first, second)]
    if headers[0] is None or headers[1] is None:
        return []
    one, other = headers[0].keys, headers[1].keys
    flags = []
    if one.study_date.isdigit() and other.study_date.isdigit() and one.study_date > other.study_date:
        flags.append("order: the first study was made after the second: every change has the other sign")
    if one.study_uid and one.study_uid == other.study_uid:
        flags.append("order: both images are of one study, made on one day")
    identifiers = {keys.patient[0] for keys in (one, other) if keys.patient} - {""}
    if len(identifiers) > 1:
        flags.append("patient: the headers state two patients, or each study has a pseudonym of its own")
    return flags


def write_change(change: StudyChange, folder: str | Path) -> ChangeFiles:
    """Write ``change.csv``, and ``change.png`` with both slices side by side.

    Raises
    ------
    StorageError
        If something cannot be written.
    """
    folder = Path(folder)
    pictures = [
        write_overlay_png(
            folder / f"{name}.png",
            study.axial.ct_slice,
            {key: mask for key, mask in study.masks.items() if key in _SHOWN},
            title=f"{name}: slice {study.axial_index}",
        ).read_bytes()
        for name, study in (("first", change.first), ("second", change.second))
    ]
    return ChangeFiles(
        table=write_table_csv(folder / "change.csv", change.to_rows()),
        picture=write_bytes(folder / "change.png", _side_by_side(pictures)),
    )


_SHOWN = ("sat", "vat", "muscle", "imat", "psoas_left", "psoas_right")


def _side_by_side(pictures: Sequence[bytes]) -> bytes:
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in pictures]
    joined = Image.new("RGB", (sum(one.width for one in images), max(one.height for one in images)))
    left = 0
    for one in images:
        joined.paste(one, (left, 0))
        left += one.width
    buffer = io.BytesIO()
    joined.save(buffer, format="PNG")
    return buffer.getvalue()


def _match(first: StudyResult, second: StudyResult, flags: list[str]) -> SliceMatch | None:
    vertebrae = [study.masks.get("vertebra") for study in (first, second)]
    if vertebrae[0] is None or vertebrae[1] is None:
        flags.append("level: no vertebra was outlined to match the slices by")
        return None
    try:
        match = match_slice(
            first.axial.ct_slice, vertebrae[0], second.volume, second.axial_index, vertebrae[1]
        )
    except AnatomyNotFound as error:
        flags.append(f"level: {error}")
        return None
    if match.similarity < _GOOD_MATCH:
        flags.append(f"level: the slices look little alike (correlation {match.similarity:.2f})")
    return match


def _differences(first: StudyResult, second: StudyResult) -> list[str]:
    one, other = first.axial.ct_slice.acquisition, second.axial.ct_slice.acquisition
    found = [
        f"{what}: {_said(a)} then, {_said(b)} now"
        for what, a, b in (
            ("scanner", one.scanner, other.scanner),
            ("tube voltage", one.kvp, other.kvp),
            ("slice thickness", one.slice_thickness_mm, other.slice_thickness_mm),
            ("kernel", one.kernel, other.kernel),
            ("sex", one.patient_sex, other.patient_sex),
        )
        if a is not None and b is not None and a != b
    ]
    phases = [_phase_of(study) for study in (first, second)]
    if None not in phases and phases[0] != phases[1]:
        found.append(f"contrast phase: {phases[0]} then, {phases[1]} now")
    for when, study in (("first", first), ("second", second)):
        acquisition: Acquisition = study.axial.ct_slice.acquisition
        estimate = estimate_slice_phase(study.axial.ct_slice, study.masks)
        found += [f"{when} study: {text}" for text in acquisition_cautions(acquisition, estimate)]
        if study.level_certainty not in ("counted", "user"):
            found.append(f"{when} study: the level is {study.level_certainty}")
        found += [f"{when} study: {text}" for text in study.warnings]
    return list(dict.fromkeys(found))


def _phase_of(study: StudyResult) -> str | None:
    acquisition = study.axial.ct_slice.acquisition
    if acquisition.phase is not None:
        return acquisition.phase
    estimate = estimate_slice_phase(study.axial.ct_slice, study.masks)
    return None if estimate is None else estimate.phase


def _kvp_differs(first: StudyResult, second: StudyResult) -> bool:
    return first.axial.ct_slice.acquisition.kvp != second.axial.ct_slice.acquisition.kvp


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changes(
    rows: Sequence[TableRow], given: Mapping[str, float], kvp_differs: bool
) -> tuple[MeasureChange, ...]:
    units = {column.name: column.unit for column in COLUMN_TABLE}
    found = []
    for column in CHANGED_COLUMNS:
        first, second = (row[column] for row in rows)
        if not isinstance(first, int | float) or not isinstance(second, int | float):
            continue
        least, source = _least_change(column, float(first), given, kvp_differs)
        found.append(
            MeasureChange(
                column=column,
                unit=units[column],
                first=float(first),
                second=float(second),
                least_change=least,
                source=source,
            )
        )
    return tuple(found)


def _least_change(
    column: str, first: float, given: Mapping[str, float], kvp_differs: bool
) -> tuple[float | None, str]:
    """Return what a change has to exceed: what was given, else the larger of what is published."""
    if column in given:
        return given[column], "given"
    if column != "sma_cm2":
        return None, ""
    percent, source = LSC_PERCENT[column]
    by_percent, by_area = first * percent / 100, SDD_OTHER_KVP if kvp_differs else SDD_SAME_KVP
    return (by_percent, source) if by_percent > by_area else (by_area, SDD_SOURCE)
