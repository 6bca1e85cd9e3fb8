"""``ctai-sam2 segment STUDY`` and ``ctai-sam2 demo``: everything on the mid-L3 slice of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ctai_sam2.cli.one_structure import DRAWN, SHOWN
from ctai_sam2.cli.options import definitions_of, open_model
from ctai_sam2.cli.report import counted, print_files, print_json, print_line, print_table, print_warnings

if TYPE_CHECKING:
    from ctai_sam2.segmentation import StudyResult
    from ctai_sam2.study.outputs import StudyFiles, TableRow


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What the commands about one study have in common, as given on the command line."""

    model: str | None
    series: str | None
    axial_index: int | None
    height_m: float | None
    definitions: str | None
    slices: int = 1
    any_region: bool = False


def segment_whole(study: Path, out: Path, options: StudyOptions, *, as_json: bool) -> None:
    """Segment and measure a study, write its files, and print its numbers."""

    def show(result: StudyResult, row: TableRow) -> None:
        # The numbers are shown while the pictures are drawn.
        if not as_json:
            _print_study(result, row)

    say = partial(print_line, as_json=as_json)
    result, row, files = measure_whole(study, out, options, say=say, show=show)
    if as_json:
        medians = [asdict(median) for median in result.medians]
        print_json(
            {"measurements": row, "medians": medians, "warnings": list(result.warnings), "files": vars(files)}
        )
        return
    print_files(vars(files))
    print_line(f"\nLook at {files.overlay} before you use the numbers.")


def measure_whole(
    study: Path,
    out: Path,
    options: StudyOptions,
    *,
    say: Callable[[str], None] = lambda text: None,
    show: Callable[[StudyResult, TableRow], None] = lambda result, row: None,
) -> tuple[StudyResult, TableRow, StudyFiles]:
    """Segment and measure a study and write its files; ``show`` gets the numbers before the files."""
    from concurrent.futures import ThreadPoolExecutor

    from ctai_sam2.files.atomic import require_writable
    from ctai_sam2.io import read_study
    from ctai_sam2.measure.body_composition import require_height
    from ctai_sam2.segmentation import segment_study
    from ctai_sam2.settings import Settings
    from ctai_sam2.study.outputs import claim_folder, measure_study, write_study

    # What would be refused at the end is refused before the work.
    require_height(options.height_m)
    limits = definitions_of(options.definitions)
    require_writable(out)
    volume = read_study(study, series_uid=options.series)
    depth, height, width = volume.shape_zyx
    say(f"Read {counted(depth, 'slice')} of {height} x {width}")
    with open_model(options.model) as segmenter, ThreadPoolExecutor(1) as background:
        # All pixels are digested while the model is loaded.
        claiming = background.submit(claim_folder, out, volume)
        identity = segmenter.identity
        claiming.result()
        say(f"One click with {identity.name} on {identity.device}")
        result = segment_study(
            volume,
            segmenter,
            axial_index=options.axial_index,
            definitions=limits,
            confidence_threshold=Settings().confidence_threshold,
            slices=options.slices,
            any_region=options.any_region,
        )
    row = measure_study(result, height_m=options.height_m, definitions=limits)
    show(result, row)
    return result, row, write_study(result, row, out, definitions=limits)


def _print_study(result: StudyResult, row: TableRow) -> None:
    from ctai_sam2.study.outputs import summarise

    print_line()
    print_table(summarise(result), SHOWN)
    print_line(DRAWN)
    print_line()
    if result.medians:
        print_line("Median of several slices, with the smallest and largest area:")
        print_table(
            [asdict(median) for median in result.medians],
            ("structure", "area_cm2", "low_cm2", "high_cm2", "slices"),
        )
        print_line()
    indices = (
        "middle_slice",
        "sma_cm2",
        "smi_cm2_m2",
        "smd_hu",
        "pmi_cm2_m2",
        "psoas_asymmetry",
        "definitions",
    )
    print_table([{"column": name, "value": row.get(name)} for name in indices], ("column", "value"))
    print_warnings(result.warnings)
