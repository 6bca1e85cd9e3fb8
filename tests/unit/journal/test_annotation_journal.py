"""Journals: on disk before saved, the same after a crash, never of the wrong slice, one writer."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctai_sam2.errors import InputError, RecordError, StorageError
from ctai_sam2.journal import AnnotationJournal, Record, fingerprint
from ctai_sam2.journal.lines import encode_line, read_lines
from ctai_sam2.types import CTSlice, CTVolume

SLICE = CTSlice(hu=np.arange(48, dtype=np.int16).reshape(6, 8), spacing_mm=(2.0, 0.8))
EVENTS = [{"type": "edit", "value": 0.1}, {"type": "undo"}, {"type": "edit", "text": "第三腰椎"}]


def write(path: Path, events: list[dict[str, Any]] | None = None) -> None:
    with AnnotationJournal.open(path, SLICE) as record:
        for event in EVENTS if events is None else events:
            record.append(event)


def test_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "case.jsonl"
    write(path, EVENTS[:1])
    write(path, EVENTS[1:])
    with AnnotationJournal.open(path, SLICE) as record:
        assert record.replay() == EVENTS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["n"] for line in lines] == [0, 1, 2, 3]


def test_opening_writes_nothing_and_an_empty_record_replays_to_nothing(tmp_path: Path) -> None:
    with AnnotationJournal.open(tmp_path / "case.jsonl", SLICE) as record:
        assert record.replay() == []
    assert not (tmp_path / "case.jsonl").exists()


@pytest.mark.parametrize("kept", [[], EVENTS[:2]], ids=["no line yet", "some lines"])
@pytest.mark.parametrize("cuts", list(itertools.product([1, 2, 3, 40, -1], repeat=3)))
def test_writers_stopped_one_after_the_other_lose_nothing(
    tmp_path: Path, kept: list[dict[str, Any]], cuts: tuple[int, ...]
) -> None:
    path = tmp_path / "case.jsonl"
    if kept:
        write(path, kept)
    for cut in cuts:
        before = path.read_bytes() if path.exists() else b""
        write(path, [{"type": "never confirmed"}])
        added = path.read_bytes()[len(before) :]
        # The last byte is the line feed: without it the line is torn.
        path.write_bytes(before + added[: added.index(b"}\n") + 1][:cut])
        with AnnotationJournal.open(path, SLICE) as record:
            assert record.replay() == kept
    write(path, EVENTS[2:])
    with AnnotationJournal.open(path, SLICE) as record:
        assert record.replay() == [*kept, *EVENTS[2:]]


def test_cut_at_any_byte_the_last_whole_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    write(path)
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        kept = max(sum(end <= length for end in ends) - 1, 0)
        with AnnotationJournal.open(path, SLICE) as record:
            assert record.replay() == EVENTS[:kept]
            record.append({"type": "redo"})
            assert record.replay() == [*EVENTS[:kept], {"type": "redo"}]
        with AnnotationJournal.open(path, SLICE) as record:
            assert record.replay() == [*EVENTS[:kept], {"type": "redo"}]


@pytest.mark.parametrize(
    "garbage", [b"\0" * 40, b"\xff\xfe{", b'{"n":4,"check":"0","event":{}}\n', b"[]\n", b"4\n"]
)
def test_a_last_line_that_does_not_fit_is_left_out(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "case.jsonl"
    write(path)
    path.write_bytes(path.read_bytes() + garbage)
    with AnnotationJournal.open(path, SLICE) as record:
        assert record.replay() == EVENTS


def test_any_changed_byte_before_the_last_line_is_damage_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    write(path)
    content = path.read_bytes()
    last_line = content[:-1].rfind(b"\n") + 1
    for position in range(last_line - 1):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(RecordError):
            AnnotationJournal.open(path, SLICE)
        assert path.read_bytes() == damaged


def test_a_lost_or_moved_line_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    for wrong in ([lines[0], *lines[2:]], [lines[0], lines[2], lines[1], lines[3]]):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(RecordError, match="damaged"):
            AnnotationJournal.open(path, SLICE)


@pytest.mark.parametrize("content", [b"my notes", b"my notes\nof today\n", b"{}\n", b"\x00\x01"])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="no annotation journal"):
        AnnotationJournal.open(path, SLICE)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "other",
    [
        replace(SLICE, hu=SLICE.hu + np.int16(1)),
        replace(SLICE, hu=SLICE.hu.reshape(8, 6)),
        replace(SLICE, spacing_mm=(2.0, 0.9)),
        replace(SLICE, hu=SLICE.hu.astype(np.float32)),
    ],
)
def test_the_wrong_slice_is_refused(tmp_path: Path, other: CTSlice) -> None:
    write(tmp_path / "case.jsonl")
    with pytest.raises(RecordError, match="another slice"):
        AnnotationJournal.open(tmp_path / "case.jsonl", other)


def test_a_fingerprint_is_of_pixels_only() -> None:
    fortran = replace(SLICE, hu=np.asfortranarray(SLICE.hu), index=7, affine=np.eye(4))
    assert fingerprint(fortran) == fingerprint(SLICE)
    volume = CTVolume(hu_zyx=SLICE.hu[None], affine=np.diag([0.8, 2.0, 5.0, 1.0]))
    assert fingerprint(volume) != fingerprint(SLICE)


def test_two_writers_are_refused_until_the_first_one_closes(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    first = AnnotationJournal.open(path, SLICE)
    with pytest.raises(RecordError, match="another editor"):
        AnnotationJournal.open(path, SLICE)
    first.append(EVENTS[0])
    first.close()
    first.close()
    with pytest.raises(RecordError, match="closed"):
        first.append(EVENTS[1])
    with AnnotationJournal.open(path, SLICE) as second:
        assert second.replay() == EVENTS[:1]


def test_a_writer_that_comes_late_does_not_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "not yet" / "case.jsonl"
    first, second = AnnotationJournal.open(path, SLICE), AnnotationJournal.open(path, SLICE)
    first.append(EVENTS[0])
    with pytest.raises(RecordError, match="another editor"):
        second.append(EVENTS[1])
    first.close()
    with pytest.raises(RecordError, match="changed by another writer"):
        second.append(EVENTS[2])
    second.close()
    with AnnotationJournal.open(path, SLICE) as third:
        assert third.replay() == EVENTS[:1]


CHILD = """
import sys, numpy as np
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.types import CTSlice
ct_slice = CTSlice(hu=np.arange(48, dtype=np.int16).reshape(6, 8), spacing_mm=(2.0, 0.8))
record = AnnotationJournal.open(sys.argv[1], ct_slice)
number = 0
while True:
    record.append({"number": number, "filling": "x" * 2000})
    print(number, flush=True)
    number += 1
