from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from ctai_sam2.errors import DicomError, GeometryError
from ctai_sam2.io import list_series, read_slice
from ctai_sam2.io.dicom_pixels import AIR_HU

from .making import ct_dataset, save

STORED = np.array([[0, 1, 900, 1024], [1100, 1200, 3000, 3095]], dtype=np.int16)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_rescale(tmp_path: Path, dtype: type) -> None:
    image = read_slice(save(ct_dataset(STORED.astype(dtype)), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.hu, STORED.astype(int) - 1024)
    assert image.hu.dtype == np.int16


def test_values_below_air_become_air(tmp_path: Path) -> None:
    stored = np.array([[-2000, -1], [0, 5]], dtype=np.int16)
    image = read_slice(save(ct_dataset(stored), tmp_path / "a.dcm"))
    assert image.hu.tolist() == [[AIR_HU, AIR_HU], [AIR_HU, -1019]]


@pytest.mark.parametrize("slope", ["0.25", "2.0002442", "32.1216"])
def test_fractional_rescale_is_rounded_to_whole_hu(tmp_path: Path, slope: str) -> None:
    image = read_slice(save(ct_dataset(STORED, RescaleSlope=slope), tmp_path / "a.dcm"))
    expected = np.clip(np.rint(STORED * float(slope) - 1024), -1024, 32767)
    np.testing.assert_array_equal(image.hu, expected)
    assert any("HU apart" in w for w in image.warnings) == (float(slope) > 1.5)


@pytest.mark.parametrize("padding", [-2000, 63536])
def test_padding_is_air_however_its_sign_was_written(tmp_path: Path, padding: int) -> None:
    stored = np.array([[-2000, 50], [60, 70]], dtype=np.int16)
    dataset = ct_dataset(stored, RescaleIntercept="3000")
    # As an unsigned or signed element: writers differ.
    dataset.add_new("PixelPaddingValue", "US" if padding > 0 else "SS", padding)
    image = read_slice(save(dataset, tmp_path / "a.dcm"))
    assert image.hu.tolist() == [[AIR_HU, 3050], [3060, 3070]]


def test_padding_range(tmp_path: Path) -> None:
    stored = np.array([[0, 10], [11, 2000]], dtype=np.uint16)
    image = read_slice(
        save(
            ct_dataset(stored, RescaleIntercept="-900", PixelPaddingValue=0, PixelPaddingRangeLimit=10),
            tmp_path / "a",
        )
    )
    assert image.hu.tolist() == [[AIR_HU, AIR_HU], [-889, 1100]]


def test_padding_in_the_range_of_tissue_counts_at_the_border_only(tmp_path: Path) -> None:
    stored = np.full((5, 5), 40, dtype=np.int16)
    stored[0, 0] = stored[2, 2] = 0
    image = read_slice(save(ct_dataset(stored, RescaleIntercept="0", PixelPaddingValue=0), tmp_path / "a"))
    assert image.hu[0, 0] == AIR_HU
    assert image.hu[2, 2] == 0


def test_modality_lookup_table(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.ModalityLUTType = "HU"
    item.add_new("LUTData", "US", [100, 200, 300, 400])
    dataset = ct_dataset(np.array([[0, 1], [2, 3]], np.uint16), RescaleSlope=None, RescaleIntercept=None)
    dataset.ModalityLUTSequence = [item]
    assert read_slice(save(dataset, tmp_path / "a")).hu.tolist() == [[100, 200], [300, 400]]


@pytest.mark.parametrize(
    ("signed_stream", "signed_header"), [(True, False), (False, True), (True, True), (False, False)]
)
def test_jpeg_2000_with_a_wrong_sign_in_its_header(
    tmp_path: Path, signed_stream: bool, signed_header: bool
) -> None:
    stored = np.zeros((64, 64), np.int16) + np.arange(64, dtype=np.int16)
    hu = stored - 1000 if signed_stream else stored
    dataset = ct_dataset(hu.astype(np.int16 if signed_stream else np.uint16), RescaleIntercept="0")
    save(dataset, tmp_path / "plain.dcm")
    dataset.compress(JPEG2000Lossless)
    dataset.PixelRepresentation = int(signed_header)
    image = read_slice(save(dataset, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.hu, hu)
    assert any("JPEG 2000" in w for w in image.warnings) == (signed_stream and not signed_header)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_transfer_syntaxes(tmp_path: Path, syntax: Any) -> None:
    stored = np.arange(64 * 64, dtype=np.int16).reshape(64, 64) - 500
    dataset = ct_dataset(stored)
    save(dataset, tmp_path / "plain.dcm")
    if syntax.is_compressed:
        dataset.compress(syntax)
    else:
        del dataset.file_meta
    image = read_slice(save(dataset, tmp_path / "a.dcm", syntax))
    np.testing.assert_array_equal(image.hu, np.maximum(stored - 1024, AIR_HU))


def test_big_endian(tmp_path: Path) -> None:
    dataset = ct_dataset(STORED, PixelData=STORED.astype(">i2").tobytes())
    image = read_slice(save(dataset, tmp_path / "a.dcm", ExplicitVRBigEndian))
    np.testing.assert_array_equal(image.hu, STORED - 1024)


@pytest.mark.parametrize("claimed", [JPEG2000Lossless, RLELossless, "1.2.840.10008.1.2.4.57"])
def test_plain_pixels_under_a_compressed_syntax(tmp_path: Path, claimed: str) -> None:
    path = save(ct_dataset(np.zeros((32, 32), np.int16)), tmp_path / "a.dcm")
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"")
    start = path.read_bytes().index(b"1.2.840.10008.1.2.1\0")
    uid = str(claimed).encode() + b"\0" * (len(str(claimed)) % 2)
    length = len(uid).to_bytes(2, "little")
    content = path.read_bytes()
    grown = len(uid) - 20
    content = content[: start - 2] + length + uid + content[start + 20 :]
    group = content.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    size = int.from_bytes(content[group : group + 4], "little") + grown
    path.write_bytes(content[:group] + size.to_bytes(4, "little") + content[group + 4 :])
    with pytest.raises(
        DicomError, match=r"a\.dcm cannot be read: .*(another encoding|cannot be parsed|too early|no pixel)"
    ):
        read_slice(path)


@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_truncated_compressed_pixels(tmp_path: Path, keep: float) -> None:
    rng = np.random.default_rng(1)
    dataset = ct_dataset(rng.integers(0, 4000, (64, 64)).astype(np.int16))
    save(dataset, tmp_path / "plain.dcm")
    dataset.compress(RLELossless)
    path = save(dataset, tmp_path / "a.dcm")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DicomError, match=r"a\.dcm cannot be read"):
        read_slice(path)


def test_a_file_without_preamble_or_syntax_is_read(tmp_path: Path) -> None:
    path = save(ct_dataset(STORED), tmp_path / "a.dcm", ImplicitVRLittleEndian)
    content = path.read_bytes()
    size = int.from_bytes(content[140:144], "little")
    path.write_bytes(content[144 + size :])
    image = read_slice(path)
    np.testing.assert_array_equal(image.hu, STORED - 1024)
    assert any("transfer syntax" in w for w in image.warnings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RescaleSlope": "0"}, "rescale slope is 0"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "no rescale slope and intercept"),
    ],
)
def test_values_that_cannot_be_hu(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DicomError, match=words):
        read_slice(save(ct_dataset(**changes), tmp_path / "a.dcm"))


