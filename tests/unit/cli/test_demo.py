"""The demonstration's study: a whole series or none, drawn once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ctai_sam2.cli import demo
from ctai_sam2.errors import StorageError
from ctai_sam2.io import read_study


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "SHAPE_ZYX", (3, 64, 64))
    monkeypatch.setattr(demo, "SPACING_ZYX_MM", (5.0, 6.0, 6.0))
    monkeypatch.setattr(demo.platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))


def test_it_is_drawn_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache" / "demo-study-of-other-code").mkdir(parents=True)
    folder = demo.make_demo_study()
    assert read_study(folder).shape_zyx == (3, 64, 64)
    monkeypatch.setattr(demo, "make_volume", None)
    assert demo.make_demo_study() == folder
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_a_run_that_ends_half_way_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(folder: Path, volume: object) -> None:
        folder.mkdir()
        (folder / "half.dcm").write_bytes(b"half")
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_dicom_series", fail)
        with pytest.raises(StorageError):
            demo.make_demo_study(tmp_path / "study")
    assert not list(tmp_path.iterdir())
    (tmp_path / "study").mkdir()
    assert read_study(demo.make_demo_study(tmp_path / "study")).shape_zyx[0] == 3


def test_two_that_draw_at_once_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=60)
    write = demo.write_dicom_series

    def write_and_wait(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        both.wait()

    monkeypatch.setattr(demo, "write_dicom_series", write_and_wait)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(demo.make_demo_study())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(list(found[0].iterdir())) == 3


def test_without_a_place_to_keep_it_the_study_is_a_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert read_study(demo.make_demo_study()).shape_zyx[0] == 3
