"""What is promised about installing: one list of packages, in two places, and files that exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import rattler
import yaml
from rattler.exceptions import InvalidMatchSpecError

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library reads TOML from 3.11 on; pip's own dependency does before
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2]

# Same software, another name on conda-forge.
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "opencv-python-headless": "opencv",
    "prometheus-client": "prometheus_client",
    "torch": "pytorch",
}
USER_EXTRAS = ("jupyter", "service", "cohort", "export", "train")


def pyproject() -> dict:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def conda_specs() -> list[str]:
    listed = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    return [entry for entry in listed if isinstance(entry, str)]


def test_every_conda_line_is_a_match_spec() -> None:
    for spec in conda_specs():
        rattler.MatchSpec(spec)
    with pytest.raises(InvalidMatchSpecError):
        rattler.MatchSpec("numpy >=>1")


def test_conda_and_pip_ask_for_the_same() -> None:
    project = pyproject()
    wanted = list(project["dependencies"])
    for extra in USER_EXTRAS:
        wanted += project["optional-dependencies"][extra]
    expected = {"pip": "", "python": project["requires-python"]}
    for requirement in wanted:
        name, version = re.fullmatch(r"([A-Za-z0-9_.-]+?)(>=.*)", requirement).groups()
        expected[CONDA_NAMES.get(name, name)] = version
    found = {spec.partition(" ")[0]: spec.partition(" ")[2] for spec in conda_specs()}
    assert found == expected


def test_extra_all_names_every_user_extra() -> None:
    extras = pyproject()["optional-dependencies"]
    assert extras["all"] == [f"ctai-sam2[{','.join(USER_EXTRAS)}]"]
    # Other projects' models are for those who compare with them; a second engine for those who choose it.
    assert set(extras) == {*USER_EXTRAS, "peers", "fast-cpu", "docs", "dev", "all"}


@pytest.mark.parametrize(
    "target", ["help", "setup", "demo", "test", "lint", "lab", "bench", "docs", "release-check"]
)
def test_make_has_the_promised_targets(target: str) -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE)


def test_links_in_the_readme_lead_somewhere() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in t]
    assert targets
    assert [t for t in targets if not (PROJECT / t).exists()] == []


def test_example_environment_names_every_setting() -> None:
    from ctai_sam2.settings import Settings

    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^#?\s*(SAM2_[A-Z0-9_]+)=", text, re.MULTILINE))
    assert named == {f"SAM2_{name.upper()}" for name in Settings.model_fields}


def test_the_settings_in_the_manual_are_those_of_the_code() -> None:
    from ctai_sam2.settings import settings_table

    assert settings_table() in (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")


def test_a_wheel_holds_the_service_under_the_packages_name(tmp_path: Path) -> None:
    # The build backend is asked directly: it needs neither a network nor an environment of its own.
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(PROJECT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        names = wheel.namelist()
    modules = {
        f"ctai_sam2/widgets/page/{path.name}" for path in (PROJECT / "ctai_sam2/widgets/page").iterdir()
    }
    assert modules
    assert modules <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ctai_sam2"}
    assert {f"ctai_sam2/models/embedded/sam2_ct_nano.{end}" for end in ("safetensors", "json")} <= set(names)
    modules = {path.name for path in (PROJECT / "service").glob("*.py")}
    assert modules == {name.split("/")[-1] for name in names if name.startswith("ctai_sam2/_service/")}


def test_the_service_runs_under_the_name_it_has_in_a_wheel(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(PROJECT / "ctai_sam2", site / "ctai_sam2")
    shutil.copytree(PROJECT / "service", site / "ctai_sam2" / "_service")
    code = (
        "from ctai_sam2.cli.serve import _find_service; found = _find_service(); found.make_app;"
        "print(found.__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert run.stdout.strip() == "ctai_sam2._service"
