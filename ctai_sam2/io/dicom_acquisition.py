"""What a DICOM header says of how a CT was made, and of whom: sex, age, height and weight, no name."""

from __future__ import annotations

import datetime
import re
from typing import Any

from ctai_sam2.io.dicom_text import one_line, shown_kernel, shown_scanner
from ctai_sam2.io.dicom_values import functional_value, number_of, texts_of, value_of
from ctai_sam2.types import Acquisition


def read_acquisition(dataset: Any, frame: int) -> Acquisition:
    """Read how a frame was acquired; None for all that the header does not say."""
    sex = str(value_of(dataset, "PatientSex") or "").strip().upper()
    height = number_of(value_of(dataset, "PatientSize"))
    weight = number_of(value_of(dataset, "PatientWeight"))
    thickness = number_of(functional_value(dataset, frame, "PixelMeasuresSequence", "SliceThickness"))
    kvp = number_of(functional_value(dataset, frame, "CTXRayDetailsSequence", "KVP"))
    return Acquisition(
        kvp=kvp if kvp and kvp > 0 else None,
        contrast=_contrast(dataset, frame),
        slice_thickness_mm=thickness if thickness and thickness > 0 else None,
        kernel=shown_kernel(kernel_of(dataset, frame)),
        gantry_tilt_deg=number_of(
            functional_value(dataset, frame, "CTAcquisitionDetailsSequence", "GantryDetectorTilt")
        ),
        patient_sex=sex if sex in {"M", "F"} else None,
        patient_height_m=height if height is not None and 0.4 <= height <= 2.6 else None,
        patient_weight_kg=weight if weight is not None and 1.0 <= weight <= 500.0 else None,
        patient_age_years=_age_years(dataset),
        phase=_phase(dataset, frame),
        scanner=_scanner(dataset),
    )


def kernel_of(dataset: Any, frame: int) -> str | None:
    """Return the text of the reconstruction kernel, whatever it says: not to be shown."""
    found = functional_value(dataset, frame, "CTReconstructionSequence", "ConvolutionKernel")
    return one_line(" ".join(texts_of(found)))


def _scanner(dataset: Any) -> str | None:
    """Maker and model; None where the model is not recorded, or one of them is not a known one."""
    maker, model = (
        one_line(" ".join(texts_of(value_of(dataset, name))))
        for name in ("Manufacturer", "ManufacturerModelName")
    )
    return shown_scanner(maker, model)


_AGE = re.compile(r"(\d{1,3})([DWMY])")
_DAYS_PER = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}


def _age_years(dataset: Any) -> float | None:
    """Age at the scan: as recorded, else from the dates of birth and study."""
    match = _AGE.fullmatch(str(value_of(dataset, "PatientAge") or "").strip().upper())
    if match:
        years = int(match[1]) * _DAYS_PER[match[2]] / 365.25
    else:
        born, scanned = (_date(value_of(dataset, name)) for name in ("PatientBirthDate", "StudyDate"))
        if born is None or scanned is None:
            return None
        years = (scanned - born).days / 365.25
    return round(years, 2) if 0 < years <= 120 else None


def _date(value: Any) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(str(value or "").strip(), "%Y%m%d").date()
    except ValueError:
        return None


_PHASE_WORDS: tuple[tuple[str, str], ...] = (
    ("unenhanced", r"unenhanced|non[ -]?contrast|without contrast|nativ|native|plain|nc|ncct|w/?o"),
    ("arterial", r"arterial|arteriell|artery|art"),
    ("portal_venous", r"portal|porto?[ -]?venous|portalven[oö]s|venous|ven|pv|pvp"),
    ("equilibrium", r"equilibrium|delayed|delay|late(?! art)|excretory|nephrographic"),
)
_PHASE_PATTERNS = tuple(
    (name, re.compile(rf"(?<![a-z])(?:{words})(?![a-z])")) for name, words in _PHASE_WORDS
)
_PHASE_SIGNS = (
    ("unenhanced", re.compile("平扫")),
    ("arterial", re.compile("动脉期")),
    ("portal_venous", re.compile("静脉期|门脉期")),
    ("equilibrium", re.compile("平衡期|延迟期")),
)


def _phase(dataset: Any, frame: int) -> str | None:
    """Contrast phase by the words of the series and the protocol, where they name one and only one."""
    texts = [
        text
        for name in ("SeriesDescription", "ProtocolName", "AcquisitionProtocolDescription")
        for text in texts_of(value_of(dataset, name))
    ]
    said = " ".join(texts).lower().replace("_", " ")
    named = {name for name, pattern in (*_PHASE_PATTERNS, *_PHASE_SIGNS) if pattern.search(said)}
    if len(named) == 1:
        return named.pop()
    return "unenhanced" if not named and _contrast(dataset, frame) is False else None


def _contrast(dataset: Any, frame: int) -> bool | None:
    administered = functional_value(
        dataset, frame, "ContrastBolusUsageSequence", "ContrastBolusAgentAdministered"
    )
    if administered is not None:
        return str(administered).strip().upper() == "YES"
    agent = value_of(dataset, "ContrastBolusAgent")
    if agent is not None:
        return str(agent).strip().upper() not in {"NONE", "NO", "N", "0", "WITHOUT"}
    return True if value_of(dataset, "ContrastBolusAgentSequence") else None
