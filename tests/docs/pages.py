"""The project's pages, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CHANGELOG.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.M | re.S)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+?) -->\s*\Z")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: where it stands, what it holds, and why it is not run, if it is not."""

    line: int
    language: str
    code: str
    not_run: str | None


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for match in _FENCE.finditer(text):
        excuse = _NOT_RUN.search(text[: match.start()])
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        yield Block(
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"],
            code=code,
            not_run=excuse["reason"] if excuse else None,
        )


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text)


def name_of(page: Path) -> str:
    """Path from the project's folder."""
    return page.relative_to(PROJECT).as_posix()
