"""The two editors in a JupyterLab cell, drawn with ipycanvas from the pure `ctai_sam2.editor`."""

from ctai_sam2.widgets.change import ChangeEditor
from ctai_sam2.widgets.editor import MaskEditor
from ctai_sam2.widgets.l3 import L3MaskEditor
from ctai_sam2.widgets.middle import MiddleMaskEditor
from ctai_sam2.widgets.review import ReviewEditor

__all__ = ["ChangeEditor", "L3MaskEditor", "MaskEditor", "MiddleMaskEditor", "ReviewEditor"]
