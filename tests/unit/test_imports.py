"""The direction of imports, and how little importing the package loads."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ctai_sam2

PACKAGE = Path(ctai_sam2.__file__).parent

# Lower may not import higher; rooms of one tier do not import each other.
TIERS: dict[str, int] = {
    "_moved": 0,
    "_version": 0,
    "errors": 0,
    "types": 1,
    "settings": 1,
    "geometry": 2,
    "structures": 2,
    "files": 2,
    "image": 3,
    "measure": 4,
    "phantom": 4,
    "io": 5,
    "models": 5,
    "segmentation": 5,
    "editor": 5,
    "agreement": 6,
    "exchange": 6,
    "mask_checks": 5,
    "journal": 6,
    "study": 7,
    "evaluation": 6,
    "widgets": 8,
    "training": 8,
    "cohort": 8,
    "cli": 9,
    "__main__": 10,
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path.name} uses a relative import; absolute ones can be checked")
    return {name.split(".")[1] for name in names if name.startswith("ctai_sam2.") and name.count(".") >= 1}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py" or p.parent != PACKAGE)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in TIERS, f"{room} is new: give it a tier here and in the architecture page"
    for other in imported_rooms(path) - {room, "__version__"}:
        assert TIERS[other] < TIERS[room], f"{path.name} ({room}) must not import {other}"


def test_the_service_imports_what_lies_below_it() -> None:
    allowed = {"_version", "errors", "types", "geometry", "image", "settings", "io", "models"}
    for path in sorted((PACKAGE.parent / "service").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        # Its own modules by relative imports: in a wheel the folder has another name.
        assert not re.search(r"^(from|import) service\b", text, re.MULTILINE), path.name
        rooms = set(re.findall(r"^\s*from ctai_sam2\.(\w+)", text, re.MULTILINE))
        assert rooms <= allowed, f"{path.name} must not import {rooms - allowed}"


def test_only_few_modules_import_torch() -> None:
    allowed = {
        f"models/{name}.py"
        for name in (
            "sam2_inference",
            "mask_decoder",
            "local",
            "sam2_network",
            "slice_memory",
            "dense_head",
            "tensor_threads",
            "engine",
            "openvino_engine",
        )
    }
    # The network that names vertebrae runs in this process whatever the segmenter is.
    allowed |= {"segmentation/levels/model.py", "segmentation/levels/network.py"}
    found = set()
    for path in modules():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in {"torch", "sam2", "torchvision"} for name in names):
                found.add(path.relative_to(PACKAGE).as_posix())
    # Another project's model is torch's own, whatever ours run on.
    allowed |= {"evaluation/peers.py"}
    rest = {name for name in found if not name.startswith("training/")} - allowed
    assert rest <= {"cli/doctor.py"}, "torch is the business of models/"


def run_python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True, timeout=120
    ).stdout


@pytest.mark.parametrize(
    "module",
    [
        "ctai_sam2",
        "ctai_sam2.models",
        "ctai_sam2.io",
        "ctai_sam2.editor",
        "ctai_sam2.journal",
        "ctai_sam2.evaluation",
        "ctai_sam2.cohort",
        "ctai_sam2.agreement",
        "ctai_sam2.exchange",
        "ctai_sam2.cli",
    ],
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ["torch", "sam2", "torchvision", "ipywidgets", "ipycanvas", "matplotlib", "pydicom", "pandas"]
    code = f"import {module}, sys, json; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    assert json.loads(run_python(code)) == []


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("--help", ["numpy", "scipy", "pandas", "pydantic", "pydicom", "torch", "matplotlib", "PIL", "rich"]),
        # The imports of this function are most of the time of `measure`.
        ("measure --help", ["scipy.signal", "scipy.stats", "pandas", "torch", "matplotlib"]),
    ],
)
def test_commands_start_without_what_they_do_not_need(command: str, heavy: list[str]) -> None:
    code = f"""
import contextlib, io, json, sys
from ctai_sam2.cli.app import app
with contextlib.redirect_stdout(io.StringIO()):
    app({command.split()!r}, standalone_mode=False)
if "measure" in {command!r}:
    from ctai_sam2.study.outputs import measure_files
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""
    assert json.loads(run_python(code)) == []


def test_an_editor_is_drawn_before_what_segments_reads_and_writes_is_imported() -> None:
    late = [
        "segmentation.axial_session",
        "segmentation.study",
        "study.outputs",
        "exchange",
        "io.dicom_headers",
    ]
    code = f"""
import json, sys
import numpy as np
import ctai_sam2 as ct
from ctai_sam2.widgets import case_editor
case_editor.load_ahead = lambda *_: None
source = ct.CTSlice(hu=np.zeros((64, 64)), spacing_mm=(1.0, 1.0), plane="axial")
ct.MiddleMaskEditor(source, folder=None)
names = ["joblib", "pydicom", "scipy.ndimage", *("ctai_sam2." + name for name in {late!r})]
print(json.dumps([name for name in names if name in sys.modules]))
"""
    assert json.loads(run_python(code)) == []


def test_public_names_are_sorted_and_load() -> None:
    assert list(ctai_sam2.__all__) == sorted(ctai_sam2.__all__)
    for name in ctai_sam2.__all__:
        assert getattr(ctai_sam2, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        ctai_sam2.nothing  # noqa: B018
