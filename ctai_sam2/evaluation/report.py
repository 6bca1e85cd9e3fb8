"""The page of an evaluation: one HTML file with everything in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ctai_sam2._version import __version__
from ctai_sam2.evaluation.figure import name_group, name_method, name_prompt
from ctai_sam2.evaluation.pictures import Example, Picture
from ctai_sam2.evaluation.runner import Evaluation
from ctai_sam2.evaluation.scores import MAX_CLICKS, PROMPTS, Score
from ctai_sam2.evaluation.summary import BreakdownRow, SummaryRow, break_down
from ctai_sam2.models.calibration import GOOD_DICE
from ctai_sam2.types import Mask

_TILE_PX: Final = 190
_REFERENCE_RGB: Final = (240, 228, 66)
_PREDICTION_RGB: Final = (86, 180, 233)
_AIDED: Final = ("region_growing", "random_walker", "grabcut", "hu_threshold", "filled_box")

_PEERS: Final = ("lite_medsam",)

_STYLE: Final = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1180px;padding:0 1em}
body{color:#1b1b1b;background:#fff}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:2em}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.25em .6em;border-bottom:1px solid #ddd;text-align:right}
th{border-bottom:2px solid #888;vertical-align:bottom}
th:first-child,td:first-child,th.t,td.t{text-align:left}
.met{color:#00634a;font-weight:600}.missed{color:#a33b00;font-weight:600}.small{color:#666;font-size:.86em}
img.figure{max-width:100%}.cards{display:flex;flex-wrap:wrap;gap:1em}
.card{border:1px solid #ddd;padding:.6em;border-radius:4px}.tiles{display:flex;gap:.5em}
figure{margin:0}figcaption{font-size:.86em}
.key{display:inline-block;width:.9em;height:.9em;margin-right:.3em;vertical-align:-.1em;border:1px solid #666}
"""


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
    """
    identity = evaluation.identity
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>Evaluation of {escape(identity.name)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Evaluation of {escape(identity.name)}</h1>",
        f"<p>{evaluation.cases} slices, {len(evaluation.rows)} predictions. Weights sha256 "
        f"<code>{escape(identity.weights_sha256[:16])}</code>, input {identity.image_size} px, "
        f"{escape(identity.device)} in {escape(identity.dtype)}, ctai_sam2 {escape(__version__)}. "
        "Research use, not diagnosis.</p>",
        _render_folds(evaluation),
        "<h2>Median Dice</h2>",
        "<p class='small'>The next click goes to the middle of the largest error. Box: the exact bounding "
        "box with one click. Button: one click without points. NoC: median clicks to reach that Dice, of "
        f"{MAX_CLICKS} at most. A target stands behind the slash; n counts the model's predictions from one "
        "click.</p>",
        _render_overview(summary),
        _render_notes(evaluation),
        "<h2>Every prediction</h2>",
        f"<img class='figure' alt='Dice by structure, method and prompt' src='{_as_data(figure_png)}'>",
        _render_breakdown(evaluation.rows),
        "<h2>What confidence means</h2>",
        "<p class='small'>Of predictions with about the same confidence, the share with a Dice of "
        f"{GOOD_DICE} or more. On the diagonal, confidence can be read as that probability; numbers count "
        "predictions.</p>",
        f"<img class='figure' alt='Reliability diagram' src='{_as_data(reliability_png)}'>",
        "<h2>Worst structures</h2>",
        "<p class='small'>Ordered by the median Dice of the predictions shown. "
        f"{_key(_REFERENCE_RGB)}reference {_key(_PREDICTION_RGB)}prediction</p>",
        "<div class='cards'>",
        *(_render_example(example) for example in evaluation.examples),
        "</div>",
        "<h2>All medians</h2>",
        "<p class='small'>Fails: share of predictions with Dice below 0.5 or an error. Area and HU errors "
        "are medians without their sign. Time is without embedding the slice; a button's is with finding the "
        "anatomy and clean-up.</p>",
        _render_summary(summary),
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _render_folds(evaluation: Evaluation) -> str:
    if not evaluation.folds:
        return ""
    items = "".join(
        f"<li>cases with “{escape(word)}”: {escape(identity.name)} "
        f"(<code>{escape(identity.weights_sha256[:16])}</code>)</li>"
        for word, identity in evaluation.folds.items()
    )
    return f"<p>Scored by a model that never saw the patient:</p><ul>{items}</ul>"


def _render_notes(evaluation: Evaluation) -> str:
    notes = [f"{name_method(method)}: {why}" for method, why in evaluation.not_run.items()]
    notes += [f"not scored: {text}" for text in evaluation.skipped]
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>" if notes else ""


def _render_overview(summary: Sequence[SummaryRow]) -> str:
    found: Mapping[tuple[str, str, str, str], SummaryRow] = {
        (row.group, row.structure, row.method, row.prompt): row for row in summary
    }
    peers = [method for method in _PEERS if any(row.method == method for row in summary)]
    head = [
        *(name_prompt(prompt) for prompt in PROMPTS),
        "NoC@85",
        "NoC@90",
        "fails, box",
        "best classical, click",
        "best classical, box or none",
        "untrained, box",
        "untrained, button",
        *(f"{name_method(method)}, box" for method in peers),
    ]
    lines = []
    for group, pool in dict.fromkeys((row.group, row.structure) for row in summary):

        def of(method: str, prompt: str, group: str = group, pool: str = pool) -> SummaryRow | None:
            return found.get((group, pool, method, prompt))

        first = of("model", "click_1")
        cells = [_dice_cell(of("model", prompt)) for prompt in PROMPTS]
        cells += [_clicks(first.noc_85), _clicks(first.noc_90)] if first is not None else ["–", "–"]
        box = of("model", "box")
        cells.append("–" if box is None else f"{100 * box.failure_rate:.0f} %")
        cells.append(_best([of(method, "click_1") for method in _AIDED]))
        cells.append(_best([of(method, prompt) for method in _AIDED for prompt in ("box", "button")]))
        cells += [_dice_cell(of("untrained", "box")), _dice_cell(of("untrained", "button"))]
        cells += [_dice_cell(of(method, "box")) for method in peers]
        # Fat is not clicked; there the predictions without points are counted.
        counted = first or of("model", "button")
        count = "–" if counted is None else str(counted.n)
        lines.append(
            f"<tr><td>{escape(name_group(group))}</td><td class='t'>{escape(pool)}</td><td>{count}</td>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    return (
        f"<div class='wide'><table><tr><th>slices</th><th class='t'>structure</th><th>n</th>{heads}</tr>"
        + "".join(lines)
        + "</table></div>"
    )


def _dice_cell(row: SummaryRow | None) -> str:
    if row is None:
        return "–"
    if row.target_dice is None:
        return f"{row.dice:.2f}"
    kind = "met" if row.dice >= row.target_dice else "missed"
    return f"<span class='{kind}'>{row.dice:.3f}</span> <span class='small'>/ {row.target_dice:.2f}</span>"


def _clicks(count: float | None) -> str:
    if count is None:
        return "–"
    return f"&gt; {MAX_CLICKS}" if count > MAX_CLICKS else f"{count:g}"


def _best(rows: Sequence[SummaryRow | None]) -> str:
    known = [row for row in rows if row is not None]
    if not known:
        return "–"
    best = max(known, key=lambda row: row.dice)
    return f"{best.dice:.2f} <span class='small'>{escape(name_method(best.method))}</span>"


def _render_summary(summary: Sequence[SummaryRow]) -> str:
    head = (
        "slices",
        "structure",
        "method",
        "prompt",
        "n",
        "Dice",
        "quartiles",
        "worst",
        "fails",
        "errors",
        "HD95 mm",
        "area %",
        "bias % (limits)",
        "sure: good",
        "HU",
        "confidence",
        "time ms",
        "embed ms",
    )
    lines = []
    for row in summary:
        cells = [
            str(row.n),
            f"{row.dice:.3f}",
            f"{row.dice_q25:.2f}–{row.dice_q75:.2f}",
            f"{row.dice_min:.2f}",
            f"{100 * row.failure_rate:.0f} %",
            str(row.errors),
            _number(row.hd95_mm, 1),
            _number(row.area_error_pct, 1),
            _bias(row),
            "–" if row.sure_good is None else f"{row.sure}: {100 * row.sure_good:.0f} %",
            _number(row.hu_error, 1),
            _number(row.confidence, 2),
            _number(row.time_ms, 0),
            _number(row.embed_ms, 0),
        ]
        texts = (name_group(row.group), row.structure, name_method(row.method), name_prompt(row.prompt))
        lines.append(
            "<tr>"
            + "".join(f"<td class='t'>{escape(text)}</td>" for text in texts)
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    heads = "".join(f"<th{' class=t' if i < 4 else ''}>{escape(text)}</th>" for i, text in enumerate(head))
    return f"<div class='wide'><table><tr>{heads}</tr>{''.join(lines)}</table></div>"


def _bias(row: SummaryRow | BreakdownRow) -> str:
    if row.area_low_pct is None or row.area_high_pct is None:
        return _number(row.area_bias_pct, 1)
    return f"{_number(row.area_bias_pct, 1)} ({row.area_low_pct:.0f} … {row.area_high_pct:.0f})"


def _render_breakdown(scores: Sequence[Score]) -> str:
    """Write how the model does without points, by patient, level, phase, slice thickness and body size."""
    rows = break_down(scores)
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td>{escape(row.by)}</td><td class='t'>{escape(row.part)}</td>"
        f"<td class='t'>{escape(name_group(row.group))}</td><td class='t'>{escape(row.structure)}</td>"
        f"<td>{row.n}</td><td>{row.dice:.3f}</td><td>{row.dice_min:.2f}</td><td>{_bias(row)}</td></tr>"
        for row in rows
    )
    return (
        "<h2>Parts of the cases</h2><p class='small'>One click without points. Bias: median area error with "
        "its sign, in per cent, and limits of agreement.</p><div class='wide'><table><tr><th>by</th>"
        "<th class='t'></th><th class='t'>slices</th><th class='t'>structure</th><th>n</th><th>Dice</th>"
        f"<th>worst</th><th>bias % (limits)</th></tr>{lines}</table></div>"
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _render_example(example: Example) -> str:
    tiles = "".join(_render_tile(picture) for picture in example.pictures)
    group = example.pictures[0].score.group
    return (
        f"<div class='card'><b>{escape(example.case)}</b>, {escape(example.structure)} "
        f"<span class='small'>{escape(name_group(group))}</span><div class='tiles'>{tiles}</div></div>"
    )


def _render_tile(picture: Picture) -> str:
    score = picture.score
    iou = "" if score.confidence is None else f", confidence {score.confidence:.2f}"
    text = f"{name_prompt(score.prompt)}: {'no prediction' if score.error else f'Dice {score.dice:.2f}'}"
    more = score.error or iou.removeprefix(", ")
    return (
        f"<figure><img width='{_TILE_PX}' alt='{escape(text)}' src='{_as_data(draw_tile(picture))}'>"
        f"<figcaption>{escape(text)}<br><span class='small'>{escape(more[:60])}</span></figcaption></figure>"
    )


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


def _key(rgb: tuple[int, int, int]) -> str:
    return f"<span class='key' style='background:rgb{rgb}'></span>"
