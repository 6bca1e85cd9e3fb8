"""Bland and Altman's figure: difference against mean, markers distinguish the choice of slice."""

from __future__ import annotations

import io
from typing import Any

from ctai_sam2.agreement.comparison import MeasureAgreement, ReaderComparison
from ctai_sam2.errors import InputError
from ctai_sam2.measure.columns import COLUMN_TABLE

_COLUMNS = 2
_DPI = 130
_BAR_X = 1.025
_MARKS: tuple[tuple[bool | None, str, str, str], ...] = (
    (True, "o", "#0072B2", "same slice"),
    (False, "^", "#D55E00", "different slices"),
    (None, "s", "#777777", "slice not known"),
)


def draw_bland_altman(comparison: ReaderComparison) -> bytes:
    """Draw one panel per measure with bias and limits of agreement; bars next to it are their intervals. PNG.

    Parameters
    ----------
    comparison : ReaderComparison
        From `compare_readers`.

    Raises
    ------
    InputError
        If it holds no measure.
    """
    shown = [entry for entry in comparison.measures if entry.scope == "all"]
    if not shown:
        raise InputError("there is no measure to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, entry in zip(panels, shown, strict=False):
        _draw_panel(panel, entry, comparison)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    panels[0].legend(loc="best", fontsize=8, frameon=False)
    figure.suptitle(f"{comparison.first} minus {comparison.second}", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": "ctai-sam2"})
    return buffer.getvalue()


def _draw_panel(panel: Any, entry: MeasureAgreement, comparison: ReaderComparison) -> None:
    pairs, limits = comparison.pairs[entry.measure], entry.bland_altman
    for kind, mark, colour, text in _MARKS:
        chosen = [(first, second) for _, first, second, same in pairs if same is kind]
        if chosen:
            panel.scatter(
                [(first + second) / 2 for first, second in chosen],
                [first - second for first, second in chosen],
                s=22,
                marker=mark,
                color=colour,
                alpha=0.8,
                linewidths=0,
                label=text,
            )
    for value, interval, style in (
        (limits.bias, limits.bias_ci, "-"),
        (limits.low, limits.low_ci, "--"),
        (limits.high, limits.high_ci, "--"),
    ):
        panel.axhline(value, color="#222222", linewidth=1, linestyle=style)
        # Intervals of few cases overlap: next to the panel they stay apart from the points.
        panel.plot(
            [_BAR_X, _BAR_X],
            interval,
            transform=panel.get_yaxis_transform(),
            color="#222222",
            alpha=0.35,
            linewidth=4 if style == "-" else 2,
            solid_capstyle="butt",
            clip_on=False,
        )
        panel.annotate(
            f"{value:.3g}",
            (_BAR_X + 0.02, value),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
            annotation_clip=False,
        )
    panel.axhline(0, color="#999999", linewidth=0.6)
    panel.set_title(f"{entry.measure}: ICC {entry.icc.value:.3f}, n = {entry.n}", fontsize=9)
    unit = next((column.unit for column in COLUMN_TABLE if column.name == entry.measure), "")
    in_unit = f" ({unit})" if unit else ""
    panel.set_xlabel(f"mean of both{in_unit}", fontsize=8)
    panel.set_ylabel(f"difference{in_unit}", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
