"""What the dense head learns from: phantoms with exact labels, real slices with partial ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch

from ctai_sam2.models.dense_head import DENSE_CLASSES, DENSE_ZOOM
from ctai_sam2.phantom import FAT_STREAK, Label
from ctai_sam2.training.augmentation import frame_at_random, vary_appearance
from ctai_sam2.training.bank import LabelledImage, axial_square, read_case
from ctai_sam2.training.dense_classes import allowed_classes, bits, label_table
from ctai_sam2.training.square_image import resample_square

_NOTHING: Final = np.zeros((0, 0), dtype=bool)
_ORGANS: Final = (
    Label.LIVER, Label.SPLEEN, Label.PANCREAS, Label.AORTA, Label.CAVA, Label.BOWEL_WALL, Label.CRUS,
    Label.VESSEL,
)  # fmt: skip
_KIDNEYS: Final = (
    Label.KIDNEY_LEFT, Label.KIDNEY_RIGHT, Label.KIDNEY_MEDULLA_LEFT, Label.KIDNEY_MEDULLA_RIGHT,
)  # fmt: skip


def as_bank_image(hu: npt.NDArray[np.int16], codes: npt.NDArray[Any], source: str) -> LabelledImage:
    """Wrap an axial image and its codes: phantom labels, or bit masks of allowed classes."""
    return LabelledImage(hu=hu, codes=codes, members=_NOTHING, names=(), plane="axial", source=source)


def read_partial_case(
    hu: npt.NDArray[np.int16],
    spacing_mm: tuple[float, float],
    masks: dict[str, npt.NDArray[np.bool_]],
    *,
    size_px: int = 512,
) -> LabelledImage:
    """Frame a real slice and say what its masks leave possible; see `allowed_classes`."""
    square = axial_square(hu, spacing_mm)
    framed = resample_square(hu, square=square, spacing_mm=spacing_mm, size_px=size_px)
    names = {}
    for name, mask in masks.items():
        part = resample_square(
            (mask * 1000).astype(np.int16), square=square, spacing_mm=spacing_mm, size_px=size_px, fill=0
        )
        names[name] = part >= 500
    return as_bank_image(framed, allowed_classes(framed, names), "case")


def load_partial_cases(
    folder: Path, *, held_out: Sequence[str] = (), size_px: int = 512
) -> list[LabelledImage]:
    """Read the axial slices with reference masks of a folder, psoas stacks among them.

    Parameters
    ----------
    folder : pathlib.Path
        As for `ctai_sam2.training.bank.load_real_cases`.
    held_out : sequence of str
        Files whose name contains one of these are left out.
    size_px : int
        Side in pixels.
    """
    images = []
    for path in sorted(folder.glob("*.npz")):
        if any(word in path.name for word in held_out):
            continue
        hu, spacing_mm, plane, masks = read_case(path)
        if not plane.startswith("axial"):
            continue
        masks = _as_parts(masks)
        if hu.ndim == 3:
            # Neighbours of a stack teach little more than every third slice does.
            for index in range(0, len(hu), 3):
                parts = {name: mask[index] for name, mask in masks.items() if name.startswith("psoas_")}
                images.append(read_partial_case(hu[index], spacing_mm, parts, size_px=size_px))
            continue
        images.append(read_partial_case(hu, spacing_mm, masks, size_px=size_px))
    return images


_PARTS: Final = {
    "organ": ("liver", "kidney", "colon", "small_bowel", "aorta", "inferior_vena_cava", "spleen", "pancreas"),
    "paraspinal": ("autochthon",),
    "bone": ("vertebra_", "spinal_cord"),
}


def _as_parts(masks: dict[str, npt.NDArray[np.bool_]]) -> dict[str, npt.NDArray[np.bool_]]:
    """Unite further masks of a case to those that `allowed_classes` knows."""
    parts = {
        name: mask
        for name, mask in masks.items()
        if name in ("psoas_left", "psoas_right", "muscle", "vertebra", "sat", "vat")
    }
    for part, words in _PARTS.items():
        members = [mask for name, mask in masks.items() if name.startswith(words)]
        if members:
            parts[part] = np.any(members, axis=0)
    return parts


def spine_xy(image: LabelledImage, *, partial: bool) -> tuple[float, float] | None:
    """Return the middle of vertebral body or disc in pixels, or that between both psoas; None without them.

    Parameters
    ----------
    image : LabelledImage
        A phantom, or a real slice with the classes its masks leave possible.
    partial : bool
        Whether it is the latter.
    """
    if partial:
        spine = (image.codes | bits("vertebra", "disc")) == bits("vertebra", "disc")
        where = spine if spine.any() else image.codes == bits("psoas")
    else:
        where = np.isin(
            label_table()[image.codes], [DENSE_CLASSES.index(name) for name in ("vertebra", "disc")]
        )
    if not where.any():
        return None
    rows, columns = np.nonzero(where)
    return float(columns.min() + columns.max()) / 2, float(rows.mean())


def recolour(
    hu: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], *, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Give each tissue of a phantom another density, organs often that of muscle.

    Parameters
    ----------
    hu : numpy.ndarray
        float32 (N, N).
    labels : numpy.ndarray
        uint8 (N, N), values of `Label`.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        float32 (N, N); borders stay as soft as they were.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    means = np.bincount(labels.ravel(), weights=hu.ravel(), minlength=256) / np.maximum(counts, 1)
    shift = np.zeros(256, dtype=np.float32)
    muscles = [int(label) for label in range(Label.RECTUS_LEFT, Label.PSOAS_RIGHT + 1)]
    had = float(means[muscles][counts[muscles] > 0].mean()) if counts[muscles].any() else 50.0
    muscle = float(np.clip(rng.normal(42, 16), -5, 85))
    for label in muscles:
        shift[label] = muscle - had + rng.normal(0, 5)
    fat_shift = rng.normal(0, 10)
    for label in (Label.SAT, Label.VAT, Label.INTERMUSCULAR_FAT):
        shift[label] = fat_shift + rng.normal(0, 6)
    # The renal pelvis holds fat or urine, ascites more or less protein; both may look like muscle.
    shift[Label.KIDNEY_SINUS] = rng.uniform(0, 150) if rng.uniform() < 0.6 else fat_shift
    shift[Label.ASCITES] = rng.normal(8, 14)
    shift[Label.CARTILAGE] = rng.normal(0, 35)
    if rng.uniform() < 0.15:
        shift[Label.INTERMUSCULAR_FAT] += rng.uniform(10, 80)
    if rng.uniform() < 0.15:
        shift[Label.SAT] += rng.uniform(5, 50)
    if rng.uniform() < 0.2:
        shift[Label.VAT] += rng.uniform(5, 70)
    shift[[label | FAT_STREAK for label in muscles]] = fat_shift + rng.normal(0, 10)
    camouflage = rng.uniform() < 0.5
    for label in (*_ORGANS, *_KIDNEYS, Label.BOWEL_FLUID):
        spread = 8.0 if camouflage else 35.0
        wanted = muscle + rng.normal(0, spread) if rng.uniform() < 0.7 else means[label] + rng.normal(0, 30)
        shift[label] = wanted - means[label]
    if rng.uniform() < 0.6:
        shift[list(_KIDNEYS)] = shift[_KIDNEYS[0]]
    bone = rng.normal(0, 60)
    for label in range(Label.BODY_CORTEX, Label.DISC):
        shift[label] = bone
    for label in (Label.BONE, Label.BONE_MARROW, Label.SACRUM, Label.SACRUM_CORTEX):
        shift[label] = bone + rng.normal(0, 30)
    for label in range(Label.DISC, Label.CRUS):
        shift[label] = rng.normal(0, 20)
    shift[Label.SKIN] = rng.normal(0, 15)
    moved = cv2.GaussianBlur(shift[labels], (0, 0), 0.8)
    if rng.uniform() < 0.5:
        # Streaky muscle, hazy fat, mottled organs: patches of some millimetres.
        grain = rng.standard_normal(hu.shape, dtype=np.float32)
        size = float(rng.uniform(1.0, 4.0))
        strength = np.abs(rng.normal(0, 12, 256)).astype(np.float32)
        moved = moved + strength[labels] * cv2.GaussianBlur(grain, (0, 0), size) * np.float32(2 * size)
    result: npt.NDArray[np.float32] = (hu + moved).astype(np.float32)
    return result


_KNOTS_HU: Final = (-1024.0, -105.0, -30.0, 10.0, 45.0, 75.0, 130.0, 300.0, 1500.0)
_SPREAD_HU: Final = (0.0, 12.0, 14.0, 12.0, 14.0, 16.0, 25.0, 60.0, 120.0)


def remap_densities(hu: npt.NDArray[np.float32], *, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Bend the scale of densities at random, for slices whose tissues are not all known.

    Fat, fluid, muscle, vessels and bone move each by themselves, as with another contrast phase or tube
    voltage; what is denser than something else stays so.

    Parameters
    ----------
    hu : numpy.ndarray
        float32 (N, N).
    rng : numpy.random.Generator
        Source of randomness.
    """
    moved = np.maximum.accumulate(np.asarray(_KNOTS_HU) + rng.normal(0, 1, len(_KNOTS_HU)) * _SPREAD_HU)
    return np.interp(hu, _KNOTS_HU, moved).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DenseBatches(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """An endless stream of (grey, targets, partial).

    Attributes
    ----------
    phantoms, real : sequence of LabelledImage
        Codes are phantom labels, and bit masks of allowed classes.
    size_px, images : int
        Side of the input, images per batch.
    real_share : float
        Share of real slices, where there are any.
    seed, first_step : int
        Batch ``n`` depends on ``(seed, n)`` only.
    zoom_share : float
        Share of images that are cut out about the spine, as `DENSE_ZOOM` says.
    """

    phantoms: Sequence[LabelledImage]
    real: Sequence[LabelledImage]
    size_px: int
    images: int
    real_share: float
    seed: int
    first_step: int = 0
    zoom_share: float = 0.0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        start, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        step = self.first_step + start
        while True:
            yield self.batch(step)
            step += stride

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return one batch.

        Returns
        -------
        grey : torch.Tensor
            float32 (B, 1, N, N), 0 to 1.
        targets : torch.Tensor
            uint8 (B, K, N / 2, N / 2): share of the four pixels that are of the class, in quarters;
            for a partial image whether the class is allowed at any of the four.
        partial : torch.Tensor
            bool (B,).
        """
        rng = np.random.default_rng((self.seed, step, 11))
        greys, targets, partial = [], [], []
        for _ in range(self.images):
            use_real = bool(self.real) and rng.uniform() < self.real_share
            bank = self.real if use_real else self.phantoms
            image = bank[int(rng.integers(len(bank)))]
            bend = 0.035 if rng.uniform() < 0.3 else 0.014
            zoomed = self.zoom_share > 0 and rng.uniform() < self.zoom_share
            about_xy = spine_xy(image, partial=use_real) if zoomed else None
            hu, codes, _ = frame_at_random(
                image,
                size_px=self.size_px,
                rng=rng,
                most_bend=bend,
                zoom=1.0 if about_xy is None else DENSE_ZOOM,
                about_xy=about_xy,
            )
            if not use_real and rng.uniform() < 0.7:
                hu = recolour(hu, codes, rng=rng)
            elif use_real and rng.uniform() < 0.7:
                hu = remap_densities(hu, rng=rng)
            greys.append(vary_appearance(hu, plane="axial", rng=rng) / np.float32(255))
            classes = np.arange(len(DENSE_CLASSES))[:, None, None]
            if use_real:
                member = (codes[None].astype(np.int32) >> classes) & 1
            else:
                member = label_table()[codes][None] == classes
            folded = member.astype(np.uint8).reshape(len(classes), self.size_px // 2, 2, self.size_px // 2, 2)
            targets.append(folded.max((2, 4)) * 4 if use_real else folded.sum((2, 4), dtype=np.uint8))
            partial.append(use_real)
        return (
            torch.from_numpy(np.stack(greys))[:, None],
            torch.from_numpy(np.stack(targets).astype(np.uint8)),
            torch.tensor(partial),
        )
