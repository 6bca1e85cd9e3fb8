"""From a segmented study to what stays: one table row, masks and a picture on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.exchange import read_structure_mask, split_label
from ctai_sam2.files.atomic import write_json, write_table_csv
from ctai_sam2.files.folders import as_path
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.image.plausibility import require_measurable_slice, require_region
from ctai_sam2.io import read_slice, read_study, write_mask_nifti, write_mask_png, write_overlay_png
from ctai_sam2.io.dicom_headers import looks_like_dicom
from ctai_sam2.mask_checks import cut_notes, describe_cut, require_not_cut, side_notes, tissue_notes
from ctai_sam2.measure.body_composition import measure_slice
from ctai_sam2.measure.columns import COLUMNS
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS, TissueDefinitions
from ctai_sam2.measure.quality import QUALITY_COLORS, body_circumference_cm, map_quality
from ctai_sam2.study.row import PROVENANCE_COLUMNS as PROVENANCE_COLUMNS
from ctai_sam2.study.row import Cell as Cell
from ctai_sam2.study.row import TableRow as TableRow
from ctai_sam2.study.row import estimate_slice_phase as estimate_slice_phase
from ctai_sam2.study.row import measure_results as measure_results
from ctai_sam2.study.row import measure_study as measure_study
from ctai_sam2.study.row import results_by_name
from ctai_sam2.types import CTSlice, CTVolume, Mask
from ctai_sam2.types.checks import require_type

if TYPE_CHECKING:
    from ctai_sam2.segmentation import L3Result, StructureResult, StudyResult


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """Files of a study.

    Parameters
    ----------
    measurements : Path
        CSV with one row.
    overlay : Path
        Picture of the axial slice with the masks.
    sagittal_overlay : Path, optional
        Picture of the sagittal slice with L3.
    quality_map : Path, optional
        Picture of the muscle by attenuation, with shares; None where no muscle was found.
    groups : Path, optional
        Picture of the muscle groups of each side, with areas; None where the model does not divide the slice.
    masks : tuple of Path
        PNG and NIfTI of every mask.
    """

    measurements: Path
    overlay: Path
    sagittal_overlay: Path | None = None
    quality_map: Path | None = None
    groups: Path | None = None
    masks: tuple[Path, ...] = field(default=())


def summarise(study: StudyResult) -> list[TableRow]:
    """List the structures of a study for a person: area, mean HU in the mask, confidence."""
    rows = []
    for name, result in results_by_name(study).items():
        ct = study.sagittal.ct_slice if name == "l3" and study.sagittal is not None else study.axial.ct_slice
        rows.append(describe_structure(ct, result))
    return rows


def describe_structure(ct: CTSlice, result: StructureResult) -> TableRow:
    """Describe one structure for a person: area in cm², mean HU in the mask, confidence 0 to 1."""
    return {
        "structure": result.structure,
        "area_cm2": float(result.mask.sum()) * ct.pixel_area_mm2 / 100,
        "hu_mean": float(ct.hu[result.mask].mean()) if result.mask.any() else None,
        "confidence": result.confidence,
    }


def _certainty(sagittal: L3Result) -> str:
    if sagittal.probability is None:
        return sagittal.certainty
    return f"{sagittal.certainty}, probability {sagittal.probability:.2f}"


def write_study(
    study: StudyResult,
    row: Mapping[str, Cell],
    folder: str | Path,
    *,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
) -> StudyFiles:
    """Write masks (PNG, NIfTI), overlays and the measurements of a study.

    Parameters
    ----------
    study : StudyResult
        From `segment_study`.
    row : mapping
        From `measure_study`.
    folder : path-like
        Made if missing; files of an earlier run on the same study are replaced, each atomically.
    definitions : TissueDefinitions
        HU limits that the masks of fat were cut to; their headers say so.

    Raises
    ------
    InputError
        If the folder holds the results of another study, or of a cohort.
    StorageError
        If something cannot be written.
    """
    from ctai_sam2.segmentation import StudyResult

    require_type(study, StudyResult, "study")
    require_type(row, Mapping, "row")
    folder = as_path(folder)
    claim_folder(folder, study.volume)
    ct = study.axial.ct_slice
    shown = {name: study.masks[name] for name in _OVERLAY_ORDER if name in study.masks}
    # Pictures are compressed, and files reach the disk, at the same time.
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="files") as pool:
        overlay = pool.submit(
            write_overlay_png,
            folder / "overlay.png",
            ct,
            shown,
            title=f"Axial slice {study.axial_index}",
            labels={name: _legend(ct, name, mask) for name, mask in shown.items()},
        )
        sagittal_overlay = quality_map = groups = None
        if study.sagittal is not None and study.sagittal.l3 is not None:
            sagittal_overlay = pool.submit(
                write_overlay_png,
                folder / "overlay_sagittal.png",
                study.sagittal.ct_slice,
                {"l3": study.sagittal.l3.mask},
                title=f"L3 ({_certainty(study.sagittal)})",
            )
        if "muscle" in study.masks:
            path = folder / "muscle_quality.png"
            quality_map = pool.submit(write_quality_map, path, ct, study.masks, row, definitions=definitions)
        if study.axial.muscle_groups:
            groups = pool.submit(_write_groups, study, folder / "muscle_groups.png")
        masks = [
            pool.submit(
                _write_mask,
                study.sagittal.ct_slice if name == "l3" and study.sagittal is not None else ct,
                name,
                result.mask,
                folder / "masks",
                definitions,
            )
            for name, result in results_by_name(study).items()
        ]
    written = StudyFiles(
        measurements=folder / "measurements.csv",
        overlay=overlay.result(),
        sagittal_overlay=None if sagittal_overlay is None else sagittal_overlay.result(),
        quality_map=None if quality_map is None else quality_map.result(),
        groups=None if groups is None else groups.result(),
        masks=tuple(path for mask in masks for path in mask.result()),
    )
    # Last: where a file could not be written, no table of numbers says that the study is complete.
    write_rows(written.measurements, [row])
    return written


def _write_groups(study: StudyResult, path: Path) -> Path:
    ct = study.axial.ct_slice
    shown: dict[str, Mask] = {n: study.masks[n] for n in ("psoas_left", "psoas_right") if n in study.masks}
    shown.update(study.axial.muscle_groups)
    return write_overlay_png(
        path,
        ct,
        shown,
        title="Muscle groups",
        labels={name: _legend(ct, name, mask) for name, mask in shown.items()},
    )


def write_quality_map(
    path: str | Path,
    ct: CTSlice,
    masks: Mapping[str, Mask],
    row: Mapping[str, Cell],
    *,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
) -> Path:
    """Write a picture of the muscle by attenuation: normal, low, and fat within, each with its share.

    Parameters
    ----------
    path : path-like
        Ending in ``.png``.
    ct : CTSlice
        The slice.
    masks : mapping of str to ndarray of bool, shape (H, W)
        ``muscle``, ``imat`` and the psoas, where there are.
    row : mapping
        From `measure_results`, for the shares.
    definitions : TissueDefinitions
        HU ranges.

    Raises
    ------
    InputError
        If there is no muscle, or the name has another ending.
    StorageError
        If it cannot be written.
    """
    if "muscle" not in masks:
        raise InputError("a map of muscle quality needs a mask of all muscle")
    parts = [masks[name] for name in ("muscle", "psoas", "psoas_left", "psoas_right") if name in masks]
    shown = map_quality(ct.hu, np.logical_or.reduce(parts), masks.get("imat"), definitions=definitions)
    texts = {"nama": "normal (NAMA)", "lama": "low (LAMA)", "imat": "fat (IMAT)"}
    labels = {
        name: texts[name]
        + (f" {share:.1f} %" if isinstance(share := row.get(f"{name}_percent"), int | float) else "")
        for name in shown
    }
    return write_overlay_png(
        path, ct, shown, title="Muscle by attenuation", labels=labels, colours=QUALITY_COLORS
    )


def write_structure(
    ct: CTSlice,
    result: StructureResult,
    folder: str | Path,
    *,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
) -> dict[str, Path]:
    """Write one structure's mask (PNG, NIfTI) and an overlay; returns the paths by kind.

    Raises
    ------
    StorageError
        If something cannot be written.
    """
    folder = Path(folder)
    name = result.structure
    png, nifti = _write_mask(ct, name, result.mask, folder, definitions)
    overlay = write_overlay_png(
        folder / f"{name}_overlay.png", ct, {name: result.mask}, labels={name: _legend(ct, name, result.mask)}
    )
    return {"mask": png, "nifti": nifti, "overlay": overlay}


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Cell]]) -> Path:
    """Write table rows as CSV, columns in their documented order.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    known = [*COLUMNS, *PROVENANCE_COLUMNS]
    present = {name for row in rows for name in row}
    columns = [name for name in known if name in present]
    return write_table_csv(path, rows, [*columns, *sorted(present.difference(known))])


