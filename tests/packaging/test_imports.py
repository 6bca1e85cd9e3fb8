"""What a module imports is installed with it: the package alone runs with what it declares, and no more."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2]
OWN = {"ctai_sam2", "service"}

EXTRAS = {
    "ctai_sam2/cohort/": {"cohort"},
    "ctai_sam2/widgets/": {"jupyter"},
    "ctai_sam2/training/": {"train"},
    "service/": {"service"},
    "ctai_sam2/cli/doctor.py": {"jupyter"},
    "ctai_sam2/evaluation/baselines.py": {"train"},
    "ctai_sam2/io/dicom_seg.py": {"export"},
    "ctai_sam2/models/openvino_engine.py": {"fast-cpu"},
}
"""Places that need an extra, and ask for it or do without where it is missing."""


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


@cache
def installed_with(*extras: str) -> set[str]:
    """What the package declares, and all that it needs in turn."""
    metadata = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    wanted = [*metadata["dependencies"]]
    for extra in extras:
        wanted += metadata["optional-dependencies"][extra]
    while wanted:
        name = name_of(wanted.pop())
        if name not in found:
            found.add(name)
            with suppress(PackageNotFoundError):
                wanted += [one for one in requires(name) or [] if "extra ==" not in one]
    return found


@cache
def distributions_by_import() -> Mapping[str, list[str]]:
    return packages_distributions()


def imports_of(path: Path) -> Iterator[str]:
    """Top-level names of all imports but those for type checkers."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            stack += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]
        stack += ast.iter_child_nodes(node)


def missing(path: Path, installed: set[str]) -> list[str]:
    distributions = distributions_by_import()
    found = {name for name in imports_of(path) if name not in sys.stdlib_module_names | OWN}
    return sorted(
        name
        for name in found
        if not any(name_of(one) in installed for one in distributions.get(name, [name]))
    )


def test_each_module_imports_what_is_installed_with_it() -> None:
    problems = {}
    for path in [*PROJECT.glob("ctai_sam2/**/*.py"), *PROJECT.glob("service/**/*.py")]:
        place = path.relative_to(PROJECT).as_posix()
        extras = {extra for room, names in EXTRAS.items() if place.startswith(room) for extra in names}
        found = missing(path, installed_with(*sorted(extras)))
        if found:
            problems[place] = found
    assert problems == {}


def test_an_import_that_nothing_installs_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def work():\n    import cv2, numpy\n", encoding="utf-8")
    assert missing(module, installed_with()) == ["cv2"]
    assert missing(module, installed_with("train")) == []
