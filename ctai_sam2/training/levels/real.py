"""Real images for the level network: sagittal slices, and many planes through whole volumes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctai_sam2.io import read_case_npz, read_nifti, read_study
from ctai_sam2.segmentation.levels.labels import LEVEL_CLASSES, S1, TISSUE_CLASSES
from ctai_sam2.training.levels.canvas import NO_LEVEL
from ctai_sam2.training.levels.known import UNKNOWN, KnownImage
from ctai_sam2.training.levels.outlines import known_slice
from ctai_sam2.types import CTVolume

_LUMBAR = ("L1", "L2", "L3", "L4", "L5")
_BODY, _DISC, _SACRUM, _CANAL, _POSTERIOR = range(1, len(TISSUE_CLASSES))

VOLUMES = {"pcb001_sagittal": ("pcb001", 262.5), "crlm1006_sagittal_x250": ("crlm_1006", 260.0)}
"""Case -> folder of its series, and column of the spine's middle, which stands straight in both."""

_PLANES = 24
_TS = "ts_example"
# Labels of the model-made map: sacrum, S1, L5 … T11, cord.
_TS_LEVELS = {26: "S1", 27: "L5", 28: "L4", 29: "L3", 30: "L2", 31: "L1", 32: "T12", 33: "T11"}
_TS_SACRUM, _TS_CORD = 25, 79


def load_real(
    folder: Path, *, held_out: Sequence[str] = (), seed: int = 5
) -> list[tuple[float, list[KnownImage]]]:
    """Real images by patient, each patient weighing the same.

    Parameters
    ----------
    folder : Path
        With ``cases/`` and ``series/``.
    held_out : sequence of str
        Patients whose name contains one of these are not read.
    seed : int
        Of the planes through volumes.
    """
    rng = np.random.default_rng(seed)
    centres = json.loads(files("ctai_sam2.training.levels").joinpath("real_centres.json").read_text("utf-8"))
    patients: dict[str, list[KnownImage]] = {}
    for path in sorted((folder / "cases").glob("*sag*.npz")):
        if path.stem not in centres:
            continue
        patient = patient_of(path.stem)
        if any(word in patient for word in held_out):
            continue
        found = [_case(path, centres[path.stem], patient)]
        if path.stem in VOLUMES:
            found += _planes(
                folder / "series" / VOLUMES[path.stem][0], VOLUMES[path.stem][1], path, found[0], rng
            )
        patients.setdefault(patient, []).extend(found)
    if not any(word in _TS for word in held_out):
        patients[_TS] = _label_map_planes(folder / "series" / "ts_example_nifti", rng)
    return [(1.0 / len(patients), images) for images in patients.values()]


def patient_of(case: str) -> str:
    """Patient of a sagittal case, by its file's name.

    Examples
    --------
    >>> patient_of("sbu_A027284_sag_19000925-083"), patient_of("pcb001_sagittal")
    ('A027284', 'pcb001')
    """
    parts = case.split("_")
    if parts[0] == "sbu":
        return parts[1]
    return _TS if case.startswith(_TS) else parts[0]


def _millimetres(image: NDArray[np.float32], spacing: tuple[float, float]) -> NDArray[np.float32]:
    size = [max(round(n * s), 1) for n, s in zip(image.shape, spacing, strict=True)]
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def _case(path: Path, centres: dict[str, list[float]], patient: str) -> KnownImage:
    case = read_case_npz(path)
    spacing = case.slice.spacing_mm
    hu = np.clip(_millimetres(case.slice.hu.astype(np.float32), spacing), -1024, 3000).astype(np.int16)
    masks = {
        name: np.asarray(_millimetres(case.masks[name].astype(np.float32), spacing) >= 0.5)
        for name in _LUMBAR
        if name in case.masks
    }
    points = {name: (float(x), float(y)) for name, (x, y) in centres.items()}
    for name, mask in masks.items():
        rows, columns = np.nonzero(mask)
        points[name] = (float(columns.mean()), float(rows.mean()))
    return known_slice(hu, points, masks, row_mm=spacing[0], patient=patient)


def _planes(
    folder: Path, column: float, path: Path, known: KnownImage, rng: np.random.Generator
) -> list[KnownImage]:
    """Cut planes near the middle of a volume, to which the middle slice's targets apply."""
    volume = read_study(folder)
    height, width = known.pixels.shape
    _, _sy, sx = volume.spacing_zyx_mm
    middle_row = height / 2
    found = []
    for _ in range(_PLANES):
        offset, lean = rng.uniform(-13, 13), rng.normal(0, 0.03)
        rows = np.arange(height)
        x = column + (offset + lean * (rows - middle_row)) / sx
        hu = _cut(volume, x, height, width)
        # Off the middle the canal gives way to foramina and arches; the bodies stay.
        found.append(
            KnownImage(
                pixels=hu,
                contrast="hu",
                dense=known.dense,
                level=known.level,
                centres_xyl=known.centres_xyl,
                row_mm=known.row_mm,
                patient=known.patient,
            )
        )
    return found


def _cut(volume: CTVolume, x: NDArray[np.float64], height: int, width: int) -> NDArray[np.int16]:
    """Sagittal plane at one millimetre, head up, at a column for each row."""
    sz, sy, _ = volume.spacing_zyx_mm
    depth = volume.shape_zyx[0]
    z = depth - 1 - ((np.arange(height) + 0.5) / sz - 0.5)
    y = (np.arange(width) + 0.5) / sy - 0.5
    at = np.broadcast_arrays(z[:, None], y[None], x[:, None])
    hu = ndimage.map_coordinates(volume.hu_zyx, at, order=1, mode="nearest", output=np.float32)
    return np.clip(hu, -1024, 3000).astype(np.int16)


