from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import DicomError, GeometryError, InputError
from ctai_sam2.image.plausibility import MAX_VOXELS
from ctai_sam2.io import SeriesInfo, list_series, read_slice, read_study
from ctai_sam2.io.dicom_series import skipped_warning

from .making import ct_dataset, edit, enhanced_dataset, make_volume, save, write_series

BODY = np.array([[0, 900], [1060, 2000]], dtype=np.int16)


def test_order_comes_from_positions_not_from_names_or_numbers(tmp_path: Path) -> None:
    volume = make_volume((6, 4, 4))
    paths = write_series(tmp_path / "s", volume, shuffle_seed=5)
    assert [p.name for p in paths] != sorted(p.name for p in paths)
    for number, path in zip((3, 1, 2, 6, 5, 4), paths, strict=True):
        edit(path, InstanceNumber=number)
    np.testing.assert_array_equal(read_study(tmp_path / "s").hu_zyx, volume.hu_zyx)


def test_uids_that_end_in_zeros_stay_as_they_are(tmp_path: Path) -> None:
    for count, uid in enumerate(("2.25.7", "2.25.70", "2.25.700"), start=3):
        for path in write_series(tmp_path / uid, make_volume((count, 4, 4))):
            edit(path, SeriesInstanceUID=uid)
    assert {info.uid: info.image_count for info in list_series(tmp_path)} == {
        "2.25.7": 3,
        "2.25.70": 4,
        "2.25.700": 5,
    }


def test_folders_are_searched_through_all_levels(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s")
    (tmp_path / "s" / "a" / "b").mkdir(parents=True)
    paths[2].rename(tmp_path / "s" / "a" / "b" / "deep")
    (tmp_path / "s" / ".hidden").write_text("x")
    (tmp_path / "s" / "notes.txt").write_text("x")
    (tmp_path / "s" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    read = read_study(tmp_path)
    assert read.shape_zyx[0] == 4
    assert read.warnings == ()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("truncate", "truncated pixel data"),
        ("empty", "not a DICOM file"),
        ("text", "not a DICOM file"),
        ("zero size", "0 x 0 pixels"),
        ("huge", "impossible image"),
        ("many rows", "5 x 0 pixels"),
        ("no pixels", "no pixel data"),
        ("unknown syntax", "transfer syntax is not supported"),
    ],
)
def test_a_damaged_file_never_stops_the_rest(tmp_path: Path, damage: str, reason: str) -> None:
    volume = make_volume((5, 6, 5))
    paths = write_series(tmp_path / "s", volume)
    _damage(paths[3], damage)
    read = read_study(tmp_path / "s")
    np.testing.assert_array_equal(read.hu_zyx, volume.hu_zyx[[0, 1, 2, 4]])
    assert (
        sum(f"1 file could not be read: {paths[3].name} (" in w and reason in w for w in read.warnings) == 1
    )
    assert any("1 gap in the stack" in w for w in read.warnings)


