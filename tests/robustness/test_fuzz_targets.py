"""The fuzzer's targets on a few inputs each: nothing is found, and something could be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.fuzz import TARGETS, Finds, Progress, input_of, mutate
from ctai_sam2.io import uploads

INPUTS = 25
SLOW = ("http", "seg", "rtstruct", "weights")
"""Those that start worker processes or load large libraries; the long run has them."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in TARGETS if name not in SLOW])
def test_seeds_and_damaged_seeds_are_handled(tmp_path: Path, name: str) -> None:
    run = TARGETS[name].make(tmp_path)
    seeds = TARGETS[name].seeds(tmp_path / "again")
    for data in [*seeds, *(input_of(seeds, name, 5, number) for number in range(INPUTS))]:
        run(data)


def test_an_input_follows_from_its_number() -> None:
    seeds = [bytes(range(64)), b'{"a": 1}']
    made = [input_of(seeds, "json", 1, number) for number in range(50)]
    assert made == [input_of(seeds, "json", 1, number) for number in range(50)]
    assert len(set(made)) > 40
    assert mutate([b""], random.Random(1)) is not None


def test_what_is_not_one_of_our_errors_is_a_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise IndexError("a decoder's own")

    monkeypatch.setattr(uploads, "decode_upload", stumble)
    run = TARGETS["images"].make(tmp_path)
    with pytest.raises(IndexError):
        run(TARGETS["images"].seeds(tmp_path)[0])


def test_finds_are_kept_once_for_a_place(tmp_path: Path) -> None:
    finds = Finds(tmp_path / "finds")
    for data in (b"a", b"b"):
        finds.add("IndexError x.py:3", data, "traceback")
    finds.add("IndexError x.py:4", b"c", "traceback")
    assert len(finds) == 2
    progress = Progress()
    progress.note(7, 0.5)
    assert (progress.read()[0], progress.read()[2]) == (7, 0.5)
