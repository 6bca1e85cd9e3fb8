"""A volume segmentation on disk: masks on the study's grid and tables, written and read back."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from ctai_sam2.errors import CtaiError, DamagedFile, InputError
from ctai_sam2.files.atomic import write_table_csv
from ctai_sam2.files.safe_text import from_cell
from ctai_sam2.io import read_mask_nifti, write_mask_nifti
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.segmentation.volume import SliceMask, VolumeResult
from ctai_sam2.segmentation.volume.ranges import warnings_of_gates
from ctai_sam2.segmentation.volume.result import LevelRange, crop_mask
from ctai_sam2.structures import AXIAL_STRUCTURES, Structure
from ctai_sam2.types import CTVolume, ModelIdentity, SliceGate, SliceSource

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ctai_sam2.io.source_images import SourceImages

DicomFormat: TypeAlias = Literal["seg", "rtstruct"]

_SLICES, _LEVELS = "slices.csv", "levels.csv"
_NUMBERS = ("confidence", "predicted_overlap", "spread_cm2")
_SAME_MM = 0.01


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
    dicom : tuple of Path
        DICOM SEG and RT Structure Set, where wanted.
    """

    masks: tuple[Path, ...]
    slices: Path
    levels: Path
    dicom: tuple[Path, ...] = ()


def write_volume_result(
    result: VolumeResult,
    folder: str | Path,
    *,
    source: SourceImages | None = None,
    model: ModelIdentity | None = None,
    dicom: Sequence[DicomFormat] = (),
) -> VolumeFiles:
    """Write masks (NIfTI, on the volume's own grid) and both tables; each file is replaced in one step.

    Masks and DICOM objects of an earlier result in the folder, which this one does not replace, are removed:
    they would contradict the tables.

    Parameters
    ----------
    result : VolumeResult
        From `segment_volume`.
    folder : path-like
        Made if missing.
    source : SourceImages, optional
        The study's images, from `find_source_images`; needed for DICOM.
    model : ModelIdentity, optional
        Which model made the masks, for DICOM.
    dicom : sequence of {"seg", "rtstruct"}
        DICOM objects to write with all slices.

    Raises
    ------
    InputError
        If DICOM is wanted without the images that it refers to, or without the model.
    DicomError, GeometryError
        If the images do not allow it.
    StorageError
        If something cannot be written.
    """
    folder = Path(folder)
    if dicom and (source is None or model is None):
        raise InputError("a DICOM object needs the study's images to refer to, and the model's identity")
    masks = [
        write_mask_nifti(folder / "masks" / f"{name}.nii.gz", stack, result.volume)
        for name, stack in result.masks.items()
    ]
    written = []
    if source is not None:
        from ctai_sam2.io.dicom_rtstruct import write_rtstruct
        from ctai_sam2.io.dicom_seg import write_seg
        from ctai_sam2.io.structure_terms import Authorship

        corrected = any(
            one.source == "anchor" for found in result.structure_slices.values() for one in found.values()
        )
        authorship = Authorship(made_by="semiautomatic" if corrected else "automatic", model=model)
        for kind in dicom:
            write = write_seg if kind == "seg" else write_rtstruct
            written.append(
                write(
                    folder / f"{kind}.dcm",
                    result.masks,
                    result.volume,
                    source,
                    authorship=authorship,
                    description="Body composition, volume",
                )
            )
    files = VolumeFiles(
        masks=tuple(masks),
        slices=_write_table(folder / _SLICES, result.slices),
        levels=_write_table(folder / _LEVELS, result.summary),
        dicom=tuple(written),
    )
    remove_volume_result(folder, but=(*files.masks, *files.dicom, files.slices, files.levels))
    return files


def remove_volume_result(folder: str | Path, *, but: Sequence[Path] = ()) -> None:
    """Remove what `write_volume_result` wrote to a folder, apart from some of it; finished slices stay."""
    folder = Path(folder)
    masks = [folder / "masks" / f"{name}.nii.gz" for name in AXIAL_STRUCTURES]
    dicom = [folder / f"{kind}.dcm" for kind in get_args(DicomFormat)]
    for path in (folder / _LEVELS, folder / _SLICES, *masks, *dicom):
        if path not in but:
            with suppress(FileNotFoundError):
                path.unlink()


def read_volume_result(
    folder: str | Path, volume: CTVolume, *, definitions: TissueDefinitions = DEFAULT_DEFINITIONS
) -> VolumeResult:
    """Read back what `write_volume_result` wrote, to show, correct or measure it again.

    Parameters
    ----------
    folder : path-like
        Where it was written.
    volume : CTVolume
        The study it is of.
    definitions : TissueDefinitions
        Hounsfield limits for areas and volumes.

    Returns
    -------
    VolumeResult
        With all that was segmented; of the warnings those on slices that are implausible.

    Raises
    ------
    InputError
        If the folder holds no volume, or that of another study.
    GeometryError
        If the masks lie on another grid.
    DamagedFile
        If a file is missing or cannot be read.
    """
    folder = Path(folder)
    if not (folder / _SLICES).is_file():
        raise InputError(
            "the folder holds no segmented volume",
            received=folder.name,
            hint="Give the folder that 'segment --levels' or write_volume_result wrote.",
        )
    positions = np.asarray(volume.slice_positions_mm)
    found: dict[Structure, dict[int, SliceMask]] = {}
    try:
        rows = _read_table(folder / _SLICES)
        at = [(int(row["axial_index"]), float(row["z_mm"])) for row in rows]
        levels = {
            row["level"]: LevelRange(
                name=row["level"],
                lower_mm=float(row["lower_mm"]),
                upper_mm=float(row["upper_mm"]),
                probability=float(row["probability"]),
            )
            for row in _read_table(folder / _LEVELS)
            if row["level"] != "all"
        }
        if any(not (0 <= i < positions.size and abs(positions[i] - z_mm) < _SAME_MM) for i, z_mm in at):
            raise InputError(
                "the segmented volume is of another study",
                received=folder.name,
                hint="Read the study that it was made from.",
            )
        for name in AXIAL_STRUCTURES:
            mine = [row for row in rows if row["structure"] == name]
            if mine:
                stack = read_mask_nifti(folder / "masks" / f"{name}.nii.gz", volume) > 0
                found[name] = {int(row["axial_index"]): _slice_of(row, stack) for row in mine}
    except CtaiError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(
            f"the segmented volume in {folder.name} cannot be read",
            received=type(error).__name__,
            hint="Segment it again.",
        ) from error
    return VolumeResult(
        volume=volume,
        indices=tuple(sorted({index for index, _ in at})),
        levels=tuple(sorted(levels.values(), key=lambda one: one.lower_mm)),
        structure_slices=found,
        definitions=definitions,
        warnings=(*volume.warnings, *warnings_of_gates(found)),
    )


def _slice_of(row: Mapping[str, str], stack: NDArray[np.bool_]) -> SliceMask:
    source, gate = row["source"], row["gate"]
    if source not in get_args(SliceSource) or gate not in get_args(SliceGate):
        raise ValueError
    numbers = {name: float(row[name]) if row[name] else None for name in _NUMBERS}
    corner, crop = crop_mask(stack[int(row["axial_index"])])
    return SliceMask(
        corner_yx=corner,
        crop=crop,
        source=source,  # type: ignore[arg-type]
        gate=gate,  # type: ignore[arg-type]
        reasons=tuple(filter(None, row["reasons"].split("; "))),
        **numbers,
    )


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return [{name: from_cell(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    rows: list[dict[str, Any]] = [dict(row) for _, row in table.iterrows()]
    return write_table_csv(path, rows, tuple(table.columns))
