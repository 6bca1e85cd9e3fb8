"""What lies in folders but is no file: pipes that never end, devices, links in circles."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctai_sam2.cohort import scan_cases
from ctai_sam2.cohort.manifest import read_manifest
from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import import_masks
from ctai_sam2.io import list_series, read_case_npz, read_slice, read_study, write_dicom_series
from ctai_sam2.io.label_tables import read_label_table
from ctai_sam2.measure.definitions import load_definitions
from tests.unit.io.making import make_volume

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by /proc")

VOLUME = make_volume((3, 6, 5))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def missing(path: Path) -> None:
    path.symlink_to("nowhere")


def listening(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def folder(path: Path) -> None:
    path.mkdir()


ODD: tuple[Callable[[Path], None], ...] = (pipe, device, circle, missing, listening, folder)


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever() -> Iterator[None]:
    """End a read that waits or goes on for ever, with an error that is none of ours."""
    import resource
    import signal

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def give_up(*_: object) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.dcm", read_study),
        ("a.dcm", read_slice),
        ("a.nii", read_study),
        ("a.nii.gz", read_study),
        ("a.nrrd", read_study),
        ("a.png", read_slice),
        ("a.npz", read_case_npz),
        ("a.csv", read_manifest),
        ("a.json", load_definitions),
        ("a.json", read_label_table),
        *((name, lambda path: import_masks(path, VOLUME)) for name in ("a.nii.gz", "a.json", "a.dcm")),
    ],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], name: str, read: Callable[[Path], object]
) -> None:
    make(tmp_path / name)
    with pytest.raises(CtaiError):
        read(tmp_path / name)


@pytest.mark.parametrize("make", ODD)
def test_it_spoils_no_folder(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "study"
    write_dicom_series(place, VOLUME)
    for name in ("a", "b.dcm", "DICOMDIR"):
        make(place / name)
    (place / "up").symlink_to(tmp_path)
    assert len(list_series(place)) == 1
    volume = read_study(place)
    assert getattr(volume, "shape_zyx", None) == VOLUME.shape_zyx
    assert len(scan_cases(tmp_path).cases) == 1
