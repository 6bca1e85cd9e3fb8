"""The bank of labelled images a training run draws from: phantoms and real slices."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.image.body import body_mask
from ctai_sam2.image.frame import SAGITTAL_SIDE_MM
from ctai_sam2.io import read_slice
from ctai_sam2.phantom import (
    FAT_STREAK,
    LEVEL_NAMES,
    Body,
    Label,
    masks_from_labels,
    random_parameters,
    render_hu,
)
from ctai_sam2.training.processes import map_in_processes
from ctai_sam2.training.square_image import resample_square

_LOGGER = logging.getLogger(__name__)

Plane = Literal["axial", "sagittal"]
Draw: TypeAlias = Callable[..., tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]]

NOMINAL_SHARE: Final = 1.08 / 1.25
"""Share of a bank image's side that the square of normal use covers; the rest is margin for shifts."""

_AIR_HU: Final = -1024
_CHUNK: Final = 20
_SMALLEST_REGION: Final = 0.0006
_LARGEST_REGION: Final = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImage:
    """A square CT image whose every pixel carries a code, and what the codes stand for.

    Attributes
    ----------
    hu : numpy.ndarray
        int16 (S, S).
    codes : numpy.ndarray
        uint8 or uint16 (S, S); equal codes belong to the same targets.
    members : numpy.ndarray
        bool (targets, codes): which codes make up a target.
    names : tuple of str
        One name per target; several may share one ("region").
    plane : {"axial", "sagittal"}
        Orientation.
    source : str
        "phantom", "case", "series" or "volume".
    """

    hu: npt.NDArray[np.int16]
    codes: npt.NDArray[Any]
    members: npt.NDArray[np.bool_]
    names: tuple[str, ...]
    plane: Plane
    source: str


def phantom_targets() -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
    """Return names and member table (targets, 256) of phantom label images.

    Beyond the phantom's own regions: both psoas, single discs, and each side's wall.
    """
    every = np.arange(256, dtype=np.uint8)
    masks = masks_from_labels(every)
    table = {name: masks[name] for name in masks if name != "imat"}
    table["psoas_both"] = table["psoas_left"] | table["psoas_right"]
    table["erector_both"] = table["erector_left"] | table["erector_right"]
    for index, level in enumerate(LEVEL_NAMES[:-1]):
        table[f"disc_{level}"] = every == int(Label.DISC) + index
    # Outside of the body FAT_STREAK never occurs; codes from it on are muscle.
    table["body"] = masks["body"] | (every >= FAT_STREAK)
    return tuple(table), np.stack(list(table.values()))


def load_phantom_bank(
    folder: Path, *, axial: int, sagittal: int, size_px: int, seed: int, processes: int = 2
) -> list[LabelledImage]:
    """Return phantoms, drawing those that the folder does not hold yet.

    Parameters
    ----------
    folder : pathlib.Path
        Cache; created.
    axial, sagittal : int
        How many of each.
    size_px : int
        Side in pixels.
    seed : int
        Phantom number ``i`` depends on ``(seed, i)`` only.
    processes : int, default 2
        Workers.

    Returns
    -------
    list of LabelledImage
        Axial ones first.

    Raises
    ------
    StorageError
        Where the cache cannot be written.
    """
    names, members = phantom_targets()
    images: list[LabelledImage] = []
    counts: tuple[tuple[Plane, int], ...] = (("axial", axial), ("sagittal", sagittal))
    for plane, count in counts:
        drawn = load_drawn(
            folder,
            f"{plane}-{seed}-{size_px}",
            "codes",
            partial(draw_phantom, plane, size_px=size_px, seed=seed),
            count=count,
            processes=processes,
        )
        images += [
            LabelledImage(hu=hu, codes=codes, members=members, names=names, plane=plane, source="phantom")
            for hu, codes in drawn
        ]
    return images


def load_drawn(
    folder: Path, name: str, of_labels: str, draw: Draw, *, count: int, processes: int
) -> list[tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]]:
    """Return images drawn from their number on with their labels, drawing those that a folder does not hold.

    Parameters
    ----------
    folder : pathlib.Path
        Cache; created.
    name, of_labels : str
        What its files' names begin with, and what the labels are called in them.
    draw : callable
        Picklable; returns HU and labels of ``number``.
    count, processes : int
        How many images, and workers.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    """
    jobs = [(folder / f"{name}-{first:05d}.npz", of_labels, draw, first) for first in range(0, count, _CHUNK)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        waiting = [job for job in jobs if not job[0].exists()]
        for number, _ in enumerate(map_in_processes(_draw_chunk, waiting, processes)):
            _LOGGER.info("phantoms: %d of %d chunks drawn", number + 1, len(waiting))
    except OSError as error:
        raise StorageError("the phantom bank cannot be written", received=folder.name) from error
    images: list[tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]] = []
    for path, *_ in jobs:
        with np.load(path, allow_pickle=False) as chunk:
            images.extend(zip(chunk["hu"], chunk[of_labels], strict=True))
    return images[:count]