@pytest.mark.parametrize(
    "damage", ["truncate", "empty", "text", "zero size", "huge", "many rows", "no pixels", "unknown syntax"]
)
def test_a_damaged_file_alone_is_a_dicom_error_with_its_name_only(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "Doe^Jane"
    path = write_series(folder, make_volume((1, 6, 5)))[0]
    _damage(path, damage)
    with pytest.raises(DicomError, match=path.name) as caught:
        read_study(path)
    assert "Doe" not in str(caught.value)
    assert "31415" not in str(caught.value)
    with pytest.raises(DicomError) as caught:
        read_study(folder)
    assert path.name in str(caught.value)


def test_long_lists_of_damaged_files_are_cut() -> None:
    text = skipped_warning([(f"{n}.dcm", "empty") for n in range(12)])[0]
    assert text.startswith("12 files could not be read: 0.dcm (empty)")
    assert text.endswith("and 7 more")


def test_all_files_damaged(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "s"):
        _damage(path, "truncate")
    with pytest.raises(DicomError, match="none of the 4 files"):
        read_study(tmp_path / "s")


def test_identical_repeats_are_dropped_and_different_ones_refused(tmp_path: Path) -> None:
    volume = make_volume()
    paths = write_series(tmp_path / "s", volume)
    copy = tmp_path / "s" / "copy.dcm"
    copy.write_bytes(paths[1].read_bytes())
    read = read_study(tmp_path / "s")
    np.testing.assert_array_equal(read.hu_zyx, volume.hu_zyx)
    assert "1 repeated image left out (copy.dcm)" in read.warnings
    edit(copy, RescaleIntercept=-1000, SOPInstanceUID="2.25.99")
    with pytest.raises(GeometryError, match="different images lie at the same place"):
        read_study(tmp_path / "s")


def test_phases_in_one_series_are_told_apart(tmp_path: Path) -> None:
    early = make_volume()
    late = make_volume()
    write_series(tmp_path / "s" / "a", early)
    for path in write_series(tmp_path / "s" / "b", late):
        edit(path, AcquisitionNumber=2, RescaleIntercept=-1000, SOPInstanceUID=f"2.25.9{path.name[2:-4]}")
    infos = list_series(tmp_path)
    assert [info.image_count for info in infos] == [4, 4]
    assert infos[1].uid == f"{infos[0].uid}#2"
    with pytest.raises(InputError, match=r"2 series fit.*series_uid"):
        read_study(tmp_path)
    first, second = (read_study(tmp_path, series_uid=info.uid) for info in infos)
    # The smallest stored value is air in both; elsewhere the phases are 24 HU apart.
    inside = (first.hu_zyx > -1000) & (first.hu_zyx < 1900)
    assert set(np.unique((second.hu_zyx - first.hu_zyx)[inside])) == {24}


def test_images_at_one_place_are_a_time_series(tmp_path: Path) -> None:
    for number in range(3):
        save(ct_dataset(SOPInstanceUID=f"2.25.{number + 5}", AcquisitionNumber=1), tmp_path / f"{number}.dcm")
    (info,) = list_series(tmp_path)
    assert info.refusal is not None
    assert "time series" in info.refusal
    with pytest.raises(GeometryError, match="time series"):
        read_study(tmp_path)


def test_shapes_and_directions_in_one_series_are_split(tmp_path: Path) -> None:
    write_series(tmp_path / "s" / "a", make_volume((5, 6, 5)))
    for path in write_series(tmp_path / "s" / "b", make_volume((3, 6, 7))):
        edit(
            path,
            SOPInstanceUID=f"2.25.9{path.name[2:-4]}",
            SeriesInstanceUID=list_series(tmp_path / "s" / "a")[0].uid,
        )
    infos = list_series(tmp_path / "s")
    assert [(i.image_count, i.shape_hw) for i in infos] == [(5, (6, 5)), (3, (6, 7))]
    assert read_study(tmp_path / "s", series_uid=infos[1].uid).shape_zyx == (3, 6, 7)


def test_the_axial_stack_is_taken_and_the_rest_named(tmp_path: Path) -> None:
    volume = make_volume()
    write_series(tmp_path / "axial", volume)
    write_series(tmp_path / "sagittal", volume, orientation="sagittal", series_key="reformat")
    save(
        ct_dataset(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="2.25.7"),
        tmp_path / "scout",
    )
    save(
        ct_dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR", SeriesInstanceUID="2.25.8"),
        tmp_path / "dose",
    )
    save(ct_dataset(SeriesInstanceUID="2.25.9"), tmp_path / "single")
    read = read_study(tmp_path)
    np.testing.assert_array_equal(read.hu_zyx, volume.hu_zyx)
    (aside,) = [w for w in read.warnings if "left aside" in w]
    assert aside.startswith("4 other series")
    assert "localizer" in aside
    assert "structured report" in aside
    infos = list_series(tmp_path)
    assert [i.usable for i in infos] == [True, True, True, False, False]
    assert {i.plane for i in infos if i.usable} == {"axial", "sagittal"}


def test_several_axial_series_are_listed(tmp_path: Path) -> None:
    thin, thick = make_volume((6, 4, 4), (1.0, 1.0, 1.0)), make_volume((3, 4, 4), (5.0, 1.0, 1.0))
    write_series(tmp_path / "thin", thin, series_key="thin")
    write_series(tmp_path / "thick", thick, series_key="thick")
    with pytest.raises(InputError) as caught:
        read_study(tmp_path)
    infos = list_series(tmp_path)
    text = str(caught.value)
    for info in infos:
        assert info.uid in text
        assert f"{info.image_count} axial images of 4 x 4, {info.thickness_mm:g} mm thick" in text
    assert read_study(tmp_path, series_uid=infos[1].uid).shape_zyx[0] == 3
    with pytest.raises(InputError, match="no such series"):
        read_study(tmp_path, series_uid="2.25.404")


def test_series_without_a_uid_can_be_read(tmp_path: Path) -> None:
    for folder, count in (("a", 4), ("b", 3)):
        for path in write_series(tmp_path / folder, make_volume((count, 6, 5))):
            edit(path, SeriesInstanceUID="")
    assert [i.uid for i in list_series(tmp_path)] == ["no-uid-1", "no-uid-2"]
    assert read_study(tmp_path, series_uid="no-uid-2").shape_zyx[0] == 3
    assert read_study(tmp_path / "a").shape_zyx[0] == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PixelSpacing": None}, "no pixel spacing"),
        ({"PixelSpacing": None, "ImagerPixelSpacing": ["0.7", "0.7"]}, "no pixel spacing"),
        ({"PixelSpacing": ["0", "0.7"]}, "no pixel spacing"),
        ({"ImageOrientationPatient": None}, "no image orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "perpendicular"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "length 1"),
        ({"ImagePositionPatient": None}, "no image position"),
    ],
)
def test_missing_geometry_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    for path in write_series(tmp_path / "s"):
        edit(path, **changes)
    with pytest.raises(GeometryError, match=words):
        read_study(tmp_path / "s")
    assert words in str(list_series(tmp_path / "s")[0].refusal)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, "structured report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, "modality MR"),
        ({"Modality": "PT"}, "modality PT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "segmentation"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
        ({"RescaleType": "Z_EFF"}, "Z_EFF"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "maximum intensity"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}, "maximum intensity"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]}, "material map"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "DE IODINE"]}, "material map"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "ELECTRON_DENSITY"]}, "electron density"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "atomic numbers"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]}, "perfusion"),
    ],
)
def test_what_is_not_ct_in_hu_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = save(ct_dataset(**changes), tmp_path / "a.dcm")
    for target in (path, tmp_path):
        with pytest.raises(DicomError, match=words):
            read_study(target)
    assert words in str(list_series(path)[0].refusal)


