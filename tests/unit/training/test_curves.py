from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.training.__main__ import main
from ctai_sam2.training.curves import read_log


def test_the_later_line_of_a_step_counts_and_a_picture_is_drawn(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [
        {"step": step, "phase": "prompt", "iou_single_0": value}
        for step, value in ((20, 0.1), (40, 0.2), (60, 0.9), (40, 0.3), (60, 0.4))
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [line["iou_single_0"] for line in read_log(log)] == [0.1, 0.3, 0.4]
    assert main(["curve", "--log", str(log), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", ["", "no json", '{"phase": "x"}', None])
def test_a_log_that_is_none_is_refused(tmp_path: Path, content: str | None) -> None:
    log = tmp_path / "log.jsonl"
    if content is not None:
        log.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="log of"):
        read_log(log)
