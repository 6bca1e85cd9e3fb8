"""Starts Chromium, JupyterLab and a kernel once for all journeys.

They end with the last test of this folder: as long as Playwright runs, its thread has an event loop, and no
other test of the same process could start one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.lab import CHROMIUM, FLAGS, Lab, Notebook, running_lab
from tests.browser.twin import SOURCES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a journey that fails once more: a real browser on a busy machine may lose a press or a frame.

    The report counts such reruns; a journey that fails twice has failed.
    """
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), headless=True)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
    # As behind a hub: what works under a prefix works without one.
    with running_lab(tmp_path_factory.mktemp("lab"), prefix="/user/reader") as lab:
        yield lab


@pytest.fixture(scope="package")
def kernel(lab: Lab) -> str:
    """A kernel for one notebook after another: what it has imported stays."""
    return lab.start_kernel()


@pytest.fixture(scope="package")
def shown() -> list[Notebook]:
    """The notebook whose page the next one may take, if there is one."""
    return []


@pytest.fixture
def opened(
    browser: Any, lab: Lab, kernel: str, shown: list[Notebook], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook of these cells in the shared kernel.

    It takes the page of the one before, unless it asks for something of the page: size, layout, ``fresh``.
    """
    notebooks = []

    def open_notebook(*cells: str, fresh: bool = False, **options: Any) -> Notebook:
        name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
        own_page = fresh or bool(options.keys() - {"blank", "pixel_ratio"})
        page = shown.pop().page if shown and not own_page else None
        notebook = Notebook.open(browser, lab, name, [SOURCES, *cells], kernel=kernel, page=page, **options)
        notebooks.append((notebook, own_page))
        return notebook

    yield open_notebook
    for notebook, own_page in notebooks:
        if own_page:
            notebook.close()
        else:
            notebook.leave()
            shown.append(notebook)