def test_a_header_that_lacks_the_bits(tmp_path: Path) -> None:
    path = save(ct_dataset(STORED), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x00\x01US\x02\x00", b"\x28\x00\x99\x00US\x02\x00"))
    with pytest.raises(DicomError, match="lacks what is needed"):
        read_slice(path)


def test_nothing_of_a_header_reaches_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(ct_dataset(STORED, SeriesInstanceUID="2.25.1234567"), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"2.25.1234567", b"Doe^Jane 123"))
    image = read_slice(path)
    assert "Doe" not in caplog.text
    assert not any("Doe" in w for w in image.warnings)
    list_series(path)
    assert caplog.text == ""


def test_negative_values_without_rescale_are_taken_as_hu(tmp_path: Path) -> None:
    stored = np.array([[-1000, 40], [60, -100]], dtype=np.int16)
    image = read_slice(save(ct_dataset(stored, RescaleSlope=None, RescaleIntercept=None), tmp_path / "a"))
    np.testing.assert_array_equal(image.hu, stored)
    assert any("taken as HU" in w for w in image.warnings)


def test_missing_orientation_of_one_slice(tmp_path: Path) -> None:
    image = read_slice(save(ct_dataset(ImageOrientationPatient=None), tmp_path / "a.dcm"))
    assert image.plane == "unknown"
    assert image.affine is None
    assert any("left and right are unknown" in w for w in image.warnings)
    image = read_slice(save(ct_dataset(ImagePositionPatient=None), tmp_path / "b.dcm"))
    assert image.plane == "axial"
    assert image.affine is None


