"""A name in every element of a DICOM upload, each length damaged: no response and no log repeats it."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import requests
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ctai_sam2.models import wire
from tests.fakes import FakeSegmenter
from tests.service.running import WAIT_S, serving
from tests.unit.io.making import ct_dataset

NAME = "Zyxwick^Qorbelt"
IDENTIFIER = "Q8153Z9460"
PARTS = {text[at : at + 5].lower() for text in (NAME, IDENTIFIER) for at in range(len(text) - 4)}
"""Every run of five characters, as a wrong length cuts a value anywhere. None can stand in a digest."""

LONG = (b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
PREAMBLE = 132


class Element(NamedTuple):
    """Where an element of explicit VR stands in a file."""

    start: int
    value: int
    end: int
    vr: bytes


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeSegmenter()) as address:
        yield address


SMALL = np.arange(256, dtype=np.int16).reshape(16, 16)


def ct_of_somebody(stored: np.ndarray[Any, Any] = SMALL, number: int = 1) -> bytes:
    """Return a CT image of a series that names somebody wherever its header has room for text."""
    dataset = ct_dataset(
        stored,
        PixelSpacing=[400 / len(stored)] * 2,
        ImagePositionPatient=[-10, -20, 5 * number],
        SOPInstanceUID=f"2.25.1{number}",
        StudyInstanceUID="2.25.3",
        FrameOfReferenceUID="2.25.4",
        InstanceNumber=number,
    )
    for keyword in ("PatientName", "ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName"):
        setattr(dataset, keyword, NAME)
    for keyword in ("PatientID", "AccessionNumber", "StudyID", "OtherPatientIDs"):
        setattr(dataset, keyword, IDENTIFIER)
    for keyword in (
        *("InstitutionName", "InstitutionAddress", "StationName", "Manufacturer", "ManufacturerModelName"),
        *("StudyDescription", "SeriesDescription", "ProtocolName", "ConvolutionKernel", "ContrastBolusAgent"),
        *("PatientComments", "ImageComments", "RequestedProcedureDescription", "PositionReferenceIndicator"),
    ):
        setattr(dataset, keyword, f"{NAME} {IDENTIFIER}"[:16] if keyword in _SHORT else NAME)
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = IDENTIFIER, "99ZYXWICK", NAME
    dataset.ProcedureCodeSequence = [code]
    dataset.add_new(0x00091001, "UN", NAME.encode())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


_SHORT = ("StationName", "ConvolutionKernel")


def elements_of(data: bytes) -> list[Element]:
    found, at = [], PREAMBLE
    while at < len(data):
        vr = data[at + 4 : at + 6]
        value = at + (12 if vr in LONG else 8)
        (length,) = struct.unpack(
            "<I" if vr in LONG else "<H", data[value - (4 if vr in LONG else 2) : value]
        )
        found.append(Element(at, value, value + length, vr))
        at = value + length
    return found


def with_length(data: bytes, element: Element, length: int, value: bytes | None = None) -> bytes:
    packed = (
        struct.pack("<I", length & 0xFFFFFFFF) if element.vr in LONG else struct.pack("<H", length & 0xFFFF)
    )
    rest = data[element.value :] if value is None else value + data[element.end :]
    return data[: element.value - len(packed)] + packed + rest


def damaged_files(stored: np.ndarray[Any, Any] = SMALL, number: int = 1) -> Iterator[bytes]:
    data = ct_of_somebody(stored, number)
    name = f"{NAME} ".encode()
    for element in elements_of(data):
        length = element.end - element.value
        for value in (name, IDENTIFIER.encode(), name + b"\\" + name):
            padded = value + b" " * (len(value) % 2)
            yield with_length(data, element, len(padded), padded)
        for wrong in {0, length - 1, length + 1, length + 8, length + 40, 0xFFFF, -1} - {length}:
            yield with_length(data, element, wrong)
        yield data[: element.value + length // 2]
        yield data[: element.start + 4] + name[:2] + data[element.start + 6 :]


def test_no_value_of_an_element_is_repeated(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    statuses: set[int] = set()
    with caplog.at_level("DEBUG", "ctai_sam2"), requests.Session() as session:
        for data in damaged_files():
            response = session.put(f"{url}/v1/images/{wire.digest_of(data)}", data=data, timeout=WAIT_S)
            statuses.add(response.status_code)
            said.append(f"{response.headers} {response.text}")
    said += [f"{record.getMessage()} {vars(record)} {record.exc_info}" for record in caplog.records]
    said += list(capfd.readouterr())
    assert statuses == {200, 400}
    assert [text for text in said if any(part in text.lower() for part in PARTS)] == []
