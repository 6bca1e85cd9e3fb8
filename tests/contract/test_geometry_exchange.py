"""Whatever way a scanner stores a study, masks keep their pixels, their area and their place in the patient.

All 48 signed permutations of the stored axes, oblique planes, tilted gantries, unequal spacings and missing
slices; through SEG, RTSTRUCT, NIfTI, COCO and PNG.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from ctai_sam2.exchange import export_masks, import_masks
from ctai_sam2.io import read_slice, read_study
from ctai_sam2.types import Acquisition, CTVolume
from tests.dicom_series import write_series_as
from tests.independent import seg_points_mm, volume_points_mm

pytest.importorskip("highdicom", reason="the extra 'export' is not installed")

# Rows and columns along any two patient axes either way (24 planes), numbered from either end (48 in all).
PLANES = [
    (row, column, row_sign, column_sign)
    for row, column in itertools.permutations(range(3), 2)
    for row_sign, column_sign in itertools.product((1, -1), repeat=2)
]
DICOM = {"seg.dcm": "seg", "rt.dcm": "rtstruct"}
FILES = {**DICOM, "labels.nii.gz": "nifti", "rle.json": "coco"}


def make_volume(
    shape_zyx: tuple[int, int, int] = (4, 7, 6),
    spacing_zyx_mm: tuple[float, float, float] = (3.0, 0.7, 0.9),
    *,
    turn: Any = None,
    lean: float = 0.0,
    positions_mm: Any = None,
) -> CTVolume:
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing_zyx_mm[::-1])
    affine[1, 2] += lean * spacing_zyx_mm[0]
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-120.25, -80.5, 410.125)
    hu = np.random.default_rng(1).integers(-1024, 2000, shape_zyx).astype(np.int16)
    return CTVolume(
        hu_zyx=hu,
        affine=affine,
        slice_positions_mm=positions_mm,
        acquisition=Acquisition(slice_thickness_mm=spacing_zyx_mm[0]),
    )


def make_masks(shape_zyx: tuple[int, ...]) -> dict[str, Any]:
    """Two masks without a symmetry and without common voxels; the second holds a hole and single voxels."""
    rng = np.random.default_rng(2)
    first = rng.random(shape_zyx) > 0.7
    second = (rng.random(shape_zyx) > 0.4) & ~first
    first[0, 0, 0] = True
    return {"psoas_left": first, "muscle": second & ~first}


def rotation(angles_deg: tuple[float, float, float]) -> Any:
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        c, s = np.cos(angle), np.sin(angle)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = c
        step[i, j], step[j, i] = -s, s
        result = result @ step
    return result


def renumber(folder: Path) -> None:
    """Number the images from the other end, as feet-first scans do; the order must come from positions."""
    paths = sorted(folder.iterdir(), key=lambda p: dcmread(p).InstanceNumber)
    for number, path in enumerate(reversed(paths), start=1):
        image = dcmread(path)
        image.InstanceNumber, image.PatientPosition = number, "FFS"
        image.save_as(path)


def check(folder: Path, written: CTVolume, formats: dict[str, Any] = FILES) -> None:
    volume = read_study(folder)
    np.testing.assert_allclose(volume.affine, written.affine, atol=1e-5)
    np.testing.assert_allclose(volume.slice_offsets, written.slice_offsets, atol=1e-4)
    masks = make_masks(volume.shape_zyx)
    place = {name: volume_points_mm(m, written.affine, written.slice_offsets) for name, m in masks.items()}
    for file, kind in formats.items():
        out = folder.parent / file
        export_masks(masks, volume, out, format=kind, source=folder if file in DICOM else None)
        back = import_masks(out, volume, source=folder)
        assert list(back) == list(masks)
        for name, mask in masks.items():
            np.testing.assert_array_equal(back[name], mask, err_msg=f"{kind} {name}")
        if kind == "seg":
            for name, points in seg_points_mm(out).items():
                np.testing.assert_allclose(points, place[name], atol=5e-3)
        if kind == "rtstruct":
            check_outlines(out, masks, volume, place)


def check_outlines(path: Path, masks: Any, volume: CTVolume, place: Any) -> None:
    """By vectors in patient space alone: Stokes' theorem gives area and centre of mass of each outline."""
    dataset = dcmread(path)
    names = {item.ROINumber: item.ROIName for item in dataset.StructureSetROISequence}
    normal = np.array(dcmread(next((path.parent / "s").iterdir())).ImageOrientationPatient, dtype=float)
    normal = np.cross(normal[:3], normal[3:])
    spacing = np.array(
        [float(v) for v in dcmread(next((path.parent / "s").iterdir())).PixelSpacing], dtype=float
    )
    for item in dataset.ROIContourSequence:
        area, moment = 0.0, np.zeros(3)
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            corner = points[0]
            for a, b in itertools.pairwise([*points[1:]]):
                part = float(np.cross(a - corner, b - corner) @ normal) / 2
                area += part
                moment += part * (corner + a + b) / 3
        name = names[item.ReferencedROINumber]
        assert abs(area) == pytest.approx(masks[name].sum() * spacing.prod(), rel=1e-3)
        np.testing.assert_allclose(moment / area, place[name].mean(axis=0), atol=0.02)