def draw_phantom(
    plane: Plane, *, size_px: int, seed: int, number: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Draw one phantom of the bank.

    Parameters
    ----------
    plane : {"axial", "sagittal"}
        Orientation.
    size_px : int
        Side in pixels.
    seed, number : int
        Together decide everything.

    Returns
    -------
    hu : numpy.ndarray
        int16 (size_px, size_px).
    labels : numpy.ndarray
        uint8, same shape; values of `ctai_sam2.phantom.Label`.
    """
    rng = np.random.default_rng((seed, number, 0 if plane == "axial" else 1))
    parameters = random_parameters(rng)
    body = Body(parameters)
    if plane == "axial":
        z_mm = float(rng.normal(0, 12)) if rng.uniform() < 0.5 else float(rng.uniform(-85, 85))
        labels, beyond, side_mm = label_axial_square(body, z_mm, size_px)
    else:
        x_mm = float(rng.normal(0, 7))
        coarse = np.arange(-300, 300, 6, dtype=np.float32)
        row = np.asarray(body.label_at(x_mm, coarse[None, :], np.zeros((1, 1), np.float32)))
        found = coarse[masks_from_labels(row)["body"][0]]
        side_mm = float(rng.uniform(350, 560))
        axis = ((np.arange(size_px) + 0.5) / size_px - 0.5).astype(np.float32) * np.float32(side_mm)
        # The spine stays in the square however small it is.
        y_mid = min(float(found[0] + found[-1]) / 2, 40.0) if side_mm > 420 else float(rng.uniform(-60, 40))
        y, z = axis + np.float32(y_mid), -axis + np.float32(rng.uniform(-60, 60))
        labels = body.label_at(x_mm, y[None, :], z[:, None])
        beyond = np.zeros(labels.shape, dtype=bool)
    spacing_mm = side_mm / size_px
    hu = render_hu(labels, parameters, spacing_mm=(spacing_mm, spacing_mm), rng=rng)
    hu[beyond] = _AIR_HU
    labels[beyond] = Label.AIR
    return hu, labels


def load_real_cases(folder: Path, *, size_px: int, held_out: tuple[str, ...] = ()) -> list[LabelledImage]:
    """Read slices with reference masks.

    Parameters
    ----------
    folder : pathlib.Path
        Holds ``*.npz`` with ``image`` (int16 HU), ``spacing`` (row, column in mm), ``meta``
        (JSON with ``plane``) and ``mask_<name>`` (bool).
    size_px : int
        Side in pixels.
    held_out : tuple of str
        Files whose name contains one of these are left out.

    Returns
    -------
    list of LabelledImage
        One per axial, several fields of view per sagittal case.
    """
    images = []
    for path in sorted(folder.glob("*.npz")):
        if any(word in path.name for word in held_out):
            continue
        hu, spacing_mm, plane, masks = read_case(path)
        if plane == "axial":
            squares = [axial_square(hu, spacing_mm)]
        else:
            lumbar = np.any([mask for name, mask in masks.items() if name in _LUMBAR], axis=0)
            rows, columns = np.nonzero(lumbar)
            middle_mm = (float(columns.mean() * spacing_mm[1]), float(rows.mean() * spacing_mm[0]))
            squares = [(middle_mm[0] - shift, middle_mm[1], side) for side, shift in _SAGITTAL_FIELDS]
        for square in squares:
            images.append(_encode(hu, list(masks.items()), square, spacing_mm, size_px, plane, "case"))
    return images


def read_case(
    path: Path,
) -> tuple[npt.NDArray[np.int16], tuple[float, float], Plane, dict[str, npt.NDArray[np.bool_]]]:
    """Read one case file: image, (row, column) spacing in mm, plane, masks by name.

    Raises
    ------
    InputError
        Where the file is not a case.
    """
    try:
        with np.load(path, allow_pickle=False) as case:
            masks = {
                name.removeprefix("mask_"): case[name].astype(bool)
                for name in case.files
                if name.startswith("mask_") and case[name].any()
            }
            row_mm, column_mm = (float(value) for value in case["spacing"])
            plane: Plane = json.loads(str(case["meta"]))["plane"]
            return case["image"].astype(np.int16), (row_mm, column_mm), plane, masks
    except (OSError, KeyError, ValueError) as error:
        raise InputError("the case file cannot be read", received=path.name) from error


def load_real_series(
    folder: Path, *, size_px: int, cache: Path, held_out: tuple[str, ...] = ()
) -> list[LabelledImage]:
    """Read the axial and sagittal DICOM slices of a folder and divide each into class-agnostic regions.

    Parameters
    ----------
    folder : pathlib.Path
        Holds single-frame CT files.
    size_px : int
        Side in pixels.
    cache : pathlib.Path
        Folder that keeps the regions.
    held_out : tuple of str
        Files whose name contains one of these are left out.

    Returns
    -------
    list of LabelledImage
        Targets named "region", from graph-based segmentation at four scales.

    References
    ----------
    Felzenszwalb and Huttenlocher, Efficient graph-based image segmentation, IJCV 2004.
    """
    cache.mkdir(parents=True, exist_ok=True)
    images = []
    for path in sorted(file for file in folder.iterdir() if file.is_file()):
        if any(word in path.name for word in held_out):
            continue
        cached = cache / f"{folder.name}-{path.name}-{size_px}.npz"
        if not cached.exists():
            ct_slice = read_slice(path)
            if ct_slice.plane not in ("axial", "sagittal"):
                continue
            hu = ct_slice.hu.astype(np.int16)
            square = axial_square(hu, ct_slice.spacing_mm)
            if ct_slice.plane == "sagittal":
                square = (square[0], square[1], SAGITTAL_SIDE_MM / NOMINAL_SHARE)
            framed = resample_square(hu, square=square, spacing_mm=ct_slice.spacing_mm, size_px=size_px)
            np.savez_compressed(cached, hu=framed, regions=_find_regions(framed), plane=ct_slice.plane)
        with np.load(cached, allow_pickle=False) as entry:
            images.append(_from_regions(entry["hu"], entry["regions"], str(entry["plane"])))
    return images


def load_real_volume(image: Path, labels: Path, *, size_px: int, step: int = 2) -> list[LabelledImage]:
    """Read a NIfTI volume with a label map as axial slices.

    Parameters
    ----------
    image, labels : pathlib.Path
        NIfTI files on the same grid.
    size_px : int
        Side in pixels.
    step : int
        Every how many slices.

    Returns
    -------
    list of LabelledImage
        Targets named "organ".
    """
    import nibabel

    picture, map_ = (
        nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
        for path in (image, labels)
    )
    hu_xyz = np.clip(np.asarray(picture.dataobj), -1024, 3071).astype(np.int16)
    labels_xyz = np.asarray(map_.dataobj).astype(np.uint8)
    zooms = tuple(float(zoom) for zoom in picture.header.get_zooms()[:3])
    images = []
    for z in range(4, hu_xyz.shape[2] - 4, step):
        # RAS+ (x to the right hand, y forward): transposed and turned round, anterior is up
        # and the patient's right on the left.
        hu, values = hu_xyz[::-1, ::-1, z].T, labels_xyz[::-1, ::-1, z].T
        present = [int(label) for label in np.unique(values) if label]
        masks = [("organ", values == label) for label in present]
        spacing_mm = (zooms[1], zooms[0])
        square = axial_square(hu, spacing_mm)
        images.append(_encode(hu, masks, square, spacing_mm, size_px, "axial", "volume"))
    return images


_LUMBAR: Final = ("L1", "L2", "L3", "L4", "L5")
# Side of the square in mm, and how far in front of the spine its middle lies.
_SAGITTAL_FIELDS: Final = ((380.0, 30.0), (440.0, 45.0), (520.0, 60.0))


def label_axial_square(
    body: Body, z_mm: float, size_px: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], float]:
    """Return labels of a square around a phantom, pixels beyond the field of view, and its side in mm."""
    coarse = np.arange(-300, 300, 6, dtype=np.float32)
    found = masks_from_labels(body.label_at(coarse[None, :], coarse[:, None], z_mm))["body"]
    x_mm, y_mm = coarse[found.any(axis=0)], coarse[found.any(axis=1)]
    x0, x1, y0, y1 = float(x_mm[0]), float(x_mm[-1]), float(y_mm[0]), float(y_mm[-1])
    side_mm = 1.25 * max(x1 - x0, y1 - y0)
    axis = ((np.arange(size_px) + 0.5) / size_px - 0.5).astype(np.float32) * np.float32(side_mm)
    x, y = axis + np.float32((x0 + x1) / 2), axis + np.float32((y0 + y1) / 2)
    labels = body.label_at(x[None, :], y[:, None], z_mm)
    radius_mm = body.parameters.field_of_view_mm / 2
    return labels, axis[None, :] ** 2 + axis[:, None] ** 2 > radius_mm**2, side_mm


def _draw_chunk(job: tuple[Path, str, Draw, int]) -> None:
    path, of_labels, draw, first = job
    drawn = [draw(number=number) for number in range(first, first + _CHUNK)]
    hu, labels = (np.stack(part) for part in zip(*drawn, strict=True))
    part = path.with_name(f"{path.stem}.part.npz")
    arrays: dict[str, Any] = {"hu": hu, of_labels: labels}
    np.savez(part, **arrays)
    part.replace(path)


def axial_square(hu: npt.NDArray[np.int16], spacing_mm: tuple[float, float]) -> tuple[float, float, float]:
    """Return the square around a body: middle x, middle y and side in mm; a quarter longer than the body."""
    rows, columns = np.nonzero(body_mask(hu, spacing_mm))
    width_mm = float(columns.max() - columns.min() + 1) * spacing_mm[1]
    height_mm = float(rows.max() - rows.min() + 1) * spacing_mm[0]
    return (
        float(columns.min() + columns.max()) / 2 * spacing_mm[1],
        float(rows.min() + rows.max()) / 2 * spacing_mm[0],
        1.25 * max(width_mm, height_mm),
    )


def _encode(
    hu: npt.NDArray[np.int16],
    masks: list[tuple[str, npt.NDArray[np.bool_]]],
    square: tuple[float, float, float],
    spacing_mm: tuple[float, float],
    size_px: int,
    plane: Plane,
    source: str,
) -> LabelledImage:
    """Frame an image and turn its overlapping masks into codes."""
    framed = resample_square(hu, square=square, spacing_mm=spacing_mm, size_px=size_px)
    names = [name for name, _ in masks]
    framed_masks = [
        resample_square(
            (mask * 1000).astype(np.int16), square=square, spacing_mm=spacing_mm, size_px=size_px, fill=0
        )
        >= 500
        for _, mask in masks
    ]
    if "psoas_left" in names and "psoas_right" in names:
        framed_masks.append(
            framed_masks[names.index("psoas_left")] | framed_masks[names.index("psoas_right")]
        )
        names.append("psoas_both")
    stack = np.stack(framed_masks).reshape(len(names), -1)
    kept = [index for index in range(len(names)) if stack[index].sum() >= 12]
    stack = stack[kept]
    packed = np.packbits(stack, axis=0)
    members, codes = np.unique(packed, axis=1, return_inverse=True)
    table = np.unpackbits(members, axis=0, count=len(kept)).astype(bool)
    return LabelledImage(
        hu=framed,
        codes=codes.reshape(framed.shape).astype(np.uint16),
        members=table,
        names=tuple(names[index] for index in kept),
        plane=plane,
        source=source,
    )


def _find_regions(hu: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    from skimage.segmentation import felzenszwalb

    picture = np.clip((hu.astype(np.float32) + 160) / 400, 0, 1)
    return np.stack(
        [
            felzenszwalb(picture, scale=scale, sigma=sigma, min_size=smallest).astype(np.uint16)
            for scale, sigma, smallest in ((40, 1.0, 40), (120, 1.2, 80), (300, 1.5, 150), (800, 2.0, 300))
        ]
    )


def _from_regions(hu: npt.NDArray[np.int16], regions: npt.NDArray[np.uint16], plane: str) -> LabelledImage:
    inside = hu > -300
    levels, codes = np.unique(regions.reshape(len(regions), -1), axis=1, return_inverse=True)
    codes = codes.reshape(hu.shape)
    areas = np.bincount(codes.ravel(), minlength=levels.shape[1])
    solid = np.bincount(codes.ravel(), weights=inside.ravel(), minlength=levels.shape[1])
    rows, seen = [], set()
    for level in levels:
        for value in np.unique(level):
            row = level == value
            area = areas[row].sum()
            share = area / hu.size
            if not (_SMALLEST_REGION <= share <= _LARGEST_REGION) or solid[row].sum() < 0.5 * area:
                continue
            key = row.tobytes()
            if key not in seen:
                seen.add(key)
                rows.append(row)
    return LabelledImage(
        hu=hu,
        codes=codes.astype(np.uint16),
        members=np.stack(rows) if rows else np.zeros((0, levels.shape[1]), dtype=bool),
        names=("region",) * len(rows),
        plane="axial" if plane == "axial" else "sagittal",
        source="series",
    )
