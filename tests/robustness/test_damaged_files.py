"""Whatever bytes are flipped or cut off, a reader returns a value or raises one of our errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from ctai_sam2.errors import CtaiError
from ctai_sam2.io import (
    list_series,
    read_case_npz,
    read_slice,
    read_study,
    write_mask_png,
    write_volume_nifti,
)
from ctai_sam2.types import Window
from tests.unit.io.making import ct_dataset, enhanced_dataset, make_volume, save, write_series

ROUNDS = 25


def plain_dicom(folder: Path) -> Path:
    return write_series(folder / "series", make_volume((1, 32, 32)))[0]


def compressed_dicom(folder: Path, syntax: Any) -> Path:
    dataset = ct_dataset(np.random.default_rng(1).integers(0, 4000, (32, 32)).astype(np.int16))
    save(dataset, folder / "x.dcm")
    dataset.compress(syntax)
    return save(dataset, folder / "x.dcm")


def enhanced_dicom(folder: Path) -> Path:
    stored = np.zeros((2, 8, 8), np.int16)
    return save(enhanced_dataset(stored, [0.0, 1.0], [(1, 0), (1, 0)]), folder / "x.dcm")


def case_file(folder: Path) -> Path:
    np.savez(folder / "x.npz", image=np.zeros((9, 9), np.int16), spacing=np.ones(2))
    return folder / "x.npz"


DICOM_READERS = (read_study, lambda path: read_study(path.parent), read_slice, list_series)
KINDS: dict[str, tuple[Callable[[Path], Path], tuple[Callable[[Path], object], ...]]] = {
    "plain": (plain_dicom, DICOM_READERS),
    "jpeg2000": (lambda folder: compressed_dicom(folder, JPEG2000Lossless), DICOM_READERS),
    "rle": (lambda folder: compressed_dicom(folder, RLELossless), DICOM_READERS),
    "enhanced": (enhanced_dicom, DICOM_READERS),
    "nifti": (lambda folder: write_volume_nifti(folder / "x.nii", make_volume()), (read_study,)),
    "nifti.gz": (lambda folder: write_volume_nifti(folder / "x.nii.gz", make_volume()), (read_study,)),
    "case": (case_file, (read_case_npz,)),
    "picture": (
        lambda folder: write_mask_png(folder / "x.png", np.eye(30, dtype=bool)),
        (lambda path: read_slice(path, window=Window(), spacing_mm=(1, 1)),),
    ),
}


def error_of(read: Callable[[Path], object], path: Path) -> CtaiError | None:
    try:
        read(path)
    except CtaiError as error:
        return error
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_a_typed_error_or_harmless(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make, readers = KINDS[kind]
    (tmp_path / "made").mkdir()
    (tmp_path / "damaged").mkdir()
    original = make(tmp_path / "made")
    content = original.read_bytes()
    rng = np.random.default_rng(11)
    messages: list[str] = []
    for _ in range(ROUNDS):
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 6))):
            damaged[int(rng.integers(0, min(len(content), 1600)))] = int(rng.integers(0, 256))
        if rng.random() < 0.2:
            damaged = damaged[: int(rng.integers(0, len(content)))]
        path = tmp_path / "damaged" / original.name
        path.write_bytes(damaged)
        for read in readers:
            error = error_of(read, path)
            messages += [] if error is None else [str(error)]
    assert messages
    assert not any(str(tmp_path) in message for message in messages)
    # A panic in a decoder's own code reaches the terminal before anybody can stop it.
    assert kind == "rle" or capfd.readouterr() == ("", "")
    assert caplog.text == ""
