"""The numbers that describe one phantom patient and one scan of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from ctai_sam2.errors import InputError

Phase = Literal["unenhanced", "arterial", "portal_venous"]
Position = Literal["supine", "prone"]

PHASES: Final[tuple[Phase, ...]] = ("unenhanced", "arterial", "portal_venous")
POSITIONS: Final[tuple[Position, ...]] = ("supine", "prone")

LEVEL_NAMES: Final[tuple[str, ...]] = ("T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1")

STRESSORS: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "bent, discs gone": {"scoliosis_mm": 28.0, "disc_height_mm": 2.0},
        "ascites and hernia": {"ascites_mm": 45.0, "hernia_mm": 45.0},
        "fused": {"fused_discs": 4},
    }
)
"""What makes masks drift from slice to slice, as changes of a patient's parameters."""

# field -> (lowest, highest) value accepted.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "wall_half_width_mm": (90, 220),
    "wall_front_mm": (50, 200),
    "wall_back_mm": (35, 90),
    "wall_centre_y_mm": (-80, 0),
    "outline_exponent": (1.8, 3.5),
    "waist": (-0.2, 0.3),
    "skin_mm": (0.5, 5),
    "sat_front_mm": (2, 120),
    "sat_side_mm": (2, 120),
    "sat_back_mm": (2, 120),
    "back_notch_mm": (0, 25),
    "wall_muscle_mm": (4, 35),
    "rectus_mm": (2, 25),
    "rectus_half_width_mm": (15, 50),
    "linea_alba_mm": (2, 40),
    "psoas_half_width_mm": (5, 30),
    "psoas_half_depth_mm": (7, 40),
    "psoas_exponent": (1.8, 4),
    "psoas_y_mm": (-15, 20),
    "psoas_gap_mm": (0.2, 12),
    "psoas_bend": (0, 0.8),
    "psoas_tilt": (-0.8, 0.8),
    "erector_half_width_mm": (18, 55),
    "erector_half_depth_mm": (10, 40),
    "quadratus_half_width_mm": (6, 30),
    "quadratus_half_depth_mm": (3, 18),
    "asymmetry": (-0.25, 0.25),
    "vertebra_half_width_mm": (15, 34),
    "vertebra_half_depth_mm": (11, 25),
    "vertebra_height_mm": (16, 40),
    "vertebra_waist": (0, 0.25),
    "disc_height_mm": (2, 18),
    "endplate_hollow_mm": (0, 5),
    "cortex_mm": (0.4, 4),
    "lordosis_per_mm": (0, 0.005),
    "lordosis_apex_mm": (-60, 40),
    "sacral_tilt_deg": (10, 70),
    "scoliosis_mm": (-30, 30),
    "rotation_deg": (-20, 20),
    "warp_mm": (0, 5),
    "imat_share": (0, 0.5),
    "visceral_share": (0, 1),
    "muscle_hu": (-20, 90),
    "fat_hu": (-130, -70),
    "trabecular_hu": (20, 400),
    "cortex_hu": (200, 1200),
    "bowel_contrast_share": (0, 1),
    "bowel_gas_share": (0, 1),
    "noise_hu": (0, 100),
    "noise_grain_mm": (0.2, 4),
    "streak_hu": (0, 60),
    "blur_mm": (0, 3),
    "field_of_view_mm": (150, 1000),
    "padding_hu": (-3024, -1000),
    "erector_cleft_mm": (0, 6),
    "ascites_mm": (0, 80),
    "oedema": (0, 1),
    "hernia_mm": (0, 60),
    "stoma_mm": (0, 25),
    "metal_mm": (0, 5),
    "fused_discs": (0, 5),
    "rib_drop_mm": (0, 100),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhantomParameters:
    """One phantom patient, one scan.

    Lengths are in mm, angles in degrees, intensities in HU. The origin of the patient
    coordinates is the centre of the L3 vertebral body; axes are DICOM LPS (+x left, +y
    posterior, +z head). The defaults describe an average adult.

    Attributes
    ----------
    wall_half_width_mm, wall_front_mm, wall_back_mm, wall_centre_y_mm : float
        The outer surface of the muscular wall at L3: half-axes to the side, the front and
        the back of a two-sided superellipse, and the y of its centre.
    outline_exponent : float
        Exponent of that superellipse and of the skin.
    waist : float
        How much wider the trunk is 120 mm above and below L3, as a share.
    skin_mm, sat_front_mm, sat_side_mm, sat_back_mm, back_notch_mm : float
        Thickness of skin and of subcutaneous fat; depth of the furrow over the spine.
    wall_muscle_mm, rectus_mm, rectus_half_width_mm, linea_alba_mm : float
        Thickness of the lateral wall and of the rectus, half-width of one rectus, width of
        the linea alba.
    psoas_half_width_mm, psoas_half_depth_mm, psoas_exponent : float
        Half-axes and exponent of the psoas at L3, mean of both sides.
    psoas_y_mm, psoas_gap_mm : float
        y of its centre, and its least distance from the vertebral body.
    psoas_bend, psoas_tilt : float
        Area-preserving shear of its outline, as shares of its half-width: bean shape, and
        the posterior end standing further lateral than the anterior end.
    erector_half_width_mm, erector_half_depth_mm : float
        Half-axes of the paraspinal compartment (erector spinae with multifidus).
    quadratus_half_width_mm, quadratus_half_depth_mm : float
        Half-axes of the quadratus lumborum.
    asymmetry : float
        Share by which the left muscles are larger than the mean (right: smaller).
    vertebra_half_width_mm, vertebra_half_depth_mm, vertebra_height_mm : float
        L3 vertebral body at its endplates; the other levels follow.
    vertebra_waist : float
        Share by which the middle of a body is narrower than its endplates.
    disc_height_mm, endplate_hollow_mm, cortex_mm : float
        Height of the discs at their rim; depth to which they sink into the endplates;
        thickness of the bright bony shell.
    lordosis_per_mm, lordosis_apex_mm : float
        The spine's centre line near the apex is ``y = lordosis_per_mm * (z - lordosis_apex_mm)**2``,
        shifted so that it passes through the origin; farther off it swings back (see `Spine`).
    sacral_tilt_deg, scoliosis_mm, rotation_deg, warp_mm : float
        Tilt of S1, lateral bow of the spine, rotation about z, amplitude of a smooth
        area-preserving irregularity of the whole trunk.
    imat_share : float
        Share of muscle taken by fatty streaks.
    visceral_share : float
        0: bowel fills the cavity; 1: nearly all of it is fat.
    phase : {"unenhanced", "arterial", "portal_venous"}
        Contrast phase.
    muscle_hu, fat_hu, trabecular_hu, cortex_hu : float
        Mean intensities.
    bowel_contrast_share, bowel_gas_share : float
        Share of bowel loops with oral contrast, and with gas.
    noise_hu, noise_grain_mm, streak_hu, blur_mm : float
        Standard deviation and grain of the noise, amplitude of horizontal streaks, and
        standard deviation of the in-plane point spread.
    position : {"supine", "prone"}
        Which side lies on the table.
    table : bool
        Whether the table is in the image.
    field_of_view_mm : float
        Diameter of the reconstructed circle, centred on the trunk; beyond it is air.
    padding_hu : float
        Value beyond the circle: -1000, -1024, or a scanner's padding such as -2000.
    erector_cleft_mm : float
        Width of the fatty clefts that part the paraspinal compartment into its columns.
    ascites_mm : float
        Depth to which free fluid lines the peritoneal cavity.
    oedema : float
        0: dry subcutaneous fat; 1: brighter, with a net of fluid.
    hernia_mm, stoma_mm : float
        Radius of a hernial sac in front of the linea alba, and of a bowel loop led through one
        rectus to the skin; 0: none.
    metal_mm : float
        Radius of rods behind and screws in the pedicles, with their streaks; 0: none.
    fused_discs : int
        So many lumbar discs, from the one above L5 upwards, are bridged by bone that swells out around them.
    arms_down : bool
        Whether the forearms lie next to the trunk.
    rib_drop_mm : float
        How much lower than usual the ribs end, as in a deep chest or a short loin; then with their
        cartilages in front.
    detail_seed : int
        Seed of everything not named above: bowel loops, vessels, streaks, irregularities.
    """

    wall_half_width_mm: float = 142.0
    wall_front_mm: float = 92.0
    wall_back_mm: float = 60.0
    wall_centre_y_mm: float = -22.0
    outline_exponent: float = 2.25
    waist: float = 0.04
    skin_mm: float = 1.8
    sat_front_mm: float = 22.0
    sat_side_mm: float = 20.0
    sat_back_mm: float = 16.0
    back_notch_mm: float = 7.0
    wall_muscle_mm: float = 15.0
    rectus_mm: float = 9.0
    rectus_half_width_mm: float = 30.0
    linea_alba_mm: float = 8.0
    psoas_half_width_mm: float = 14.0
    psoas_half_depth_mm: float = 20.0
    psoas_exponent: float = 2.3
    psoas_y_mm: float = 4.0
    psoas_gap_mm: float = 1.5
    psoas_bend: float = 0.2
    psoas_tilt: float = 0.25
    erector_half_width_mm: float = 36.0
    erector_half_depth_mm: float = 22.0
    quadratus_half_width_mm: float = 16.0
    quadratus_half_depth_mm: float = 7.0
    asymmetry: float = 0.0
    vertebra_half_width_mm: float = 23.0
    vertebra_half_depth_mm: float = 16.5
    vertebra_height_mm: float = 27.0
    vertebra_waist: float = 0.09
    disc_height_mm: float = 10.0
    endplate_hollow_mm: float = 1.0
    cortex_mm: float = 1.5
    lordosis_per_mm: float = 0.0020
    lordosis_apex_mm: float = -5.0
    sacral_tilt_deg: float = 38.0
    scoliosis_mm: float = 0.0
    rotation_deg: float = 0.0
    warp_mm: float = 1.5
    imat_share: float = 0.06
    visceral_share: float = 0.45
    phase: Phase = "portal_venous"
    muscle_hu: float = 52.0
    fat_hu: float = -104.0
    trabecular_hu: float = 170.0
    cortex_hu: float = 520.0
    bowel_contrast_share: float = 0.3
    bowel_gas_share: float = 0.25
    noise_hu: float = 13.0
    noise_grain_mm: float = 0.8
    streak_hu: float = 2.0
    blur_mm: float = 0.6
    position: Position = "supine"
    table: bool = True
    field_of_view_mm: float = 500.0
    padding_hu: float = -1024.0
    erector_cleft_mm: float = 0.0
    ascites_mm: float = 0.0
    oedema: float = 0.0
    hernia_mm: float = 0.0
    stoma_mm: float = 0.0
    metal_mm: float = 0.0
    fused_discs: int = 0
    rib_drop_mm: float = 0.0
    arms_down: bool = False
    detail_seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise InputError(f"{name} must be a number", received=value)
            if not (math.isfinite(value) and low <= value <= high):
                raise InputError(
                    f"{name} is out of range", received=value, hint=f"Use a value from {low} to {high}."
                )
        if self.phase not in PHASES:
            raise InputError("phase is not known", received=self.phase, hint=f"Use one of {PHASES}.")
        if self.position not in POSITIONS:
            raise InputError("position is not known", received=self.position, hint=f"Use one of {POSITIONS}.")
        if not isinstance(self.arms_down, bool):
            raise InputError("arms_down must be true or false", received=self.arms_down)
        if isinstance(self.detail_seed, bool) or not isinstance(self.detail_seed, (int, np.integer)):
            raise InputError("detail_seed must be an integer", received=self.detail_seed)
        if self.detail_seed < 0:
            raise InputError("detail_seed must not be negative", received=self.detail_seed)

    @property
    def levels_mm(self) -> dict[str, float]:
        """The z (mm) of the middle of each vertebral body, head first.

        Examples
        --------
        >>> reference_parameters().levels_mm["L3"]
        0.0
        """
        pitch_mm = self.vertebra_height_mm + self.disc_height_mm
        third = LEVEL_NAMES.index("L3")
        return {name: (third - index) * pitch_mm for index, name in enumerate(LEVEL_NAMES)}


