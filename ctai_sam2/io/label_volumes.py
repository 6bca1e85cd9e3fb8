"""Label maps in three dimensions, NIfTI, NRRD or Analyze pairs, put where they lie in the patient."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.geometry import canonicalise
from ctai_sam2.image.label_values import as_labels, soft_edge_problem
from ctai_sam2.io.grids import Grid, grid_of, mask_from_canonical, overlap_of, same_places
from ctai_sam2.io.label_tables import LabelNames, names_in_nifti, names_in_segments
from ctai_sam2.io.nifti_file import load_nifti
from ctai_sam2.io.nrrd import NRRD_SUFFIXES, load_nrrd
from ctai_sam2.types import CTSlice, CTVolume

NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
LABEL_VOLUME_ENDINGS = (*NIFTI_ENDINGS, *NRRD_SUFFIXES)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelVolume:
    """A file's labels and where they lie.

    Parameters
    ----------
    layers : tuple of ndarray of uint16, shape (D, H, W)
        Labels in canonical order; several where structures overlap.
    grid : Grid
        Where they lie, if ``is_placed``.
    is_placed : bool
        Whether the header says where.
    names : tuple of mapping of int to str
        Names by label, for each layer, as far as the file itself says.
    description : str, optional
        What the header says of how the masks were made.
    """

    layers: tuple[NDArray[np.uint16], ...]
    grid: Grid
    is_placed: bool
    names: tuple[Mapping[int, str], ...]
    description: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedLabels:
    """One layer's labels on the pixels of a slice or the voxels of a volume.

    Parameters
    ----------
    labels : ndarray of uint16, shape (H, W) or (D, H, W)
        0 is background.
    elsewhere : mapping of int to float
        For a slice: labels that the file has on other slices only, and how far away the nearest of these
        is, in mm, positive towards the head.
    cut_off : frozenset of int
        For a volume: labels that reach beyond it.
    """

    labels: NDArray[np.uint16]
    elsewhere: Mapping[int, float]
    cut_off: frozenset[int]


def read_label_volume(path: str | os.PathLike[str], *, has_names: bool = False) -> LabelVolume:
    """Read a NIfTI, NRRD or Analyze pair of labels, whatever it was drawn on.

    Parameters
    ----------
    path : path-like
        One of `LABEL_VOLUME_ENDINGS`.
    has_names : bool
        Whether a table says what the values mean; then any whole numbers are labels.

    Raises
    ------
    InputError
        If the file cannot be read or its values are no labels.
    GeometryError
        If its affine is singular.
    """
    path = Path(path)
    description: str | None = None
    if path.name.lower().endswith(NRRD_SUFFIXES):
        content = load_nrrd(path)
        stored, affine, is_placed = content.stored, content.affine, content.is_placed
        by_layer = names_in_segments(content.fields, path.name)
        names = tuple(by_layer.get(layer, LabelNames()) for layer in range(len(stored)))
    else:
        nifti = load_nifti(path)
        values = nifti.stored
        if nifti.slope != 1.0 or nifti.intercept != 0.0:
            values = np.asarray(values, dtype=np.float64) * nifti.slope + nifti.intercept
        stored, affine, is_placed = values[None], nifti.affine, nifti.is_placed
        names = (names_in_nifti(path),)
        description = nifti.description
    layers = []
    canonical = affine
    for layer, named in zip(stored, names, strict=True):
        labels = as_labels(layer, what=path.name)
        if not named and not has_names:
            problem = soft_edge_problem(labels.transpose(2, 1, 0), white=_white_of(layer.dtype))
            if problem is not None:
                raise InputError(
                    f"{path.name}: {problem.problem}", received=problem.received, hint=problem.hint
                )
        turned = labels.transpose(2, 1, 0)
        if is_placed:
            turned, canonical = canonicalise(turned, affine)
        layers.append(turned)
    depth, height, width = layers[0].shape
    grid = Grid(
        shape_zyx=(depth, height, width), affine=canonical, z_offsets=np.arange(depth, dtype=np.float64)
    )
    return LabelVolume(
        layers=tuple(layers), grid=grid, is_placed=is_placed, names=names, description=description
    )


def place_labels(path: Path, volume: LabelVolume, of: CTSlice | CTVolume) -> list[PlacedLabels]:
    """Put a file's labels, layer by layer, on the pixels of a slice or the voxels of a volume.

    Nothing is resampled: voxels have to fall on voxels, whatever the order of their axes.

    Raises
    ------
    InputError
        If one of the two does not say where it lies, and they are not of one slice's shape.
    GeometryError
        If the grids differ, or no voxel of the file lies on the image.
    """
    if isinstance(of, CTSlice) and (of.affine is None or of.row_offsets is not None):
        return [_unplaced(path, layer, of) for layer in volume.layers]
    if not volume.is_placed:
        raise InputError(
            f"{path.name} states no orientation, so left and right of its masks are not known",
            hint="Save it as NIfTI or NRRD with the CT as reference.",
        )
    target = grid_of(of)
    is_whole = isinstance(of, CTVolume) and volume.grid.shape_zyx == of.shape_zyx
    if is_whole and same_places(np.asarray(of.affine), volume.grid.affine, volume.grid.shape_zyx):
        # NIfTI cannot say that slices are missing: a whole volume's labels go slice by slice.
        return [PlacedLabels(labels=layer, elsewhere={}, cut_off=frozenset()) for layer in volume.layers]
    overlap = overlap_of(target, volume.grid, what=path.name)
    placed = []
    for layer in volume.layers:
        canonical = np.zeros(target.shape_zyx, dtype=np.uint16)
        here: set[int] = set()
        if overlap is not None:
            inside = layer[overlap.block_zyx]
            canonical[overlap.target_zyx] = inside
            here = _present(inside)
        beyond = _present(layer) - here
        cut_off: frozenset[int] = frozenset()
        if isinstance(of, CTVolume):
            cut_off = frozenset(_cut_off(layer, canonical))
            beyond = set()
        placed.append(
            PlacedLabels(
                labels=_as_shown(canonical, of),
                elsewhere=_distances(layer, beyond, volume.grid, target),
                cut_off=cut_off,
            )
        )
    has_labels = any(layer.any() for layer in volume.layers)
    if has_labels and not any(one.labels.any() or one.elsewhere for one in placed):
        raise _not_on_the_image(path)
    if isinstance(of, CTSlice) and overlap is None and has_labels and volume.grid.shape_zyx[0] == 1:
        raise _not_on_the_image(path)
    return placed


def read_mask_nifti(path: str | os.PathLike[str], of: CTSlice | CTVolume) -> NDArray[np.uint8]:
    """Read a label image and put it on the pixels of a slice or volume it was drawn on.

    Parameters
    ----------
    path : path-like
        A NIfTI file in any orientation, of this slice alone or of the whole volume around it.
    of : CTSlice or CTVolume
        What it belongs to.

    Returns
    -------
    ndarray of uint8, shape (H, W) or (D, H, W)
        Labels.

    Raises
    ------
    InputError
        If the file cannot be read or holds no labels up to 255.
    GeometryError
        If it lies on another grid, or has labels on other slices only.
    """
    path = Path(path)
    volume = read_label_volume(path)
    if len(volume.layers) != 1:
        raise InputError(f"{path.name} holds several layers", hint="Read it with import_masks.")
    [placed] = place_labels(path, volume, of)
    if isinstance(of, CTVolume) and volume.grid.shape_zyx != of.shape_zyx:
        raise GeometryError(
            f"{path.name} lies on another grid than the image",
            received=f"shape {volume.grid.shape_zyx} for {of.shape_zyx}",
            hint="Export the labels on the CT's own grid.",
        )
    if placed.elsewhere and not placed.labels.any():
        raise _not_on_the_image(path)
    if placed.labels.max(initial=0) > 255:
        raise InputError(
            f"{path.name} holds labels above 255", hint="Read it with import_masks, which names them."
        )
    return placed.labels.astype(np.uint8)


def read_label_block(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint16], Grid]:
    """Read a label image as it lies in the patient, whatever it was drawn on.

    Returns
    -------
    labels : ndarray of uint16, shape (D, H, W)
        In canonical order.
    grid : Grid
        Where it lies.

    Raises
    ------
    InputError
        If the file cannot be read, holds no labels or states no orientation.
    GeometryError
        If its affine is singular.
    """
    path = Path(path)
    volume = read_label_volume(path)
    if not volume.is_placed:
        raise InputError(
            f"{path.name} states no orientation, so the mask has no place",
            hint="Read it onto the slice it was drawn on.",
        )
    return volume.layers[0], volume.grid


def _unplaced(path: Path, layer: NDArray[np.uint16], of: CTSlice) -> PlacedLabels:
    """Labels on a slice whose place is unknown: the grid's shape is all there is to go by."""
    expected = (1, *of.shape_hw)
    turned = layer
    if of.affine is not None:
        # Rows with gaps: the slice's own axes in canonical order say how to turn the labels back.
        index, _ = canonicalise(np.arange(np.prod(expected)).reshape(expected), of.affine)
        if index.shape == layer.shape:
            turned = np.empty(expected, dtype=layer.dtype)
            turned.ravel()[index.ravel()] = layer.ravel()
    if turned.shape != expected:
        raise GeometryError(
            f"{path.name} lies on another grid than the slice, whose place in the patient is unknown",
            received=f"{layer.shape} for {expected}",
            hint="Give a mask of this slice alone, or read the slice from DICOM or NIfTI.",
        )
    return PlacedLabels(labels=turned[0], elsewhere={}, cut_off=frozenset())


