"""The level network as it ships: averaged weights, convolutions in half precision, and a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ctai_sam2.files.atomic import write_json
from ctai_sam2.training.levels.trainer import network_from


def export_levels(run: Path, out: Path) -> dict[str, Any]:
    """Write a run's averaged weights.

    Parameters
    ----------
    run : Path
        Folder with ``checkpoint.pt`` and ``config.json``.
    out : Path
        ``*.safetensors``; a card is written next to it as ``*.json``.

    Returns
    -------
    dict
        The card.
    """
    network = network_from(run / "checkpoint.pt")
    weights = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        # Norms are few, and their running variances may be tiny.
        kind = torch.float16 if value.ndim == 4 else torch.float32
        weights[name] = value.to(kind).contiguous()
    save_file(weights, out)
    card = {
        "made_by": "python -m ctai_sam2.training levels",
        "parameters": sum(p.numel() for p in network.parameters()),
        "bytes": out.stat().st_size,
        "training": json.loads((run / "config.json").read_text(encoding="utf-8")),
    }
    write_json(out.with_suffix(".json"), card)
    return card
