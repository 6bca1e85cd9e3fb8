"""One case of a cohort: a patient's study, what is known of it, and the text form of its prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctai_sam2.errors import InputError
from ctai_sam2.files.safe_text import is_device_name
from ctai_sam2.types import Prompt

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""What can name a case and its files."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient's study and what is known of it.

    Parameters
    ----------
    case_id : str
        Names the case in every result: letters, digits, dot, dash and underscore, 80 at most. A pseudonym,
        never a patient's name.
    path : Path
        A DICOM folder or file, a NIfTI volume, or an ``.npz`` slice.
    series_uid : str, optional
        Which series of a folder.
    mid_l3_index : int, optional
        The mid-L3 slice, 0 the most inferior; found where it is not given.
    l3_xy : (float, float), optional
        A click in L3 on the sagittal slice, (column, row).
    sagittal_index : int, optional
        Column of the volume the click was made on.
    height_m, weight_kg : float, optional
        Body height and weight.
    sex : {"M", "F"}, optional
        For cut-offs and for comparing with others.
    age_years : float, optional
        Age at the scan, for reference values.
    cut_offs : str, optional
        Cut-offs of this case instead of the cohort's; see `parse_cutoff_choice`.
    prompts : mapping of str to Prompt
        A user's prompts on the mid-L3 slice by structure, instead of those made from anatomy.
    extra : mapping of str to str
        The user's own columns; copied to the table unchanged.

    Raises
    ------
    InputError
        If the identifier cannot be a file's name.
    """

    case_id: str
    path: Path
    series_uid: str | None = None
    mid_l3_index: int | None = None
    l3_xy: tuple[float, float] | None = None
    sagittal_index: int | None = None
    height_m: float | None = None
    sex: str | None = None
    weight_kg: float | None = None
    age_years: float | None = None
    cut_offs: str | None = None
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if is_device_name(self.case_id):
            raise InputError(
                "a case_id must not be a name that Windows keeps for a device", hint="Use another pseudonym."
            )
        if not CASE_ID.fullmatch(self.case_id):
            raise InputError(
                "a case_id is up to 80 letters, digits, dots, dashes and underscores",
                hint="Use a pseudonym; it names files.",
            )

    @property
    def bmi_kg_m2(self) -> float | None:
        """Weight over height squared, where both are known."""
        if self.height_m is None or self.weight_kg is None:
            return None
        return self.weight_kg / self.height_m**2


def parse_prompt(text: str, structure: str | None = None) -> Prompt:
    """Parse a prompt from a cell of the manifest: points and boxes separated by semicolons.

    Two numbers are a point (column, row), three a point with its label (1 for "this", 0 for "not this"),
    four a box (x0, y0, x1, y1).

    Raises
    ------
    InputError
        If the text is not a prompt.

    Examples
    --------
    >>> prompt = parse_prompt("210,260; 250,300,0; 180,220,240,300")
    >>> prompt.points_xy.tolist(), prompt.labels.tolist(), prompt.box_xyxy
    ([[210.0, 260.0], [250.0, 300.0]], [1, 0], (180.0, 220.0, 240.0, 300.0))
    """
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    box: tuple[float, float, float, float] | None = None
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        try:
            numbers = [float(piece) for piece in part.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 4 and box is None:
            box = (numbers[0], numbers[1], numbers[2], numbers[3])
        elif len(numbers) == 2 or (len(numbers) == 3 and numbers[2] in (0.0, 1.0)):
            points.append((numbers[0], numbers[1]))
            labels.append(int(numbers[2]) if len(numbers) == 3 else 1)
        else:
            raise InputError(
                "a prompt is written 'x,y; x,y,0; x0,y0,x1,y1' (points, and at most one box)", received=part
            )
    if not points and box is None:
        raise InputError("a prompt needs a point or a box", received=text)
    return Prompt(
        points_xy=np.array(points, np.float32).reshape(-1, 2),
        labels=np.array(labels, np.int32),
        box_xyxy=box,
        structure=structure,
    )


def format_prompt(prompt: Prompt) -> str:
    """Write a prompt's points and box the way `parse_prompt` reads them."""
    parts = [
        f"{x:g},{y:g}" + ("" if label == 1 else ",0")
        for (x, y), label in zip(prompt.points_xy.tolist(), np.asarray(prompt.labels).tolist(), strict=True)
    ]
    if prompt.box_xyxy is not None:
        parts.append(",".join(f"{value:g}" for value in prompt.box_xyxy))
    return "; ".join(parts)
