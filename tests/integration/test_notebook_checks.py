"""The check of the notebooks can fail: a number changed on purpose does not pass. No patient is in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOK = "08_the_embedded_model.ipynb"


def run_nbval(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    (folder / "docs").symlink_to(PROJECT / "docs")
    (notebooks / NOTEBOOK).write_text(text, encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-p", "tests.quick_imports"),
        *("-p", "nbval", "--nbval", "-p", "no:cacheprovider"),
        str(notebooks / NOTEBOOK),
    ]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_a_changed_number_fails_and_nothing_else_of_its_notebook(tmp_path: Path) -> None:
    notebook = nbformat.read(PROJECT / "notebooks" / NOTEBOOK, as_version=4)
    # What only reads and prints: the whole notebook is run as it is with all others.
    notebook.cells = [
        cell for cell in notebook.cells if "docs" in cell.source and "Image(" not in cell.source
    ]
    text = nbformat.writes(notebook)
    changed, count = re.subn(r"psoas: click_1 0\.\d\d", "psoas: click_1 0.11", text, count=1)
    assert count == 1
    done = run_nbval(tmp_path, changed)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-1000:]
    assert "0.11" in done.stdout
    assert "1 failed, " in done.stdout


def test_the_committed_pictures_show_no_patient() -> None:
    shown = re.findall(r'"real slices shown: ([^"]*)"', (PROJECT / "notebooks" / NOTEBOOK).read_text("utf-8"))
    assert shown == ["none (CTAI_SAM2_REAL_DATA is not set)\\n"], "run it again without CTAI_SAM2_REAL_DATA"
