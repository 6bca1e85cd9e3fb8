"""The Python in the pages runs, on the phantom study, each page from its top."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.cli.demo import make_demo_study
from tests.docs.pages import PAGES, Block, blocks, name_of


def snippets(page: Path) -> list[Block]:
    found = blocks(page.read_text(encoding="utf-8"))
    return [block for block in found if block.language == "python" and block.not_run is None]


def pages_to_run() -> list[Path]:
    """Pages with Python; of those with the very same snippets (translations), the first."""
    by_code: dict[tuple[str, ...], Path] = {}
    for page in PAGES:
        by_code.setdefault(tuple(block.code for block in snippets(page)), page)
    by_code.pop((), None)
    return list(by_code.values())


RUNNING = pages_to_run()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the paths of the pages exist."""
    folder = tmp_path_factory.mktemp("snippets")
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "dicom").symlink_to(make_demo_study())
    return folder


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_snippets_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for name in [name for name in os.environ if name.startswith("SAM2_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAM2_CACHE_DIR", str(workplace / "cache"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in snippets(page):
        # Empty lines before the code make a traceback name the page's own line.
        code = compile("\n" * block.line + block.code, str(page), "exec")
        exec(code, names)


def test_the_readme_is_run() -> None:
    assert "README.md" in [name_of(page) for page in RUNNING]