def _as_shown(canonical: NDArray[np.uint16], of: CTSlice | CTVolume) -> NDArray[np.uint16]:
    return mask_from_canonical(canonical, of)  # type: ignore[arg-type, return-value]


def _present(labels: NDArray[np.uint16]) -> set[int]:
    return {int(label) for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)) if label}


def _cut_off(layer: NDArray[np.uint16], placed: NDArray[np.uint16]) -> set[int]:
    """Labels with fewer voxels on the image than in the file."""
    size = int(max(layer.max(initial=0), placed.max(initial=0))) + 1
    before = np.bincount(layer.ravel(), minlength=size)
    after = np.bincount(placed.ravel(), minlength=size)
    return {int(label) for label in np.flatnonzero(before > after) if label}


def _distances(layer: NDArray[np.uint16], labels: set[int], block: Grid, target: Grid) -> dict[int, float]:
    """How far from a slice each label's nearest voxel lies along the slice's normal, in mm."""
    if not labels:
        return {}
    axis = target.shape_zyx[::-1].index(1)
    relative = np.linalg.solve(target.affine, block.affine)[axis]
    step_mm = float(np.linalg.norm(target.affine[:3, axis]))
    found = {}
    for label in labels:
        z, y, x = np.nonzero(layer == label)
        places = (relative[0] * x + relative[1] * y + relative[2] * z + relative[3]) * step_mm
        found[label] = float(places[np.abs(places).argmin()])
    return found


def _white_of(dtype: np.dtype[np.generic]) -> int | None:
    return 255 if dtype == np.uint8 else None


def _not_on_the_image(path: Path) -> GeometryError:
    return GeometryError(
        f"{path.name} lies next to the image, not on it",
        hint="Choose the slice or series it was drawn on.",
    )
