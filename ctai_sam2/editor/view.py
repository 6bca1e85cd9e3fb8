"""How a document is looked at: zoom, window, tool in use; nothing here is undone."""

from __future__ import annotations

from dataclasses import dataclass

from ctai_sam2.editor.i18n import LANGUAGES
from ctai_sam2.editor.viewport import Viewport
from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import HuRange
from ctai_sam2.types import Window

MIN_BRUSH_MM, MAX_BRUSH_MM = 0.2, 100.0


@dataclass(frozen=True, kw_only=True)
class View:
    """How the document is looked at and which tool is active; nothing here is undone.

    Parameters
    ----------
    viewport : Viewport
        Zoom and pan.
    window : Window
        Grey window.
    opacity : float
        Of the overlay, 0 to 1.
    outline_only : bool
        Draw masks' outlines instead of filling them.
    tool : str
        Name of the active tool.
    brush_radius_mm : float
        Of brush and eraser.
    positive : bool
        Whether a plain click means "this" rather than "not this".
    differences : bool
        Whether pixels that differ from another reader's masks are filled.
    limit : HuRange or None
        Only pixels in this range are ever added; None for all.
    flood_tolerance_hu : float
        Without a limit, a flood fill takes pixels this close to the one clicked.
    flood_radius_mm : float or None
        How far from the click a flood fill reaches; None for as far as it is connected.
    smooth : bool
        Whether grey pixels are interpolated on the screen; masks never are.
    wheel_scrolls : bool
        Whether the wheel alone scrolls a volume's slices, and Ctrl and the wheel zoom; else the other way
        round, with Shift. Of a single slice the wheel always zooms.
    groups : bool
        Whether the muscle groups are among the labels that are offered.
    active : str
        The label being edited.
    language : str
        One of `strings.LANGUAGES`.

    Raises
    ------
    InputError
        If a number lies outside its range, or the language is unknown.
    """

    viewport: Viewport
    active: str
    tool: str
    window: Window = SOFT_TISSUE
    opacity: float = 0.4
    outline_only: bool = False
    brush_radius_mm: float = 4.0
    positive: bool = True
    differences: bool = False
    limit: HuRange | None = None
    flood_tolerance_hu: float = 30.0
    flood_radius_mm: float | None = None
    smooth: bool = True
    wheel_scrolls: bool = True
    groups: bool = False
    language: str = "en"

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise InputError("opacity lies between 0 and 1", received=self.opacity)
        if not MIN_BRUSH_MM <= self.brush_radius_mm <= MAX_BRUSH_MM:
            raise InputError(
                f"a brush's radius lies between {MIN_BRUSH_MM:g} and {MAX_BRUSH_MM:g} mm",
                received=self.brush_radius_mm,
            )
        if not 0 <= self.flood_tolerance_hu <= 5000:
            raise InputError("a tolerance lies between 0 and 5000 HU", received=self.flood_tolerance_hu)
        if self.flood_radius_mm is not None and not 0 < self.flood_radius_mm <= 1000:
            raise InputError("a fill's radius lies between 0 and 1000 mm", received=self.flood_radius_mm)
        if self.language not in LANGUAGES:
            raise InputError("no such language", received=self.language, hint=f"One of {LANGUAGES}.")