def test_other_spellings_of_hu_are_accepted(tmp_path: Path) -> None:
    path = save(ct_dataset(BODY, RescaleType="Houndsfield Unit"), tmp_path / "a.dcm")
    assert read_study(path).warnings == ()
    path = save(ct_dataset(BODY, RescaleType="US"), tmp_path / "b.dcm")
    assert read_study(path).warnings == ("the rescale type is US, taken for Hounsfield units",)


def test_uneven_slices_are_reported_and_uneven_reformats_refused(tmp_path: Path) -> None:
    uneven = np.array([0, 2.0, 4.3, 6.3, 8.3])
    write_series(tmp_path / "axial", make_volume((5, 4, 4), (2.0, 1, 1), positions_mm=uneven))
    read = read_study(tmp_path / "axial")
    np.testing.assert_allclose(np.diff(read.slice_positions_mm), np.diff(uneven), atol=1e-9)
    assert any("vary from 2 to 2.3 mm" in w for w in read.warnings)
    paths = write_series(tmp_path / "sagittal", make_volume((3, 4, 5)), orientation="sagittal")
    paths[2].unlink()
    with pytest.raises(GeometryError, match="not evenly spaced"):
        read_study(tmp_path / "sagittal")


def test_sideways_shifts_are_reported(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", make_volume((5, 4, 4)))
    edit(paths[2], ImagePositionPatient=[-25, 12.25, -435])
    assert any("shifted sideways" in w and "6.5 mm" in w for w in read_study(tmp_path / "s").warnings)


def test_oblique_stacks_are_reported(tmp_path: Path) -> None:
    angle = np.radians(20)
    cosines = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]
    normal = np.cross(cosines[:3], cosines[3:])
    for number in range(3):
        save(
            ct_dataset(
                ImageOrientationPatient=[round(v, 9) for v in cosines],
                ImagePositionPatient=[round(float(v), 9) for v in normal * 5 * number],
                SOPInstanceUID=f"2.25.{number + 5}",
            ),
            tmp_path / f"{number}.dcm",
        )
    read = read_study(tmp_path)
    assert any("oblique, 20.0 degrees" in w for w in read.warnings)
    assert read.spacing_zyx_mm == pytest.approx((5, 0.7, 0.8))


def test_enhanced_frames_have_their_own_rescale_and_place(tmp_path: Path) -> None:
    stored = np.arange(3 * 24, dtype=np.int16).reshape(3, 4, 6)
    path = save(
        enhanced_dataset(stored, [20.0, 10.0, 15.0], [(1, 0), (2, -100), (1, -1000)]), tmp_path / "e.dcm"
    )
    read = read_study(path)
    np.testing.assert_array_equal(read.hu_zyx[0], stored[1] * 2 - 100)
    np.testing.assert_array_equal(read.hu_zyx[1], stored[2] - 1000)
    np.testing.assert_array_equal(read.hu_zyx[2], stored[0])
    np.testing.assert_allclose(read.slice_positions_mm, [10, 15, 20])
    assert read.spacing_zyx_mm == (5.0, 0.7, 0.8)
    assert read.acquisition.slice_thickness_mm == 3.0


def test_too_many_voxels_are_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "s")
    assert MAX_VOXELS > 2000 * 1024 * 1024
    monkeypatch.setattr("ctai_sam2.image.plausibility.MAX_VOXELS", 100)
    with pytest.raises(InputError, match="larger than this package reads"):
        read_study(tmp_path / "s")


