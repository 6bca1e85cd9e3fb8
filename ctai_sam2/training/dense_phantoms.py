"""Axial phantoms for the dense head: the ordinary ones, and those whose kind went wrong on strangers' CTs."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ctai_sam2.phantom import Body, Label, PhantomParameters, random_parameters, render_hu
from ctai_sam2.training.bank import label_axial_square, load_drawn

KINDS: Final = ("ordinary", "thin", "unenhanced", "wasted", "muscular", "stout")
"""Kinds of bodies, drawn with equal chances but ``ordinary`` and ``thin``, which come twice as often."""

FURTHER_KINDS: Final = ("upper", "swollen")
"""Drawn in addition for a further training: L1 to L2 with ribs and their cartilages in the wall; wasting
with ascites, oedema and fluid between the muscles."""

HELD_BACK_KIND: Final = "coarse"
"""Never drawn for training: loud, blurred, streaky and cut-off scans, to try the confidence on."""

_WEIGHTS: Final = (2, 2, 1, 1, 1, 1)
_AIR_HU: Final = -1024


def hard_parameters(rng: np.random.Generator, kind: str | None = None) -> PhantomParameters:
    """Draw a patient of one of `KINDS`, with porous bone, small gaps and uneven sides now and then.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    kind : str, optional
        Instead of one drawn; also `HELD_BACK_KIND`.
    """
    if kind is None:
        kind = KINDS[int(rng.choice(len(KINDS), p=np.asarray(_WEIGHTS) / sum(_WEIGHTS)))]
    p = random_parameters(rng, phase="unenhanced" if kind == "unenhanced" or rng.uniform() < 0.2 else None)
    changes: dict[str, float] = {}
    if kind == "thin":
        # Little fat anywhere: organs touch the wall and the psoas.
        sat = rng.uniform(2.0, 10.0)
        changes |= {
            "wall_half_width_mm": rng.uniform(95, 130),
            "wall_front_mm": rng.uniform(50, 80),
            "visceral_share": rng.uniform(0.0, 0.2),
            "sat_front_mm": sat * rng.uniform(0.7, 1.3) + 1,
            "sat_side_mm": sat * rng.uniform(0.6, 1.2) + 1,
            "sat_back_mm": sat * rng.uniform(0.5, 1.2) + 1,
        }
    elif kind == "wasted":
        left = rng.uniform(0.45, 0.8)
        changes |= _shrink_muscles(p, left)
        changes |= {
            "imat_share": rng.uniform(0.1, 0.45),
            "muscle_hu": max(-15.0, p.muscle_hu - rng.uniform(5, 30)),
        }
        changes["oedema"] = rng.uniform(0, 1) if rng.uniform() < 0.4 else 0.0
        changes["ascites_mm"] = rng.uniform(5, 60) if rng.uniform() < 0.4 else 0.0
    elif kind == "muscular":
        more = rng.uniform(1.05, 1.4)
        for name, high in (
            ("wall_muscle_mm", 30.0), ("rectus_mm", 20.0), ("psoas_half_width_mm", 26.0),
            ("psoas_half_depth_mm", 34.0), ("erector_half_depth_mm", 34.0), ("quadratus_half_depth_mm", 15.0),
        ):  # fmt: skip
            changes[name] = min(high, getattr(p, name) * more)
    elif kind == "stout":
        changes |= {
            "wall_half_width_mm": rng.uniform(150, 190), "wall_front_mm": rng.uniform(100, 160),
            "visceral_share": rng.uniform(0.6, 1.0), "sat_front_mm": rng.uniform(15, 60),
        }  # fmt: skip
    elif kind == "upper":
        changes |= {
            "rib_drop_mm": rng.uniform(15, 75), "wall_muscle_mm": rng.uniform(7.0, 15.0),
            "rectus_mm": rng.uniform(4.0, 10.0), "visceral_share": rng.uniform(0.0, 0.8), "ascites_mm": 0.0,
            "cortex_hu": rng.uniform(350, 900), "trabecular_hu": rng.uniform(60, 280),
        }  # fmt: skip
    elif kind == "swollen":
        left = rng.uniform(0.4, 0.8)
        changes |= _shrink_muscles(p, left)
        changes |= {
            "imat_share": rng.uniform(0.05, 0.35), "muscle_hu": rng.uniform(10, 55),
            "oedema": rng.uniform(0.3, 1), "ascites_mm": rng.uniform(8, 80),
            "erector_cleft_mm": rng.uniform(0.5, 5), "visceral_share": rng.uniform(0.0, 0.8),
            "arms_down": bool(rng.uniform() < 0.35),
            "rib_drop_mm": rng.uniform(15, 60) if rng.uniform() < 0.3 else 0.0,
        }  # fmt: skip
    elif kind == HELD_BACK_KIND:
        changes |= {
            "noise_hu": rng.uniform(20, 55), "blur_mm": rng.uniform(0.9, 2.0),
            "streak_hu": rng.uniform(5, 30),
            "field_of_view_mm": rng.uniform(280, 420), "muscle_hu": rng.uniform(5, 50),
            "fat_hu": rng.uniform(-115, -80), "oedema": rng.uniform(0, 1),
        }  # fmt: skip
    if rng.uniform() < 0.3:
        changes |= {"trabecular_hu": rng.uniform(30, 130), "cortex_hu": rng.uniform(200, 450)}
    if rng.uniform() < 0.5:
        # The psoas lies close to the vertebra on real slices.
        changes["psoas_gap_mm"] = rng.uniform(0.2, 1.0)
    if rng.uniform() < 0.25:
        changes["asymmetry"] = float(np.clip(rng.normal(0, 0.12), -0.25, 0.25))
    changes["warp_mm"] = rng.uniform(0.5, 5.0)
    return dataclasses.replace(p, **changes)  # type: ignore[arg-type]


def _shrink_muscles(p: PhantomParameters, left: float) -> dict[str, float]:
    """Leave a share of the muscles' thickness, more of the psoas', down to what can still be seen."""
    least = {
        "wall_muscle_mm": 4.0, "rectus_mm": 2.0, "psoas_half_width_mm": 5.0,
        "psoas_half_depth_mm": 7.0, "erector_half_depth_mm": 10.0, "quadratus_half_depth_mm": 3.0,
    }  # fmt: skip
    return {
        name: max(low, getattr(p, name) * (left**0.5 if "psoas" in name else left))
        for name, low in least.items()
    }


def draw_hard_phantom(
    *, size_px: int, seed: int, number: int, kind: str | None = None
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Draw one axial phantom between L2 and L4, discs and end plates among them.

    Parameters
    ----------
    size_px : int
        Side in pixels; the square is a quarter longer than the body.
    seed, number : int
        Together decide everything.
    kind : str, optional
        Instead of one drawn.

    Returns
    -------
    hu : numpy.ndarray
        int16 (size_px, size_px).
    labels : numpy.ndarray
        uint8, same shape; values of `ctai_sam2.phantom.Label`.
    """
    rng = np.random.default_rng((seed, number, 7))
    parameters = hard_parameters(rng, kind)
    body = Body(parameters)
    pitch = parameters.vertebra_height_mm + parameters.disc_height_mm
    # Kinds of their own levels: ribs are above L2 only.
    lowest, highest = {"upper": (1.0, 2.5), "swollen": (-0.6, 2.4)}.get(kind or "", (-1.7, 1.7))
    z_mm = float(rng.uniform(lowest, highest) * pitch)
    labels, beyond, side_mm = label_axial_square(body, z_mm, size_px)
    spacing_mm = side_mm / size_px
    hu = render_hu(labels, parameters, spacing_mm=(spacing_mm, spacing_mm), rng=rng)
    hu[beyond] = _AIR_HU
    labels[beyond] = Label.AIR
    return hu, labels


def load_hard_bank(
    folder: Path,
    *,
    count: int,
    size_px: int,
    seed: int,
    kinds: tuple[str, ...] = (),
    processes: int = 2,
) -> tuple[list[npt.NDArray[np.int16]], list[npt.NDArray[np.uint8]]]:
    """Return phantoms as (HU, labels), drawing those that the folder does not hold yet.

    Parameters
    ----------
    folder : pathlib.Path
        Cache; created.
    count, size_px, seed : int
        How many, their side in pixels, and their seed.
    kinds : tuple of str
        Drawn in turn; without them `KINDS` at random.
    processes : int
        Workers.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    """
    drawn = load_drawn(
        folder,
        f"{'-'.join(('dense', *kinds))}-{seed}-{size_px}",
        "labels",
        partial(_draw_in_turn, size_px=size_px, seed=seed, kinds=kinds),
        count=count,
        processes=processes,
    )
    return [hu for hu, _ in drawn], [labels for _, labels in drawn]


def _draw_in_turn(
    *, number: int, size_px: int, seed: int, kinds: tuple[str, ...]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    kind = kinds[number % len(kinds)] if kinds else None
    return draw_hard_phantom(size_px=size_px, seed=seed, number=number, kind=kind)