def measure_files(
    image: str | Path,
    masks: Mapping[str, str | Path],
    *,
    axial_index: int | None = None,
    series_uid: str | None = None,
    height_m: float | None = None,
    definitions: TissueDefinitions = DEFAULT_DEFINITIONS,
    any_region: bool = False,
) -> TableRow:
    """Measure masks from files, drawn or corrected elsewhere, on a slice.

    Parameters
    ----------
    image : path-like
        A DICOM slice, or with ``axial_index`` a DICOM folder or NIfTI volume.
    masks : mapping of str to path-like
        Any file that `import_masks` reads, by structure (``psoas_left``, ``psoas_right``, ``psoas``,
        ``muscle``, ``sat``, ``vat``, ``imat``); ``file#label`` names one mask of several.
    axial_index : int, optional
        Slice of a volume; 0 is the most inferior.
    series_uid : str, optional
        Which series of a folder.
    height_m : float, optional
        Body height in metres.
    definitions : TissueDefinitions
        HU ranges and density rule.
    any_region : bool
        Measure even where the slice shows something other than an abdomen.

    Raises
    ------
    OtherRegion
        If the slice shows something other than an abdomen.
    InputError
        If a mask cannot be read, has another shape than the slice, was cut to narrower HU limits than the
        definitions', or a name is unknown.
    GeometryError
        If a mask lies on another grid or on other slices.
    DicomError
        If a DICOM file is damaged.
    """
    path = Path(image)
    if axial_index is None:
        if path.is_dir() or path.name.lower().endswith((".nii", ".nii.gz")):
            raise InputError(
                "a volume was given, and which slice was measured is not known",
                received=path.name,
                hint="Add the axial index (0 is the most inferior slice).",
            )
        ct = read_slice(path)
    else:
        ct = read_study(path, series_uid=series_uid).axial(axial_index)
    require_measurable_slice(ct)
    region = require_region(ct, prompted=True, any_region=any_region)
    # By content: objects of radiotherapy are often called RS.1.2.3, or have no ending at all.
    source = path if path.is_dir() or looks_like_dicom(path) else None
    loaded: dict[str, Mask] = {}
    notes = [*ct.warnings, *region]
    for name, file in masks.items():
        mask_path, label = split_label(file)
        found = read_structure_mask(
            mask_path,
            ct,
            name,
            label=label,
            source=source,
            series_uid=series_uid,
        )
        require_not_cut(name, found.description, definitions)
        loaded[name] = found[name]
        notes += [note for note in found.warnings if note not in notes]
    if len(loaded) > 1:
        notes += [note for note in side_notes(loaded, ct) if note not in notes]
    notes += [*tissue_notes(ct, loaded, definitions), *cut_notes(ct, loaded, definitions)]
    row: TableRow = dict(
        measure_slice(
            ct.hu,
            loaded,
            ct.spacing_mm,
            definitions=definitions,
            height_m=height_m if height_m is not None else ct.acquisition.patient_height_m,
            slice_extent_mm=ct.thickness_mm,
            middle_slice=axial_index,
        )
    )
    row["circumference_cm"] = body_circumference_cm(ct)
    row["l3_certainty"] = row["level_chosen_by"] = "user"
    row["warnings"] = " | ".join(notes) or None
    return row


