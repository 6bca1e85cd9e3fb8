"""Ranges of levels in a cohort: each case's volume next to its record, corrections, and one table of all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from ctai_sam2.cohort.case_record import CaseRecord
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.predictions import read_predictions, write_predictions
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.errors import AnatomyNotFound, DamagedFile, InputError
from ctai_sam2.files.atomic import write_table_csv
from ctai_sam2.image.masks import as_mask
from ctai_sam2.models import Segmenter
from ctai_sam2.segmentation import VolumeAnchor, VolumeResult, segment_volume
from ctai_sam2.segmentation.volume.gates import judge_slices
from ctai_sam2.segmentation.volume.kept import keep_anchors
from ctai_sam2.segmentation.volume.ranges import warnings_of_gates
from ctai_sam2.segmentation.volume.result import SliceMask, crop_mask
from ctai_sam2.structures import MUSCLES, Structure
from ctai_sam2.study.slice_folder import SliceFolder
from ctai_sam2.study.volume_outputs import read_volume_result, remove_volume_result, write_volume_result
from ctai_sam2.types import CTSlice, CTVolume

_MEASURED: tuple[Structure, ...] = ("psoas", "muscle", "sat", "vat", "imat")


def write_levels(
    store: CohortStore,
    config: CohortConfig,
    case_id: str,
    image: CTVolume | CTSlice,
    open_segmenter: Callable[[], Segmenter],
) -> tuple[str, ...]:
    """Segment the range of levels of a case and write masks and tables; returns warnings for its row.

    Finished slices are stored in the case's folder: after a kill or an outage the case continues from them.

    Parameters
    ----------
    store, config
        The cohort's folder; ``config.levels`` is the range.
    case_id : str
        Name of the case.
    image : CTVolume or CTSlice
        A single slice has no levels, which is a warning.
    open_segmenter : callable
        Returns the model, once it is needed.

    Raises
    ------
    StorageError
        If something cannot be written.
    Unavailable
        If the segmenter is not available.
    """
    folder = store.volume_folder(case_id)
    if config.levels is None:
        return ()
    try:
        if isinstance(image, CTSlice):
            raise AnatomyNotFound("a single slice has no range of levels")
        result = segment_volume(
            image,
            open_segmenter(),
            structures=tuple(name for name in _MEASURED if name in config.structures) or config.structures,
            levels=config.levels,
            kept=SliceFolder(folder / "slices"),
            window=config.window,
            definitions=config.definitions,
        )
    except AnatomyNotFound as error:
        remove_volume_result(folder)
        return (f"levels {'-'.join(config.levels)}: {error}",)
    write_volume_result(result, folder)
    return tuple(text for text in result.warnings if text not in image.warnings)


def has_levels(store: CohortStore, case_id: str) -> bool:
    """Whether a range of levels of a case was segmented."""
    return (store.volume_folder(case_id) / "slices.csv").is_file()


def read_levels(store: CohortStore, config: CohortConfig, case_id: str, volume: CTVolume) -> VolumeResult:
    """Read back the range of levels of a case.

    Raises
    ------
    InputError, GeometryError, DamagedFile
        As in `read_volume_result`.
    """
    return read_volume_result(store.volume_folder(case_id), volume, definitions=config.definitions)


def correct_levels(
    store: CohortStore,
    config: CohortConfig,
    case_id: str,
    volume: CTVolume,
    masks: Mapping[str, Mapping[int, ArrayLike]],
) -> None:
    """Put a reader's masks into the range of levels of a case: masks, tables, warnings. Hold the lock.

    They are kept as anchors first: a later run with another model leaves them as they are.

    Parameters
    ----------
    store, config
        The cohort's.
    case_id : str
        Name of the case.
    volume : CTVolume
        Its study.
    masks : mapping of str to mapping of int to array_like of bool, shape (H, W)
        By structure, then by axial index; an empty one says that the structure is not on the slice.

    Raises
    ------
    InputError
        If a structure, a slice or a shape is not one of the range.
    DamagedFile
        If the case's files cannot be read.
    StorageError
        If something cannot be written.
    """
    before = read_levels(store, config, case_id, volume)
    slices = {name: dict(found) for name, found in before.structure_slices.items()}
    anchors = []
    for name, drawn in masks.items():
        structure = next((one for one in slices if one == name), None)
        if structure is None or not set(drawn) <= set(before.indices):
            raise InputError(
                "a mask is outside of the range that was segmented",
                received=f"{name} on slices {min(drawn)} to {max(drawn)}",
                hint=f"Segmented: {', '.join(slices)}; slices {before.indices[0]} to {before.indices[-1]}.",
            )
        for index, mask in drawn.items():
            anchor = VolumeAnchor(structure=structure, axial_index=index, mask=as_mask(mask))
            anchor.require_within(volume)
            anchors.append(anchor)
            corner, crop = crop_mask(anchor.mask)
            slices[structure][index] = SliceMask(corner_yx=corner, crop=crop, source="anchor")
    keep_anchors(SliceFolder(store.volume_folder(case_id) / "slices"), volume, anchors)
    judged = {name: judge_slices(volume, name, found) for name, found in slices.items()}
    write_volume_result(replace(before, structure_slices=judged), store.volume_folder(case_id))
    stored = read_predictions(store.predictions_path(case_id))
    about_before = warnings_of_gates(before.structure_slices)
    others = tuple(text for text in stored.level_warnings if text not in about_before)
    said = replace(stored, level_warnings=(*others, *warnings_of_gates(judged)))
    write_predictions(store.predictions_path(case_id), said)


def red_slices(store: CohortStore, case_id: str) -> dict[str, int]:
    """Count the slices of a case's range on which a muscle is implausible, by structure; empty without one.

    Fat is left out: what there is of it within muscle differs much from slice to slice.

    Raises
    ------
    DamagedFile
        If its table is damaged.
    """
    rows = [
        row
        for row in _read_levels_rows(store, case_id)
        if row["level"] == "all" and row["structure"] in MUSCLES
    ]
    return {row["structure"]: int(row["red_slices"]) for row in rows if int(row["red_slices"] or 0)}


def write_levels_table(
    store: CohortStore, records: Sequence[CaseRecord | None], config: CohortConfig
) -> Path | None:
    """Write ``levels.csv``: one row per case, structure and level; None where no range is wanted.

    Raises
    ------
    StorageError
        If a case's table cannot be read or the file cannot be written.
    """
    if config.levels is None:
        return None
    rows: list[dict[str, Any]] = []
    for record in records:
        if record is None or not record.is_done:
            continue
        found = _read_levels_rows(store, record.case_id)
        rows += [{"case_id": record.case_id, **row} for row in found]
    return write_table_csv(store.folder / "levels.csv", rows, None if rows else ("case_id",))


def _read_levels_rows(store: CohortStore, case_id: str) -> list[dict[str, str]]:
    """Rows of a case's table of levels; none where it has no range."""
    try:
        with (store.volume_folder(case_id) / "levels.csv").open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
            if not all(
                row["level"] and row["structure"] and int(row["red_slices"] or 0) >= 0 for row in rows
            ):
                raise ValueError
            return rows
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DamagedFile(
            "a case's table of levels cannot be read",
            received=f"{case_id}: {type(error).__name__}",
            hint="Delete the case's folder in volumes/ and its record, and run again.",
        ) from error
