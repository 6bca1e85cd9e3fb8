"""The words that the glossary replaces stay out of pages, docstrings and messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, PROJECT, prose

GLOSSARY = PROJECT / "docs" / "glossary.md"
_TABLE = GLOSSARY.read_text(encoding="utf-8").partition("| write | instead of |")[2]
REPLACED = re.findall(r"`([^`]+)`", _TABLE)
_FORMS = re.compile(
    r"\b(" + "|".join(f"{re.escape(word)}(?:s|ed|ing)?" for word in REPLACED) + r")\b", re.IGNORECASE
)
SOURCES = [path for folder in ("ctai_sam2", "service") for path in sorted((PROJECT / folder).rglob("*.py"))]
# History keeps its words, and the glossary has to name what it replaces.
READ = [page for page in PAGES if page.name not in {"CHANGELOG.md", GLOSSARY.name}]


def written_for_people(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string constant: docstrings and messages are the sentences among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_docstrings_and_messages_use_the_glossary(path: Path) -> None:
    found = [(line, _FORMS.findall(text)) for line, text in written_for_people(path)]
    assert [(line, words) for line, words in found if words] == []


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_pages_use_the_glossary(page: Path) -> None:
    assert _FORMS.findall(prose(page.read_text(encoding="utf-8"))) == []


def test_the_replaced_words_are_read_and_found() -> None:
    assert len(REPLACED) >= 6
    assert _FORMS.findall("Whoever asked was told the answers beside it.") == [
        "Whoever",
        "told",
        "answers",
        "beside",
    ]
