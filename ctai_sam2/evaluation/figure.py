"""The figure of an evaluation: every Dice as a dot, by structure, method and prompt."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ctai_sam2.evaluation.scores import METHODS, PROMPTS, Score
from ctai_sam2.evaluation.summary import TARGETS, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS: Final = {
    "model": "#0072B2",
    "untrained": "#999999",
    "lite_medsam": "#56B4E9",
    "region_growing": "#E69F00",
    "random_walker": "#009E73",
    "grabcut": "#CC79A7",
    "hu_threshold": "#D55E00",
    "filled_box": "#7A6A00",
}
_PROMPT_TEXTS: Final = {
    "click_1": "1 click",
    "click_3": "3 clicks",
    "click_5": "5 clicks",
    "box": "box",
    "button": "button",
}
_GROUP_TEXTS: Final = {"unseen": "not seen in training", "seen": "seen in training", "phantom": "phantoms"}
_DPI: Final = 110


def name_method(method: str) -> str:
    """Name a method for people.

    Examples
    --------
    >>> name_method("region_growing")
    'region growing'
    """
    names = {"grabcut": "GrabCut", "hu_threshold": "HU threshold", "lite_medsam": "LiteMedSAM"}
    return names.get(method, method.replace("_", " "))


def name_prompt(prompt: str) -> str:
    """Name a prompt for people.

    Examples
    --------
    >>> name_prompt("click_3")
    '3 clicks'
    """
    return _PROMPT_TEXTS[prompt]


def name_group(group: str) -> str:
    """Name a group of cases for people.

    Examples
    --------
    >>> name_group("phantom")
    'phantoms'
    """
    return _GROUP_TEXTS[group]


def draw_figure(scores: Sequence[Score]) -> bytes:
    """Draw the distributions of Dice as a PNG: a row for each group, a panel for each structure.

    A dot is a prediction, a black line the median, a dotted line the project's target for it.
    """
    buffer = io.BytesIO()
    build_figure(scores).savefig(
        buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None}
    )
    return buffer.getvalue()


def build_figure(scores: Sequence[Score]) -> Figure:
    """Lay out the figure of `draw_figure`."""
    # Figures are made without pyplot, which keeps state for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    summary = summarise(scores)
    groups = list(dict.fromkeys(row.group for row in summary))
    pools = list(dict.fromkeys(row.structure for row in summary))
    columns = [
        (method, prompt)
        for method in METHODS
        for prompt in PROMPTS
        if any((row.method, row.prompt) == (method, prompt) for row in summary)
    ]
    width = max(2.4, 0.26 * len(columns) + 0.5)
    figure = Figure(
        figsize=(min(width * len(pools) + 0.8, 40), 2.9 * len(groups) + 1.2), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(groups), len(pools), squeeze=False, sharey=True, sharex=True)
    for pool, axes in zip(pools, grid[0], strict=True):
        axes.set_title(pool, fontsize=10)
    for group, line in zip(groups, grid, strict=True):
        line[0].set_ylabel(f"Dice, {name_group(group)}")
        for pool, axes in zip(pools, line, strict=True):
            found = [score for score in scores if score.group == group and score.pool == pool]
            _draw_panel(axes, found, columns)
    for axes in grid[-1]:
        axes.set_xticks(
            range(len(columns)),
            [f"{name_method(method)}, {name_prompt(prompt)}" for method, prompt in columns],
            rotation=90,
            fontsize=7,
        )
    return figure


def _draw_panel(axes: Any, scores: Sequence[Score], columns: Sequence[tuple[str, str]]) -> None:
    rng = np.random.default_rng(0)
    axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", length=2, labelsize=7)
    for place, (method, prompt) in enumerate(columns):
        found = [score for score in scores if (score.method, score.prompt) == (method, prompt)]
        if not found:
            continue
        dices = np.array([score.dice for score in found])
        jitter = place + rng.uniform(-0.22, 0.22, dices.size)
        axes.scatter(jitter, dices, s=9, color=_COLOURS[method], alpha=0.6, linewidths=0)
        axes.plot([place - 0.36, place + 0.36], [np.median(dices)] * 2, color="black", linewidth=1.4)
        wanted = TARGETS.get((found[0].pool, prompt))
        if wanted is not None and method == "model" and found[0].group == "unseen":
            axes.plot([place - 0.45, place + 0.45], [wanted] * 2, color="black", linewidth=1, linestyle=":")
