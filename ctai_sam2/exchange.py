"""Masks to and from other programs: one call each way, the format by the file's name or content."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ctai_sam2.errors import DicomError, GeometryError, InputError
from ctai_sam2.files.folders import as_path, require_file
from ctai_sam2.io.imported_masks import ImportedMasks
from ctai_sam2.io.label_volumes import LABEL_VOLUME_ENDINGS
from ctai_sam2.io.mask_pictures import MASK_PICTURE_SUFFIXES
from ctai_sam2.io.structure_terms import known_by_other_name
from ctai_sam2.mask_checks import gap_notes, inverted_notes, side_notes
from ctai_sam2.types import CTSlice, CTVolume, Mask
from ctai_sam2.types.checks import require_type

if TYPE_CHECKING:
    from ctai_sam2.io.source_images import SourceImages
    from ctai_sam2.io.structure_terms import Authorship, StructureTerm

Format: TypeAlias = Literal["seg", "rtstruct", "nifti", "coco", "png"]
FORMATS: tuple[Format, ...] = ("seg", "rtstruct", "nifti", "coco", "png")

_ENDINGS: tuple[tuple[str, Format], ...] = (
    (".nii.gz", "nifti"),
    (".nii", "nifti"),
    (".json", "coco"),
    (".png", "png"),
    (".dcm", "seg"),
)
_NUMBERED = re.compile(r"label_\d+")
_READ_AS_LABELS = (*LABEL_VOLUME_ENDINGS, *MASK_PICTURE_SUFFIXES)


def export_masks(
    masks: Mapping[str, ArrayLike],
    of: CTSlice | CTVolume,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    source: str | os.PathLike[str] | SourceImages | None = None,
    series_uid: str | None = None,
    authorship: Authorship | None = None,
    terms: Mapping[str, StructureTerm] | None = None,
    pseudonym: str | None = None,
    overlaps: Literal["refuse", "later"] = "refuse",
    encoding: Literal["rle", "polygon"] = "rle",
) -> Path:
    """Write masks for another program; returns the path.

    Parameters
    ----------
    masks : mapping of str to array_like, shape (H, W) or (D, H, W)
        By structure.
    of : CTSlice or CTVolume
        What they were drawn on.
    path : path-like
        Where to write.
    format : {"seg", "rtstruct", "nifti", "coco", "png"}, optional
        By the ending when omitted: ``.dcm`` is SEG, ``.nii`` and ``.nii.gz`` NIfTI, ``.json`` COCO.
    source : path-like or SourceImages, optional
        DICOM folder or file the image was read from; SEG and RTSTRUCT need it.
    series_uid : str, optional
        Which series of that folder.
    authorship : Authorship, optional
        Who made the masks; by hand when omitted.
    terms : mapping of str to StructureTerm, optional
        DICOM terms of structures this package does not know.
    pseudonym : str, optional
        For DICOM: stands for the patient's name and ID; dates and numbers are emptied.
    overlaps : {"refuse", "later"}
        For label images (NIfTI, PNG), where a pixel belongs to one structure.
    encoding : {"rle", "polygon"}
        For COCO.

    Raises
    ------
    InputError
        If the format is unknown or cannot hold the masks, a shape differs, or a source is missing.
    GeometryError
        If the source's images are not those the masks were drawn on.
    DicomError
        If the source cannot be referred to.
    StorageError
        If it cannot be written.
    """
    require_type(masks, Mapping, "masks")
    require_type(of, (CTSlice, CTVolume), "of")
    chosen = format or _format_by_name(Path(path))
    if chosen not in FORMATS:
        raise InputError("no such format", received=str(chosen)[:40], hint=f"One of {', '.join(FORMATS)}.")
    if chosen in ("seg", "rtstruct"):
        if source is None:
            raise InputError(
                f"a DICOM {chosen.upper()} refers to the images the masks were drawn on, and none are given",
                hint="Pass source= with the DICOM folder, or export to NIfTI, COCO or PNG.",
            )
        from ctai_sam2.io.dicom_rtstruct import write_rtstruct
        from ctai_sam2.io.dicom_seg import write_seg

        write = write_seg if chosen == "seg" else write_rtstruct
        return write(
            path,
            masks,
            of,
            _source_images(source, series_uid),
            authorship=authorship,
            terms=terms,
            pseudonym=pseudonym,
        )
    if chosen == "coco":
        from ctai_sam2.io.coco import write_coco

        return write_coco(path, masks, of, encoding=encoding, authorship=authorship)
    from ctai_sam2.io.label_maps import write_labels

    return write_labels(path, masks, of, overlaps=overlaps)


def import_masks(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    *,
    source: str | os.PathLike[str] | SourceImages | None = None,
    series_uid: str | None = None,
    names: Mapping[str, str] | None = None,
    structures: Collection[str] | None = None,
    image: str | int | None = None,
    table: str | os.PathLike[str] | None = None,
) -> ImportedMasks:
    """Read another program's masks onto a slice or volume; nothing is resampled.

    Parameters
    ----------
    path : path-like
        DICOM SEG or RTSTRUCT, NIfTI, NRRD (``.nrrd``, ``.seg.nrrd``), an Analyze pair, COCO JSON, or for a
        slice a PNG. A label map may be of the whole volume, a part of it, or one slice.
    of : CTSlice or CTVolume
        What they were drawn on.
    source : path-like or SourceImages, optional
        DICOM the image was read from; then SEG and RTSTRUCT must refer to that series.
    series_uid : str, optional
        Which series of that folder.
    names : mapping of str to str, optional
        New names by the names in the file (``{"Segment_1": "psoas_left"}``).
    structures : collection of str, optional
        Which to read, by their names in the file or ours for them; all when omitted.
    image : str or int, optional
        Which image of a COCO file.
    table : path-like, optional
        Names of a label map's labels, where they do not stand next to it or in it.

    Returns
    -------
    ImportedMasks
        A dict of str to ndarray of bool, shape (H, W) or (D, H, W), by structure, whose ``warnings`` say
        what was left out, joined or cut. An image without a table has ``label_1`` and so on; one label, the
        file's name.

    Raises
    ------
    InputError
        If the file cannot be read, holds values that are no masks, lacks a structure, or refers to another
        series.
    GeometryError
        If it lies on another grid, or nowhere on the image.
    DicomError
        If a DICOM file is damaged or neither SEG nor RTSTRUCT.
    """
    require_type(of, (CTSlice, CTVolume), "of")
    path = as_path(path)
    require_file(path)
    found = _read_all(path, of, source=source, series_uid=series_uid, image=image, table=table)
    notes = list(found.warnings)
    masks: dict[str, Mask] = dict(found)
    if structures is not None:
        chosen = {_find(masks, wanted, path.name): wanted for wanted in structures}
        notes += [f"{theirs} was read as {ours}" for theirs, ours in chosen.items() if theirs != ours]
        masks = {ours: masks[theirs] for theirs, ours in chosen.items()}
    if len(masks) == 1 and structures is None and _NUMBERED.fullmatch(next(iter(masks))):
        masks = {path.name.split(".")[0]: next(iter(masks.values()))}
    unknown = sorted(set(names or ()) - set(masks))
    if unknown:
        raise InputError(
            "a label to rename is not in the file",
            received=", ".join(unknown),
            hint=f"There are {', '.join(masks)}.",
        )
    renamed = [(names or {}).get(name, name) for name in masks]
    if len(set(renamed)) < len(renamed):
        raise InputError("two labels would have one name", received=", ".join(renamed))
    result = dict(zip(renamed, masks.values(), strict=True))
    for name in result:
        ours = known_by_other_name(name)
        if ours is not None and ours not in result:
            notes.append(f"{name} is what this package calls {ours} (names=, --rename {name}={ours})")
    notes += _notes_on(result, of)
    return ImportedMasks(result, warnings=notes, description=found.description)


def read_structure_mask(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    structure: str,
    *,
    label: str | None = None,
    source: str | os.PathLike[str] | SourceImages | None = None,
    series_uid: str | None = None,
) -> ImportedMasks:
    """Read the mask of one structure from any file that `import_masks` reads.

    Parameters
    ----------
    path : path-like
        A file with one mask, or with several of which one is called like the structure.
    of : CTSlice or CTVolume
        What it is for.
    structure : str
        What it is to be.
    label : str, optional
        Its name in the file, where that is another.
    source, series_uid
        As for `import_masks`.

    Returns
    -------
    ImportedMasks
        With one mask, ndarray of bool, shape (H, W) or (D, H, W), called like the structure; and notes.

    Raises
    ------
    InputError
        As `import_masks`, or if the file holds several masks and none is called so.
    GeometryError
        As `import_masks`, or if the mask lies on other slices only.
    DicomError
        If a DICOM file is damaged.
    """
    path = Path(path)
    found = import_masks(path, of, source=source, series_uid=series_uid)
    if label is not None:
        name = _find(found, label, path.name)
    elif len(found) == 1:
        name = next(iter(found))
    else:
        exact = [one for one in found if structure in (one, known_by_other_name(one))]
        if len(exact) != 1:
            raise InputError(
                f"{path.name} holds several masks, and none is called {structure}",
                received=", ".join(found)[:200],
                hint="Say which, as in name=file#label.",
            )
        name = exact[0]
    notes = [note for note in found.warnings if _concerns(note, name, found)]
    if name != structure and known_by_other_name(name) not in (None, structure):
        notes.append(f"{path.name} calls the mask of {structure} {name}")
    mask = found[name]
    if not mask.any():
        elsewhere = [note for note in notes if "nearest voxels lie" in note]
        if elsewhere:
            raise GeometryError(
                f"{path.name} has no voxel on this slice",
                received=elsewhere[0],
                hint="Choose the slice it was drawn on.",
            )
    # The name it gets here says on which side it should be.
    checked = _notes_on(found, of)
    mine = {structure: mask}
    notes = [*(note for note in notes if note not in checked), *_notes_on(mine, of)]
    return ImportedMasks(mine, warnings=notes, description=found.description)


def _notes_on(masks: Mapping[str, Mask], of: CTSlice | CTVolume) -> list[str]:
    return [*side_notes(masks, of), *inverted_notes(masks), *gap_notes(masks)]


def split_label(entry: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Split ``file#label`` into a file and the name of one mask in it; None where none is named.

    Examples
    --------
    >>> path, label = split_label("labels.nii.gz#muscle")
    >>> path.name, label
    ('labels.nii.gz', 'muscle')
    """
    path = Path(entry)
    name, separator, label = path.name.rpartition("#")
    if not (separator and name and label) or path.exists():
        return path, None
    return path.with_name(name), label


