from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from ctai_sam2.errors import DicomError, GeometryError, InputError
from ctai_sam2.io import read_slice, read_study
from ctai_sam2.io.dicom_seg import read_seg, write_seg
from ctai_sam2.io.source_images import SourceImages, find_source_images
from ctai_sam2.io.structure_terms import Authorship, StructureTerm
from ctai_sam2.types import CTVolume, ModelIdentity
from tests.independent import seg_points_mm, volume_points_mm

from .making import enhanced_dataset, make_volume, save, write_series

pytest.importorskip("highdicom", reason="the extra 'export' is not installed")

MODEL = ModelIdentity(
    name="sam2-ct-nano",
    weights_sha256="ab" * 32,
    image_size=512,
    device="cpu",
    dtype="float32",
    code_version="0.1.0",
)


@pytest.fixture
def study(tmp_path: Path) -> tuple[CTVolume, SourceImages, dict[str, Any]]:
    write_series(tmp_path / "s", make_volume((5, 9, 7)), orientation="negated both", shuffle_seed=1)
    volume = read_study(tmp_path / "s")
    rng = np.random.default_rng(4)
    masks = {
        "psoas_left": rng.random(volume.shape_zyx) > 0.8,
        "muscle": rng.random(volume.shape_zyx) > 0.5,
    }
    return volume, find_source_images(tmp_path / "s"), masks


