"""What a header says of phase, age and scanner."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset

from ctai_sam2.io.dicom_acquisition import read_acquisition


def header(**elements: Any) -> Dataset:
    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    ("description", "phase"),
    [
        ("Abd native 5.0", "unenhanced"),
        ("ABDOMEN NON-CONTRAST", "unenhanced"),
        ("abd w/o", "unenhanced"),
        ("Abd_art_1.0", "arterial"),
        ("late arterial", "arterial"),
        ("Portal Venous 3mm", "portal_venous"),
        ("ABD VEN", "portal_venous"),
        ("delayed 5 min", "equilibrium"),
        ("腹部 平扫", "unenhanced"),
        ("门静脉期", "portal_venous"),
        ("动脉期", "arterial"),
        ("arterial and venous", None),
        ("late portal", None),
        ("Abdomen 5.0 B30f", None),
        ("Party advent", None),
        ("", None),
    ],
)
def test_the_phase_by_the_words_of_a_series(description: str, phase: str | None) -> None:
    assert read_acquisition(header(SeriesDescription=description), 0).phase == phase


def test_no_agent_means_unenhanced_and_an_agent_no_phase() -> None:
    assert read_acquisition(header(ContrastBolusAgent="NONE"), 0).phase == "unenhanced"
    assert read_acquisition(header(ContrastBolusAgent="Iohexol"), 0).phase is None


@pytest.mark.parametrize(
    ("elements", "years"),
    [
        ({"PatientAge": "045Y"}, 45.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientBirthDate": "19500615", "StudyDate": "20200615"}, 70.0),
        ({"PatientAge": "old", "PatientBirthDate": "19500615"}, None),
        ({"PatientBirthDate": "20300101", "StudyDate": "20200615"}, None),
        ({}, None),
    ],
)
def test_the_age_at_the_scan(elements: dict[str, str], years: float | None) -> None:
    import warnings

    with warnings.catch_warnings():
        # pydicom complains of the age that is none.
        warnings.simplefilter("ignore")
        dataset = header(**elements)
    found = read_acquisition(dataset, 0).patient_age_years
    assert found == (None if years is None else pytest.approx(years, abs=0.01))


def test_the_scanner_is_maker_and_model() -> None:
    def scanner_of(maker: str, **more: str) -> str | None:
        return read_acquisition(header(Manufacturer=maker, **more), 0).scanner

    assert scanner_of("SIEMENS") is None
    assert scanner_of("SIEMENS", ManufacturerModelName="SOMATOM Force") == "SIEMENS SOMATOM Force"
    assert scanner_of("GE MEDICAL SYSTEMS", ManufacturerModelName="Discovery CT750 HD") is not None
    # What stands behind a damaged length may be a name.
    assert scanner_of("GE MEDICAL SYSTEMS", ManufacturerModelName="Doe Jane") is None
    assert scanner_of("Doe^Jane", ManufacturerModelName="Discovery CT750 HD") is None