def _label_map_planes(folder: Path, rng: np.random.Generator) -> list[KnownImage]:
    """Cut planes of any near-sagittal direction through the volume that has a label map, twice each.

    One keeps its HU; the other's tissues, the labels and four ranges of HU between them, get any contrast.
    """
    volume = read_nifti(folder / "example_ct.nii.gz")
    marks = read_nifti(folder / "example_seg_fast_force_split.nii.gz")
    labels = marks.hu_zyx.astype(np.uint8)
    dense, level, tissue = _targets_of_map(labels, volume.hu_zyx.astype(np.int16))
    sz, sy, sx = volume.spacing_zyx_mm
    depth, rows, _columns = labels.shape
    height, width = round(depth * sz), round(rows * sy)
    middle = _middle_course(dense, sz)
    found = []
    for _ in range(2 * _PLANES):
        offset, lean, yaw = rng.uniform(-14, 14), rng.normal(0, 0.05), rng.normal(0, 0.12)
        bend = rng.normal(0, 6)
        row, column = np.mgrid[:height, :width].astype(np.float64)
        z = depth - 1 - ((row + 0.5) / sz - 0.5)
        y = (column + 0.5) / sy - 0.5
        x = middle / sx - 0.5 + (offset + lean * (row - height / 2) + bend * np.cos(row / 70.0)) / sx
        x = x + yaw * (y - rows * 0.62)
        at = (z, y, x)
        hu = ndimage.map_coordinates(volume.hu_zyx, at, order=1, mode="nearest", output=np.float32)
        cut_dense, cut_level, cut_tissue = (
            ndimage.map_coordinates(part, at, order=0, mode="nearest") for part in (dense, level, tissue)
        )
        centres = _centres(cut_dense, cut_level)
        for pixels, contrast in (
            (np.clip(hu, -1024, 3000).astype(np.int16), "hu"),
            (_smooth(cut_tissue), "tissue"),
        ):
            found.append(
                KnownImage(
                    pixels=pixels,
                    contrast=contrast,
                    dense=cut_dense,
                    level=cut_level,
                    centres_xyl=centres,
                    row_mm=sz,
                    patient=_TS,
                )
            )
    return found


def _smooth(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Round the steps of three-millimetre voxels."""
    return np.asarray(cv2.medianBlur(labels, 3))


def _middle_course(dense: NDArray[np.uint8], sz: float) -> float:
    """Middle of the bodies from the right, in mm of a voxel of the same size."""
    return float(np.nonzero(dense == _BODY)[2].mean() + 0.5) * sz


def _targets_of_map(
    labels: NDArray[np.uint8], hu: NDArray[np.int16]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Dense classes, levels and tissues for random contrast from the label map, each of its shape."""
    dense, level = np.zeros(labels.shape, np.uint8), np.full(labels.shape, NO_LEVEL, np.uint8)
    cord = labels == _TS_CORD
    depth = labels.shape[0]
    with_cord = [z for z in range(depth) if cord[z].any()]
    front = np.interp(np.arange(depth), with_cord, [float(np.nonzero(cord[z])[0].min()) for z in with_cord])
    y = np.arange(labels.shape[1])[None, :, None]
    # The body lies before the canal; below the cord's end the canal runs on as it did.
    before = y < front[:, None, None] - 0.7
    for value, name in _TS_LEVELS.items():
        where = labels == value
        if name == "S1":
            dense[where], level[where] = _SACRUM, S1
            continue
        body = ndimage.binary_opening(where & before, iterations=1)
        dense[where], dense[body] = _POSTERIOR, _BODY
        level[body] = LEVEL_CLASSES.index(name)
    sacrum = labels == _TS_SACRUM
    dense[sacrum], level[sacrum] = _SACRUM, S1 + 1
    _mark_discs(dense, level)
    dense[ndimage.binary_dilation(cord, iterations=1) & (dense == 0)] = _CANAL
    soft = np.digitize(hu, (-300, -30, 110)).astype(np.uint8)
    tissue = np.where(labels > 0, labels, 150 + soft).astype(np.uint8)
    tissue[dense == _BODY], tissue[dense == _DISC] = 200, 201
    tissue[dense == _CANAL], tissue[dense == _SACRUM] = 202, 203
    tissue[dense == _POSTERIOR] = 204
    shell = (dense == _BODY) & ~ndimage.binary_erosion(dense == _BODY)
    tissue[shell] = 205
    tissue[hu < -700] = 0
    # The map ends in T11, of which it knows a piece.
    dense[-4:], level[-4:] = np.where(dense[-4:] > 0, UNKNOWN, dense[-4:]), NO_LEVEL
    return dense, level, tissue


def _mark_discs(dense: NDArray[np.uint8], level: NDArray[np.uint8]) -> None:
    """Fill what lies straight between one body and the next."""
    order = [LEVEL_CLASSES.index(name) for name in ("T12", "L1", "L2", "L3", "L4", "L5", "S1")]
    for upper, lower in itertools.pairwise(order):
        pair = (level == upper) | (level == lower)
        closed = ndimage.binary_closing(np.pad(pair, 4), np.ones((7, 3, 3), bool))[4:-4, 4:-4, 4:-4]
        disc = closed & ~pair & (dense == 0)
        dense[disc], level[disc] = _DISC, upper


def _centres(dense: NDArray[np.uint8], level: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = []
    for index in range(LEVEL_CLASSES.index("T12"), S1 + 1):
        kind = _SACRUM if index == S1 else _BODY
        rows, columns = np.nonzero((level == index) & (dense == kind))
        if rows.size > 250:
            found.append((columns.mean(), rows.mean(), index))
    return np.array(found, np.float32).reshape(-1, 3)
