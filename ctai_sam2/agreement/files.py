"""A comparison on disk: tables, JSON and the figure."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctai_sam2.agreement.comparison import MeasureAgreement, ReaderComparison
from ctai_sam2.agreement.figure import draw_bland_altman
from ctai_sam2.files.atomic import write_bytes, write_json, write_table_csv

# Columns of a division, and the fields they show.
_DIVISION = {
    "n_divided": "n",
    "n_undivided": "undivided",
    "slice_mean": "slice_mean",
    "contour_mean": "contour_mean",
    "slice_sd": "slice_sd",
    "contour_sd": "contour_sd",
    "slice_share": "slice_share",
    "contour_share": "contour_share",
}


@dataclass(frozen=True, kw_only=True)
class AgreementFiles:
    """Files of a comparison.

    Parameters
    ----------
    measures : Path
        CSV, one row per measure and scope.
    pairs : Path
        CSV, both readers' values by case.
    overlaps : Path, optional
        CSV, Dice and HD95 by case and structure, where masks were compared.
    volumes : Path, optional
        CSV, Dice and volumes by case and structure, where masks of whole volumes were compared.
    summary : Path
        JSON with everything.
    figure : Path
        Bland and Altman's figure, PNG.
    """

    measures: Path
    pairs: Path
    overlaps: Path | None
    volumes: Path | None
    summary: Path
    figure: Path


def describe_measure(entry: MeasureAgreement) -> dict[str, Any]:
    """Flatten one measure's agreement to a table row."""
    limits, division = entry.bland_altman, entry.division
    row: dict[str, Any] = {
        "measure": entry.measure,
        "scope": entry.scope,
        "n": entry.n,
        "mean_first": entry.mean_first,
        "mean_second": entry.mean_second,
        "icc": entry.icc.value,
        "icc_low": entry.icc.low,
        "icc_high": entry.icc.high,
        "cv_percent": entry.cv_percent,
        "tem": entry.error.tem,
        "tem_percent": entry.error.tem_percent,
        "sem": entry.error.sem,
        "repeatability": entry.error.repeatability,
        "bias": limits.bias,
        "bias_low": limits.bias_ci[0],
        "bias_high": limits.bias_ci[1],
        "sd": limits.sd,
        "loa_low": limits.low,
        "loa_high": limits.high,
    }
    for column, name in _DIVISION.items():
        row[column] = None if division is None else getattr(division, name)
    return row


def describe_comparison(comparison: ReaderComparison) -> dict[str, Any]:
    """Turn a comparison into plain values for JSON; what is not finite becomes None."""
    plain: Any = _plain(
        {
            "first": comparison.first,
            "second": comparison.second,
            "cases": list(comparison.cases),
            "only_first": list(comparison.only_first),
            "only_second": list(comparison.only_second),
            "slices": None if comparison.slices is None else asdict(comparison.slices),
            "measures": [describe_measure(entry) for entry in comparison.measures],
            "overlaps": [asdict(entry) for entry in comparison.overlaps],
            "volumes": [asdict(entry) for entry in comparison.volumes],
            "cautions": list(comparison.cautions),
        }
    )
    result: dict[str, Any] = plain
    return result


def write_comparison(comparison: ReaderComparison, folder: str | os.PathLike[str]) -> AgreementFiles:
    """Write a comparison's tables, JSON and figure; returns the paths.

    Raises
    ------
    StorageError
        If something cannot be written.
    """
    folder = Path(folder)
    pairs = [
        {
            "measure": measure,
            "case": case,
            "first": first,
            "second": second,
            "difference": first - second,
            "same_slice": None if same is None else ("yes" if same else "no"),
        }
        for measure, rows in comparison.pairs.items()
        for case, first, second, same in rows
    ]
    overlaps = volumes = None
    if comparison.overlaps:
        overlaps = write_table_csv(folder / "overlaps.csv", [asdict(entry) for entry in comparison.overlaps])
    if comparison.volumes:
        volumes = write_table_csv(folder / "volumes.csv", [asdict(entry) for entry in comparison.volumes])
    return AgreementFiles(
        measures=write_table_csv(
            folder / "agreement.csv", [describe_measure(entry) for entry in comparison.measures]
        ),
        pairs=write_table_csv(folder / "pairs.csv", pairs),
        overlaps=overlaps,
        volumes=volumes,
        summary=write_json(folder / "agreement.json", describe_comparison(comparison)),
        figure=write_bytes(folder / "bland_altman.png", draw_bland_altman(comparison)),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
