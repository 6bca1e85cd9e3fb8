"""A volume segmentation on disk: masks on the study's grid, a table of slices, a table of levels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctai_sam2.io import write_mask_nifti, write_table_csv
from ctai_sam2.segmentation.volume import VolumeResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class VolumeFiles:
    """Files of `write_volume_result`.

    Parameters
    ----------
    masks : tuple of Path
        A NIfTI mask of the whole volume for each structure.
    slices : Path
        One row per slice and structure.
    levels : Path
        One row per structure for the whole range and for each level.
    """

    masks: tuple[Path, ...]
    slices: Path
    levels: Path


def write_volume_result(result: VolumeResult, folder: str | Path) -> VolumeFiles:
    """Write masks (NIfTI, on the volume's own grid) and both tables; each file is replaced in one step.

    Parameters
    ----------
    result : VolumeResult
        From `segment_volume`.
    folder : path-like
        Made if missing.

    Raises
    ------
    StorageError
        If something cannot be written.
    """
    folder = Path(folder)
    masks = [
        write_mask_nifti(folder / "masks" / f"{name}.nii.gz", stack, result.volume)
        for name, stack in result.masks.items()
    ]
    return VolumeFiles(
        masks=tuple(masks),
        slices=_write_table(folder / "slices.csv", result.slices),
        levels=_write_table(folder / "levels.csv", result.summary),
    )


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    rows: list[dict[str, Any]] = [dict(row) for _, row in table.iterrows()]
    return write_table_csv(path, rows, tuple(table.columns))
