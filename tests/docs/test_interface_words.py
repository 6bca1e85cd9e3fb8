"""The Chinese guide calls the editors' buttons and messages what the editors call them."""

from __future__ import annotations

import re

import pytest

from ctai_sam2.editor.i18n import LANGUAGES, TABLE
from tests.docs.pages import PROJECT, prose

PAGE = PROJECT / "docs" / "zh" / "editors.md"
QUOTED = sorted(set(re.findall(r"“([^”]+)”", prose(PAGE.read_text(encoding="utf-8")))))


def is_shown(words: str) -> bool:
    """Whether the interface shows these words; a value in them may be anything."""
    texts = (texts[LANGUAGES.index("zh")] for texts in TABLE.values())
    patterns = (".+".join(map(re.escape, re.split(r"\{\w+\}", text))) for text in texts)
    # A message may stand with or without its full stop.
    return any(re.fullmatch(pattern.removesuffix("。"), words) for pattern in patterns)


@pytest.mark.parametrize("words", QUOTED)
def test_quoted_words_are_the_interfaces(words: str) -> None:
    # Of a button with a sign before its words, the words alone will do.
    assert is_shown(words) or any(f"+ {words}" in zh or f"− {words}" in zh for _, zh in TABLE.values())


def test_words_that_are_gone_are_found() -> None:
    assert len(QUOTED) > 20
    assert not is_shown("一键登月")
