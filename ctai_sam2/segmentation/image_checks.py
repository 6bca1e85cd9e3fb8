"""Whether the image itself can give right numbers: calibration, field of view, pixel size, range of values.

The checks of `quality` look at masks. These look at what a reader sees at a glance and a model does not: it
divides a body that is cut off, or of half its size, as surely as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_of, cut_border_of, cut_lengths_mm
from ctai_sam2.image.calibration import measure_calibration
from ctai_sam2.image.masks import grow
from ctai_sam2.segmentation.quality import Gate, cap_confidence, warnings_of
from ctai_sam2.segmentation.results import StructureResult
from ctai_sam2.structures import Structure
from ctai_sam2.types import CTSlice, Mask


@dataclass(frozen=True, kw_only=True)
class ImageParameters:
    """Limits of the checks.

    Parameters
    ----------
    air_hu : float
        Deviation of air from -1000 HU. On nine patients of as many scanners it reads -1002 to -995.
    fat_hu : (float, float)
        Median of subcutaneous fat. On patients -112 to -83, the latter with oedema; at 70 kV about -120.
    gas_hu : float
        Where the lowest value in the body is above it, gas counts as visceral fat.
    metal_hu, metal_mm2 : float
        Area in the body above a density that no bone has, from which on its streaks reach the muscles.
    vertebra_mm : (float, float)
        Width of the vertebral body, as anatomy finds it; from L2 to L4 37 to 49 on patients and 32 to 50 on
        drawn adults.
    cut_mm2 : float
        Area that is missing where the body is cut off, if its outline is a circle there.
    outline_radius_mm : float
        Radius of that circle.
    near_cut_mm, near_cut_mm2 : float
        A structure with at least this area within this distance of the cut counts as cut off.
    """

    air_hu: float = 9.0
    fat_hu: tuple[float, float] = (-122.0, -65.0)
    gas_hu: float = -150.0
    metal_hu: float = 2500.0
    metal_mm2: float = 20.0
    vertebra_mm: tuple[float, float] = (31.0, 58.0)
    cut_mm2: float = 300.0
    outline_radius_mm: float = 150.0
    near_cut_mm: float = 4.0
    near_cut_mm2: float = 30.0


PARAMETERS: Final = ImageParameters()

_NUMBERS: Final = ("psoas_left", "psoas_right", "muscle", "sat", "vat", "imat")


def find_image_faults(
    ct_slice: CTSlice,
    *,
    vertebra_mm: float | None,
    is_recognised: bool,
) -> tuple[Gate, ...]:
    """Look for what makes all numbers of a slice doubtful, or those of a tissue.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial.
    vertebra_mm : float or None
        Width of the vertebral body or disc, where anatomy shows it.
    is_recognised : bool
        False where the model could divide a slice of an abdomen and saw none here.

    Returns
    -------
    tuple of Gate
        The checks that failed.
    """
    p = PARAMETERS
    faults: list[Gate] = []

    def fail(name: str, structures: tuple[str, ...], message: str) -> None:
        faults.append(Gate(name=name, structures=structures, message=message, of_image=True))

    if not is_recognised:
        fail("unrecognised", _NUMBERS, "the model does not recognise an abdomen on the slice")
    try:
        body = body_of(ct_slice)
    except AnatomyNotFound:
        return tuple(faults)
    seen = measure_calibration(ct_slice.hu, body, ct_slice.spacing_mm)
    if seen.air_hu is not None and abs(seen.air_hu + 1000) > p.air_hu:
        fail(
            "calibration",
            _NUMBERS,
            f"air reads {seen.air_hu:.0f} HU instead of -1000: other values may be off as much",
        )
    elif seen.fat_hu is not None and not p.fat_hu[0] <= seen.fat_hu <= p.fat_hu[1]:
        fail("calibration", _NUMBERS, f"fat beneath the skin reads {seen.fat_hu:.0f} HU, as it rarely does")
    lowest = float(ct_slice.hu[body].min())
    if lowest > p.gas_hu:
        fail("cut_values", ("sat", "vat"), f"values below {lowest:.0f} HU were cut off: gas counts as fat")
    metal_mm2 = float((ct_slice.hu[body] > p.metal_hu).sum()) * ct_slice.pixel_area_mm2
    if metal_mm2 > p.metal_mm2:
        fail(
            "metal",
            ("psoas_left", "psoas_right", "muscle", "imat"),
            "there is metal, whose streaks hide muscle",
        )
    if vertebra_mm is None:
        return tuple(faults)
    if vertebra_mm < p.vertebra_mm[0]:
        fail(
            "pixel_size",
            _NUMBERS,
            f"the vertebral body is {vertebra_mm:.0f} mm wide: a child's, or the pixel spacing is wrong",
        )
    elif vertebra_mm > p.vertebra_mm[1]:
        fail(
            "pixel_size",
            _NUMBERS,
            f"the vertebral body is {vertebra_mm:.0f} mm wide: unless there are bridges, the pixel spacing "
            "is wrong",
        )
    return tuple(faults)


def find_cut(ct_slice: CTSlice, structure: Structure, mask: Mask) -> Gate | None:
    """Tell whether a structure is cut off by the field of view; None where it is whole.

    Parameters
    ----------
    ct_slice : CTSlice
        Axial.
    structure : str
        Whose mask.
    mask : ndarray of bool, shape (H, W)
        The mask.
    """
    p = PARAMETERS
    try:
        lengths = cut_lengths_mm(ct_slice)
    except AnatomyNotFound:
        return None
    # What a chord cuts off a circle, where it is short by the circle.
    missing_mm2 = sum(length**3 for length in lengths) / (12 * p.outline_radius_mm)
    if missing_mm2 < p.cut_mm2:
        return None
    near = grow(cut_border_of(ct_slice), p.near_cut_mm, ct_slice.spacing_mm) & mask
    if float(near.sum()) * ct_slice.pixel_area_mm2 < p.near_cut_mm2:
        return None
    return Gate(
        name="cut_off",
        structures=(structure,),
        message=f"the field of view cuts the body off over {sum(lengths) / 10:.0f} cm: areas are too small",
        of_image=True,
    )


def doubt_by_image(result: StructureResult, ct_slice: CTSlice, faults: Sequence[Gate]) -> StructureResult:
    """Warn of what is wrong with the image, and lower the confidence of a number that it spoils.

    Parameters
    ----------
    result : StructureResult
        Of the slice.
    ct_slice : CTSlice
        Axial.
    faults : sequence of Gate
        From `find_image_faults`.
    """
    name = result.structure
    own = [fault for fault in faults if name in fault.structures]
    cut = find_cut(ct_slice, name, result.mask) if name in _NUMBERS else None
    if cut is not None:
        own.append(cut)
    if not own:
        return result
    return replace(
        result,
        confidence=None if result.confidence is None else cap_confidence(result.confidence, own, name),
        warnings=(*result.warnings, *warnings_of(own, name)),
    )