def test_masks_of_a_volume_come_back(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_seg(tmp_path / "seg.dcm", masks, volume, source)
    back = read_seg(path, volume, source=source)
    assert list(back) == ["psoas_left", "muscle"]
    for name, mask in masks.items():
        np.testing.assert_array_equal(back[name], mask)


def test_an_independent_reader_finds_every_voxel_in_its_place(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_seg(tmp_path / "seg.dcm", masks, volume, source)
    for name, points in seg_points_mm(path).items():
        np.testing.assert_allclose(points, volume_points_mm(masks[name], volume.affine), atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("dcmqi") is None, reason="dcmqi is not installed")
def test_the_reader_of_3d_slicer_finds_every_voxel_in_its_place(tmp_path: Path, study: Any) -> None:
    import nibabel

    volume, source, masks = study
    masks.pop("muscle")
    write_seg(tmp_path / "seg.dcm", masks, volume, source)
    program = Path(sys.executable).with_name("segimage2itkimage")
    subprocess.run(
        [program, "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path, "-t", "nii"],
        check=True,
        capture_output=True,
    )
    [found] = tmp_path.glob("*.nii.gz")
    image: Any = nibabel.load(found)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    points = volume_points_mm(np.asarray(image.dataobj).transpose(2, 1, 0), lps)
    np.testing.assert_allclose(points, volume_points_mm(masks["psoas_left"], volume.affine), atol=2e-3)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_a_mask_of_one_slice_lies_in_the_volume_and_comes_back(
    tmp_path: Path, study: Any, plane: str
) -> None:
    volume, source, _ = study
    ct = getattr(volume, plane)(3)
    mask = np.random.default_rng(1).random(ct.shape_hw) > 0.5
    path = write_seg(tmp_path / "seg.dcm", {"l3": mask}, ct, source)
    np.testing.assert_array_equal(read_seg(path, ct)["l3"], mask)
    whole = read_seg(path, volume)["l3"]
    assert whole.sum() == mask.sum()
    shown = {"axial": whole[3], "sagittal": whole[::-1, :, 3], "coronal": whole[::-1, 3, :]}[plane]
    np.testing.assert_array_equal(shown, mask)
    if plane == "axial":
        assert dcmread(path).NumberOfFrames == 1


def test_a_mask_of_a_slice_read_alone_refers_to_that_image(tmp_path: Path) -> None:
    files = write_series(tmp_path / "s", orientation="transposed")
    ct = read_slice(files[2])
    mask = np.zeros(ct.shape_hw, bool)
    mask[1:3, 0] = True
    path = write_seg(tmp_path / "seg.dcm", {"sat": mask}, ct, find_source_images(files[2]))
    np.testing.assert_array_equal(read_seg(path, ct)["sat"], mask)
    [instance] = dcmread(path).ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == dcmread(files[2]).SOPInstanceUID


def test_every_frame_names_the_image_it_was_drawn_on(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    dataset = dcmread(write_seg(tmp_path / "seg.dcm", masks, volume, source))
    places = {frame.instance_uid: frame.position_mm for frame in source.frames}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        [image] = group.DerivationImageSequence[0].SourceImageSequence
        position = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        assert position == pytest.approx(places[image.ReferencedSOPInstanceUID])
    [series] = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.series_uid
    assert dataset.Modality == "SEG"


def test_segments_carry_codes_and_the_model(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    author = Authorship(made_by="semiautomatic", model=MODEL)
    dataset = dcmread(write_seg(tmp_path / "seg.dcm", masks, volume, source, authorship=author))
    psoas, muscle = dataset.SegmentSequence
    kind = psoas.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("68455001", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert muscle.SegmentedPropertyTypeCodeSequence[0].CodeValue == "127954009"
    assert psoas.SegmentAlgorithmType == "SEMIAUTOMATIC"
    algorithm = psoas.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("sam2-ct-nano", "0.1.0")
    assert "ab" * 32 in str(algorithm.AlgorithmParameters)
    by_hand = dcmread(write_seg(tmp_path / "hand.dcm", masks, volume, source)).SegmentSequence[0]
    assert by_hand.SegmentAlgorithmType == "MANUAL"
    assert "SegmentationAlgorithmIdentificationSequence" not in by_hand


def test_the_patient_is_named_as_in_the_images_or_by_a_pseudonym(tmp_path: Path, study: Any) -> None:
    volume, _, masks = study
    for path in (tmp_path / "s").iterdir():
        image = dcmread(path)
        image.PatientName, image.PatientID, image.PatientBirthDate = "Known^Person", "42", "19500101"
        image.StudyDate, image.InstitutionName, image.PatientAddress = "20200102", "Clinic", "Street 1"
        image.save_as(path)
    source = find_source_images(tmp_path / "s")
    plain = write_seg(tmp_path / "plain.dcm", masks, volume, source)
    assert str(dcmread(plain).PatientName) == "Known^Person"
    assert b"Clinic" not in plain.read_bytes()
    assert b"Street 1" not in plain.read_bytes()
    hidden = write_seg(tmp_path / "hidden.dcm", masks, volume, source, pseudonym="S-1")
    assert dcmread(hidden).PatientID == "S-1"
    assert dcmread(hidden).PatientIdentityRemoved == "YES"
    for word in (b"Known", b"19500101", b"20200102"):
        assert word not in hidden.read_bytes()


def test_codes_of_other_programs_are_recognised(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_seg(tmp_path / "seg.dcm", masks, volume, source)
    dataset = dcmread(path)
    dataset.SegmentSequence[0].SegmentLabel = "Segment A"
    dataset.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"
    dataset.SegmentSequence[1].SegmentLabel = "All muscle"
    dataset.save_as(path)
    assert list(read_seg(path, volume)) == ["psoas_left", "All muscle"]


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_other_kinds_of_segmentation_are_read(tmp_path: Path, study: Any, kind: str) -> None:
    import highdicom
    from pydicom.sr.codedict import codes

    volume, source, masks = study
    images = [dcmread(frame.path) for frame in source.frames]
    for image in images:
        image.PatientName = "Made^Up"
    stored = source.stored_masks({"muscle": masks["muscle"]}, volume)["muscle"]
    pixels = stored.astype(np.float32) * 0.75 if kind == "FRACTIONAL" else stored.astype(np.uint8)
    made = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(1, "other", codes.SCT.Tissue, codes.SCT.Muscle, "MANUAL")
        ],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    made.save_as(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", volume)["other"], masks["muscle"])


def test_a_multiframe_ct_is_referred_to_by_frame(tmp_path: Path) -> None:
    stored = np.arange(3 * 4 * 6, dtype=np.int16).reshape(3, 4, 6)
    dataset = enhanced_dataset(stored, [20.0, 10.0, 15.0], [(1.0, -1024.0)] * 3)
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "2.25.7", "2.25.8"
    path = save(dataset, tmp_path / "ct.dcm")
    volume = read_study(path)
    mask = np.zeros(volume.shape_zyx, bool)
    mask[2, 1:3, 2:] = mask[0, 0, 0] = True
    seg = write_seg(tmp_path / "seg.dcm", {"muscle": mask}, volume, find_source_images(path))
    np.testing.assert_array_equal(read_seg(seg, volume)["muscle"], mask)
    frames = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in dcmread(seg).PerFrameFunctionalGroupsSequence
    ]
    assert sorted(frames) == [1, 2]


def test_what_cannot_be_exported_is_said(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    mask = masks["muscle"]
    out = tmp_path / "seg.dcm"
    with pytest.raises(InputError, match="no mask to export"):
        write_seg(out, {}, volume, source)
    with pytest.raises(InputError, match="all masks are empty"):
        write_seg(out, {"muscle": np.zeros_like(mask)}, volume, source)
    with pytest.raises(InputError, match=r"no DICOM term.*liver.*Known are l3"):
        write_seg(out, {"liver": mask}, volume, source)
    with pytest.raises(InputError, match="another shape"):
        write_seg(out, {"muscle": mask[:-1]}, volume, source)
    other = make_volume((5, 9, 7), spacing_zyx_mm=(2.5, 0.75, 0.9))
    with pytest.raises(GeometryError, match=r"another grid.*0\.9 x 0\.75 x 2\.5 mm for 0\.8"):
        write_seg(out, {"muscle": mask}, other, source)
    elsewhere = make_volume((5, 9, 7), origin_mm=(-31.5, 12.25, 100.0))
    with pytest.raises(GeometryError, match="outside of the image"):
        write_seg(out, {"muscle": mask}, elsewhere, source)
    shifted = make_volume((5, 9, 7), origin_mm=(-31.1, 12.25, -440.0))
    with pytest.raises(GeometryError, match="another grid"):
        write_seg(out, {"muscle": mask}, shifted, source)
    with pytest.raises(InputError, match="made by hand has no model"):
        Authorship(made_by="automatic")
    with pytest.raises(InputError, match="pseudonym"):
        write_seg(out, masks, volume, source, pseudonym="a\\b")
    assert not out.exists()
    term = StructureTerm(category=("91723000", "Anatomical Structure"), type=("10200004", "Liver"))
    assert read_seg(write_seg(out, {"liver": mask}, volume, source, terms={"liver": term}), volume)


def test_what_cannot_be_imported_is_said(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_seg(tmp_path / "seg.dcm", masks, volume, source)
    with pytest.raises(InputError, match=r"no file nothing\.dcm"):
        read_seg(tmp_path / "nothing.dcm", volume)
    with pytest.raises(DicomError, match=r"not a DICOM SEG.*CT"):
        read_seg(next((tmp_path / "s").iterdir()), volume)
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(DicomError, match="not a DICOM file"):
        read_seg(tmp_path / "text.dcm", volume)
    with pytest.raises(GeometryError, match="another grid"):
        read_seg(path, make_volume((5, 9, 7), spacing_zyx_mm=(2.5, 0.7, 0.8)))
    write_series(tmp_path / "other", volume, series_key="other")
    with pytest.raises(InputError, match=r"drawn on another series.*2\.25"):
        read_seg(path, volume, source=find_source_images(tmp_path / "other"))
    one = write_seg(tmp_path / "one.dcm", {"l3": masks["muscle"][1]}, volume.axial(1), source)
    with pytest.raises(GeometryError, match="lies on the image"):
        read_seg(one, volume.axial(2))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated_files_give_a_typed_error(tmp_path: Path, study: Any, keep: float) -> None:
    volume, source, masks = study
    path = write_seg(tmp_path / "seg.dcm", masks, volume, source)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises((DicomError, GeometryError)):
        read_seg(path, volume)


def test_images_without_identity_cannot_be_referred_to(tmp_path: Path, study: Any) -> None:
    volume, _, masks = study
    for path in (tmp_path / "s").iterdir():
        image = dcmread(path)
        del image.FrameOfReferenceUID
        image.save_as(path)
    with pytest.raises(DicomError, match="no frame of reference"):
        write_seg(tmp_path / "seg.dcm", masks, volume, find_source_images(tmp_path / "s"))
    with pytest.raises(InputError, match="not DICOM"):
        find_source_images(tmp_path / "a.nii.gz")


def test_a_segmentation_of_another_scan_is_not_taken_by_its_position(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    dataset = dcmread(write_seg(tmp_path / "seg.dcm", masks, volume, source))
    del dataset.ReferencedSeriesSequence
    assert list(read_seg(save(dataset, tmp_path / "own.dcm"), volume, source=source)) == list(masks)
    dataset.FrameOfReferenceUID = "2.25.99"
    path = save(dataset, tmp_path / "other.dcm")
    with pytest.raises(InputError, match="another frame of reference"):
        read_seg(path, volume, source=source)
    assert list(read_seg(path, volume)) == list(masks)
