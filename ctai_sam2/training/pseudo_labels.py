"""Labels for slices that nobody has outlined: what a trained model says of them wherever it is of one mind.

A pixel gets a class where several views of the slice, the slices above and below and the masks of the one
click agree. Where they do not, the classes that some view saw stay possible, or all, and the loss says
nothing of them: a model taught by its own guesses would only grow surer of its errors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ctai_sam2.errors import WeightsError
from ctai_sam2.files.atomic import atomic_write
from ctai_sam2.image.hashing import hash_content
from ctai_sam2.image.masks import grow
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.io import read_study
from ctai_sam2.models.dense_head import DENSE_CLASSES, class_chances
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.registry import EMBEDDED, ModelStore
from ctai_sam2.models.sam2_network import NANO_CONFIG
from ctai_sam2.segmentation import AxialSession
from ctai_sam2.training.bank import NOMINAL_SHARE, LabelledImage, axial_square
from ctai_sam2.training.dense_batches import as_bank_image
from ctai_sam2.training.dense_classes import bits
from ctai_sam2.training.square_image import resample_square
from ctai_sam2.types import CTSlice, CTVolume, Mask, Window

_LOGGER = logging.getLogger(__name__)

EVERY: Final = (1 << len(DENSE_CLASSES)) - 1
"""Allowed where nothing is known."""

_VIEWS: Final[tuple[tuple[float, bool, Window], ...]] = (
    (1.0, False, Window(level=40, width=400)),
    (1.0, True, Window(level=40, width=400)),
    (0.93, False, Window(level=40, width=400)),
    (1.08, True, Window(level=50, width=350)),
)
_SURE: Final = 0.7
_POSSIBLE: Final = 0.05
_STEP_MM: Final = 2.4
_NEIGHBOUR_MM: Final = 6.0
_SLACK_MM: Final = 4.0
_MOST_DOUBT: Final = 0.4
_FAT_HU: Final = -200
_SIDES: Final = ("psoas_left", "psoas_right")
_MUSCLES: Final = ("psoas", "quadratus", "paraspinal", "wall")


def load_unlabelled(
    study: Path, *, weights: Path | None = None, cache: Path, size_px: int = 512
) -> list[LabelledImage]:
    """Label the abdominal slices of a study with a trained model.

    Parameters
    ----------
    study : pathlib.Path
        As for `ctai_sam2.io.read_study`.
    weights : pathlib.Path, optional
        Weights with a dense head instead of those that come with the package.
    cache : pathlib.Path
        Folder that keeps the labels; created. They hold patients' images: keep them where these may be.
    size_px : int
        Side in pixels.

    Returns
    -------
    list of LabelledImage
        Codes are bit masks of allowed classes.

    Raises
    ------
    WeightsError
        If the weights have no dense head.
    """
    weights = weights or ModelStore().locate(EMBEDDED)
    with LocalSegmenter(weights, config=NANO_CONFIG) as segmenter:
        head = segmenter.dense_head
        if head is None:
            raise WeightsError("the weights have no dense head", received=weights.name)
        volume = read_study(study)
        # By content: folders of two patients may have one name, and a name may be a patient's.
        digest = hash_content(volume.hu_zyx, volume.affine, segmenter.identity.weights_sha256)[:16]
        cached = cache / f"unlabelled-{digest}-{size_px}.npz"
        if not cached.exists():
            found = list(label_slices(volume, segmenter, head, size_px=size_px))
            empty = np.zeros((0, size_px, size_px))
            hu = np.stack([one.hu for one in found]) if found else empty.astype(np.int16)
            codes = np.stack([one.codes for one in found]) if found else empty.astype(np.uint16)
            with atomic_write(cached) as file:
                np.savez_compressed(file, hu=hu, codes=codes)
    with np.load(cached, allow_pickle=False) as entry:
        return [
            as_bank_image(hu, codes, "unlabelled")
            for hu, codes in zip(entry["hu"], entry["codes"], strict=True)
        ]


def label_slices(
    volume: CTVolume, segmenter: LocalSegmenter, head: torch.nn.Module, *, size_px: int
) -> Iterator[LabelledImage]:
    """Label slices a few millimetres apart; those that fail a gate or leave much in doubt are left out.

    Parameters
    ----------
    volume : CTVolume
        The study.
    segmenter : LocalSegmenter
        Does the one click.
    head : torch.nn.Module
        The dense head of its network.
    size_px : int
        Side in pixels.
    """
    positions = np.asarray(volume.slice_positions_mm, dtype=np.float64)
    kept = looked = 0
    for index in _spread(positions, _STEP_MM):
        ct_slice = volume.axial(index)
        judged = AxialSession.open(ct_slice, segmenter).judged
        looked += 1
        if judged is None or judged.gates or not all(judged.masks[side].any() for side in _SIDES):
            continue
        square = axial_square(ct_slice.hu, ct_slice.spacing_mm)
        views = look(head, _cut_square(ct_slice, square, size_px))
        around = [
            look(head, _cut_square(volume.axial(other), square, size_px), views=1)[0].argmax(axis=0)
            for other in _beside(positions, index)
        ]
        masks = {
            name: _on_square(judged.masks[name], ct_slice, square, size_px) for name in (*_SIDES, "muscle")
        }
        codes = settle(views, around, masks, pixel_mm=square[2] / size_px)
        hu = _cut_square(ct_slice, square, size_px)
        doubt = float((np.bitwise_count(codes) > 1)[hu > _FAT_HU].mean())
        if doubt > _MOST_DOUBT:
            continue
        kept += 1
        yield as_bank_image(hu, codes, "unlabelled")
    _LOGGER.info("%d of %d slices labelled", kept, looked)


def look(
    head: torch.nn.Module, hu: npt.NDArray[np.int16], *, views: int = len(_VIEWS)
) -> npt.NDArray[np.float32]:
    """Return each class's probability as several views of a slice give it.

    Parameters
    ----------
    head : torch.nn.Module
        A `DenseUNet` in evaluation mode, on any device.
    hu : numpy.ndarray
        int16 (N, N), a quarter longer than the body.
    views : int
        How many of the views: sizes, windows, mirrored or not.

    Returns
    -------
    numpy.ndarray
        float32 (views, classes, N, N).
    """
    side = len(hu)
    device = next((one.device for one in head.parameters()), torch.device("cpu"))
    found = []
    for scale, mirrored, window in _VIEWS[:views]:
        share = np.float32(NOMINAL_SHARE * scale)
        zoom = np.array(
            [[share, 0, (1 - share) * (side - 1) / 2], [0, share, (1 - share) * (side - 1) / 2]], np.float32
        )
        grey = cv2.warpAffine(
            window_to_uint8(hu, window).astype(np.float32), zoom, (side, side), flags=cv2.WARP_INVERSE_MAP
        )
        grey = grey[:, ::-1] if mirrored else grey
        with torch.inference_mode():
            shown = torch.from_numpy(grey.copy())[None, None].to(device) / 255
            given = class_chances(head, shown)[0].cpu().numpy()
        given = given[:, :, ::-1] if mirrored else given
        # Beyond the view nothing is seen, and there is nothing but air.
        back = [cv2.warpAffine(np.ascontiguousarray(one), zoom, (side, side)) for one in given]
        back[0] += 1 - np.sum(back, axis=0)
        found.append(back)
    return np.asarray(found, dtype=np.float32)


def settle(
    views: npt.NDArray[np.float32],
    around: Sequence[npt.NDArray[np.int64]],
    masks: dict[str, Mask],
    *,
    pixel_mm: float,
) -> npt.NDArray[np.uint16]:
    """Say of each pixel which classes it may be.

    Parameters
    ----------
    views : numpy.ndarray
        (V, classes, N, N), see `look`.
    around : sequence of numpy.ndarray
        (N, N) each: classes on the slices above and below.
    masks : dict of str to numpy.ndarray
        ``psoas_left``, ``psoas_right`` and ``muscle`` of the one click, bool (N, N).
    pixel_mm : float
        Side of a pixel.

    Returns
    -------
    numpy.ndarray
        uint16 (N, N), bit ``i`` for class ``i``.
    """
    mean = views.mean(axis=0)
    chosen = mean.argmax(axis=0)
    bit = (1 << np.arange(len(DENSE_CLASSES))).astype(np.uint16)
    possible = ((mean >= _POSSIBLE) * bit[:, None, None]).sum(axis=0).astype(np.uint16)
    agreed = (views.argmax(axis=1) == chosen).all(axis=0) & (mean.max(axis=0) >= _SURE)
    codes: npt.NDArray[np.uint16] = np.where(agreed, bit[chosen], possible | bit[chosen]).astype(np.uint16)
    if around:
        near = np.zeros(chosen.shape, dtype=bool)
        for index in np.unique(chosen):
            seen = np.any([other == index for other in around], axis=0)
            near |= (chosen == index) & grow(seen, _SLACK_MM, (pixel_mm, pixel_mm))
        codes[~near] = EVERY
    psoas = np.any([masks[side] for side in _SIDES], axis=0)
    groups = np.isin(chosen, [DENSE_CLASSES.index(name) for name in _MUSCLES])
    # The one click knows more than the head alone: where the two differ it decides, or nothing is said.
    codes[groups & ~masks["muscle"]] = EVERY
    was_psoas = chosen == DENSE_CLASSES.index("psoas")
    codes[was_psoas & masks["muscle"] & ~psoas] = bits("quadratus", "paraspinal", "psoas")
    codes[psoas] = bits("psoas")
    edge = grow(psoas, 1.5 * pixel_mm, (pixel_mm, pixel_mm)) & ~psoas
    codes[edge & ~agreed] |= bits("psoas")
    return codes


def _spread(positions: npt.NDArray[np.float64], step_mm: float) -> Iterator[int]:
    """Yield slices at least a step apart."""
    last = -np.inf
    for index, position in enumerate(positions):
        if position - last >= step_mm:
            last = position
            yield index


def _beside(positions: npt.NDArray[np.float64], index: int) -> list[int]:
    """Return the nearest slices some millimetres above and below, as far as there are any."""
    found = []
    for direction in (-1, 1):
        apart = (positions - positions[index]) * direction
        there = np.flatnonzero((apart > 0.4 * _NEIGHBOUR_MM) & (apart <= 2 * _NEIGHBOUR_MM))
        if len(there):
            found.append(int(there[np.argmin(np.abs(apart[there] - _NEIGHBOUR_MM))]))
    return found


def _cut_square(ct_slice: CTSlice, square: tuple[float, float, float], size_px: int) -> npt.NDArray[np.int16]:
    return resample_square(ct_slice.hu, square=square, spacing_mm=ct_slice.spacing_mm, size_px=size_px)


def _on_square(mask: Mask, ct_slice: CTSlice, square: tuple[float, float, float], size_px: int) -> Mask:
    part = resample_square(
        (mask * 1000).astype(np.int16), square=square, spacing_mm=ct_slice.spacing_mm, size_px=size_px, fill=0
    )
    return part >= 500