def _concerns(note: str, name: str, found: Mapping[str, Mask]) -> bool:
    """Tell whether a note is of this mask or of the file, not of another mask alone."""
    return not any(
        note.startswith((f"{other} ", f"{other}:")) for other in found if other != name and other not in name
    )


def _find(masks: Mapping[str, Mask], wanted: str, file_name: str) -> str:
    """Name in the file of a structure that is requested by this name, or by ours for it."""
    if wanted in masks:
        return wanted
    ours = [name for name in masks if known_by_other_name(name) == wanted]
    numbered = f"label_{wanted}"
    if len(ours) == 1:
        return ours[0]
    if numbered in masks:
        return numbered
    raise InputError(
        f"no such mask in {file_name}", received=wanted[:64], hint=f"There are {', '.join(masks)}."
    )


def _read_all(
    path: Path,
    of: CTSlice | CTVolume,
    *,
    source: str | os.PathLike[str] | SourceImages | None,
    series_uid: str | None,
    image: str | int | None,
    table: str | os.PathLike[str] | None,
) -> ImportedMasks:
    kind = _format_by_content(path)
    if kind in ("seg", "rtstruct"):
        from ctai_sam2.io.dicom_rtstruct import read_rtstruct
        from ctai_sam2.io.dicom_seg import read_seg

        read = read_seg if kind == "seg" else read_rtstruct
        images = None if source is None else _source_images(source, series_uid)
        return read(path, of, source=images)
    if kind == "coco":
        from ctai_sam2.io.coco import read_coco

        return read_coco(path, of, image=image)
    from ctai_sam2.io.label_maps import read_labels

    return read_labels(path, of, table=table)


