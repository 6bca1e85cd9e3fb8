"""The Python in the pages runs, on the phantom study, each page from its top."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.cli.demo import make_demo_study
from tests.docs.pages import PAGES, blocks, name_of

# One run of one click costs seconds: pages share its result, each page's own names stay its own.
RUNNING = [
    page
    for page in PAGES
    if any(block.language == "python" and block.not_run is None for block in blocks(page.read_text("utf-8")))
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the paths of the pages exist."""
    folder = tmp_path_factory.mktemp("snippets")
    make_demo_study(folder / "path" / "to" / "dicom")
    return folder


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_snippets_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    for name in [name for name in os.environ if name.startswith("SAM2_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SAM2_CACHE_DIR", str(workplace / "cache"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python" and block.not_run is None:
            # Empty lines before the code make a traceback name the page's own line.
            code = compile("\n" * block.line + block.code, str(page), "exec")
            exec(code, names)


def test_the_readme_is_run() -> None:
    assert "README.md" in [name_of(page) for page in RUNNING]
