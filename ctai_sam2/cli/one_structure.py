"""``ctai-sam2 segment FILE --structure NAME``: one structure on one slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctai_sam2.cli.options import definitions_of, numbers_of, open_model
from ctai_sam2.cli.report import print_files, print_json, print_line, print_table, print_warnings
from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.types import CTSlice, Prompt

SHOWN = ("structure", "area_cm2", "hu_mean", "confidence")
DRAWN = (
    "These are of the outlines as drawn. The columns of a measurements table count only pixels within the HU "
    "range of the tissue."
)
"""Why an area of `SHOWN` can be a little larger than the same structure's in the table."""


def segment_one(
    path: Path,
    structure: str,
    out: Path,
    *,
    points: Sequence[str],
    box: str | None,
    spacing_mm: str | None,
    window: str | None,
    model: str | None,
    series: str | None,
    axial_index: int | None,
    definitions: str | None,
    any_region: bool,
    as_json: bool,
) -> None:
    """Segment one structure, write its mask and pictures, and print its numbers."""
    from ctai_sam2.files.atomic import require_writable
    from ctai_sam2.segmentation import segment_structure
    from ctai_sam2.settings import Settings
    from ctai_sam2.structures import STRUCTURES
    from ctai_sam2.study.outputs import claim_folder, describe_structure, write_structure

    prompt = _prompt(points, box)
    if structure not in STRUCTURES:
        raise InputError("no such structure", received=structure, hint=f"One of {', '.join(STRUCTURES)}.")
    limits = definitions_of(definitions)
    require_writable(out)
    ct_slice = _read(path, axial_index, series, spacing_mm, window)
    with open_model(model) as segmenter:
        result = segment_structure(
            ct_slice,
            structure,
            segmenter,
            prompt=prompt,
            definitions=limits,
            confidence_threshold=Settings().confidence_threshold,
            any_region=any_region,
        )
    claim_folder(out, ct_slice)
    files = write_structure(ct_slice, result, out, definitions=limits)
    row = describe_structure(ct_slice, result)
    if as_json:
        print_json({**row, "warnings": list(result.warnings), "files": files})
        return
    print_table([row], SHOWN)
    print_line(DRAWN)
    print_warnings(result.warnings)
    print_files(files)


def _read(
    path: Path, axial_index: int | None, series: str | None, spacing_mm: str | None, window: str | None
) -> CTSlice:
    from ctai_sam2.io import read_slice, read_study
    from ctai_sam2.io.pictures import PICTURE_SUFFIXES
    from ctai_sam2.types import Window

    if axial_index is not None:
        return read_study(path, series_uid=series).axial(axial_index)
    if path.is_dir():
        raise InputError(
            "one structure is segmented on one slice, and this is a folder",
            hint="Add --axial-index, the number of the slice (0 = lowest), or leave out --structure.",
        )
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        return read_slice(path)
    spacing = numbers_of(spacing_mm, 2, "--spacing-mm row,column") if spacing_mm else None
    level_width = numbers_of(window, 2, "--window level,width") if window else None
    return read_slice(
        path,
        spacing_mm=(spacing[0], spacing[1]) if spacing else None,
        window=Window(level=level_width[0], width=level_width[1]) if level_width else None,
    )


def _prompt(points: Sequence[str], box: str | None) -> Prompt | None:
    from ctai_sam2.types import Prompt

    if not points and box is None:
        return None
    parsed = [numbers_of(text, (2, 3), "--point x,y or x,y,label") for text in points]
    corners = numbers_of(box, 4, "--box x0,y0,x1,y1") if box else None
    return Prompt(
        points_xy=[values[:2] for values in parsed],  # type: ignore[arg-type]
        labels=[values[2] if len(values) == 3 else 1 for values in parsed],  # type: ignore[arg-type]
        box_xyxy=tuple(corners) if corners else None,  # type: ignore[arg-type]
    )