def slices_with_masks(masks: Mapping[str, Mask]) -> list[int]:
    """List the axial slices of a volume on which any mask has a voxel.

    Examples
    --------
    >>> mask = np.zeros((3, 2, 2), dtype=bool)
    >>> mask[1, 0, 0] = True
    >>> slices_with_masks({"muscle": mask})
    [1]
    """
    found: set[int] = set()
    for mask in masks.values():
        found.update(int(z) for z in np.flatnonzero(mask.any(axis=(1, 2))))
    return sorted(found)


def _format_by_name(path: Path) -> Format:
    for ending, kind in _ENDINGS:
        if path.name.lower().endswith(ending):
            return kind
    raise InputError(
        "the file's ending names no format",
        received=path.suffix or "no ending",
        hint=f"Name the format: {', '.join(FORMATS)}.",
    )


def _format_by_content(path: Path) -> Format:
    from ctai_sam2.io.dicom_headers import looks_like_dicom
    from ctai_sam2.io.dicom_rtstruct import RTSTRUCT_CLASS
    from ctai_sam2.io.dicom_seg import SEG_CLASSES
    from ctai_sam2.io.source_images import read_derived

    if not looks_like_dicom(path):
        if path.name.lower().endswith(_READ_AS_LABELS):
            return "nifti"
        kind = _format_by_name(path)
        if kind == "seg":
            raise DicomError(f"{path.name} is not a DICOM file", hint="Export it again.")
        return kind
    what = "a DICOM SEG or RTSTRUCT"
    dataset = read_derived(path, (*SEG_CLASSES, RTSTRUCT_CLASS), what, only_class=True)
    return "rtstruct" if dataset.SOPClassUID == RTSTRUCT_CLASS else "seg"


def _source_images(source: str | os.PathLike[str] | SourceImages, series_uid: str | None) -> SourceImages:
    from ctai_sam2.io.source_images import SourceImages, find_source_images

    if isinstance(source, SourceImages):
        return source
    return find_source_images(source, series_uid=series_uid)
