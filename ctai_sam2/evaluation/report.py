"""The page of an evaluation: one HTML file with everything in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ctai_sam2._version import __version__
from ctai_sam2.evaluation.figure import name_group, name_method, name_prompt
from ctai_sam2.evaluation.pictures import Picture
from ctai_sam2.evaluation.runner import Evaluation
from ctai_sam2.evaluation.scores import MAX_CLICKS, PROMPTS
from ctai_sam2.evaluation.summary import SummaryRow, break_down
from ctai_sam2.files.page import render_page
from ctai_sam2.models.calibration import GOOD_DICE
from ctai_sam2.types import Mask

_TILE_PX: Final = 190
_REFERENCE_RGB: Final = (240, 228, 66)
_PREDICTION_RGB: Final = (86, 180, 233)
_AIDED: Final = ("region_growing", "random_walker", "grabcut", "hu_threshold", "filled_box")
_PEERS: Final = ("lite_medsam",)


def render_report(
    evaluation: Evaluation, summary: Sequence[SummaryRow], figure_png: bytes, reliability_png: bytes
) -> str:
    """Write the page.

    Parameters
    ----------
    evaluation : Evaluation
        What was scored.
    summary : sequence of SummaryRow
        Its medians.
    figure_png : bytes
        The figure, from `ctai_sam2.evaluation.figure.draw_figure`.
    reliability_png : bytes
        The diagram, from `ctai_sam2.evaluation.reliability.draw_reliability`.

    Returns
    -------
    str
        HTML that loads nothing from elsewhere.

    Raises
    ------
    InputError
        If jinja2 is not installed.
    """
    peers = [method for method in _PEERS if any(row.method == method for row in summary)]
    notes = [f"{name_method(method)}: {why}" for method, why in evaluation.not_run.items()]
    return render_page(
        "ctai_sam2.evaluation",
        name_group=name_group,
        name_method=name_method,
        name_prompt=name_prompt,
        evaluation=evaluation,
        identity=evaluation.identity,
        version=__version__,
        prompts=PROMPTS,
        peers=peers,
        overview=_overview(summary, peers),
        notes=[*notes, *(f"not scored: {text}" for text in evaluation.skipped)],
        breakdown=break_down(evaluation.rows),
        summary=summary,
        figure=_as_data(figure_png),
        reliability=_as_data(reliability_png),
        tile=lambda picture: _as_data(draw_tile(picture)),
        tile_px=_TILE_PX,
        reference_rgb=_REFERENCE_RGB,
        prediction_rgb=_PREDICTION_RGB,
        max_clicks=MAX_CLICKS,
        good_dice=GOOD_DICE,
    )


def _overview(summary: Sequence[SummaryRow], peers: Sequence[str]) -> list[dict[str, Any]]:
    """Make a line for each structure: the model's prompts, and what it is compared with."""
    found: Mapping[tuple[str, str, str, str], SummaryRow] = {
        (row.group, row.structure, row.method, row.prompt): row for row in summary
    }
    lines = []
    for group, pool in dict.fromkeys((row.group, row.structure) for row in summary):
        model = {prompt: found.get((group, pool, "model", prompt)) for prompt in PROMPTS}
        first = model["click_1"]
        # Fat is not clicked; there the predictions without points are counted.
        counted = first or model["button"]
        aided = [
            [found.get((group, pool, method, prompt)) for prompt in ("click_1", "box", "button")]
            for method in _AIDED
        ]
        others = [("untrained", "box"), ("untrained", "button"), *((method, "box") for method in peers)]
        lines.append(
            {
                "group": group,
                "structure": pool,
                "n": None if counted is None else counted.n,
                "model": list(model.values()),
                "noc_85": None if first is None else first.noc_85,
                "noc_90": None if first is None else first.noc_90,
                "box": model["box"],
                "best_click": _best([clicked for clicked, _, _ in aided]),
                "best_other": _best([one for _, *other in aided for one in other]),
                "others": [found.get((group, pool, *other)) for other in others],
            }
        )
    return lines


def _best(rows: Sequence[SummaryRow | None]) -> SummaryRow | None:
    return max((row for row in rows if row is not None), key=lambda row: row.dice, default=None)


def draw_tile(picture: Picture) -> bytes:
    """Draw reference and prediction as outlines on the slice, in true proportions, as a PNG."""
    rows, columns = picture.grey_hw.shape
    high, wide = rows * picture.spacing_mm[0], columns * picture.spacing_mm[1]
    scale = 2 * _TILE_PX / max(high, wide)
    size = (max(round(wide * scale), 8), max(round(high * scale), 8))
    grey = np.asarray(Image.fromarray(picture.grey_hw).resize(size, Image.Resampling.BILINEAR))
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for mask, colour in ((picture.reference_hw, _REFERENCE_RGB), (picture.prediction_hw, _PREDICTION_RGB)):
        rgb[_outline(mask, size)] = colour
    # One size for all, so that cards line up.
    canvas = np.zeros((2 * _TILE_PX, 2 * _TILE_PX, 3), dtype=np.uint8)
    top, left = (2 * _TILE_PX - rgb.shape[0]) // 2, (2 * _TILE_PX - rgb.shape[1]) // 2
    canvas[max(top, 0) : max(top, 0) + rgb.shape[0], max(left, 0) : max(left, 0) + rgb.shape[1]] = rgb[
        : 2 * _TILE_PX, : 2 * _TILE_PX
    ]
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _outline(mask: Mask, size: tuple[int, int]) -> NDArray[np.bool_]:
    large = (
        np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 127
    )
    inner: NDArray[np.bool_] = ndimage.binary_erosion(large, iterations=2)
    return np.asarray(large & ~inner, dtype=np.bool_)


def _as_data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
