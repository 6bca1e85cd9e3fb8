"""Measure a study's row again from its masks and images, bit for bit, or say what changed."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.exchange import read_structure_mask
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.files.safe_text import from_cell
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.io import read_study
from ctai_sam2.measure.body_composition import MASK_NAMES, measure_slice
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.measure.definitions import TISSUE_DEFINITIONS, TissueDefinitions
from ctai_sam2.types import Mask


@dataclass(frozen=True, kw_only=True)
class StudyReplay:
    """What became of a study's row when it was measured again.

    Parameters
    ----------
    cells : int
        Cells compared.
    differences : mapping of str to (str, str)
        As written and as measured again, by column.
    changes : mapping of str to str
        What changed, in a sentence: ``pixels`` or ``definitions``; else masks, row or code did.
    """

    cells: int
    differences: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_identical(self) -> bool:
        """Whether nothing changed and every cell came out the same."""
        return not self.differences and not self.changes


def replay_study(
    folder: str | Path,
    study: str | Path,
    *,
    series_uid: str | None = None,
    definitions: TissueDefinitions | None = None,
) -> StudyReplay:
    """Measure the masks of a study again on its images, and compare with its row; nothing is written.

    Parameters
    ----------
    folder : path-like
        What `write_study` wrote.
    study : path-like
        The images: DICOM folder or NIfTI volume.
    series_uid : str, optional
        Which series of a folder.
    definitions : TissueDefinitions, optional
        Those of the row where they have no name of this package.

    Raises
    ------
    InputError
        If the folder holds no row of a study, or its definitions are not known.
    DamagedFile
        If the row cannot be read.
    DicomError, GeometryError
        If images and masks do not fit; see `read_study`.
    """
    folder = Path(folder)
    row = _read_row(folder / "measurements.csv")
    changes: dict[str, str] = {}
    limits = definitions or TISSUE_DEFINITIONS.get(row.get("definitions", "").partition("@")[0])
    if limits is None:
        raise InputError("the definitions of the row are not known", hint="Give them with --definitions.")
    if limits.identifier != row.get("definitions"):
        changes["definitions"] = f"{row.get('definitions')} then, {limits.identifier} now"
    volume = read_study(study, series_uid=series_uid)
    if fingerprint(volume) != _image_digest(folder / "study.json"):
        changes["pixels"] = "the images are others than the row was made from"
    index = int(float(row["middle_slice"]))
    ct = volume.axial(index)
    masks: dict[str, Mask] = {}
    for name in MASK_NAMES:
        path = folder / "masks" / f"{name}.nii.gz"
        if path.is_file():
            masks[name] = read_structure_mask(path, ct, name)[name]
    height = row.get("height_m") or None
    again = measure_slice(
        ct.hu,
        masks,
        ct.spacing_mm,
        definitions=limits,
        height_m=None if height is None else float(height),
        slice_extent_mm=ct.thickness_mm,
        middle_slice=index,
    )
    # What comes from other sources than these masks is left out: vessels, outline of the body, muscle groups.
    compared = {
        name: _written(value)
        for name, value in again.items()
        if name in row and not name.startswith((*SIDED_GROUPS, *_NOT_OF_MASKS))
    }
    return StudyReplay(
        cells=len(compared),
        differences={name: (row[name], text) for name, text in compared.items() if row[name] != text},
        changes=changes,
    )


_NOT_OF_MASKS = ("aorta_", "cava_", "circumference_", "contrast_source")
_ESTIMATES = "_as_unenhanced_"


def _written(value: float | int | str | None) -> str:
    """Return a cell as a table has it."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _read_row(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise InputError(
            f"the folder {path.parent.name} holds no row of a study",
            hint="Give the folder that 'ctai-sam2 segment' wrote.",
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedFile(f"{path.name} cannot be read", received=type(error).__name__) from error
    if len(rows) != 1 or not rows[0].get("middle_slice"):
        raise DamagedFile(f"{path.name} is not the row of one study", received=f"{len(rows)} rows")
    return {name: from_cell(text or "") for name, text in rows[0].items() if name and _ESTIMATES not in name}


def _image_digest(path: Path) -> str:
    try:
        return str(parse_json(path.read_bytes())["image_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(
            "study.json, which says whose results the folder holds, cannot be read",
            received=type(error).__name__,
        ) from error
