"""Several masks as one label image (NIfTI or PNG) with a table of what the labels mean.

The table stands next to the image: ``masks.nii.gz`` has ``masks.labels.json``, and
``masks.itksnap.txt``, which ITK-SNAP loads as label descriptions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.files.atomic import write_json, write_text, write_together
from ctai_sam2.io.grids import checked_mask
from ctai_sam2.io.imported_masks import ImportedMasks
from ctai_sam2.io.label_tables import (
    COHORT_LABELS,
    LabelNames,
    find_label_table,
    is_cohort_mask,
    read_label_table,
    stem_of,
)
from ctai_sam2.io.label_volumes import PlacedLabels, place_labels, read_label_volume
from ctai_sam2.io.mask_pictures import MASK_PICTURE_SUFFIXES, read_label_picture
from ctai_sam2.io.mask_png import write_label_png
from ctai_sam2.io.nifti import write_mask_nifti
from ctai_sam2.io.overlay import choose_colours
from ctai_sam2.io.structure_terms import checked_label, unique_name
from ctai_sam2.structures import rgb_of
from ctai_sam2.types import CTSlice, CTVolume, Mask

Overlaps: TypeAlias = Literal["refuse", "later"]
"""What to do with a pixel of two masks: refuse, or give it to the later one."""

_MAX_LABELS = 255


def merge_labels(
    masks: Mapping[str, ArrayLike], of: CTSlice | CTVolume, *, overlaps: Overlaps = "refuse"
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Put masks into one label image: 1 for the first, 2 for the second and so on.

    Parameters
    ----------
    masks : mapping of str to array_like, shape (H, W) or (D, H, W)
        By structure.
    of : CTSlice or CTVolume
        What they were drawn on.
    overlaps : {"refuse", "later"}
        What to do with a pixel of two masks.

    Returns
    -------
    labels : ndarray of uint8
        0 is background.
    table : dict of int to str
        Structure by label.

    Raises
    ------
    InputError
        If there is no mask or too many, a shape differs, or masks overlap and that was not allowed.
    """
    if not masks or len(masks) > _MAX_LABELS:
        raise InputError("a label image holds 1 to 255 masks", received=len(masks))
    if overlaps not in ("refuse", "later"):
        raise InputError("overlaps are refused or given to the later mask", received=str(overlaps)[:40])
    shape = of.shape_hw if isinstance(of, CTSlice) else of.shape_zyx
    labels = np.zeros(shape, dtype=np.uint8)
    table: dict[int, str] = {}
    for number, (name, mask) in enumerate(masks.items(), start=1):
        inside = checked_mask(mask, of, name=f"the mask {name}")
        taken = np.unique(labels[inside])
        taken = taken[taken > 0]
        if taken.size and overlaps == "refuse":
            raise InputError(
                "masks overlap, and a label image gives each pixel to one",
                received=f"{name} and {', '.join(table[int(label)] for label in taken)}",
                hint="Let later ones win, or export to SEG, RTSTRUCT or COCO, where masks may overlap.",
            )
        labels[inside] = number
        table[number] = checked_label(name)
    return labels, table


def write_labels(
    path: str | os.PathLike[str],
    masks: Mapping[str, ArrayLike],
    of: CTSlice | CTVolume,
    *,
    overlaps: Overlaps = "refuse",
) -> Path:
    """Write masks as a label image, NIfTI or PNG, with its tables next to it; returns the image's path.

    A structure that later ones leave nothing of is warned of with `UserWarning`.

    Parameters
    ----------
    path : path-like
        Ending in ``.nii``, ``.nii.gz`` or, for a slice, ``.png``.
    masks, of, overlaps
        As for `merge_labels`.

    Raises
    ------
    InputError
        As `merge_labels`, or if the name has another ending, or a volume is to be a PNG.
    StorageError
        If something cannot be written.
    """
    path = Path(path)
    labels, table = merge_labels(masks, of, overlaps=overlaps)
    for name, (drawn, left) in _pixels_kept(masks, labels, table).items():
        if left == 0 < drawn:
            warnings.warn(f"{name} is empty in {path.name}: later masks hold all of it", stacklevel=2)
    is_png = path.suffix.lower() == ".png"
    if is_png and isinstance(of, CTVolume):
        raise InputError("a PNG holds one slice, not a volume", hint="Export a slice, or to NIfTI.")
    stem = stem_of(path).name
    with write_together(path) as folder:
        if is_png:
            write_label_png(folder / path.name, labels)
        else:
            write_mask_nifti(folder / path.name, labels, of)
        write_json(folder / f"{stem}.labels.json", {"labels": {str(k): v for k, v in table.items()}})
        write_text(folder / f"{stem}.itksnap.txt", _itksnap_descriptions(table))
    return path


def overlap_losses(masks: Mapping[str, ArrayLike], of: CTSlice | CTVolume) -> list[str]:
    """Say which masks lose pixels to later ones in a label image, and how many.

    Parameters
    ----------
    masks, of
        As for `merge_labels`.

    Raises
    ------
    InputError
        As `merge_labels`.
    """
    labels, table = merge_labels(masks, of, overlaps="later")
    return [
        f"{name}: {drawn - left} of {drawn} pixels went to later masks"
        + ("; it is empty" if left == 0 else "")
        for name, (drawn, left) in _pixels_kept(masks, labels, table).items()
        if left < drawn
    ]


