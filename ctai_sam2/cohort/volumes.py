"""Ranges of levels in a cohort: each case's volume next to its record, and one table of all."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctai_sam2.cohort.case_record import CaseRecord
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.store import CohortStore
from ctai_sam2.errors import AnatomyNotFound, StorageError
from ctai_sam2.files.atomic import write_table_csv
from ctai_sam2.models import Segmenter
from ctai_sam2.segmentation import segment_volume
from ctai_sam2.structures import Structure
from ctai_sam2.study.volume_outputs import SliceFolder, write_volume_result
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

    Finished slices are kept in the case's folder: after a kill or an outage the case goes on from them.

    Parameters
    ----------
    store, config
        The cohort's folder; ``config.levels`` is the range.
    case_id : str
        Which case.
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
        with suppress(FileNotFoundError):
            (folder / "levels.csv").unlink()
        return (f"levels {'-'.join(config.levels)}: {error}",)
    write_volume_result(result, folder)
    return tuple(text for text in result.warnings if text not in image.warnings)


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
        path = store.volume_folder(record.case_id) / "levels.csv"
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                rows += [{"case_id": record.case_id, **row} for row in csv.DictReader(lines)]
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise StorageError(
                "a case's table of levels cannot be read",
                received=f"{record.case_id}: {type(error).__name__}",
                hint="Delete the case's folder in volumes/ and its record, and run again.",
            ) from error
    return write_table_csv(store.folder / "levels.csv", rows, None if rows else ("case_id",))