"""


def test_kill_9_loses_nothing_that_was_reported_saved(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        saved = [int(child.stdout.readline()) for _ in range(5)][-1]
        with pytest.raises(RecordError, match="another editor"):
            AnnotationJournal.open(path, SLICE)
        child.send_signal(signal.SIGKILL)
        saved = max([saved, *(int(line) for line in child.stdout.read().split())])
    with AnnotationJournal.open(path, SLICE) as record:
        numbers = [event["number"] for event in record.replay()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= saved + 1


class FullDisk:
    """Stands in for os.write: takes some bytes, then says the disk is full."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.real = os.write

    def __call__(self, descriptor: int, content: Any) -> int:
        if self.takes <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.real(descriptor, bytes(content)[: self.takes])
        self.takes -= count
        return count


@pytest.mark.parametrize("takes", [0, 1, 30, 150])
def test_a_full_disk_keeps_everything_in_memory_and_tries_again(
    tmp_path: Path, takes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "case.jsonl"
    record = AnnotationJournal.open(path, SLICE)
    record.append(EVENTS[0])
    whole = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("ctai_sam2.journal.annotation_journal.os.write", FullDisk(takes))
        long = {**EVENTS[1], "filling": "x" * 200}
        with pytest.raises(StorageError, match="no space left"):
            record.append(long)
    assert record.unsaved == 1
    # What the failed write left behind is no line to anybody.
    assert path.read_bytes().startswith(whole)
    assert [event for event, _, _ in read_lines(path.read_bytes())][1:] == [EVENTS[0]]
    assert record.replay() == [EVENTS[0], long]
    record.append(EVENTS[2])
    assert record.unsaved == 0
    record.close()
    with AnnotationJournal.open(path, SLICE) as again:
        assert again.replay() == [EVENTS[0], long, EVENTS[2]]


def test_a_folder_that_cannot_be_written_to_is_no_error_before_saving(tmp_path: Path) -> None:
    # A file in the folder's place works for every user, root too.
    blocker = tmp_path / "folder"
    blocker.write_text("")
    with pytest.raises(StorageError):
        AnnotationJournal.open(blocker / "case.jsonl", SLICE)
    blocker.unlink()
    record = AnnotationJournal.open(blocker / "case.jsonl", SLICE)
    blocker.write_text("")
    with pytest.raises(StorageError):
        record.append(EVENTS[0])
    blocker.unlink()
    record.flush()
    assert record.unsaved == 0
    record.close()
    with AnnotationJournal.open(blocker / "case.jsonl", SLICE) as again:
        assert again.replay() == EVENTS[:1]


def test_a_record_deleted_outside_is_told_and_saved_anew_by_compact(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    record = AnnotationJournal.open(path, SLICE)
    record.append(EVENTS[0])
    path.unlink()
    with pytest.raises(RecordError, match="deleted"):
        record.append(EVENTS[1])
    record.compact({"all": 1})
    record.append(EVENTS[2])
    record.close()
    with AnnotationJournal.open(path, SLICE) as again:
        assert again.replay() == [{"type": "snapshot", "state": {"all": 1}}, EVENTS[2]]


def test_compaction_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "case.jsonl"
    record = AnnotationJournal.open(path, SLICE)
    for event in EVENTS:
        record.append(event)
    content = path.read_bytes()
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("ctai_sam2.files.atomic.os.replace", fail)
        with pytest.raises(StorageError):
            record.compact({"all": 1})
    assert path.read_bytes() == content
    record.append({"type": "undo"})
    assert record.replay() == [*EVENTS, {"type": "undo"}]
    record.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".case.jsonl.lock", "case.jsonl"]


def test_an_event_that_is_no_json_is_refused_and_not_kept(tmp_path: Path) -> None:
    with AnnotationJournal.open(tmp_path / "case.jsonl", SLICE) as record:
        for bad in ({"mask": np.zeros(3)}, {"value": float("nan")}):
            with pytest.raises(InputError):
                record.append(bad)
        assert record.unsaved == 0
        assert record.replay() == []


def test_what_was_appended_does_not_change_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AnnotationJournal.open(tmp_path / "case.jsonl", SLICE) as record:
        event = {"points": [1]}
        with monkeypatch.context() as patch:
            patch.setattr("ctai_sam2.journal.annotation_journal.os.write", FullDisk(0))
            with pytest.raises(StorageError):
                record.append(event)
        event["points"].append(2)
        record.flush()
        assert record.replay() == [{"points": [1]}]


def test_the_earlier_name_still_opens_a_journal() -> None:
    assert Record is AnnotationJournal


STEPS = [(who, what) for who in ("one", "two") for what in ("append", "append", "close")]


@pytest.mark.parametrize(
    "order",
    sorted(
        {
            tuple(STEPS[3 * who + turn[:i].count(who)] for i, who in enumerate(turn))
            for turn in itertools.permutations([0, 0, 0, 1, 1, 1])
        }
    ),
)
def test_where_the_lock_does_not_hold_nothing_confirmed_is_lost(
    tmp_path: Path, order: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ctai_sam2.journal.annotation_journal.lock_file",
        lambda path: os.open(path.parent, os.O_RDONLY),
    )
    path = tmp_path / "case.jsonl"
    write(path, EVENTS[:1])
    writers = {who: AnnotationJournal.open(path, SLICE) for who in ("one", "two")}
    confirmed: list[dict[str, Any]] = []
    refused = set()
    for number, (who, what) in enumerate(order):
        if what == "close":
            writers[who].close()
            continue
        event = {"by": who, "number": number}
        try:
            writers[who].append(event)
        except RecordError:
            assert writers[who].unsaved
            refused.add(who)
        else:
            assert who not in refused
            confirmed.append(event)
    assert len(refused) == 1
    with AnnotationJournal.open(path, SLICE) as read:
        assert read.replay() == [*EVENTS[:1], *confirmed]


@pytest.mark.parametrize("cut", [1, 9, 50, 10_000])
def test_a_writer_that_slips_in_between_keeps_what_it_confirmed(
    tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer appends, whole or torn, after this one looked and before it writes."""
    path = tmp_path / "case.jsonl"
    write(path, EVENTS[:1])
    journal = AnnotationJournal.open(path, SLICE)
    journal.append(EVENTS[1])
    before = list(read_lines(path.read_bytes()))
    theirs = encode_line(len(before), {"by": "another"}, before[-1][1])[0][:cut]
    real = os.write

    def slip_in(descriptor: int, content: Any) -> int:
        monkeypatch.undo()
        with path.open("ab") as other:
            other.write(theirs)
        return real(descriptor, content)

    monkeypatch.setattr("ctai_sam2.journal.annotation_journal.os.write", slip_in)
    with pytest.raises(RecordError, match="another writer"):
        journal.append(EVENTS[2])
    assert journal.unsaved == 1
    is_whole = cut == 10_000
    if is_whole:
        with pytest.raises(RecordError, match="another writer"):
            journal.append({"type": "undo"})
        with pytest.raises(RecordError, match="another writer"):
            journal.compact({"all": 1})
    else:
        journal.append({"type": "undo"})
        assert journal.unsaved == 0
    journal.close()
    mine = [] if is_whole else [EVENTS[2], {"type": "undo"}]
    with AnnotationJournal.open(path, SLICE) as read:
        assert read.replay() == [*EVENTS[:2], *([{"by": "another"}] if is_whole else []), *mine]


def test_what_another_writer_confirms_during_compaction_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ctai_sam2.journal.annotation_journal.lock_file",
        lambda path: os.open(path.parent, os.O_RDONLY),
    )
    path = tmp_path / "case.jsonl"
    write(path, EVENTS[:1])
    mine, other = AnnotationJournal.open(path, SLICE), AnnotationJournal.open(path, SLICE)
    real = os.replace

    def slip_in(source: Any, target: Any) -> None:
        if Path(target) == path:
            other.append({"by": "another"})  # confirmed: it stands in the file that is about to be replaced
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", slip_in)
        with pytest.raises(RecordError, match="another writer"):
            mine.compact({"all": 1})
    mine.close()
    other.close()
    (aside,) = tmp_path.glob("case.jsonl.other-*")
    assert AnnotationJournal.peek(aside, SLICE) == [*EVENTS[:1], {"by": "another"}]
    assert AnnotationJournal.peek(path, SLICE)[0]["state"] == {"all": 1}


def test_a_line_that_reached_the_disk_although_it_failed_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "case.jsonl"
    journal = AnnotationJournal.open(path, SLICE)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ctai_sam2.journal.annotation_journal.os.fsync", fail)
        for event in EVENTS[:2]:
            with pytest.raises(StorageError):
                journal.append(event)
        assert journal.replay() == EVENTS[:2]
    journal.append(EVENTS[2])
    assert journal.unsaved == 0
    assert journal.replay() == EVENTS
    journal.close()
    with AnnotationJournal.open(path, SLICE) as read:
        assert read.replay() == EVENTS


def test_a_journal_of_the_version_before_reads_the_same(tmp_path: Path) -> None:
    """Written by the package before lines could name skipped bytes."""
    path = tmp_path / "case.jsonl"
    check, content = "", b""
    header = {"format": "ctai_sam2 annotation record", "version": 1, "slice_sha256": fingerprint(SLICE)}
    for number, event in enumerate([header, *EVENTS]):
        body = json.dumps(event, sort_keys=True, separators=(",", ":"))
        check = hashlib.sha256(f"{check} {number} {body}".encode()).hexdigest()[:16]
        content += f'{{"n":{number},"check":"{check}","event":{body}}}\n'.encode()
    path.write_bytes(content)
    with AnnotationJournal.open(path, SLICE) as read:
        assert read.replay() == EVENTS
        read.append({"type": "undo"})
        assert read.replay() == [*EVENTS, {"type": "undo"}]