def _pixels_kept(
    masks: Mapping[str, ArrayLike], labels: NDArray[np.uint8], table: Mapping[int, str]
) -> dict[str, tuple[int, int]]:
    """Pixels drawn and pixels left in the label image, by structure."""
    counts = np.bincount(labels.ravel(), minlength=len(table) + 1)
    return {
        name: (int(np.count_nonzero(np.asarray(masks[name]))), int(counts[number]))
        for number, name in table.items()
    }


def read_labels(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    *,
    table: str | os.PathLike[str] | None = None,
) -> ImportedMasks:
    """Read a label map, in two or three dimensions, as masks on a slice or volume.

    Parameters
    ----------
    path : path-like
        NIfTI, NRRD (also with several layers) or an Analyze pair in any orientation and of the whole volume
        or a part of it; or a picture as the slice is shown.
    of : CTSlice or CTVolume
        What it was drawn on.
    table : path-like, optional
        A table of names, of a kind that `read_label_table` reads; that in the file or next to it when
        omitted. Labels without a name are ``label_1`` …

    Raises
    ------
    InputError
        If the file or its table cannot be read, holds no labels, or its values are no whole
        numbers.
    GeometryError
        If it lies on another grid, or next to the image.
    """
    path = Path(path)
    stated = _stated_names(path, table)
    picture = path.name.lower().endswith(MASK_PICTURE_SUFFIXES)
    if picture:
        if isinstance(of, CTVolume):
            raise InputError(
                "a picture belongs to one slice, not to a volume", hint="Say which slice (--axial-index)."
            )
        layers, tables, notes, description = _read_picture(path, of, bool(stated))
    else:
        volume = read_label_volume(path, has_names=bool(stated))
        layers = place_labels(path, volume, of)
        tables, notes, description = list(volume.names), [], volume.description
    if stated:
        tables = [stated, *tables[1:]]
    notes += [note for one in tables if isinstance(one, LabelNames) for note in one.notes]
    result: dict[str, Mask] = {}
    without_name: list[str] = []
    for layer, layer_names in zip(layers, tables, strict=True):
        present = [int(label) for label in np.unique(layer.labels) if label > 0]
        found = {**{label: f"label_{label}" for label in (*present, *layer.elsewhere)}, **layer_names}
        for label, name in sorted(found.items()):
            taken = unique_name(name, result)
            if taken != name:
                notes.append(f"{name} stands twice in {path.name}; the second is called {taken}")
            if layer_names and label not in layer_names:
                without_name.append(taken)
            if label in layer.cut_off:
                notes.append(f"{taken} reaches beyond the image and was left out")
                continue
            if label in layer.elsewhere:
                notes.append(_elsewhere(taken, layer.elsewhere[label]))
            result[taken] = np.asarray(layer.labels == label)
    if not result:
        cut = [note for note in notes if "left out" in note]
        if cut:
            raise GeometryError(
                f"{path.name} lies outside of the image",
                received=cut[0],
                hint="It belongs to another part or series: choose the one it was drawn on.",
            )
        raise InputError(f"{path.name} holds no label but background", hint="Give the file with the masks.")
    if without_name:
        notes.append(f"the table of {path.name} has no name for {', '.join(without_name)}")
    return ImportedMasks(result, warnings=notes, description=description)


def _elsewhere(name: str, distance_mm: float) -> str:
    where = "towards the head" if distance_mm > 0 else "towards the feet"
    return f"{name} is empty on this slice; its nearest voxels lie {abs(distance_mm):.1f} mm away {where}"


def _stated_names(path: Path, table: str | os.PathLike[str] | None) -> Mapping[int, str]:
    """Names from the table that was given, or next to the file, or of the cohort it belongs to."""
    if table is not None:
        return read_label_table(Path(table))
    found = find_label_table(path)
    if found is not None:
        return read_label_table(found)
    return COHORT_LABELS if is_cohort_mask(path) else {}


def _read_picture(
    path: Path, of: CTSlice, has_names: bool
) -> tuple[list[PlacedLabels], list[Mapping[int, str]], list[str], str | None]:
    picture = read_label_picture(path, has_names=has_names)
    if picture.labels.shape != of.shape_hw:
        raise InputError(
            f"{path.name} has another shape than the slice",
            received=f"{picture.labels.shape} for {of.shape_hw}",
            hint="Use the mask that was drawn on this slice.",
        )
    placed = PlacedLabels(labels=picture.labels, elsewhere={}, cut_off=frozenset())
    return [placed], [{}], list(picture.notes), picture.description


def _itksnap_descriptions(table: Mapping[int, str]) -> str:
    colours = choose_colours(list(table.values()))
    lines = ["# IDX -R- -G- -B- -A-- VIS MSH LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    for label, name in table.items():
        red, green, blue = rgb_of(colours[name])
        quoted = name.replace('"', "'")
        lines.append(f'{label} {red} {green} {blue} 1 1 1 "{quoted}"')
    return "\n".join(lines) + "\n"
