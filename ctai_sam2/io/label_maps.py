"""Several masks as one label image (NIfTI or PNG) with a table of what the labels mean.

The table lies beside the image: ``masks.nii.gz`` has ``masks.labels.json``, and
``masks.itksnap.txt``, which ITK-SNAP loads as label descriptions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.io.atomic import write_json, write_text
from ctai_sam2.io.grids import checked_mask, grid_of, mask_from_canonical, put
from ctai_sam2.io.mask_png import write_label_png
from ctai_sam2.io.nifti import read_label_block, read_mask_nifti, write_mask_nifti
from ctai_sam2.io.overlay import choose_colours
from ctai_sam2.io.pictures import read_grey_values
from ctai_sam2.io.structure_terms import checked_label
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
    """Write masks as a label image, NIfTI or PNG, with its tables beside it; returns the image's path.

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
    if path.suffix.lower() == ".png":
        if isinstance(of, CTVolume):
            raise InputError("a PNG holds one slice, not a volume", hint="Export a slice, or to NIfTI.")
        write_label_png(path, labels)
    else:
        write_mask_nifti(path, labels, of)
    stem = _stem(path)
    write_json(stem.with_name(stem.name + ".labels.json"), {"labels": {str(k): v for k, v in table.items()}})
    write_text(stem.with_name(stem.name + ".itksnap.txt"), _itksnap_descriptions(table))
    return path


def read_labels(
    path: str | os.PathLike[str],
    of: CTSlice | CTVolume,
    *,
    names: Mapping[int, str] | None = None,
    structures: Collection[str] | None = None,
) -> dict[str, Mask]:
    """Read a label image, NIfTI or PNG, as masks on a slice or volume.

    Parameters
    ----------
    path : path-like
        ``.nii``, ``.nii.gz`` in any orientation, or ``.png`` as the slice is shown.
    of : CTSlice or CTVolume
        What it was drawn on.
    names : mapping of int to str, optional
        What the labels mean; from the table beside the image when omitted, else ``label_1`` …
    structures : collection of str, optional
        Which to read; all when omitted.

    Raises
    ------
    InputError
        If the file or its table cannot be read, holds no labels or lacks a structure.
    GeometryError
        If a NIfTI lies on another grid.
    """
    path = Path(path)
    if path.suffix.lower() == ".png":
        if isinstance(of, CTVolume):
            raise InputError("a PNG belongs to one slice, not to a volume", hint="Say which slice.")
        labels = _read_label_png(path, of)
    elif isinstance(of, CTSlice) and (of.affine is None or of.row_offsets is not None):
        # A place unknown, or one NIfTI cannot say: the grid's shape is all there is to go by.
        labels = read_mask_nifti(path, of)
    else:
        labels = _place_nifti(path, of)
    table = dict(names) if names is not None else _read_table(path)
    present = [int(label) for label in np.unique(labels) if label > 0]
    if not table and not present:
        raise InputError(f"{path.name} holds no label but background", hint="Give the file with the masks.")
    found = {**{label: f"label_{label}" for label in present}, **table}
    chosen = {
        label: name for label, name in sorted(found.items()) if structures is None or name in structures
    }
    missing = sorted(set(structures or ()) - set(chosen.values()))
    if missing:
        raise InputError(
            "no such label", received=", ".join(missing), hint=f"There are {', '.join(found.values())}."
        )
    return {name: np.asarray(labels == label) for label, name in chosen.items()}


def _place_nifti(path: Path, of: CTSlice | CTVolume) -> NDArray[np.uint8]:
    block, block_grid = read_label_block(path)
    if isinstance(of, CTVolume) and block.shape == of.shape_zyx:
        # NIfTI cannot say that slices are missing: a whole volume's labels go slice by slice.
        return read_mask_nifti(path, of)
    target = grid_of(of)
    labels = np.zeros(of.shape_zyx if isinstance(of, CTVolume) else of.shape_hw, dtype=np.uint8)
    touched = False
    for label in np.unique(block[block > 0]):
        placed = np.zeros(target.shape_zyx, dtype=np.bool_)
        touched |= put(placed, target, np.asarray(block == label), block_grid, what=path.name)
        labels[mask_from_canonical(placed, of)] = label
    if not touched and block.any():
        raise GeometryError(
            f"{path.name} lies beside the image", hint="Choose the slice or series it was drawn on."
        )
    return labels


def _stem(path: Path) -> Path:
    name = path.name
    for ending in (".nii.gz", ".nii", ".png"):
        if name.lower().endswith(ending):
            return path.with_name(name[: -len(ending)])
    return path


def _read_table(path: Path) -> dict[int, str]:
    stem = _stem(path)
    table = stem.with_name(stem.name + ".labels.json")
    if not table.is_file():
        return {}
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        return {int(label): checked_label(str(name)) for label, name in content["labels"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the table {table.name} cannot be read",
            hint="Mend or remove it; without it labels are called label_1 and so on.",
        ) from error


def _read_label_png(path: Path, of: CTSlice) -> NDArray[Any]:
    values, white = read_grey_values(path)
    if values.shape != of.shape_hw:
        raise InputError(
            f"{path.name} has another shape than the slice",
            received=f"{values.shape} for {of.shape_hw}",
            hint="Use the mask that was drawn on this slice.",
        )
    present = np.unique(values)
    if len(present) == 2 and present[0] == 0 and present[1] == white:
        # A single mask, black and white.
        return np.asarray(values == white, dtype=np.uint8)
    return values


def _itksnap_descriptions(table: Mapping[int, str]) -> str:
    colours = choose_colours(list(table.values()))
    lines = ["# IDX -R- -G- -B- -A-- VIS MSH LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    for label, name in table.items():
        red, green, blue = (int(colours[name][i : i + 2], 16) for i in (1, 3, 5))
        quoted = name.replace('"', "'")
        lines.append(f'{label} {red} {green} {blue} 1 1 1 "{quoted}"')
    return "\n".join(lines) + "\n"
