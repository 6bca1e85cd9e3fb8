"""Which DICOM objects are no CT images in Hounsfield units, and how that is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ctai_sam2.io.dicom_text import shown_code

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.2"

_CT_CLASSES = (CT_IMAGE, ENHANCED_CT_IMAGE, LEGACY_CONVERTED_CT_IMAGE)

_OTHER_CLASSES = {
    "1.2.840.10008.1.3.10": "a DICOMDIR",
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.88": "a structured report",
    "1.2.840.10008.5.1.4.1.1.66": "a segmentation or registration",
    "1.2.840.10008.5.1.4.1.1.481": "a radiotherapy object",
    "1.2.840.10008.5.1.4.1.1.104": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.11": "a presentation state",
}

_REFUSED_IMAGE_TYPES = {
    "LOCALIZER": "a localizer (scout view), not a cross-section",
    "SCOUT": "a localizer (scout view), not a cross-section",
    "PERFUSION": "a perfusion map, not Hounsfield units",
    "SUBTRACTION": "a subtraction image, not Hounsfield units",
    "MIP": "a maximum intensity projection, not a plain cross-section",
    "MINIP": "a minimum intensity projection, not a plain cross-section",
    "MAX_IP": "a maximum intensity projection, not a plain cross-section",
    "MIN_IP": "a minimum intensity projection, not a plain cross-section",
    "VOLREN": "a rendering, not Hounsfield units",
    "SCREEN SAVE": "a screen shot, not Hounsfield units",
    "DOSE_INFO": "a dose report, not a cross-section",
    "MATERIAL": "a material map, not Hounsfield units",
    "MAT_SPECIFIC": "a material map, not Hounsfield units",
    "MAT_FRACTIONAL": "a material map, not Hounsfield units",
    "MAT_VALUE_BASED": "a material map, not Hounsfield units",
    "IODINE": "a material map, not Hounsfield units",
    "ELECTRON_DENSITY": "a map of electron density, not Hounsfield units",
    "EFF_ATOMIC_NUM": "a map of atomic numbers, not Hounsfield units",
    "Z_EFF": "a map of atomic numbers, not Hounsfield units",
}
_COMPUTED_IMAGE_TYPES = {
    "VMI": "an image computed for one photon energy",
    "MONOENERGETIC": "an image computed for one photon energy",
    "MONO": "an image computed for one photon energy",
    "VNC": "an image with the contrast agent computed away",
    "VUE": "an image with the contrast agent computed away",
    "MAT_REMOVED": "an image with a material computed away",
    "MAT_MODIFIED": "an image with a material changed",
}
_PROJECTION = re.compile(r"\bM(?:IN)?IP\b", re.IGNORECASE)


def refusal_of_class(sop_class: str, modality: str) -> str | None:
    """Say why an object of this class or modality is no CT image; None where it is one."""
    if sop_class and sop_class not in _CT_CLASSES:
        matches = [key for key in _OTHER_CLASSES if sop_class == key or sop_class.startswith(key + ".")]
        if matches:
            return f"{_OTHER_CLASSES[max(matches, key=len)]}, not a CT image"
        if modality and modality != "CT":
            return f"modality {shown_code(modality)}, not CT"
        return "not a CT image object"
    if modality and modality != "CT":
        return f"modality {shown_code(modality)}, not CT"
    if not sop_class and not modality:
        return "its header names neither a modality nor an image class"
    return None


def refusal_of_image(
    image_type: Sequence[str], rescale_type: str, samples: int, photometric: str
) -> str | None:
    """Say why the values of a CT image are no Hounsfield units of a cross-section; None where they are."""
    reason = _named_by(image_type, _REFUSED_IMAGE_TYPES)
    if reason is not None:
        return reason
    if samples != 1 or not photometric.strip().startswith("MONOCHROME"):
        return "a colour picture, not Hounsfield units"
    unit = rescale_type.strip().upper()
    # Vendors write HU in many ways ("Houndsfield Unit"); silence means HU for CT (PS3.3 C.8.2.1.1.1).
    if unit and unit not in {"HU", "US", "HU_MOD"} and not unit.startswith("HOU"):
        return f"its values are in another unit ({shown_code(unit)}), not Hounsfield units"
    return None


def cautions_of_image(image_type: Sequence[str], description: str | None) -> list[str]:
    """Say why the values of a usable CT image may differ from those of an ordinary one."""
    cautions = []
    computed = _named_by(image_type, _COMPUTED_IMAGE_TYPES)
    if computed is not None:
        cautions.append(f"{computed}: densities differ from those at 120 kV")
    if description and _PROJECTION.search(description):
        cautions.append("the description of the series names a projection (MIP): its values are no tissue's")
    return cautions


def _named_by(image_type: Sequence[str], meanings: Mapping[str, str]) -> str | None:
    """Return the meaning of the first name that stands in an image type, as a word or words of a value."""
    for value in image_type:
        words = f" {_apart(value)} "
        for name, meaning in meanings.items():
            if f" {_apart(name)} " in words:
                return meaning
    return None


def _apart(text: str) -> str:
    return " ".join(text.upper().replace("_", " ").split())
