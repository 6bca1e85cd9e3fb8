from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ctai_sam2.io
from ctai_sam2.errors import DicomError, InputError
from ctai_sam2.io import list_series, read_slice, read_study, write_volume_nifti

from .making import ct_dataset, enhanced_dataset, make_volume, save, write_series


def test_one_file_is_a_volume_of_one_slice(tmp_path: Path) -> None:
    volume = make_volume()
    path = write_series(tmp_path / "s", volume, orientation="negated both")[2]
    read = read_study(path)
    np.testing.assert_array_equal(read.hu_zyx, volume.hu_zyx[2:3])
    assert read.spacing_zyx_mm == pytest.approx((2.5, 0.75, 0.8))
    assert read.warnings == ()


def test_a_folder_with_one_nifti_file(tmp_path: Path) -> None:
    volume = make_volume()
    write_volume_nifti(tmp_path / "ct.nii.gz", volume)
    (tmp_path / "notes.txt").write_text("x")
    np.testing.assert_array_equal(read_study(tmp_path).hu_zyx, volume.hu_zyx)
    write_volume_nifti(tmp_path / "labels.nii.gz", volume)
    with pytest.raises(InputError, match=r"2 NIfTI files .*ct\.nii\.gz, labels\.nii\.gz"):
        read_study(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder is empty"):
        read_study(tmp_path)
    assert list_series(tmp_path) == []


def test_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"neither DICOM nor NIfTI .*1 files of other kinds"):
        read_study(tmp_path)


def test_text_renamed_to_dcm(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_text("not an image")
    for target in (path, tmp_path):
        with pytest.raises(DicomError, match=r"a\.dcm.*not a DICOM file"):
            read_study(target)
    with pytest.raises(DicomError, match="not a DICOM file"):
        read_slice(path)


def test_missing_paths(tmp_path: Path) -> None:
    for read in (read_study, read_slice, list_series):
        with pytest.raises(InputError, match="there is nothing at nowhere"):
            read(tmp_path / "nowhere")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_series(tmp_path / "s")
    real_open = Path.open

    def refuse(self: Path, *args: object, **options: object) -> object:
        if self.name == paths[1].name:
            raise PermissionError(13, os.strerror(13))
        return real_open(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=f"{paths[1].name} cannot be opened: permission denied"):
        read_study(paths[1])
    assert any(f"{paths[1].name} (permission denied)" in w for w in read_study(tmp_path / "s").warnings)

    def refuse_folder(_: object) -> list[str]:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "listdir", refuse_folder)
    with pytest.raises(InputError, match="the folder s cannot be opened: permission denied"):
        read_study(tmp_path / "s")


def test_the_wrong_reader_is_told(tmp_path: Path) -> None:
    volume = make_volume()
    write_volume_nifti(tmp_path / "ct.nii", volume)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    np.savez(tmp_path / "case.npz", image=np.zeros((2, 2)))
    stored = np.zeros((2, 4, 6), np.int16)
    frames = save(enhanced_dataset(stored, [0.0, 5.0], [(1, 0), (1, 0)]), tmp_path / "frames.dcm")
    for path, reader, words in (
        (tmp_path / "a.png", read_study, "is a picture.*read_slice"),
        (tmp_path / "case.npz", read_study, "read_case_npz"),
        (tmp_path / "case.npz", read_slice, "read_case_npz"),
        (tmp_path / "ct.nii", read_slice, "is a volume.*read_study"),
        (frames, read_slice, "holds several images .*2 frames.*read_study"),
        (tmp_path, read_slice, "a folder was given"),
    ):
        with pytest.raises(InputError, match=words):
            reader(path)


def test_slices_without_spacing_or_of_another_kind(tmp_path: Path) -> None:
    path = save(ct_dataset(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "a.dcm")
    with pytest.raises(DicomError, match=r"a\.dcm cannot be used: a localizer"):
        read_slice(path)


def test_every_public_name_is_there_and_nothing_heavy_is_imported_before() -> None:
    for name in ctai_sam2.io.__all__:
        assert getattr(ctai_sam2.io, name) is not None
    assert set(ctai_sam2.io.__all__) <= set(dir(ctai_sam2.io))
    with pytest.raises(AttributeError, match="nothing"):
        _ = ctai_sam2.io.nothing
    code = "import sys, ctai_sam2.io; sys.stdout.write(' '.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert not {"pydicom", "nibabel", "matplotlib", "PIL", "scipy"} & set(run.stdout.split())