def reference_parameters() -> PhantomParameters:
    """Return the fixed average patient of the demonstration.

    Returns
    -------
    PhantomParameters
        The same at every call.

    Examples
    --------
    >>> reference_parameters() == reference_parameters()
    True
    """
    return PhantomParameters(detail_seed=7)


def random_parameters(
    rng: np.random.Generator, *, phase: Phase | None = None, position: Position | None = None
) -> PhantomParameters:
    """Draw a patient and a scan.

    Habitus (thin to obese), muscularity (wasted to athletic), age and sex are drawn first;
    the single measures follow them with scatter, so that they fit each other. Findings (wasting,
    scoliosis, ascites, oedema, hernia, stoma, metal, arms next to the trunk) are drawn last, each rare.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    phase, position : str, optional
        Fix what would be drawn.

    Returns
    -------
    PhantomParameters
        Valid parameters.

    Examples
    --------
    >>> import numpy as np
    >>> one, two = (random_parameters(np.random.default_rng(3)) for _ in range(2))
    >>> one == two
    True
    """
    size = rng.normal(1.0, 0.07)
    fatness = float(rng.beta(1.6, 2.2))
    viscerality = float(np.clip(0.75 * fatness + rng.normal(0.1, 0.2), 0.02, 0.98))
    muscularity = float(rng.beta(2.0, 2.0))
    age = float(rng.uniform())

    def scatter(mean: float, share: float = 0.1, name: str | None = None) -> float:
        value = mean * (1.0 + share * float(np.clip(rng.normal(), -2.2, 2.2)))
        if name is None:
            return value
        return float(np.clip(value, *_RANGES[name]))

    def within(name: str, value: float) -> float:
        return float(np.clip(value, *_RANGES[name]))

    sat_mm = 4.0 + 48.0 * fatness**1.4
    psoas_scale = (0.58 + 0.66 * muscularity) * size * (1.0 - 0.1 * age)
    muscle_scale = (0.72 + 0.5 * muscularity) * size
    patient = PhantomParameters(
        wall_half_width_mm=scatter((120 + 50 * viscerality) * size, 0.06, "wall_half_width_mm"),
        wall_front_mm=scatter((66 + 72 * viscerality) * size, 0.1, "wall_front_mm"),
        wall_back_mm=scatter(58 * size, 0.06, "wall_back_mm"),
        wall_centre_y_mm=within("wall_centre_y_mm", rng.normal(-22, 5)),
        outline_exponent=within("outline_exponent", rng.normal(2.25, 0.15)),
        waist=within("waist", rng.normal(0.04, 0.04)),
        skin_mm=within("skin_mm", rng.normal(1.9, 0.4)),
        sat_front_mm=scatter(sat_mm, 0.25, "sat_front_mm"),
        sat_side_mm=scatter(sat_mm * 0.9, 0.25, "sat_side_mm"),
        sat_back_mm=scatter(sat_mm * 0.8, 0.3, "sat_back_mm"),
        back_notch_mm=float(rng.uniform(0, 12)),
        wall_muscle_mm=scatter(15.5 * muscle_scale, 0.24, "wall_muscle_mm"),
        rectus_mm=scatter(9.5 * muscle_scale, 0.2, "rectus_mm"),
        rectus_half_width_mm=scatter(30 * size, 0.12, "rectus_half_width_mm"),
        linea_alba_mm=within("linea_alba_mm", 4 + 8 * viscerality + rng.gamma(1.5, 2.0)),
        psoas_half_width_mm=scatter(13.4 * psoas_scale, 0.15, "psoas_half_width_mm"),
        psoas_half_depth_mm=scatter(20.5 * psoas_scale**0.85, 0.1, "psoas_half_depth_mm"),
        psoas_exponent=within("psoas_exponent", rng.normal(2.3, 0.25)),
        psoas_y_mm=within("psoas_y_mm", rng.normal(5, 4)),
        psoas_gap_mm=within("psoas_gap_mm", rng.gamma(1.6, 0.3 + 0.6 * age)),
        psoas_bend=float(rng.uniform(0, 0.45)),
        psoas_tilt=within("psoas_tilt", rng.normal(0.25, 0.2)),
        erector_half_width_mm=scatter(35 * muscle_scale**0.5, 0.08, "erector_half_width_mm"),
        erector_half_depth_mm=scatter(21.5 * muscle_scale, 0.1, "erector_half_depth_mm"),
        quadratus_half_width_mm=scatter(15 * muscle_scale, 0.15, "quadratus_half_width_mm"),
        quadratus_half_depth_mm=scatter(6.5 * muscle_scale, 0.2, "quadratus_half_depth_mm"),
        asymmetry=within("asymmetry", rng.normal(0, 0.04)),
        vertebra_half_width_mm=scatter(23 * size, 0.06, "vertebra_half_width_mm"),
        vertebra_half_depth_mm=scatter(16.7 * size, 0.05, "vertebra_half_depth_mm"),
        vertebra_height_mm=scatter(27 * size, 0.05, "vertebra_height_mm"),
        vertebra_waist=float(rng.uniform(0.03, 0.14)),
        disc_height_mm=scatter(10.5 - 3.0 * age, 0.15, "disc_height_mm"),
        endplate_hollow_mm=within("endplate_hollow_mm", rng.gamma(2.0, 0.4 + 0.4 * age)),
        cortex_mm=within("cortex_mm", rng.normal(1.5, 0.3)),
        lordosis_per_mm=within("lordosis_per_mm", rng.normal(0.0020, 0.0006)),
        lordosis_apex_mm=within("lordosis_apex_mm", rng.normal(-5, 12)),
        sacral_tilt_deg=within("sacral_tilt_deg", rng.normal(38, 8)),
        scoliosis_mm=within("scoliosis_mm", rng.normal(0, 4)),
        rotation_deg=within("rotation_deg", rng.normal(0, 3)),
        warp_mm=float(rng.uniform(0.5, 3.0)),
        imat_share=within("imat_share", rng.gamma(1.5, 0.02 + 0.05 * age)),
        visceral_share=within("visceral_share", viscerality),
        phase=PHASES[int(rng.choice(3, p=(0.3, 0.15, 0.55)))] if phase is None else phase,
        muscle_hu=within("muscle_hu", rng.normal(63 - 28 * age, 8)),
        fat_hu=within("fat_hu", rng.normal(-103, 5)),
        trabecular_hu=within("trabecular_hu", rng.normal(230 - 110 * age, 30)),
        cortex_hu=within("cortex_hu", rng.normal(560 - 120 * age, 70)),
        bowel_contrast_share=float(rng.uniform(0, 0.9)) if rng.uniform() < 0.4 else 0.0,
        bowel_gas_share=float(rng.uniform(0, 0.6)),
        noise_hu=within("noise_hu", rng.gamma(4.0, 2.8)),
        noise_grain_mm=float(rng.uniform(0.7, 1.6)),
        streak_hu=within("streak_hu", rng.exponential(2.0)),
        blur_mm=float(rng.uniform(0.45, 0.85)),
        position=("prone" if rng.uniform() < 0.08 else "supine") if position is None else position,
        table=bool(rng.uniform() < 0.9),
        field_of_view_mm=float(rng.uniform(300, 380)) if rng.uniform() < 0.12 else 500.0,
        detail_seed=int(rng.integers(2**31)),
    )
    return _with_findings(patient, rng)


