"""Every relative link and every anchor in the pages leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown.extensions.toc import slugify

from tests.docs.pages import PAGES, name_of, prose

_LINK = re.compile(r"\]\((?P<target>[^()\s]*(?:\([^()\s]*\))?[^()\s]*)\)")
_API_NAME = re.compile(r"^::: (\S+)", re.M)


def anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    found: set[str] = set(_API_NAME.findall(text))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*$", prose(text), re.M):
        slug = slugify(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", ""), "-")
        number = 0
        while (name := f"{slug}_{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def broken_links(page: Path) -> list[str]:
    broken = []
    for match in _LINK.finditer(prose(page.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        found = page if not target else page.parent / unquote(target)
        is_broken_anchor = (
            anchor and found.suffix == ".md" and found.is_file() and anchor not in anchors(found)
        )
        if not found.exists() or is_broken_anchor:
            broken.append(match["target"])
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: `x`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#a-heading-x) [b](there.md#gone) [c](gone.md) [d](#gone)\n", encoding="utf-8"
    )
    assert broken_links(page) == ["there.md#gone", "gone.md", "#gone"]
