"""The site builds without a warning, and its written pages are up to date."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ctai_sam2
from tests.docs.pages import PROJECT

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library reads TOML from 3.11 on; pip's own dependency does before
    import tomli as tomllib

DOCS = PROJECT / "docs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "building" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    run = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_the_site_is_built(site: Path) -> None:
    assert "segment_study" in (site / "api.html").read_text(encoding="utf-8")
    assert (site / "source" / "CHANGELOG.md.txt").is_file()


def test_the_site_loads_nothing_from_outside(site: Path) -> None:
    loaded = [
        (page.name, found)
        for page in site.rglob("*.html")
        for found in re.findall(r"<(?:script|link|img)\b[^>]*https?://[^>]*>", page.read_text("utf-8"))
    ]
    assert loaded == []


def test_the_http_api_page_is_that_of_the_document() -> None:
    written = load("http_api").render(json.loads((DOCS / "openapi.json").read_text(encoding="utf-8")))
    assert (DOCS / "http-api.md").read_text(encoding="utf-8") == written, (
        "run: python docs/building/http_api.py > docs/http-api.md"
    )


def test_the_data_dictionary_is_that_of_the_code() -> None:
    assert (DOCS / "data-dictionary.md").read_text(encoding="utf-8") == load(
        "data_dictionary"
    ).render() + "\n", "run: python docs/building/data_dictionary.py > docs/data-dictionary.md"


def test_the_api_page_names_the_whole_public_surface() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    named = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", text, re.M)}
    assert named - {"errors"} == set(ctai_sam2.__all__) - {"__version__"}


def test_the_validation_tables_are_those_of_the_scores() -> None:
    building = load("validation")
    page = (DOCS / "validation.md").read_text(encoding="utf-8")
    scores = json.loads(building.SCORES.read_text(encoding="utf-8"))
    for write in (building.render, building.render_peers):
        table = write(scores)
        assert f"validation.py -->\n{table}<!-- end" in page, "run: python docs/building/validation.py"


def test_every_dependency_has_its_licence_listed() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in ("jupyter", "service", "cohort", "export", "train"):
        wanted += project["optional-dependencies"][extra]
    named = {canonicalize_name(Requirement(line).name) for line in wanted}
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", (DOCS / "licences.md").read_text("utf-8"), re.M))
    assert named - listed == set(), "run: python docs/building/licences.py > docs/licences.md"


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (str(cited["version"]), cited["license"]) == (ctai_sam2.__version__, "Apache-2.0")