def _with_findings(patient: PhantomParameters, rng: np.random.Generator) -> PhantomParameters:
    """Add what most patients do not have."""
    changes: dict[str, float | bool] = {"erector_cleft_mm": float(np.clip(rng.normal(1.4, 0.9), 0, 6))}

    def happens(share: float) -> bool:
        return bool(rng.uniform() < share)

    def change(name: str, value: float) -> None:
        changes[name] = float(np.clip(value, *_RANGES[name]))

    if happens(0.12):
        # Muscle goes and fat takes its place.
        left = rng.uniform(0.55, 0.85)
        for name in (
            "wall_muscle_mm",
            "rectus_mm",
            "psoas_half_width_mm",
            "psoas_half_depth_mm",
            "erector_half_depth_mm",
            "quadratus_half_depth_mm",
        ):
            change(name, getattr(patient, name) * (left if "psoas" not in name else math.sqrt(left)))
        change("imat_share", rng.uniform(0.12, 0.4))
        change("muscle_hu", patient.muscle_hu - rng.uniform(8, 25))
    if happens(0.08):
        change("scoliosis_mm", float(rng.choice((-1, 1))) * rng.uniform(8, 26))
        change("rotation_deg", patient.rotation_deg + rng.uniform(-9, 9))
    if happens(0.1):
        change("ascites_mm", rng.uniform(4, 55))
    if happens(0.12):
        change("oedema", rng.uniform(0.2, 1.0))
    if happens(0.05):
        change("hernia_mm", rng.uniform(14, 50))
    if happens(0.05):
        change("stoma_mm", rng.uniform(9, 20))
    if happens(0.06):
        change("metal_mm", rng.uniform(1.8, 3.6))
    changes["arms_down"] = happens(0.1)
    change("padding_hu", float(rng.choice((-1024.0, -1000.0, -2000.0))))
    return dataclasses.replace(patient, **changes)  # type: ignore[arg-type]
