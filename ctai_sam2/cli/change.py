"""``ctai-sam2 change``: one patient at two dates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ctai_sam2.cli.options import AsJson, Definitions, Height, Model, Out, definitions_of, open_model
from ctai_sam2.cli.report import (
    print_files,
    print_json,
    print_line,
    print_table,
    print_warnings,
    reporting_errors,
)
from ctai_sam2.errors import InputError

SHOWN = ("measure", "unit", "first", "second", "change", "change_percent", "least_change", "exceeds")


@reporting_errors
def change(
    first: Annotated[Path, typer.Argument(help="Earlier study: DICOM folder or NIfTI volume.")],
    second: Annotated[Path, typer.Argument(help="Later study of the same patient.")],
    out: Out = Path("ctai-change"),
    axial_index: Annotated[
        str | None,
        typer.Option("--axial-index", help="Mid-L3 slices of both, as 41,38; found if not given."),
    ] = None,
    height_m: Height = None,
    definitions: Definitions = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Compare two dates at the same height of L3: change, what is more than error, and what else differs."""
    from ctai_sam2.files.atomic import require_writable
    from ctai_sam2.io import read_study
    from ctai_sam2.segmentation import segment_study
    from ctai_sam2.settings import Settings
    from ctai_sam2.study.change import compare_headers, compare_studies, write_change

    indices = _indices(axial_index)
    limits = definitions_of(definitions)
    threshold = Settings().confidence_threshold
    require_writable(out)
    volumes = [read_study(path) for path in (first, second)]
    with open_model(model) as segmenter:
        studies = [
            segment_study(
                volume,
                segmenter,
                axial_index=index,
                definitions=limits,
                confidence_threshold=threshold,
            )
            for volume, index in zip(volumes, indices, strict=True)
        ]
        found = compare_studies(
            studies[0],
            studies[1],
            segmenter,
            height_m=height_m,
            definitions=limits,
            confidence_threshold=threshold,
        )
    found = replace(found, flags=(*compare_headers(first, second), *found.flags))
    files = write_change(found, out)
    if as_json:
        print_json(
            {
                "measures": found.to_rows(),
                "slices": [found.first.axial_index, found.second.axial_index],
                "match": None if found.match is None else vars(found.match),
                "flags": list(found.flags),
                "files": vars(files),
            }
        )
        return
    print_line(
        f"Slice {found.first.axial_index} of the first study, {found.second.axial_index} of the second"
    )
    print_table(found.to_rows(), SHOWN)
    print_warnings(found.flags)
    print_files(vars(files))
    print_line(f"\nLook at {files.picture} before you use the numbers.")


def _indices(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    parts = text.split(",")
    try:
        first, second = (int(part) for part in parts)
    except ValueError as error:
        raise InputError(
            "slices are two whole numbers with a comma between", received=text, hint="As in 41,38."
        ) from error
    return first, second
