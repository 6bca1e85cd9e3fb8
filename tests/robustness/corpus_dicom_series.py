"""DICOM series with odd headers, names, orders and positions."""

# ruff: noqa: E501  (one case a line)

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctai_sam2.errors import DicomError, GeometryError, InputError
from ctai_sam2.io import read_study
from ctai_sam2.types import CTVolume
from tests.robustness.dicom_making import counts_of, dataset, save, series, two_stacks
from tests.robustness.image_case import NAME, PIXEL_MM, STEP_MM, ImageCase, body, stack, volume


def dicom_series() -> Iterator[ImageCase]:
    whole = volume(stack())
    ways: dict[str, Callable[[int], dict[str, Any]]] = {
        "acquisition": lambda part: {"AcquisitionNumber": part + 1},
        "kernel": lambda part: {"ConvolutionKernel": ("B30f", "B70f")[part]},
        "kV": lambda part: {"KVP": ("120", "80")[part]},
        "patient ID": lambda part: {"PatientID": f"ID-{part}"},
        "patient name": lambda part: {"PatientName": (NAME, "Roe^Ann")[part]},
        "birth date": lambda part: {"PatientBirthDate": ("19500101", "19610202")[part]},
        "sex": lambda part: {"PatientSex": "FM"[part]},
        "height": lambda part: {"PatientSize": ("1.6", "1.9")[part]},
        "study": lambda part: {"StudyInstanceUID": f"2.25.1{part}"},
        "frame of reference": lambda part: {"FrameOfReferenceUID": f"2.25.3{part}"},
        "temporal position": lambda part: {"TemporalPositionIdentifier": part + 1},
        "contrast agent": lambda part: {"ContrastBolusAgent": "IOMERON"} if part else {},
        "image type": lambda part: {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", f"E{part}"]},
        "acquisition time": lambda part: {"AcquisitionTime": ("101500", "101625")[part]},
        "acquisition date and time": lambda part: {"AcquisitionDateTime": f"202001011015{part}0"},
        "slice thickness": lambda part: {"SliceThickness": ("5", "3")[part]},
        "description": lambda part: {"SeriesDescription": ("Abdomen art", "Abdomen ven")[part]},
        "number of the image": lambda part: {},
    }
    for name, changes in ways.items():
        for apart in (0.0, 0.01, 0.5, 2.5):
            write = two_stacks(changes, apart)
            if name == "number of the image":
                write = _numbered(apart)
            yield ImageCase(
                name=f"two stacks {apart} mm apart, by {name}", write=write, read=counts_of, expected=[5, 5]
            )
        yield ImageCase(
            name=f"two stacks by {name}, read", write=_numbered(2.5) if name.startswith("number") else
            two_stacks(changes), read=read_study, error=InputError, words="distinguished by",
        )  # fmt: skip
    for apart in (0.01, 0.5, 1.0):
        yield ImageCase(
            name=f"two stacks {apart} mm apart, by nothing", write=two_stacks(lambda _: {}, apart),
            read=read_study, error=GeometryError, words="stacks lie within each other",
        )  # fmt: skip
    yield ImageCase(
        name="two stacks at one place, by nothing", write=two_stacks(lambda _: {}, 0.0), read=read_study,
        error=GeometryError, words="one slice is there twice",
    )  # fmt: skip
    along = {
        "an acquisition for each slice": lambda i: {"AcquisitionNumber": i + 1},
        "two acquisitions after each other": lambda i: {"AcquisitionNumber": 1 + (i > 2)},
        "a time for each slice": lambda i: {"AcquisitionTime": f"1015{10 + i}"},
        "a lossy copy of one slice": lambda i: {"ImageType": [("ORIGINAL", "DERIVED")[i == 2], "PRIMARY", "AXIAL"]},
        "one slice without a kernel": lambda i: {"ConvolutionKernel": "" if i == 2 else "B30f"},
        "one slice without a birth date": lambda i: {"PatientBirthDate": "" if i == 2 else "19500101"},
        "names in small and large letters": lambda i: {"PatientName": (NAME, NAME.upper())[i % 2]},
    }  # fmt: skip
    for name, change in along.items():
        yield ImageCase(name=name, write=series(changes=change), read=read_study, expected=whole)
    for name, change in {
        "copied": {},
        "copied under another UID": {"SOPInstanceUID": "2.25.99"},
        "copied with another acquisition": {"SOPInstanceUID": "2.25.99", "AcquisitionNumber": 9},
    }.items():
        yield ImageCase(
            name=f"one slice {name}", write=lambda folder, change=change: _repeated(folder, 0, change),
            read=read_study, expected=whole,
            words="" if "AcquisitionNumber" in change else "1 repeated image left out (copy.dcm)",
        )  # fmt: skip
    yield ImageCase(
        name="one slice taken again", read=read_study,
        write=lambda folder: _repeated(folder, 60, {"SOPInstanceUID": "2.25.99"}),
        error=GeometryError, words="02.dcm and copy.dcm",
    )  # fmt: skip
    yield ImageCase(
        name="one slice taken again, an acquisition for each slice", read=read_study,
        write=lambda folder: _repeated(folder, 60, {"SOPInstanceUID": "2.25.99", "AcquisitionNumber": 9}, each=True),
        error=GeometryError, words="02.dcm and copy.dcm",
    )  # fmt: skip
    for factor, name in (
        (10, "ten times too large"),
        (0.1, "in cm"),
        (0.001, "in metres"),
        (1000, "in micrometres"),
    ):
        yield ImageCase(
            name=f"pixel spacing {name}", read=read_study,
            write=series(changes=lambda _, factor=factor: {
                "PixelSpacing": [f"{v * factor:.6g}" for v in PIXEL_MM]}),
            error=GeometryError if factor != 10 else None,
            expected=CTVolume(hu_zyx=stack(), affine=_scaled(factor)) if factor == 10 else None,
        )  # fmt: skip
    charsets = {
        "ISO 2022 IR 87": b"\x1b$B;3ED\x1b(B",
        "ISO 2022 IR 149": b"\x1b$)C\xb1\xe8\xc8\xf1\xc1\xdf",
        "ISO 2022 IR 58": b"\x1b$)A\xcd\xf5",
        "GB18030": "腹部".encode("gb18030"),
        "ISO_IR 192": "腹部 größe".encode(),
        "ISO_IR 100": b"gr\xf6\xdfe",
        "ISO_IR 999": b"gr\xf6\xdfe",
        "ISO 2022 IR 87, damaged": b"\x1b$B;3E",
        "ISO_IR 192, damaged": "腹部".encode()[:-1],
    }
    for charset, raw in charsets.items():
        code = charset.split(",")[0]
        states = code if code.startswith(("GB", "ISO_")) else f"\\{code}"
        yield ImageCase(
            name=f"characters of {charset}", read=read_study, expected=whole,
            write=lambda folder, states=states, raw=raw: _charset(folder, states, raw),
        )  # fmt: skip
    yield ImageCase(name="file names that are not UTF-8", write=_odd_names, read=read_study, expected=whole)
    yield ImageCase(
        name="a damaged file under a name that is not UTF-8", read=read_study, write=_odd_damaged_name,
        error=DicomError, words="\\udcff",
    )  # fmt: skip
    for keyword in ("SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        for wrong in (60000, 120):
            yield ImageCase(
                name=f"{keyword} with a length of {wrong}", read=read_study,
                write=lambda folder, keyword=keyword, wrong=wrong: _wrong_length(folder, keyword, wrong),
                error=(DicomError, GeometryError, InputError),
            )  # fmt: skip
    yield ImageCase(name="a link to nothing", write=_dangling, read=read_study, expected=whole,
                    words="gone.dcm (a link to nothing)")  # fmt: skip
    yield ImageCase(name="a linked folder", write=_linked_folder, read=read_study, expected=whole)


def _scaled(factor: float) -> np.ndarray[Any, Any]:
    affine = np.diag([PIXEL_MM[1] * factor, PIXEL_MM[0] * factor, STEP_MM, 1.0])
    affine[:3, 3] = (-20, -30, 0)
    return affine


def _numbered(apart_mm: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for part in (0, 1):
            for i in range(5):
                number = part * 5 + i + 1
                made = dataset(body(i) + 60 * part, i * STEP_MM + part * apart_mm, number)
                save(made, folder / f"{part}{i}.dcm")
        return folder

    return write


def _repeated(folder: Path, added: int, change: dict[str, Any], each: bool = False) -> Path:
    series(changes=lambda i: {"AcquisitionNumber": i + 1 if each else 1})(folder)
    save(dataset(body(2) + np.int16(added), 2 * STEP_MM, 3, **{"AcquisitionNumber": 3 if each else 1, **change}),
         folder / "copy.dcm")  # fmt: skip
    return folder


def _charset(folder: Path, states: str, raw: bytes) -> Path:
    for i in range(5):
        made = dataset(body(i), i * STEP_MM, i + 1, SeriesDescription="98765432", PatientName="98765432")
        made.SpecificCharacterSet = ["", states[1:]] if states.startswith("\\") else states
        path = save(made, folder / f"{i}.dcm")
        padded = raw.ljust(len(raw) + len(raw) % 2)
        content = path.read_bytes()
        for vr in (b"LO", b"PN"):
            content = content.replace(vr + b"\x08\x0098765432", vr + struct.pack("<H", len(padded)) + padded)
        path.write_bytes(content)
    return folder


def _odd_names(folder: Path) -> Path:
    series()(folder)
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"bild\udcff{i}.dcm")
    return folder


def _odd_damaged_name(folder: Path) -> Path:
    path = folder / "bild\udcff.dcm"
    path.write_bytes(b"no image")
    return path


def _wrong_length(folder: Path, keyword: str, length: int) -> Path:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    made = dataset(body())
    made.PatientName = NAME
    path = save(made, folder / "a.dcm")
    content = bytearray(path.read_bytes())
    at = bytes(content).index(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"DS") + 6
    content[at : at + 2] = struct.pack("<H", length)
    # The patient's name stands behind the damaged length, where it becomes part of the value.
    content[at + 12 : at + 12 + len(NAME)] = NAME.encode()
    path.write_bytes(bytes(content))
    return path


def _dangling(folder: Path) -> Path:
    series()(folder)
    (folder / "gone.dcm").symlink_to(folder / "nowhere.dcm")
    return folder


def _linked_folder(folder: Path) -> Path:
    (folder / "kept").mkdir()
    series()(folder / "kept")
    (folder / "study").mkdir()
    (folder / "study" / "link").symlink_to(folder / "kept", target_is_directory=True)
    (folder / "study" / "up").symlink_to(folder, target_is_directory=True)
    return folder / "study"