def test_missing_spacing_of_one_slice(tmp_path: Path) -> None:
    path = save(ct_dataset(PixelSpacing=None, ImagerPixelSpacing=["0.5", "0.5"]), tmp_path / "a.dcm")
    with pytest.raises(GeometryError, match=r"a\.dcm states no pixel spacing"):
        read_slice(path)
    image = read_slice(path, spacing_mm=(0.9, 0.8))
    assert image.spacing_mm == (0.9, 0.8)
    assert any("given by hand" in w for w in image.warnings)


def test_lossy_compression_is_reported(tmp_path: Path) -> None:
    image = read_slice(save(ct_dataset(LossyImageCompression="01"), tmp_path / "a.dcm"))
    assert "the image was compressed with loss" in image.warnings


def test_malformed_and_implausible_facts_are_left_out(tmp_path: Path) -> None:
    path = save(
        ct_dataset(PatientSize="175", PatientWeight="0", PatientSex="O", KVP="120"), tmp_path / "a.dcm"
    )
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"120 ", b"12x ").replace(
            b"\x18\x00\x50\x00DS\x02\x005 ", b"\x18\x00\x50\x00DS\x02\x00x "
        )
    )
    facts = read_slice(path).acquisition
    assert (facts.patient_height_m, facts.patient_weight_kg, facts.patient_sex) == (None, None, None)
    assert (facts.kvp, facts.slice_thickness_mm) == (None, None)


@pytest.mark.parametrize(("agent", "expected"), [("OMNI", True), ("NONE", False), ("", None)])
def test_contrast_agent(tmp_path: Path, agent: str, expected: bool | None) -> None:
    image = read_slice(save(ct_dataset(ContrastBolusAgent=agent), tmp_path / "a.dcm"))
    assert image.acquisition.contrast is expected


def test_rows_beyond_the_stated_size_are_said(tmp_path: Path) -> None:
    whole = np.arange(24, dtype=np.int16).reshape(4, 6)
    path = save(ct_dataset(whole, Rows=3), tmp_path / "a.dcm")
    found = read_slice(path)
    assert found.hu.tolist() == (whole[:3] - 1024).tolist()
    assert "the file holds 1 rows of pixels more than it states; they were left out" in found.warnings


@pytest.mark.parametrize(
    ("stated", "metres"), [("1.75", 1.75), ("175", None), ("0.0175", None), ("0", None), ("", None)]
)
def test_a_height_that_is_none_in_metres_is_said(tmp_path: Path, stated: str, metres: float | None) -> None:
    found = read_slice(save(ct_dataset(PatientSize=stated), tmp_path / "a.dcm"))
    assert found.acquisition.patient_height_m == metres
    said = [text for text in found.warnings if "height" in text]
    assert said == (
        ["the height in the header is none in metres and was left out"] if stated in ("175", "0.0175") else []
    )
