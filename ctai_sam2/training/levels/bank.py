"""Drawn spines and phantoms cached on disk, so that training draws none twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ctai_sam2.errors import InputError
from ctai_sam2.phantom import LEVEL_NAMES, make_sagittal_slice, random_parameters
from ctai_sam2.segmentation.levels.labels import S1, TISSUE_CLASSES
from ctai_sam2.training.levels.canvas import NO_LEVEL
from ctai_sam2.training.levels.drawn import DrawnSpine, draw_spine
from ctai_sam2.training.levels.known import KnownImage, from_drawn, level_index
from ctai_sam2.training.processes import map_in_processes

_SHAPE = (660, 460)
_PHANTOM_SHAPE = (460, 400)
_MOST_CENTRES = 24


class DrawnBank(Sequence[KnownImage]):
    """Drawn spines in memory-mapped files.

    Parameters
    ----------
    folder : Path
        Holds them; filled where it is empty.
    count, seed : int
        How many, and the first one's seed.
    workers : int
        Processes that draw.
    """

    def __init__(self, folder: Path, *, count: int, seed: int, workers: int = 1) -> None:
        facts = {"count": count, "seed": seed, "version": 1}
        card = folder / "drawn.json"
        if not card.is_file():
            _fill(folder, count, seed, workers)
            card.write_text(json.dumps(facts), encoding="utf-8")
        known = json.loads(card.read_text(encoding="utf-8"))
        if known != facts:
            raise InputError("the bank holds other spines", received=known, hint="Give another folder.")
        self._tissue = np.load(folder / "tissue.npy", mmap_mode="r")
        self._level = np.load(folder / "level.npy", mmap_mode="r")
        self._centres = np.load(folder / "centres.npy")

    def __len__(self) -> int:
        return len(self._tissue)

    @overload
    def __getitem__(self, index: int) -> KnownImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KnownImage]: ...
    def __getitem__(self, index: int | slice) -> KnownImage | Sequence[KnownImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        centres = self._centres[index]
        return from_drawn(
            DrawnSpine(
                tissue=np.array(self._tissue[index]),
                level=np.array(self._level[index]),
                centres_xyl=centres[np.isfinite(centres[:, 0])],
            )
        )


def _fill(folder: Path, count: int, seed: int, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [
        ("tissue", np.uint8, _SHAPE),
        ("level", np.uint8, _SHAPE),
        ("centres", np.float32, (_MOST_CENTRES, 3)),
    ]
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(count, *shape))
        for name, kind, shape in kinds
    ]
    drawn = map_in_processes(_draw, range(seed, seed + count), workers)
    for index, spine in enumerate(tqdm(drawn, total=count, unit="spine")):
        arrays[0][index], arrays[1][index] = spine.tissue, spine.level
        arrays[2][index] = np.nan
        arrays[2][index, : len(spine.centres_xyl)] = spine.centres_xyl
    for array in arrays:
        array.flush()


def _draw(seed: int) -> DrawnSpine:
    cv2.setNumThreads(1)
    return draw_spine(np.random.default_rng(seed))


def load_phantoms(folder: Path, *, count: int, seed: int, workers: int = 1) -> list[KnownImage]:
    """Sagittal slices of the three-dimensional phantom, made where the folder has none."""
    path = folder / f"phantoms-{seed}-{count}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = map_in_processes(_phantom, range(seed, seed + count), workers)
        made = list(tqdm(drawn, total=count, unit="phantom"))
        hu, dense, level, centres = (np.stack(part) for part in zip(*made, strict=True))
        np.savez_compressed(path, hu=hu, dense=dense, level=level, centres=centres)
    with np.load(path) as held:
        parts = [held[name] for name in ("hu", "dense", "level", "centres")]
    return [
        KnownImage(
            pixels=hu,
            contrast="hu",
            dense=dense,
            level=level,
            centres_xyl=centres[np.isfinite(centres[:, 0])],
        )
        for hu, dense, level, centres in zip(*parts, strict=True)
    ]


def _phantom(
    seed: int,
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    phantom = make_sagittal_slice(
        random_parameters(rng),
        x_mm=float(rng.normal(0, 5)),
        shape_hw=_PHANTOM_SHAPE,
        spacing_mm=(1.0, 1.0),
        rng=rng,
    )
    masks = phantom.masks
    dense = np.zeros(_PHANTOM_SHAPE, np.uint8)
    level = np.full(_PHANTOM_SHAPE, NO_LEVEL, np.uint8)
    for name, members in (
        ("canal", ("canal",)),
        ("disc", ("disc",)),
        ("sacrum", ("sacrum",)),
        ("body", LEVEL_NAMES[:-1]),
    ):
        for member in members:
            if member in masks:
                dense[masks[member]] = TISSUE_CLASSES.index(name)
    if "sacrum" in masks:
        level[masks["sacrum"]] = S1 + 1
    centres = np.full((_MOST_CENTRES, 3), np.nan, np.float32)
    row_of = np.full(_PHANTOM_SHAPE[0], np.nan)
    for number, name in enumerate(LEVEL_NAMES):
        mask = masks.get(name)
        if mask is None or not mask.any():
            continue
        level[mask] = level_index(name)
        rows, columns = np.nonzero(mask)
        row_of[rows] = level_index(name)
        if rows.min() > 8 and rows.max() < _PHANTOM_SHAPE[0] - 8:
            centres[number] = columns.mean(), rows.mean(), level_index(name)
    # A disc goes with the body above it.
    disc = dense == TISSUE_CLASSES.index("disc")
    above = np.where(np.isfinite(row_of), row_of, -1.0)
    last = np.maximum.accumulate(above)
    level[disc] = np.clip(np.broadcast_to(last[:, None], disc.shape)[disc], 0, S1).astype(np.uint8)
    return phantom.hu, dense, level, centres
