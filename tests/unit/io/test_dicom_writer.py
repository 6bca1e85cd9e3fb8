from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from ctai_sam2.errors import GeometryError, InputError, StorageError
from ctai_sam2.io import read_slice, read_study, write_dicom_series
from ctai_sam2.types import Acquisition, CTVolume
from tests.dicom_series import ORIENTATIONS, write_series_as

from .making import make_volume, write_series


def assert_same(read: CTVolume, written: CTVolume) -> None:
    np.testing.assert_array_equal(read.hu_zyx, written.hu_zyx)
    np.testing.assert_allclose(read.affine, written.affine, atol=1e-6)
    assert read.hu_zyx.dtype == np.int16


@pytest.mark.parametrize("orientation", [*ORIENTATIONS])
@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"signed": False},
        {"rescale_intercept": 0.0},
        {"rescale_slope": 0.5, "rescale_intercept": -1024.0, "signed": False},
        {"rescale_slope": -1.0, "rescale_intercept": 3000.0},
        {"transfer_syntax": "implicit"},
    ],
    ids=["plain", "unsigned", "no intercept", "half steps", "negative slope", "implicit"],
)
def test_what_is_written_is_read_back(tmp_path: Path, orientation: str, storage: dict[str, Any]) -> None:
    volume = make_volume()
    write_series(tmp_path / "s", volume, orientation=orientation, shuffle_seed=3, **storage)
    read = read_study(tmp_path / "s")
    assert_same(read, volume)
    expected = {"sagittal": ("the images are sagittal",), "coronal": ("the images are coronal",)}
    assert [w.split(";")[0] for w in read.warnings] == list(expected.get(orientation, ()))


@pytest.mark.parametrize("orientation", [*ORIENTATIONS])
def test_instance_numbers_stay_with_their_slices(tmp_path: Path, orientation: str) -> None:
    write_series(tmp_path / "s", make_volume(), orientation=orientation, shuffle_seed=3)
    numbers = {
        float(header.ImagePositionPatient[2]): int(header.InstanceNumber)
        for header in (dcmread(path) for path in (tmp_path / "s").iterdir())
    }
    from_below = [numbers[z] for z in sorted(numbers)]
    is_axial = orientation not in ("sagittal", "coronal")
    assert read_study(tmp_path / "s").instance_numbers == (tuple(from_below) if is_axial else ())


