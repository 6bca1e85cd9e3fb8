"""Whichever call of the disk fails, each file is the old or the new one, and trying again completes it."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import CtaiError, StorageError
from ctai_sam2.models import CachedSegmenter
from ctai_sam2.types import Prediction, Prompt
from tests.fakes import FakeSegmenter, make_image
from tests.robustness.failing_disk import (
    FailingDisk,
    Stopped,
    StoppingDisk,
    SyncedDisk,
    failing,
    files_end_at,
)
from tests.robustness.writers import WRITERS, Writer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of the system are set")

MOST_CALLS = 80
OLD, NEW = 1, 2


def attempt(writer: Writer, folder: Path) -> bool:
    """Write the new version; return whether it was reported as written. Only our errors may come out."""
    try:
        writer.write(folder, NEW)
    except CtaiError:
        return False
    return True


def begin(writer: Writer, place: Path, *, has_old: bool) -> Path:
    place.mkdir()
    if has_old:
        writer.write(place, OLD)
        assert writer.read(place) == OLD
    return place


def require_whole(writer: Writer, folder: Path, *, was_written: bool, has_old: bool) -> None:
    found = writer.read(folder)
    assert found in ({NEW} if was_written else {NEW, OLD if has_old else None})
    assert attempt(writer, folder), "the next try fails as well"
    assert writer.read(folder) == NEW


@pytest.mark.parametrize("has_old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("name", WRITERS)
def test_whichever_call_fails(tmp_path: Path, name: str, has_old: bool) -> None:
    writer = WRITERS[name]
    for number in range(MOST_CALLS):
        folder = begin(writer, tmp_path / str(number), has_old=has_old)
        with failing(FailingDisk(folder, number, (errno.ENOSPC, errno.EIO)[number % 2])) as disk:
            was_written = attempt(writer, folder)
        require_whole(writer, folder, was_written=was_written, has_old=has_old)
        if disk.calls <= number:  # all calls of an undisturbed run were tried
            assert number > 1
            return
        shutil.rmtree(folder)
    raise AssertionError("there are more calls than are tried")


@pytest.mark.parametrize("name", WRITERS)
def test_wherever_the_disk_is_full(tmp_path: Path, name: str) -> None:
    writer = WRITERS[name]
    full = begin(writer, tmp_path / "full", has_old=True)
    writer.write(full, NEW)
    largest = max(path.stat().st_size for path in full.rglob("*") if path.is_file())
    for size in sorted({0, 1, largest // 3, largest // 2, largest - 1}):
        folder = begin(writer, tmp_path / str(size), has_old=True)
        with files_end_at(size):
            was_written = attempt(writer, folder)
        require_whole(writer, folder, was_written=was_written, has_old=True)


@pytest.mark.parametrize("has_old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("name", WRITERS)
def test_wherever_the_machine_stops(tmp_path: Path, name: str, has_old: bool) -> None:
    writer = WRITERS[name]
    for number in range(MOST_CALLS):
        folder = begin(writer, tmp_path / str(number), has_old=has_old)
        with failing(StoppingDisk(folder, number)) as disk, suppress(Stopped):
            writer.write(folder, NEW)
        require_whole(writer, folder, was_written=not disk.has_stopped, has_old=has_old)
        if not disk.has_stopped:
            assert number > 1
            return
        shutil.rmtree(folder)
    raise AssertionError("there are more changes than are tried")


@pytest.mark.parametrize("name", WRITERS)
def test_what_takes_a_place_is_on_the_disk(tmp_path: Path, name: str) -> None:
    writer = WRITERS[name]
    with failing(SyncedDisk(tmp_path)) as disk:
        for version in (OLD, NEW):
            writer.write(tmp_path, version)
    assert disk.moved_unsynced == []


@pytest.mark.filterwarnings("ignore:Unable to write")  # joblib's, of a file for git
def test_whichever_call_of_the_cache_fails_the_prediction_is_right(tmp_path: Path) -> None:
    image, prompt = make_image(), Prompt.point(20, 20)
    expected = FakeSegmenter().predict(image, prompt).masks

    def predict(folder: Path) -> Prediction:
        with CachedSegmenter(FakeSegmenter(), folder) as segmenter:
            return segmenter.predict(image, prompt)

    for number in range(MOST_CALLS):
        folder = tmp_path / str(number)
        with failing(FailingDisk(folder, number)) as disk:
            first = predict(folder)
        again = predict(folder)
        for prediction in (first, again, predict(folder)):
            np.testing.assert_array_equal(prediction.masks, expected)
        if disk.calls <= number:
            assert number > 3
            assert again.cached
            return
    raise AssertionError("there are more calls than are tried")


@pytest.fixture(autouse=True)
def _leaves_the_disk_as_it_was() -> Iterator[None]:
    before = os.fsync, os.write
    yield
    assert (os.fsync, os.write) == before


def test_a_writer_that_writes_in_place_is_noticed(tmp_path: Path) -> None:
    def write(folder: Path, version: int) -> None:
        try:
            with (folder / "a.csv").open("w") as file:
                file.write("case_id,n\n" + f"1,{version}\n" * 30)
        except OSError as error:
            raise StorageError("no room") from error

    careless = Writer(write=write, read=WRITERS["table"].read)
    folder = begin(careless, tmp_path / "x", has_old=True)
    with files_end_at(40):
        was_written = attempt(careless, folder)
    with pytest.raises((AssertionError, ValueError)):
        require_whole(careless, folder, was_written=was_written, has_old=True)
