"""Write the tables of ``docs/validation.md`` from the scores of the embedded model.

``python docs/building/validation.py`` prints them; each stands between two markers of the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCORES = Path(__file__).resolve().parents[1] / "training" / "sam2-ct-nano-4-scores.json"

_GROUPS = {"unseen": "real, never seen", "phantom": "fresh phantoms"}
_PROMPTS = {"button": "button", "click_1": "1 click", "click_3": "3 clicks", "box": "box"}
_COLUMNS = (
    "slices",
    "structure",
    "prompt",
    "n",
    "Dice: median",
    "quarters",
    "worst",
    "below 0.5",
    "HD95 mm",
    "area error %",
    "area bias %",
    "HU error",
)
_PEER_COLUMNS = ("structure", "n", "button", "box", "LiteMedSAM, box", "best classical method")
_CLASSICAL = {
    "region_growing": "region growing",
    "random_walker": "random walker",
    "grabcut": "GrabCut",
    "hu_threshold": "HU threshold",
}


def render(scores: Mapping[str, Any]) -> str:
    """Write one row for each group, structure and prompt of the model itself."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS)]
    for row in scores["summary"]:
        if row["method"] != "model" or row["prompt"] not in _PROMPTS or row["group"] not in _GROUPS:
            continue
        cells = [
            _GROUPS[row["group"]],
            row["structure"],
            _PROMPTS[row["prompt"]],
            str(row["n"]),
            _number(row["dice"], 2),
            f"{_number(row['dice_q25'], 2)} to {_number(row['dice_q75'], 2)}",
            _number(row["dice_min"], 2),
            f"{100 * row['failure_rate']:.0f} %",
            _number(row["hd95_mm"], 1),
            _number(row["area_error_pct"], 1),
            _number(row["area_bias_pct"], 1),
            _number(row["hu_error"], 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def render_peers(scores: Mapping[str, Any]) -> str:
    """Write how the model, LiteMedSAM and the best classical method do on the same real slices."""
    found = {
        (row["structure"], row["method"], row["prompt"]): row
        for row in scores["summary"]
        if row["group"] == "unseen"
    }
    lines = [f"| {' | '.join(_PEER_COLUMNS)} |", "|" + "---|" * len(_PEER_COLUMNS)]
    for structure in dict.fromkeys(key[0] for key in found):
        peer = found.get((structure, "lite_medsam", "box"))
        if peer is None:
            continue
        classical = [
            row for (name, method, _), row in found.items() if name == structure and method in _CLASSICAL
        ]
        best = max(classical, key=lambda row: row["dice"], default=None)
        cells = [
            structure,
            str(peer["n"]),
            _median_and_worst(found.get((structure, "model", "button"))),
            _median_and_worst(found.get((structure, "model", "box"))),
            _median_and_worst(peer),
            "–" if best is None else f"{_median_and_worst(best)}, {_CLASSICAL[best['method']]}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _median_and_worst(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else f"{row['dice']:.2f} ({row['dice_min']:.2f})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    document = json.loads(SCORES.read_text(encoding="utf-8"))
    for write in (render, render_peers):
        sys.stdout.write(write(document) + "\n")