def test_progress_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    seen: list[tuple[int, int]] = []
    read_study(tmp_path / "s", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_former_name_of_progress_still_works(tmp_path: Path) -> None:
    write_series(tmp_path / "s")
    for read in (read_study, list_series):
        seen: list[int] = []
        with pytest.warns(DeprecationWarning, match="on_progress is now progress"):
            read(tmp_path / "s", on_progress=lambda done, total, seen=seen: seen.append(done))
        assert seen == [1, 2, 3, 4]


def test_series_info_says_what_to_choose_by() -> None:
    info = SeriesInfo(
        uid="1.2", modality="CT", image_count=3, plane="axial", step_mm=2.5, shape_hw=(4, 5), kernel="B30f"
    )
    assert str(info) == "1.2: 3 axial images of 5 x 4, 2.5 mm apart, kernel B30f"
    assert info.usable


def _damage(path: Path, kind: str) -> None:
    if kind == "truncate":
        path.write_bytes(path.read_bytes()[:-10])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not an image at all\n" * 20)
    elif kind == "zero size":
        edit(path, Rows=0, Columns=0)
    elif kind == "huge":
        edit(path, Rows=65535, Columns=65535)
    elif kind == "many rows":
        edit(path, Rows=[31415] * 4000)  # what follows an element whose length is damaged
    elif kind == "no pixels":
        edit(path, PixelData=None)
    elif kind == "unknown syntax":
        content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
        path.write_bytes(content)


@pytest.mark.parametrize(
    "positions",
    [(0, 5, 10, 40), (0, 5, 10, 60), (0, 10, 100, 110), (0, 5, 35, 40), (0, 1, 50), (0, 5, 10, 15, 100, 105)],
)
def test_a_stack_with_one_large_gap_is_one_stack(tmp_path: Path, positions: tuple[float, ...]) -> None:
    paths = write_series(tmp_path / "s", make_volume((len(positions), 4, 4)))
    for path, z in zip(paths, positions, strict=True):
        edit(path, ImagePositionPatient=[0.0, 0.0, z], SliceThickness=5)
    volume = read_study(tmp_path / "s")
    assert np.asarray(volume.slice_positions_mm).tolist() == pytest.approx(list(positions))
    assert any("1 gap in the stack" in text for text in volume.warnings)


@pytest.mark.parametrize(
    "positions",
    [
        (0, 0.5, 5, 5.5, 10, 10.5),
        (0, 5, 10, 10.1, 15),
        (0, 0.1, 10, 10.1),
        (0, 0.5, 1, 5, 5.5, 6),
        (0, 0.4, 0.8, 1.2, 5, 5.4, 5.8, 6.2, 10, 10.4, 10.8, 11.2),
    ],
)
def test_stacks_within_each_other_are_no_gap(tmp_path: Path, positions: tuple[float, ...]) -> None:
    paths = write_series(tmp_path / "s", make_volume((len(positions), 4, 4)))
    for path, z in zip(paths, positions, strict=True):
        edit(path, ImagePositionPatient=[0.0, 0.0, z], SliceThickness=5)
    with pytest.raises(GeometryError, match="stacks lie within each other"):
        read_study(tmp_path / "s")


def test_phases_of_two_slices_are_told_apart_by_the_order_of_the_images(tmp_path: Path) -> None:
    positions = (0, 6, 2, 8, 4, 10)  # evenly spaced together, in three runs by number
    paths = write_series(tmp_path / "s", make_volume((len(positions), 4, 4)))
    for number, (path, z) in enumerate(zip(paths, positions, strict=True), 1):
        edit(path, ImagePositionPatient=[0.0, 0.0, z], SliceThickness=5, InstanceNumber=number)
    found = list_series(tmp_path / "s")
    assert [one.image_count for one in found] == [2, 2, 2]
    with pytest.raises(InputError, match="order of the images"):
        read_study(tmp_path / "s")


@pytest.mark.parametrize(
    ("changes", "caution"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM7 DE VNC"]}, "contrast agent computed away"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VMI"]}, "one photon energy"),
        ({"SeriesDescription": "Abdomen MIP 10 mm"}, "names a projection"),
        ({"SeriesDescription": "Abdomen 3 mm"}, None),
    ],
)
def test_values_of_computed_images_are_warned_of(
    tmp_path: Path, changes: dict[str, Any], caution: str | None
) -> None:
    found = read_slice(save(ct_dataset(**changes), tmp_path / "a.dcm")).warnings
    assert any(caution in text for text in found) if caution else not any("projection" in t for t in found)