_WRITERS = 4
_OVERLAY_ORDER = ("sat", "vat", "muscle", "imat", "psoas_left", "psoas_right")


def claim_folder(folder: str | Path, image: CTSlice | CTVolume) -> None:
    """Note which study's results a folder holds; refuse one with another's, so that two are never mixed.

    Parameters
    ----------
    folder : path-like
        Where results are to be written.
    image : CTSlice or CTVolume
        The study, or one of its slices: a slice belongs to the study whose volume holds it.

    Raises
    ------
    InputError
        If the folder holds the results of another study, or of a cohort.
    StorageError
        If it cannot be written, or its note is damaged.
    """
    folder = Path(folder)
    note = folder / "study.json"
    if (folder / "summary.json").exists() and (folder / "records").is_dir():
        raise InputError(f"the folder {folder.name} holds the results of a cohort", hint="Choose another.")
    if image not in _digests:
        _digests[image] = fingerprint(image), _slice_fingerprints(image)
    whole, slices = _digests[image]
    try:
        content = parse_json(note.read_bytes())
        known, known_slices = str(content["image_sha256"]), set(map(str, content.get("slices", ())))
    except FileNotFoundError:
        known, known_slices = whole, slices
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(
            "study.json, which says whose results the folder holds, is damaged",
            received=type(error).__name__,
            hint="Choose another folder, or delete this one.",
        ) from error
    if known != whole and not known_slices & slices:
        raise InputError(
            f"the folder {folder.name} holds the results of another study",
            hint="Choose another folder, or delete this one: two studies are never mixed.",
        )
    # A slice alone must not make the note forget the volume that it is of.
    larger = whole if len(slices) >= len(known_slices) else known
    write_json(note, {"version": 1, "image_sha256": larger, "slices": sorted(known_slices | slices)})


_digests: WeakKeyDictionary[CTSlice | CTVolume, tuple[str, set[str]]] = WeakKeyDictionary()
"""A folder is claimed before the work and after it; a volume's hundred megabytes are digested once."""


def _slice_fingerprints(image: CTSlice | CTVolume) -> set[str]:
    """Short digests of the axial slices' pixels; empty slices, which all studies share, left out."""
    planes = [image.hu] if isinstance(image, CTSlice) else list(image.hu_zyx)
    digests = set()
    for plane in planes:
        if plane.min() != plane.max():
            digest = hashlib.sha256(f"{plane.shape} ".encode())
            digest.update(np.ascontiguousarray(plane, dtype="<f4").data)
            digests.add(digest.hexdigest()[:16])
    return digests


def _write_mask(
    ct: CTSlice, name: str, mask: Mask, folder: Path, definitions: TissueDefinitions
) -> tuple[Path, Path]:
    description = describe_cut(name, definitions)
    return (
        write_mask_png(folder / f"{name}.png", mask, description=description),
        write_mask_nifti(folder / f"{name}.nii.gz", mask, ct, description=description),
    )


def _legend(ct: CTSlice, name: str, mask: Mask) -> str:
    return f"{name.replace('_', ' ')} {np.count_nonzero(mask) * ct.pixel_area_mm2 / 100:.1f} cm²"
