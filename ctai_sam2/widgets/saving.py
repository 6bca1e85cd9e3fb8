"""Masks and table of an edited case on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ctai_sam2.editor import Document
from ctai_sam2.io import write_mask_nifti, write_mask_png
from ctai_sam2.outputs import TableRow, write_rows
from ctai_sam2.types import CTSlice


def write_results(document: Document, rows: Sequence[TableRow], folder: Path) -> list[Path]:
    """Write every outlined slice's masks as NIfTI and PNG, then the table.

    Each file is replaced atomically. A label without a pixel on an outlined slice is written empty, and
    files of a slice that is no longer outlined are removed, so that masks and table agree.

    Parameters
    ----------
    document : Document
        What was edited.
    rows : sequence of mapping
        One per outlined slice.
    folder : Path
        Made if missing.

    Returns
    -------
    list of Path
        What was written, the table last.

    Raises
    ------
    StorageError
        If something cannot be written.
    """
    written = []
    for index in document.indices:
        slice_ = document.slice_at(index)
        for label in document.labels:
            stem = f"{_prefix(document, index)}{label}"
            mask = document.mask(label, index)
            written.append(write_mask_nifti(folder / f"{stem}.nii.gz", mask, slice_))
            written.append(write_mask_png(folder / f"{stem}.png", mask))
    table = folder / f"{document.profile.name}_measurements.csv"
    written.append(write_rows(table, rows))
    current = {path.name for path in written}
    for label in document.labels:
        for ending in (".nii.gz", ".png"):
            # One pattern, with or without a slice's prefix, and of this editor's labels alone.
            for path in folder.glob(f"{document.profile.plane}_[0-9][0-9][0-9][0-9]_{label}{ending}"):
                if path.name not in current:
                    with suppress(OSError):
                        path.unlink()
    return written


def _prefix(document: Document, index: int) -> str:
    return "" if isinstance(document.source, CTSlice) else f"{document.profile.plane}_{index:04d}_"