@pytest.mark.parametrize(
    "spacing", [(5.0, 0.804688, 0.804688), (1.25, 0.9765625, 0.5), (0.7, 0.33333333, 1.1)]
)
def test_spacings_come_back(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    volume = make_volume(spacing_zyx_mm=spacing)
    write_series(tmp_path / "s", volume, orientation="negated both")
    assert_same(read_study(tmp_path / "s"), volume)


@settings(max_examples=15, deadline=None)
@given(
    row=st.integers(0, 2),
    column=st.integers(0, 2),
    signs=st.tuples(st.sampled_from([-1, 1]), st.sampled_from([-1, 1])),
    angle=st.floats(-0.05, 0.05),
)
def test_any_direction_cosines_come_back(
    tmp_path_factory: pytest.TempPathFactory, row: int, column: int, signs: tuple[int, int], angle: float
) -> None:
    if row == column:
        column = (row + 1) % 3
    # A slightly turned volume: its own axes are stored, not the ideal ones.
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = make_volume((3, 4, 5))
    volume = CTVolume(hu_zyx=straight.hu_zyx, affine=turn @ straight.affine)
    cosines = np.zeros(6)
    cosines[row], cosines[3 + column] = signs
    folder = tmp_path_factory.mktemp("any") / "s"
    write_series(folder, volume, orientation=cosines.tolist(), shuffle_seed=1)
    assert_same(read_study(folder), volume)


def test_gaps_and_tilt_survive(tmp_path: Path) -> None:
    gappy = make_volume((5, 4, 4), (5.0, 1.0, 1.0), positions_mm=np.array([0, 5, 10, 25, 30.0]))
    # With negated rows the slice normal points to the feet.
    for number, orientation in enumerate(("standard", "negated rows", "feet first")):
        paths = write_series(tmp_path / str(number), gappy, orientation=orientation)
        read = read_study(tmp_path / str(number))
        np.testing.assert_allclose(np.diff(read.slice_positions_mm), [5, 5, 15, 5])
        assert any("1 gap in the stack: up to 15 mm" in w for w in read.warnings)
        assert_same(read, gappy)
        numbers = [dcmread(path).InstanceNumber for path in paths]
        assert numbers == ([5, 4, 3, 2, 1] if orientation == "feet first" else [1, 2, 3, 4, 5])

    leaning = np.array(gappy.affine)
    leaning[1, 2] = 1.0
    tilted = CTVolume(hu_zyx=gappy.hu_zyx, affine=leaning)
    write_series(tmp_path / "tilt", tilted)
    read = read_study(tmp_path / "tilt")
    assert_same(read, tilted)
    assert any("gantry tilt" in w and "11.3" in w for w in read.warnings)
    with pytest.raises(GeometryError, match="leans"):
        write_series(tmp_path / "no", tilted, orientation="sagittal")
    with pytest.raises(GeometryError, match="gaps"):
        write_series(tmp_path / "no", gappy, orientation="coronal")


def test_single_slices_are_shown_alike_whatever_their_storage(tmp_path: Path) -> None:
    volume = make_volume()
    for number, name in enumerate(ORIENTATIONS):
        paths = write_series(tmp_path / str(number), volume, orientation=name)
        image = read_slice(paths[1])
        stored = volume.axial(1)
        if name == "sagittal":
            stored = volume.sagittal(1)
        elif name == "coronal":
            stored = volume.coronal(1)
        np.testing.assert_array_equal(image.hu, stored.hu)
        assert image.affine is not None
        assert stored.affine is not None
        np.testing.assert_allclose(image.affine[:3, [0, 1, 3]], stored.affine[:3, [0, 1, 3]], atol=1e-6)
        assert image.plane == stored.plane
        assert image.spacing_mm == pytest.approx(stored.spacing_mm)


def test_facts_are_kept_and_nobody_is_named(tmp_path: Path) -> None:
    facts = Acquisition(
        kvp=120.0,
        contrast=True,
        slice_thickness_mm=2.5,
        kernel="B30f",
        gantry_tilt_deg=0.0,
        patient_sex="F",
        patient_height_m=1.62,
        patient_weight_kg=61.5,
        patient_age_years=47.0,
    )
    paths = write_series(tmp_path / "s", make_volume(acquisition=facts))
    assert read_study(tmp_path / "s").acquisition == facts
    dataset = dcmread(paths[0])
    assert dataset.PatientIdentityRemoved == "YES"
    assert str(dataset.PatientName) == dataset.PatientID == "PHANTOM"
    assert dataset.PatientBirthDate == ""


def test_the_packages_writer_and_that_of_the_tests_agree(tmp_path: Path) -> None:
    gappy = make_volume((5, 4, 4), (5.0, 1.0, 1.0), positions_mm=np.array([0, 5, 10, 25, 30.0]))
    for name, volume in (("even", make_volume()), ("gappy", gappy)):
        own = write_dicom_series(tmp_path / name / "a", volume)
        other = write_series_as(tmp_path / name / "b", volume)
        assert [p.read_bytes() for p in own] == [p.read_bytes() for p in other]


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    first = write_series(tmp_path / "a", shuffle_seed=3)
    second = write_series(tmp_path / "b", shuffle_seed=3)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert [p.name for p in first] == [p.name for p in second] != sorted(p.name for p in first)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"orientation": "upside down"}, InputError, "no such orientation"),
        ({"orientation": (0.8, 0.6, 0, -0.6, 0.8, 0)}, GeometryError, "does not follow"),
        ({"orientation": (1, 0, 0, 1, 0, 0)}, GeometryError, "same axis"),
        ({"orientation": (1, 0, 0)}, GeometryError, "6 finite numbers"),
        ({"rescale_slope": 0.0}, InputError, "slope that is not 0"),
        ({"rescale_slope": 7.0}, InputError, "stored exactly"),
        ({"rescale_intercept": 0.0, "signed": False}, InputError, "leave their range"),
        ({"transfer_syntax": "big"}, InputError, "no such transfer syntax"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        write_series(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_16_bits_do_not_hold_is_refused(tmp_path: Path) -> None:
    straight = make_volume()
    loud = CTVolume(hu_zyx=straight.hu_zyx.astype(np.int32) + 30500, affine=straight.affine)
    parts = CTVolume(hu_zyx=straight.hu_zyx.astype(np.float32), affine=straight.affine)
    for volume, words in ((loud, "leave their range"), (parts, "only whole HU")):
        with pytest.raises(InputError, match=words):
            write_dicom_series(tmp_path / "s", volume)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail_later(_: int) -> None:
        calls.append(1)
        if len(calls) > 4:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail_later)
    with pytest.raises(StorageError, match="no space left"):
        write_series(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="not an empty folder"):
        write_series(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
