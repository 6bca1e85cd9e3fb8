"""Masks and table of an edited case on disk."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctai_sam2.editor import Document
from ctai_sam2.editor.authorship import hand_share, model_of
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.study.row import TableRow
from ctai_sam2.types import CTSlice, CTVolume


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """Where a case's files are.

    Parameters
    ----------
    folder : Path
        Of all cases of an editor.
    name : str
        The case's.
    profile_name : str
        The editor's.
    """

    folder: Path
    name: str
    profile_name: str

    @property
    def journal(self) -> Path:
        """The journal of the case's steps."""
        return self.folder / f"{self.name}.{self.profile_name}.record.jsonl"

    @property
    def table(self) -> Path:
        """The table that *Save* writes."""
        return results_table(self.folder / self.name, self.profile_name)

    @property
    def view(self) -> Path:
        """How the reader looked at the cases the last time; one file for all of them."""
        return self.folder / f".{self.profile_name}.view.json"


def results_table(folder: Path, profile_name: str) -> Path:
    """Table of a case, in the folder that its results are written to."""
    return folder / f"{profile_name}_measurements.csv"


def identity_row(document: Document, index: int, *, case: str, reader: str) -> TableRow:
    """Say what a slice's row is of and who made it; its measurements follow."""
    ct_slice = document.slice_at(index)
    return {
        "case": case,
        "series": fingerprint(document.source)[:16],
        "slice": index if ct_slice.index is None else ct_slice.index,
        **_place_of(document, index),
        "reader": reader,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "editor_model": model_of(document, index),
        "hand_share": hand_share(document, index),
    }


def _place_of(document: Document, index: int) -> TableRow:
    """Instance number and position of a volume's axial slice, so that it is found in any viewer."""
    source = document.source
    if not isinstance(source, CTVolume) or document.profile.plane != "axial":
        return {}
    number = source.instance_numbers[index] if source.instance_numbers else None
    return {"instance_number": number, "z_mm": float(np.asarray(source.slice_positions_mm)[index])}


def write_results(document: Document, rows: Sequence[TableRow], folder: Path) -> list[Path]:
    """Write every outlined slice's masks as NIfTI and PNG, then the table.

    Each file is replaced atomically. What an earlier save wrote for a label or slice that has no pixel any
    more is removed, so that masks and table agree.

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
    # They bring what reads files.
    from ctai_sam2.io import write_mask_nifti, write_mask_png
    from ctai_sam2.study.outputs import write_rows

    table = results_table(folder, document.profile.name)
    earlier = _saved_before(document, folder) if table.exists() else []
    written = []
    for index in document.indices:
        ct_slice = document.slice_at(index)
        for label, mask in document.masks(index).items():
            stem = f"{_prefix(document, index)}{label}"
            written.append(write_mask_nifti(folder / f"{stem}.nii.gz", mask, ct_slice))
            written.append(write_mask_png(folder / f"{stem}.png", mask))
    written.append(write_rows(table, rows))
    for path in set(earlier) - set(written):
        with suppress(OSError):
            path.unlink()
    return written


def _saved_before(document: Document, folder: Path) -> list[Path]:
    """Files that a save of this editor wrote, by their names."""
    digits = "" if isinstance(document.source, CTSlice) else f"{document.profile.plane}_[0-9][0-9][0-9][0-9]_"
    return [
        path
        for label in document.labels
        for ending in (".nii.gz", ".png")
        for path in folder.glob(f"{digits}{label}{ending}")
    ]


def _prefix(document: Document, index: int) -> str:
    return "" if isinstance(document.source, CTSlice) else f"{document.profile.plane}_{index:04d}_"
