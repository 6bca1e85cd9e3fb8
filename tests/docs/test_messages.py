"""The messages that the troubleshooting pages quote are still those of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PROJECT, blocks

PAGE = PROJECT / "docs" / "troubleshooting.md"
IN_CHINESE = PROJECT / "docs" / "zh" / "troubleshooting.md"


def quoted(page: Path) -> list[str]:
    """The lines of output that a page quotes."""
    found = blocks(page.read_text(encoding="utf-8"))
    return [line for block in found if block.language == "text" for line in block.code.splitlines()]


QUOTED = quoted(PAGE)
_FEWEST_LETTERS = 8


@cache
def texts_in_the_code() -> list[re.Pattern[str]]:
    """Every text of the code as a pattern, in which a value may be anything."""
    found = []
    for folder in ("ctai_sam2", "service"):
        for path in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = _parts(node)
                if sum(len(part) for part in parts if part) >= _FEWEST_LETTERS:
                    text = "".join(".+" if part is None else re.escape(part) for part in parts)
                    found.append(re.compile(text.rstrip(".").removesuffix("\\")))
    return found


def _parts(node: ast.AST) -> list[str | None]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part.value if isinstance(part, ast.Constant) else None for part in node.values]
    return []


def unknown_sentences(line: str) -> list[str]:
    """Sentences of a quoted message that no text of the code can have made."""
    message = re.sub(r"^[A-Z]\w+: ", "", line)
    message = re.sub(r" \(received [^()]*\)", "", message).rstrip(".")
    sentences = message.split(". ")
    # A text of the code may hold several sentences: the longest run that matches is taken off first.
    unknown = []
    while sentences:
        for count in range(len(sentences), 0, -1):
            if _is_in_the_code(". ".join(sentences[:count])):
                sentences = sentences[count:]
                break
        else:
            unknown.append(sentences.pop(0))
    return unknown


def _is_in_the_code(text: str) -> bool:
    return any(pattern.fullmatch(text) for pattern in texts_in_the_code())


@pytest.mark.parametrize("line", QUOTED)
def test_a_quoted_message_is_one_of_the_code(line: str) -> None:
    assert unknown_sentences(line) == []


def test_the_chinese_page_quotes_the_same() -> None:
    assert quoted(IN_CHINESE) == QUOTED


def test_a_message_that_is_gone_is_found() -> None:
    assert len(QUOTED) > 10
    assert unknown_sentences("WeightsError: the moon is missing. Copy it again.") == ["the moon is missing"]
