from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import dcmread
from scipy import ndimage

from ctai_sam2.errors import DicomError, GeometryError, InputError
from ctai_sam2.image.contours import (
    Polygon,
    mask_to_polygons,
    polygon_to_keyhole,
    polygons_to_mask,
)
from ctai_sam2.io import read_study
from ctai_sam2.io.dicom_rtstruct import read_rtstruct, write_rtstruct
from ctai_sam2.io.source_images import SourceImages, find_source_images
from ctai_sam2.types import CTVolume
from tests.independent import polygon_area_px

from .making import enhanced_dataset, make_volume, save, write_series


@pytest.fixture
def study(tmp_path: Path) -> tuple[CTVolume, SourceImages, dict[str, Any]]:
    write_series(tmp_path / "s", make_volume((5, 9, 7)), orientation="negated rows", shuffle_seed=1)
    volume = read_study(tmp_path / "s")
    ring = np.zeros(volume.shape_zyx, bool)
    ring[1:4, 1:8, 1:6] = True
    ring[2, 3:6, 2:5] = False
    ring[2, 4, 3] = True
    noise = np.random.default_rng(4).random(volume.shape_zyx) > 0.6
    return volume, find_source_images(tmp_path / "s"), {"muscle": ring, "psoas_left": noise}


def test_masks_come_back_with_holes_and_islands(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_rtstruct(tmp_path / "rt.dcm", masks, volume, source)
    back = read_rtstruct(path, volume, source=source)
    assert list(back) == list(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(back[name], mask)


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_a_mask_of_one_slice_comes_back(tmp_path: Path, study: Any, plane: str) -> None:
    volume, source, _ = study
    ct = getattr(volume, plane)(2)
    mask = np.random.default_rng(1).random(ct.shape_hw) > 0.4
    path = write_rtstruct(tmp_path / "rt.dcm", {"l3": mask}, ct, source)
    np.testing.assert_array_equal(read_rtstruct(path, ct)["l3"], mask)
    assert read_rtstruct(path, volume)["l3"].sum() == mask.sum()


def test_outlines_lie_in_their_images_planes_and_enclose_the_area(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    dataset = dcmread(write_rtstruct(tmp_path / "rt.dcm", masks, volume, source))
    places = {frame.instance_uid: frame.position_mm for frame in source.frames}
    area = 0.0
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints
        [image] = contour.ContourImageSequence
        np.testing.assert_allclose(points[:, 2], places[image.ReferencedSOPInstanceUID][2], atol=1e-3)
        x, y = points[:, 0], points[:, 1]
        # Bridges of no width enclose nothing, so the shoelace formula of the one ring is the area.
        area += abs(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2
    assert area == pytest.approx(masks["muscle"].sum() * 0.75 * 0.8, rel=1e-4)


def test_it_names_structures_series_and_patient_as_the_standard_asks(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    dataset = dcmread(write_rtstruct(tmp_path / "rt.dcm", masks, volume, source, pseudonym="S-1"))
    assert [item.ROIName for item in dataset.StructureSetROISequence] == ["muscle", "psoas_left"]
    assert dataset.PatientID == "S-1"
    reference = dataset.ReferencedFrameOfReferenceSequence[0]
    series = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.series_uid
    assert len(series.ContourImageSequence) == 5
    code = dataset.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0]
    assert (code.CodeValue, code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == (
        "68455001",
        "Left",
    )
    for keyword in ("StructureSetLabel", "StructureSetDate", "ApprovalStatus", "FrameOfReferenceUID"):
        assert dataset.get(keyword)


@pytest.mark.filterwarnings("ignore")  # rt-utils uses what pydicom is about to remove
def test_rt_utils_reads_the_same_shapes(tmp_path: Path) -> None:
    # Square images and pixels: rt-utils 1.2.7 takes row for column spacing, and rows for columns.
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils is not installed")
    volume = make_volume((4, 48, 48), (2.5, 0.75, 0.75))
    write_series(tmp_path / "s", volume)
    y, x = np.mgrid[:48, :48]
    disc = (x - 18) ** 2 + (y - 25) ** 2 < 150
    disc &= (x - 15) ** 2 + (y - 25) ** 2 > 12
    mask = np.zeros(volume.shape_zyx, bool)
    mask[1:3] = disc
    path = write_rtstruct(tmp_path / "rt.dcm", {"muscle": mask}, volume, find_source_images(tmp_path / "s"))
    other = rt_utils.RTStructBuilder.create_from(
        dicom_series_path=str(tmp_path / "s"), rt_struct_path=str(path)
    )
    assert other.get_roi_names() == ["muscle"]
    found = other.get_roi_mask_by_name("muscle").transpose(2, 0, 1)
    # It rounds corners to whole pixels and fills edges: nothing may differ but the outermost pixels.
    cross = ndimage.generate_binary_structure(2, 2)[None]
    assert not (found & ~ndimage.binary_dilation(mask, cross)).any()
    assert not (ndimage.binary_erosion(mask, cross) & ~found).any()


@pytest.mark.filterwarnings("ignore")  # rt-utils uses what pydicom is about to remove
def test_outlines_of_rt_utils_are_read(tmp_path: Path) -> None:
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils is not installed")
    volume = make_volume((4, 48, 48), (2.5, 0.75, 0.75))
    write_series(tmp_path / "s", volume)
    y, x = np.mgrid[:48, :48]
    mask = np.zeros(volume.shape_zyx, bool)
    mask[1:3] = ((x - 18) ** 2 + (y - 25) ** 2 < 150) & ((x - 18) ** 2 + (y - 25) ** 2 > 20)
    other = rt_utils.RTStructBuilder.create_new(dicom_series_path=str(tmp_path / "s"))
    other.add_roi(mask=mask.transpose(1, 2, 0), name="Psoas left")
    other.save(str(tmp_path / "theirs.dcm"))
    back = read_rtstruct(tmp_path / "theirs.dcm", volume, source=find_source_images(tmp_path / "s"))
    cross = ndimage.generate_binary_structure(2, 2)[None]
    found = back["psoas_left"]
    assert not (found & ~ndimage.binary_dilation(mask, cross)).any()
    assert not (ndimage.binary_erosion(mask, cross) & ~found).any()


def test_separate_rings_of_other_programs_make_holes(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_rtstruct(tmp_path / "rt.dcm", {"muscle": masks["muscle"]}, volume, source)
    dataset = dcmread(path)
    contours = dataset.ROIContourSequence[0].ContourSequence
    with_hole = next(c for c in contours if c.NumberOfContourPoints > 4)
    index = [f.instance_uid for f in source.frames].index(
        with_hole.ContourImageSequence[0].ReferencedSOPInstanceUID
    )
    stored = source.stored_masks(masks, volume)["muscle"][index]
    polygon = max(mask_to_polygons(stored), key=lambda p: len(p.holes_xy))
    affine = source.affine_of_frame(index)

    def points_mm(ring: Any) -> list[float]:
        return list((ring @ affine[:3, :2].T + affine[:3, 3]).ravel().round(4))

    outer, hole = points_mm(polygon.exterior_xy), points_mm(polygon.holes_xy[0])
    with_hole.ContourData, with_hole.NumberOfContourPoints = outer, len(outer) // 3
    extra = deepcopy(with_hole)
    extra.ContourData, extra.NumberOfContourPoints = hole, len(hole) // 3
    contours.append(extra)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_rtstruct(path, volume)["muscle"], masks["muscle"])


def test_long_outlines_are_written_whole(tmp_path: Path) -> None:
    volume = make_volume((1, 120, 120))
    write_series(tmp_path / "s", volume)
    mask = np.zeros((1, 120, 120), bool)
    mask[0, ::2] = mask[0, :, 0] = True
    mask[0, ::2, 2:][:, ::2] = False
    mask[0, 1::2, 1::2] = True
    noise = {"muscle": mask | (np.random.default_rng(0).random(mask.shape) > 0.55)}
    read = read_study(tmp_path / "s")
    path = write_rtstruct(tmp_path / "rt.dcm", noise, read, find_source_images(tmp_path / "s"))
    longest = max(c.NumberOfContourPoints for c in dcmread(path).ROIContourSequence[0].ContourSequence)
    assert longest * 3 * 5 > 65534
    np.testing.assert_array_equal(read_rtstruct(path, read)["muscle"], noise["muscle"])


def test_a_multiframe_ct_is_referred_to_by_frame(tmp_path: Path) -> None:
    stored = np.arange(3 * 4 * 6, dtype=np.int16).reshape(3, 4, 6)
    dataset = enhanced_dataset(stored, [20.0, 10.0, 15.0], [(1.0, -1024.0)] * 3)
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "2.25.7", "2.25.8"
    path = save(dataset, tmp_path / "ct.dcm")
    volume = read_study(path)
    mask = np.zeros(volume.shape_zyx, bool)
    mask[2, 1:3, 2:] = True
    written = write_rtstruct(tmp_path / "rt.dcm", {"x": mask}, volume, find_source_images(path))
    np.testing.assert_array_equal(read_rtstruct(written, volume)["x"], mask)
    [image] = dcmread(written).ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    assert image.ReferencedFrameNumber == 1
    assert image.ReferencedSOPClassUID == dataset.SOPClassUID


def test_what_cannot_be_exchanged_is_said(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    path = write_rtstruct(tmp_path / "rt.dcm", masks, volume, source)
    with pytest.raises(InputError, match="all masks are empty"):
        write_rtstruct(tmp_path / "no.dcm", {"muscle": masks["muscle"] & False}, volume, source)
    with pytest.raises(InputError, match="no mask"):
        write_rtstruct(tmp_path / "no.dcm", {}, volume, source)
    with pytest.raises(DicomError, match="not an RT Structure Set"):
        read_rtstruct(next((tmp_path / "s").iterdir()), volume)
    write_series(tmp_path / "other", volume, series_key="other")
    with pytest.raises(InputError, match="another series"):
        read_rtstruct(path, volume, source=find_source_images(tmp_path / "other"))
    with pytest.raises(GeometryError, match="between or beyond"):
        read_rtstruct(path, make_volume((5, 9, 7), origin_mm=(-31.5, 12.25, -439.0)))
    with pytest.raises(GeometryError, match="outside of the image"):
        read_rtstruct(path, make_volume((5, 9, 7), origin_mm=(31.5, 12.25, -440.0)))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    with pytest.raises(GeometryError, match="not parallel"):
        read_rtstruct(path, CTVolume(hu_zyx=volume.hu_zyx, affine=turn @ volume.affine))
    one = write_rtstruct(tmp_path / "one.dcm", {"l3": masks["muscle"][1]}, volume.axial(1), source)
    with pytest.raises(GeometryError, match="no outline"):
        read_rtstruct(one, volume.axial(2))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(DicomError):
        read_rtstruct(path, volume)


def test_outlines_of_another_scan_are_not_taken_by_their_position(tmp_path: Path, study: Any) -> None:
    volume, source, masks = study
    dataset = dcmread(write_rtstruct(tmp_path / "rt.dcm", masks, volume, source))
    # One structure drawn on the MR that the set refers to as well, at positions that the CT has too.
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "2.25.99"
    found = read_rtstruct(save(dataset, tmp_path / "two.dcm"), volume, source=source)
    assert list(found) == ["muscle"]
    assert found.warnings == ("psoas_left left out, since it was drawn in another frame of reference",)
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "2.25.99"
    # The series is the CT's: an anonymiser has exchanged the other identifiers alone.
    assert list(read_rtstruct(save(dataset, tmp_path / "all.dcm"), volume, source=source)) == list(masks)
    del dataset.ReferencedFrameOfReferenceSequence
    path = save(dataset, tmp_path / "none.dcm")
    with pytest.raises(InputError, match="another frame of reference"):
        read_rtstruct(path, volume, source=source)
    assert list(read_rtstruct(path, volume)) == list(masks)


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_keyhole_encloses_what_the_polygon_does(mask: Any) -> None:
    polygons = mask_to_polygons(mask)
    rings = [Polygon(exterior_xy=polygon_to_keyhole(polygon)) for polygon in polygons]
    np.testing.assert_array_equal(polygons_to_mask(rings, mask.shape), mask)
    for ring, polygon in zip(rings, polygons, strict=True):
        assert polygon_area_px(ring) == pytest.approx(polygon_area_px(polygon))
