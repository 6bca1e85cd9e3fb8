"""The editor without a screen: document, commands, history, tools, inference, strings.

A view forwards events to a `Controller`, receives a `Change` that says what to redraw, and
holds nothing that cannot be read from the controller again::

    controller = Controller(Document(volume, MIDDLE), mask_source=one_click, record=record)
    controller.subscribe(redraw)
    controller.press(x, y)
"""

from ctai_sam2.editor.actions import ACTIONS, Action
from ctai_sam2.editor.changes import Box, Change
from ctai_sam2.editor.commands import apply
from ctai_sam2.editor.comparison import compare_labels, compare_stacks, take_over
from ctai_sam2.editor.controller import Controller
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.i18n import LANGUAGES, Message, text
from ctai_sam2.editor.inference_status import Confirmation, InferenceStatus, MaskCandidates, MaskSource
from ctai_sam2.editor.labels import L3, MIDDLE, Label, Profile
from ctai_sam2.editor.measurements import measure_document, measure_labels
from ctai_sam2.editor.picture import render_grey, render_overlay
from ctai_sam2.editor.session import KeepsEvents
from ctai_sam2.editor.tools import Preview
from ctai_sam2.editor.view import View
from ctai_sam2.editor.viewport import Viewport
from ctai_sam2.editor.warning_text import show_warning

__all__ = [
    "ACTIONS",
    "L3",
    "LANGUAGES",
    "MIDDLE",
    "Action",
    "Box",
    "Change",
    "Confirmation",
    "Controller",
    "Document",
    "InferenceStatus",
    "KeepsEvents",
    "Label",
    "MaskCandidates",
    "MaskSource",
    "Message",
    "Preview",
    "Profile",
    "View",
    "Viewport",
    "apply",
    "compare_labels",
    "compare_stacks",
    "measure_document",
    "measure_labels",
    "render_grey",
    "render_overlay",
    "show_warning",
    "take_over",
    "text",
]
