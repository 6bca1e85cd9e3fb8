"""Cells for an editor on a phantom, and the same editor without a page: what the page must come to."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.browser.lab import Notebook

SOURCES = '''
import hashlib, json
import numpy as np
import ctai_sam2 as ct
from ctai_sam2.phantom import make_axial_slice, make_sagittal_slice, reference_parameters
from ctai_sam2.editor import L3, MIDDLE, Controller, Document
from ctai_sam2.editor import commands as editing

def digest(document):
    """One text for all masks of the slice in view."""
    masks = sorted(document.masks().items())
    return hashlib.sha256(b"".join(name.encode() + mask.tobytes() for name, mask in masks)).hexdigest()

def area(*labels):
    return int(sum(editor.document.mask(label).sum() for label in labels or editor.document.labels))
'''
AXIAL = """
phantom = make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0))
source = ct.CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm)
"""
SAGITTAL = """
phantom = make_sagittal_slice(
    reference_parameters(), shape_hw=(200, 512), spacing_mm=(2.0, 0.8), rng=np.random.default_rng(0)
)
source = ct.CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm, plane="sagittal")
"""
# The same editor without a page: what the journey must come to.
TWIN = """
twin = Controller(Document(source, {profile}))
twin.resize(editor._display.canvas.width, editor._display.canvas.height)
twin.adjust(viewport=editor.document.view.viewport)
"""


def require_full_redraw_looks_the_same(notebook: Notebook) -> np.ndarray:
    before = notebook.drawn_pixels()
    notebook.tell("editor._display.canvas.require_all(); editor._display.canvas.ready()")
    after = notebook.drawn_pixels()
    assert np.array_equal(before, after), f"{(before != after).any(axis=2).sum()} pixels differ"
    return after


def require_twin(notebook: Notebook) -> None:
    assert notebook.ask("digest(editor.document)") == notebook.ask("digest(twin.document)")


def twin_drags(notebook: Notebook, tool: str, places: list[Any]) -> None:
    """Do on the twin what a drag did on the page."""
    points = [place.screen for place in places]
    notebook.tell(
        f"twin.do('tool.{tool}'); twin.press(*{points[0]})\n"
        + "\n".join(f"twin.move(*{point})" for point in points[1:])
        + f"\ntwin.release(*{points[-1]})"
    )
