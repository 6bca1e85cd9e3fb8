from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctai_sam2.errors import GeometryError, InputError, StorageError
from ctai_sam2.io import read_mask_nifti, read_nifti, read_study, write_mask_nifti, write_volume_nifti
from ctai_sam2.types import CTSlice, CTVolume

from .making import make_volume

ORIENTATIONS = ["".join(codes) for codes in itertools.product("RL", "AP", "SI")] + [
    "ASR",
    "PIL",
    "SRA",
    "IPL",
]
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def reoriented(volume: CTVolume, codes: str) -> Any:
    """The volume as a NIfTI image whose axes run towards the given letters; made by nibabel itself."""
    image = nibabel.Nifti1Image(volume.hu_zyx.transpose(2, 1, 0), RAS @ volume.affine)
    current = nibabel.io_orientation(image.affine)
    wanted = nibabel.orientations.axcodes2ornt(codes)
    return image.as_reoriented(nibabel.orientations.ornt_transform(current, wanted))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_any_orientation_gives_the_same_volume(tmp_path: Path, codes: str) -> None:
    volume = make_volume()
    image = reoriented(volume, codes)
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    image.to_filename(tmp_path / "a.nii.gz")
    read = read_study(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.hu_zyx, volume.hu_zyx)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-5)
    assert read.hu_zyx.dtype == np.int16
    assert read.warnings == ()


def test_a_tilted_stack_comes_back_with_its_slices_as_far_apart(tmp_path: Path) -> None:
    volume = make_volume()
    affine = np.array(volume.affine)
    affine[1, 2] = affine[2, 2] * np.tan(np.radians(18))
    path = write_volume_nifti(tmp_path / "a.nii.gz", CTVolume(hu_zyx=volume.hu_zyx, affine=affine))
    read = read_study(path)
    voxel_mm3 = float(np.prod(read.spacing_zyx_mm[1:])) * read.slice_extents_mm
    np.testing.assert_allclose(voxel_mm3, np.linalg.det(affine[:3, :3]), rtol=1e-5)
    assert any("lean 18.0 degrees" in warning for warning in read.warnings)


def test_pixels_that_are_no_rectangles_are_refused(tmp_path: Path) -> None:
    volume = make_volume()
    for degrees, is_refused in ((0.5, False), (8.0, True)):
        affine = np.array(volume.affine)
        affine[0, 1] = affine[1, 1] * np.tan(np.radians(degrees))
        image = nibabel.Nifti1Image(volume.hu_zyx.transpose(2, 1, 0), None)
        image.set_sform(RAS @ affine, code=1)
        image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
        image.to_filename(tmp_path / "a.nii")
        if is_refused:
            with pytest.raises(GeometryError, match=r"not at right angles.*8\.0 degrees off"):
                read_study(tmp_path / "a.nii")
        else:
            assert read_study(tmp_path / "a.nii").shape_zyx == volume.shape_zyx


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_volume_is_written_and_read_back(tmp_path: Path, name: str) -> None:
    volume = make_volume()
    write_volume_nifti(tmp_path / name, volume)
    read = read_nifti(tmp_path / name)
    np.testing.assert_array_equal(read.hu_zyx, volume.hu_zyx)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-5)
    # The other reader must agree where the voxels lie.
    image: Any = nibabel.load(tmp_path / name)
    np.testing.assert_allclose(image.affine, RAS @ volume.affine, atol=1e-5)
    np.testing.assert_allclose(image.header.get_zooms(), (0.8, 0.75, 2.5))
    np.testing.assert_array_equal(image.dataobj[1, 2, 3], volume.hu_zyx[3, 2, 1])


def test_equal_volumes_give_equal_files(tmp_path: Path) -> None:
    a = write_volume_nifti(tmp_path / "a.nii.gz", make_volume())
    b = write_volume_nifti(tmp_path / "b.nii.gz", make_volume())
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_number_types_and_scaling(tmp_path: Path, dtype: type) -> None:
    hu = np.linspace(-3000, 2000, 60).reshape(3, 4, 5).astype(dtype)
    image = nibabel.Nifti1Image(hu, np.eye(4))
    image.header.set_slope_inter(1, 0)
    image.to_filename(tmp_path / "a.nii")
    read = read_nifti(tmp_path / "a.nii")
    expected = np.maximum(np.rint(hu.astype(float)), -1024)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(read.hu_zyx, expected)


