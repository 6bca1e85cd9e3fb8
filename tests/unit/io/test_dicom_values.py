"""Values of elements: what is missing, empty or malformed is None."""

from __future__ import annotations

import warnings

import pytest
from pydicom import Dataset

from ctai_sam2.io.dicom_values import value_of


@pytest.fixture
def dataset() -> Dataset:
    made = Dataset()
    made.Rows = 5
    made.Modality = "CT"
    made.SeriesDescription = "  "
    made.PatientSize = None
    inner = Dataset()
    inner.CodeValue = "1"
    made.ContrastBolusAgentSequence = [inner]
    return made


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("Rows", 5), ("Modality", "CT"), ("SeriesDescription", None), ("PatientSize", None), ("Columns", None)],
)
def test_value_or_none(dataset: Dataset, keyword: str, value: object) -> None:
    assert value_of(dataset, keyword) == value


def test_sequences_and_no_dataset_at_all(dataset: Dataset) -> None:
    assert value_of(value_of(dataset, "ContrastBolusAgentSequence")[0], "CodeValue") == "1"
    assert value_of({}, "MediaStorageSOPClassUID") is None


def test_a_malformed_number_is_none() -> None:
    raw = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw.add_new(0x00280010, "UN", b"\1")
        raw[0x00280010]._value = None
    assert value_of(raw, "Rows") is None
    assert value_of(raw, "NoSuchKeyword") is None
