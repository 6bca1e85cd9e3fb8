"""One reader's results: a table row, and where there are any the masks, for each case."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.agreement.volumes import LEVELS_TABLE, DrawnVolume, values_of_levels
from ctai_sam2.errors import InputError
from ctai_sam2.files.safe_text import read_table
from ctai_sam2.image.label_values import as_single_mask
from ctai_sam2.io.grids import Grid, plane_grid, same_places
from ctai_sam2.io.label_volumes import read_label_block
from ctai_sam2.measure.columns import COLUMN_TABLE, COLUMNS
from ctai_sam2.structures import COHORT_MASK_LABELS
from ctai_sam2.types import CTSlice, Mask

CASE_COLUMNS = ("case_id", "case")
SLICE_COLUMN = "middle_slice"

COHORT_TABLE = "table.csv"
"""Name of the table in a cohort's results folder."""

_MEASUREMENTS = "measurements.csv"
_SAME_PLANE_MM = 0.05
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_EITHER_COMMA = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_EITHER_POINT = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}")
_NUMBER_COLUMNS = {column.name for column in COLUMN_TABLE if column.kind == "number"}
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "–", ".", "inf", "-inf")
_COHORT_STRUCTURES: Mapping[str, tuple[int, ...]] = {
    name: (COHORT_MASK_LABELS[name],)
    for name in ("psoas_left", "psoas_right", "sat", "vat", "imat", "vertebra")
} | {
    # Psoas lies over the rest of the muscle in a label map.
    "muscle": tuple(COHORT_MASK_LABELS[name] for name in ("muscle", "psoas_left", "psoas_right"))
}


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnMask:
    """A mask on one slice and where it lies.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Rows and columns in an order of its own, the same for all masks of one grid.
    spacing_mm : tuple of float
        (row, column).
    grid : Grid, optional
        Where it lies in the patient; masks without one are taken to lie on one grid.
    """

    mask: Mask
    spacing_mm: tuple[float, float]
    grid: Grid | None = None

    @classmethod
    def on(cls, ct: CTSlice, mask: NDArray[np.bool_]) -> DrawnMask:
        """Take a mask drawn on a slice.

        Raises
        ------
        InputError
            If the shapes differ.
        """
        if np.shape(mask) != ct.shape_hw:
            raise InputError(
                "the mask has another shape than its slice", received=f"{np.shape(mask)} for {ct.shape_hw}"
            )
        grid = None if ct.affine is None else plane_grid(ct.shape_hw, ct.affine)
        return cls(mask=np.asarray(mask, dtype=np.bool_), spacing_mm=ct.spacing_mm, grid=grid)

    def lies_with(self, other: DrawnMask) -> bool:
        """Tell whether both masks lie on one grid in one plane."""
        if self.mask.shape != other.mask.shape:
            return False
        if self.grid is None or other.grid is None:
            return bool(np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-3))
        if self.grid.shape_zyx != other.grid.shape_zyx:
            return False
        # A voxel's extent across the plane may differ; its place may not.
        thin = self.grid.shape_zyx[::-1].index(1)
        affine = np.array(other.grid.affine)
        affine[:3, thin] = self.grid.affine[:3, thin]
        step = float(np.linalg.norm(self.grid.affine[:3, thin]))
        shift = float(np.abs(np.linalg.solve(self.grid.affine, affine)[thin, 3])) * step
        return shift <= _SAME_PLANE_MM and same_places(self.grid.affine, affine, self.grid.shape_zyx)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What one reader found in one case.

    Parameters
    ----------
    case : str
        The case's pseudonym; pairs the readers.
    values : mapping of str to float
        Measurements by column; missing ones are left out.
    slice_index : int, optional
        The axial slice the reader chose.
    masks : mapping of str to DrawnMask
        Outlines on that slice, by structure.
    volumes : mapping of str to DrawnVolume
        Outlines over many slices, by structure.
    left_out : tuple of str
        Files of masks that are not compared, and why.
    definitions : str, optional
        Hounsfield limits that the values were measured with, where the row names them.
    """

    case: str
    values: Mapping[str, float]
    slice_index: int | None = None
    masks: Mapping[str, DrawnMask] = field(default_factory=dict)
    volumes: Mapping[str, DrawnVolume] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    definitions: str | None = None


def read_readings(path: str | os.PathLike[str]) -> list[Reading]:
    """Read a reader's results.

    Parameters
    ----------
    path : path-like
        A CSV table with a column ``case_id`` or ``case``; a cohort's results folder, of which table,
        masks and ranges of levels are read; or a folder whose subfolders, one a case, hold
        ``measurements.csv`` and ``masks/*.nii.gz`` as ``ctai-sam2 segment`` writes them, or ``levels.csv``
        and masks of whole volumes as it writes them with ``--levels``.

    Raises
    ------
    InputError
        If nothing usable is there, a case occurs twice or a file is damaged.
    """
    path = Path(path)
    if (path / COHORT_TABLE).is_file():
        readings = readings_of_rows(_read_rows(path / COHORT_TABLE), COHORT_TABLE)
        readings = [_with_cohort_masks(one, path / "masks" / f"{one.case}.nii.gz") for one in readings]
        return [_with_cohort_volume(one, path / "volumes" / one.case) for one in readings]
    if path.is_dir():
        readings = [_read_case(folder) for folder in sorted(path.iterdir()) if _is_case(folder)]
        if not readings:
            raise InputError(
                f"{path.name} holds no case",
                hint="A subfolder is a case: measurements.csv or levels.csv of 'ctai-sam2 segment'.",
            )
        return readings
    readings = readings_of_rows(_read_rows(path), path.name)
    return readings


def readings_of_rows(rows: Iterable[Mapping[str, Any]], what: str = "the table") -> list[Reading]:
    """Turn table rows, one a case, into readings.

    Raises
    ------
    InputError
        If there is no row or no case column, or a case occurs twice.
    """
    readings: dict[str, Reading] = {}
    for row in rows:
        column = next((name for name in CASE_COLUMNS if row.get(name) not in (None, "")), None)
        if column is None:
            raise InputError(
                f"{what} has a row without a case", hint=f"Name it in a column {' or '.join(CASE_COLUMNS)}."
            )
        case = str(row[column])
        if case in readings:
            raise InputError(
                f"a case occurs twice in {what}", received=case[:64], hint="Keep one row a case."
            )
        readings[case] = _reading(case, row)
    if not readings:
        raise InputError(f"{what} holds no row")
    return list(readings.values())


def _reading(case: str, row: Mapping[str, Any], masks: Mapping[str, DrawnMask] | None = None) -> Reading:
    values = {}
    for name, cell in row.items():
        number = _number(cell, str(name), case)
        if number is not None:
            values[str(name)] = number
    chosen = values.get(SLICE_COLUMN)
    if chosen is not None and not chosen.is_integer():
        raise InputError(
            "a slice is a whole number",
            received=f"{chosen:g} in {SLICE_COLUMN} of case {case[:40]}",
            hint="Give the axial index, 0 for the lowest slice.",
        )
    stated = row.get("definitions")
    return Reading(
        case=case,
        values=values,
        slice_index=None if chosen is None else int(chosen),
        masks=masks or {},
        definitions=stated.strip() or None if isinstance(stated, str) else None,
    )


def _number(cell: Any, column: str = "", row: str = "") -> float | None:
    """Return a cell's number; None where it is empty, says that nothing is known, or is text.

    Spreadsheets of many countries write 1,75. Where a comma could also part thousands, nothing is guessed.
    """
    if cell is None or isinstance(cell, bool):
        return None
    if not isinstance(cell, str):
        try:
            number = float(cell)
        except (TypeError, ValueError):
            return None
        return number if math.isfinite(number) else None
    text = cell.strip()
    if text.lower() in _MISSING:
        return None
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        number = float(text)
    except ValueError as error:
        if column in _NUMBER_COLUMNS:
            raise InputError(
                f"a cell of {column} is no number",
                received=f"{text[:20]!r} of case {row[:40]}",
                hint="Write 1.75 or 1,75, without units and without signs between thousands.",
            ) from error
        return None
    return number if math.isfinite(number) else None


def _is_case(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_MEASUREMENTS, LEVELS_TABLE))


def _read_case(folder: Path) -> Reading:
    row: dict[str, Any] = {}
    if (folder / _MEASUREMENTS).is_file():
        rows = _read_rows(folder / _MEASUREMENTS)
        if len(rows) != 1:
            raise InputError(
                f"a case's {_MEASUREMENTS} holds one row", received=f"{len(rows)} in {folder.name[:64]}"
            )
        row = dict(rows[0])
    if (folder / LEVELS_TABLE).is_file():
        row |= values_of_levels(_read_level_rows(folder / LEVELS_TABLE))
    masks, volumes, left_out = {}, {}, []
    for path in sorted((folder / "masks").glob("*.nii.gz")):
        found = _read_drawn(path)
        if isinstance(found, str):
            left_out.append(found)
            continue
        name = path.name.removesuffix(".nii.gz")
        if isinstance(found, DrawnVolume):
            volumes[name] = found
            continue
        labels, spacing_mm, grid = found
        mask = as_single_mask(labels, what=path.name)
        masks[name] = DrawnMask(mask=mask, spacing_mm=spacing_mm, grid=grid)
    return replace(_reading(folder.name, row, masks), volumes=volumes, left_out=tuple(left_out))


def _read_level_rows(path: Path) -> list[dict[str, str]]:
    rows = _read_rows(path)
    if any(not row.get("structure") or not row.get("level") for row in rows):
        raise InputError(f"{path.name} needs columns structure and level", received=path.parent.name[:64])
    return rows


def _with_cohort_masks(reading: Reading, path: Path) -> Reading:
    """Add the masks of a cohort's case, or why they are left out; a failed case has none."""
    if not path.is_file():
        return reading
    found = _read_drawn(path)
    if isinstance(found, DrawnVolume):
        found = f"{path.name} holds more than one slice"
    if isinstance(found, str):
        return replace(reading, left_out=(found,))
    labels, spacing_mm, grid = found
    masks = {
        name: np.asarray(np.isin(labels, values), dtype=np.bool_)
        for name, values in _COHORT_STRUCTURES.items()
    }
    drawn = {
        name: DrawnMask(mask=mask, spacing_mm=spacing_mm, grid=grid)
        for name, mask in masks.items()
        if mask.any()
    }
    return replace(reading, masks=drawn)


def _with_cohort_volume(reading: Reading, folder: Path) -> Reading:
    """Add the range of levels of a cohort's case, where it has one."""
    if not (folder / LEVELS_TABLE).is_file():
        return reading
    found = _read_case(folder)
    return replace(
        reading,
        values={**reading.values, **found.values},
        volumes=found.volumes,
        left_out=(*reading.left_out, *found.left_out),
    )


def _read_drawn(path: Path) -> tuple[NDArray[Any], tuple[float, float], Grid] | DrawnVolume | str:
    """Labels of one slice with its spacing and place, a volume's place, or why they cannot be compared."""
    try:
        labels, grid = read_label_block(path)
    except InputError as error:
        if "states no orientation" in error.problem:
            return f"{path.name} states no orientation"
        raise
    if 1 not in labels.shape:
        return DrawnVolume(path=path, grid=grid)
    thin = labels.shape.index(1)
    steps_zyx = np.linalg.norm(grid.affine[:3, :3], axis=0)[::-1]
    rows_mm, columns_mm = (float(step) for axis, step in enumerate(steps_zyx) if axis != thin)
    return np.take(labels, 0, axis=thin), (rows_mm, columns_mm), grid


def _read_rows(path: Path) -> list[dict[str, str]]:
    _, rows, separator = read_table(path)
    cells = [(name, cell.strip()) for row in rows for name, cell in row.items() if name in COLUMNS]
    if separator == ",":
        for name, cell in cells:
            if _EITHER_COMMA.fullmatch(cell):
                raise InputError(
                    f"whether a comma in {name} of {path.name} parts decimals or thousands is not clear",
                    received=cell[:20],
                    hint="Write it with a point, or separate the cells by semicolons.",
                )
    # Where decimals have a comma, a point parts thousands: 1.234 is more than a thousand then.
    elif any(_DECIMAL_COMMA.fullmatch(cell) for _, cell in cells):
        for name, cell in cells:
            if _EITHER_POINT.fullmatch(cell):
                raise InputError(
                    f"decimals have a comma in {path.name}, and whether a point in {name} parts decimals"
                    " or thousands is not clear",
                    received=cell[:20],
                    hint="Write all numbers in one way, without signs between thousands.",
                )
    return rows