def test_scaled_integers(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.uint16).reshape(2, 3, 4) * 100
    image = nibabel.Nifti1Image(stored, np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(2, -1000)
    image.to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(
        read_nifti(tmp_path / "a.nii.gz").hu_zyx.transpose(2, 1, 0), stored * 2.0 - 1000
    )


@pytest.mark.parametrize("kind", ["axial", "sagittal", "coronal"])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_slice_masks_lie_on_their_slice(tmp_path: Path, kind: str, dtype: type) -> None:
    volume = make_volume()
    image: CTSlice = getattr(volume, kind)(2)
    mask = (image.hu > 300).astype(dtype)
    path = write_mask_nifti(tmp_path / "m.nii.gz", mask, image)
    np.testing.assert_array_equal(read_mask_nifti(path, image), mask)
    # In patient coordinates the mask covers the volume's own voxels, with the slice's thickness.
    whole = np.zeros(volume.shape_zyx, bool)
    selection = {"axial": np.s_[2], "sagittal": np.s_[::-1, :, 2], "coronal": np.s_[::-1, 2, :]}[kind]
    whole[selection] = mask
    stored: Any = nibabel.load(path)
    assert sorted(stored.header.get_zooms()) == pytest.approx([0.75, 0.8, 2.5])
    centres = nibabel.affines.apply_affine(stored.affine, np.argwhere(np.asarray(stored.dataobj)))
    own = nibabel.affines.apply_affine(RAS @ volume.affine, np.argwhere(whole)[:, ::-1])
    assert {tuple(p) for p in np.round(centres, 3)} == {tuple(p) for p in np.round(own, 3)}


def test_a_slice_is_as_thick_as_it_says(tmp_path: Path) -> None:
    image = replace(make_volume().axial(1), thickness_mm=7.5)
    path = write_mask_nifti(tmp_path / "m.nii", np.ones((6, 5), bool), image)
    stored: Any = nibabel.load(path)
    assert stored.header.get_zooms() == pytest.approx((0.8, 0.75, 7.5))
    np.testing.assert_allclose(np.linalg.norm(stored.affine[:3, 2]), 7.5)


def test_volume_masks_and_labels(tmp_path: Path) -> None:
    volume = make_volume()
    labels = (volume.hu_zyx > 0).astype(np.int64) * 88
    path = write_mask_nifti(tmp_path / "m.nii", labels, volume)
    np.testing.assert_array_equal(read_mask_nifti(path, volume), labels)


def test_masks_without_a_place(tmp_path: Path) -> None:
    image = CTSlice(hu=np.zeros((3, 4), np.int16), spacing_mm=(0.7, 0.8))
    mask = np.eye(3, 4, dtype=bool)
    path = write_mask_nifti(tmp_path / "m.nii", mask, image)
    stored: Any = nibabel.load(path)
    assert stored.header["sform_code"] == stored.header["qform_code"] == 0
    np.testing.assert_allclose(stored.header.get_zooms(), (0.8, 0.7, 1.0))
    np.testing.assert_array_equal(read_mask_nifti(path, image) > 0, mask)
    with pytest.raises(GeometryError, match="another grid"):
        read_mask_nifti(path, CTSlice(hu=np.zeros((4, 3), np.int16), spacing_mm=(0.7, 0.8)))


@pytest.mark.parametrize(
    ("mask", "name", "words"),
    [
        (np.zeros((3, 3), bool), "m.nii", "another shape"),
        (np.zeros((6, 5)), "m.nii", "whole-number labels"),
        (np.full((6, 5), 256), "m.nii", "0 to 255"),
        (np.zeros((6, 5), bool), "m.png", "ends in .nii"),
    ],
)
def test_masks_that_cannot_be_written(tmp_path: Path, mask: Any, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_mask_nifti(tmp_path / name, mask, make_volume().axial(0))
    assert list(tmp_path.iterdir()) == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match=r"v\.nii could not be written: no space left"):
        write_volume_nifti(tmp_path / "v.nii", make_volume())
    assert list(tmp_path.iterdir()) == []


def test_labels_on_another_grid(tmp_path: Path) -> None:
    path = write_mask_nifti(tmp_path / "m.nii", np.zeros((4, 6, 5), bool), make_volume())
    with pytest.raises(GeometryError, match="another grid"):
        read_mask_nifti(path, make_volume(origin_mm=(0, 0, 0)))
    with pytest.raises(GeometryError, match="another grid"):
        read_mask_nifti(path, make_volume((3, 6, 5)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, 3] = value
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz holds values that are not finite .*1 of 60 voxels"):
        read_study(tmp_path / "a.nii.gz")


def test_values_that_are_not_hu(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(4))
    image.to_filename(tmp_path / "a.nii")
    assert any("do not look like Hounsfield units" in w for w in read_nifti(tmp_path / "a.nii").warnings)


def test_headers_with_no_or_two_orientations(tmp_path: Path) -> None:
    image: Any = nibabel.Nifti1Image(make_volume().hu_zyx, np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.to_filename(tmp_path / "none.nii")
    assert any("left and right are assumed" in w for w in read_nifti(tmp_path / "none.nii").warnings)
    image.set_sform(np.eye(4), code=1)
    shifted = np.eye(4)
    shifted[0, 3] = 3.0
    image.set_qform(shifted, code=1)
    image.to_filename(tmp_path / "two.nii")
    assert any("sform" in w for w in read_nifti(tmp_path / "two.nii").warnings)
    # Left and right differ: none of the two may be taken in silence.
    image.set_qform(np.diag([-1.0, 1, 1, 1]), code=1)
    image.to_filename(tmp_path / "mirrored.nii")
    with pytest.raises(GeometryError, match="two orientations that contradict each other"):
        read_nifti(tmp_path / "mirrored.nii")


def test_metres(tmp_path: Path) -> None:
    image: Any = nibabel.Nifti1Image(make_volume().hu_zyx, np.diag([-0.001, -0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    image.to_filename(tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii").spacing_zyx_mm == pytest.approx((3, 2, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable NIfTI"),
        (b"hello" * 200, "not a readable NIfTI"),
        ("cut", "not a readable NIfTI"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_damaged_files(tmp_path: Path, content: Any, words: str, name: str) -> None:
    path = write_volume_nifti(tmp_path / name, make_volume((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-2000] if content == "cut" else content)
    with pytest.raises(InputError, match=words):
        read_study(path)


def test_sizes_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_volume_nifti(tmp_path / "a.nii", make_volume())
    content = bytearray(path.read_bytes())
    # dim[1..3] of the header: 32767 each would be 70 TB.
    content[42:48] = np.array([32767] * 3, "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match="larger than this package reads"):
        read_study(path)
    nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.int16), np.eye(4)).to_filename(tmp_path / "b.nii")
    with pytest.raises(InputError, match="not a three-dimensional volume"):
        read_study(tmp_path / "b.nii")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file a\.nii"):
        read_nifti(tmp_path / "a.nii")
