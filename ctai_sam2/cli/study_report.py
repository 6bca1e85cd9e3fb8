"""``ctai-sam2 report``: one page about one study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctai_sam2.cli.options import (
    AsJson,
    AxialIndex,
    Definitions,
    Height,
    Model,
    Out,
    Series,
)
from ctai_sam2.cli.report import (
    print_files,
    print_json,
    print_line,
    print_table,
    print_warnings,
    reporting_errors,
)
from ctai_sam2.cli.whole_study import StudyOptions, measure_whole


@reporting_errors
def report(
    study: Annotated[Path, typer.Argument(help="DICOM folder or NIfTI volume.")],
    out: Out = Path("ctai-output"),
    axial_index: AxialIndex = None,
    series: Series = None,
    height_m: Height = None,
    sex: Annotated[str | None, typer.Option("--sex", help="M or F; that of the header if not given.")] = None,
    age_years: Annotated[float | None, typer.Option("--age-years", help="Age at the scan.")] = None,
    weight_kg: Annotated[float | None, typer.Option("--weight-kg", help="Body weight.")] = None,
    cut_offs: Annotated[
        list[str] | None,
        typer.Option("--cut-offs", help="A table's name, or smi=name, smd=name; repeatable."),
    ] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="Reference values.")] = None,
    language: Annotated[str, typer.Option("--language", help="Of the page: en or zh.")] = "en",
    model: Model = None,
    definitions: Definitions = None,
    as_json: AsJson = False,
) -> None:
    """Segment a study and write a page about it (HTML, PDF): pictures, numbers, z-scores, warnings."""
    from ctai_sam2.files.page import require_page_writer
    from ctai_sam2.measure.cutoffs import parse_cutoff_choice
    from ctai_sam2.measure.reference_values import DEFAULT_REFERENCE, reference_table
    from ctai_sam2.study.person import require_person
    from ctai_sam2.study.report import describe_report, require_language, write_study_report

    require_person(sex=sex, age_years=age_years, weight_kg=weight_kg)
    require_page_writer()
    chosen = parse_cutoff_choice(";".join(cut_offs)) if cut_offs else {}
    compared = reference_table(reference or DEFAULT_REFERENCE)
    wanted = require_language(language)
    options = StudyOptions(
        model=model, series=series, axial_index=axial_index, height_m=height_m, definitions=definitions
    )
    result, row, written = measure_whole(study, out, options)
    page = describe_report(
        result,
        row,
        written,
        sex=sex,
        age_years=age_years,
        weight_kg=weight_kg,
        reference=compared.name,
        **{f"{name}_cutoffs": table for name, table in chosen.items()},
    )
    files = write_study_report(page, out, language=wanted)
    if as_json:
        print_json(
            {
                "measurements": row,
                "warnings": list(result.warnings),
                "files": {**vars(written), **files},
            }
        )
        return
    print_table(
        [vars(number) for number in page.numbers], ("column", "value", "unit", "z", "percentile", "is_low")
    )
    print_warnings(result.warnings)
    print_files({**files, **vars(written)})
    print_line(f"\nLook at {files['report']} before you use the numbers.")