@pytest.mark.parametrize("feet_first", [False, True])
@pytest.mark.parametrize("plane", PLANES, ids=str)
def test_all_48_orientations(tmp_path: Path, plane: tuple[int, ...], feet_first: bool) -> None:
    row, column, row_sign, column_sign = plane
    cosines = np.zeros(6)
    cosines[row], cosines[3 + column] = row_sign, column_sign
    volume = make_volume()
    write_series_as(tmp_path / "s", volume, orientation=cosines.tolist(), shuffle_seed=5)
    if feet_first:
        renumber(tmp_path / "s")
    check(tmp_path / "s", volume)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plane=st.sampled_from(PLANES),
    angles=st.tuples(*[st.floats(-12, 12)] * 3),
    spacing=st.tuples(st.floats(0.6, 6.0), st.floats(0.4, 1.4), st.floats(0.4, 1.4)),
)
def test_oblique_and_anisotropic(
    tmp_path_factory: pytest.TempPathFactory,
    plane: tuple[int, ...],
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
) -> None:
    row, column, row_sign, column_sign = plane
    volume = make_volume((3, 5, 6), spacing, turn=rotation(angles))
    units = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.concatenate([units[:, row] * row_sign, units[:, column] * column_sign])
    folder = tmp_path_factory.mktemp("oblique") / "s"
    write_series_as(folder, volume, orientation=cosines.tolist(), shuffle_seed=5)
    check(folder, volume)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    # Missing slices leave most steps as they were; else it is refused as two stacks within each other.
    steps=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3, 7])).flatmap(
        lambda gaps: st.permutations([1, 1, 1, 1, 1, *gaps])
    ),
    angles=st.tuples(*[st.floats(-10, 10)] * 3),
    signs=st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])),
    lean=st.sampled_from([0.0, 0.2]),
)
def test_missing_slices_and_tilted_gantries(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[int],
    angles: tuple[float, float, float],
    signs: tuple[int, int],
    lean: float,
) -> None:
    positions = np.concatenate([[0.0], np.cumsum(steps)]) * 3.0
    step = float(np.median(np.diff(positions)))
    volume = make_volume(
        (len(positions), 5, 6),
        (step, 0.7, 0.9),
        turn=rotation(angles),
        lean=lean,
        positions_mm=positions,
    )
    units = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.concatenate([units[:, 0] * signs[0], units[:, 1] * signs[1]])
    folder = tmp_path_factory.mktemp("gaps") / "s"
    write_series_as(folder, volume, orientation=cosines.tolist(), shuffle_seed=5)
    check(folder, volume)


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("orientation", ["negated both", "transposed", "standard"])
@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_masks_of_one_slice(tmp_path: Path, plane: str, orientation: str, gap: bool) -> None:
    positions = [0.0, 3.0, 6.0, 15.0] if gap else None
    written = make_volume(positions_mm=positions)
    write_series_as(tmp_path / "s", written, orientation=orientation, shuffle_seed=5)
    volume = read_study(tmp_path / "s")
    ct = getattr(volume, plane)(3)
    mask = np.random.default_rng(3).random(ct.shape_hw) > 0.5
    whole = np.zeros(volume.shape_zyx, bool)
    if plane == "axial":
        whole[3] = mask
    elif plane == "sagittal":
        whole[:, :, 3] = mask[::-1]
    else:
        whole[:, 3, :] = mask[::-1]
    for file, kind in {**FILES, "p.png": "png"}.items():
        export_masks({"l3": mask}, ct, tmp_path / file, format=kind, source=tmp_path / "s")  # type: ignore[arg-type]
        np.testing.assert_array_equal(import_masks(tmp_path / file, ct)["l3"], mask, err_msg=kind)
        if file in DICOM:
            np.testing.assert_array_equal(import_masks(tmp_path / file, volume)["l3"], whole)
    points = seg_points_mm(tmp_path / "seg.dcm")["l3"]
    np.testing.assert_allclose(
        points, volume_points_mm(whole, written.affine, written.slice_offsets), atol=5e-3
    )


@pytest.mark.parametrize("orientation", ["negated rows", "transposed"])
def test_a_slice_read_alone_lies_where_its_volume_has_it(tmp_path: Path, orientation: str) -> None:
    files = write_series_as(
        tmp_path / "s", make_volume(positions_mm=[0.0, 3.0, 6.0, 15.0]), orientation=orientation
    )
    volume = read_study(tmp_path / "s")
    alone, taken = read_slice(files[3]), volume.axial(3)
    np.testing.assert_array_equal(alone.hu, taken.hu)
    assert alone.affine is not None
    assert taken.affine is not None
    np.testing.assert_allclose(alone.affine[:, [0, 1, 3]], taken.affine[:, [0, 1, 3]], atol=1e-6)
    mask = np.random.default_rng(3).random(alone.shape_hw) > 0.5
    export_masks({"sat": mask}, alone, tmp_path / "a.dcm", source=files[3])
    np.testing.assert_array_equal(import_masks(tmp_path / "a.dcm", volume)["sat"][3], mask)
