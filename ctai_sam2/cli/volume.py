"""``ctai-sam2 segment STUDY --levels T12-L5``: every slice of a range of vertebrae."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from ctai_sam2.cli.options import progress_bar
from ctai_sam2.cli.report import print_json, print_line, print_note, print_table
from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.measure.definitions import TissueDefinitions
    from ctai_sam2.models import Segmenter
    from ctai_sam2.segmentation.volume import FollowWith

SHOWN = ("structure", "level", "volume_cm3", "covered", "area_mean_cm2", "hu_mean", "red_slices")


class SeveralNames(TyperCommand):
    """A command whose ``--structures`` takes several words, as in ``--structures psoas muscle``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join them to one value before they are parsed."""
        return super().parse_args(ctx, join_names(args))


def join_names(arguments: Sequence[str], option: str = "--structures") -> list[str]:
    """Join the names of structures that follow an option to one value.

    Examples
    --------
    >>> join_names(["study", "--structures", "psoas,", "muscle", "--out", "o"])
    ['study', '--structures', 'psoas,,muscle', '--out', 'o']
    """
    from ctai_sam2.structures import STRUCTURES

    joined: list[str] = []
    for word in arguments:
        names = split_names([word])
        is_further = bool(names) and set(names) <= {"psoas", *STRUCTURES}
        if is_further and len(joined) > 1 and joined[-2] == option:
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined


def split_names(values: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names in values of an option, each of which may be several with commas between."""
    return tuple(name.strip() for value in values or () for name in value.split(",") if name.strip())


def parse_levels(text: str) -> tuple[str, str]:
    """Return both ends of a range such as ``T12-L5``; a single level is a range of one.

    Raises
    ------
    InputError
        If it is no range of vertebral levels.

    Examples
    --------
    >>> parse_levels("t12-L5"), parse_levels("L3")
    (('T12', 'L5'), ('L3', 'L3'))
    """
    from ctai_sam2.structures import LEVELS

    ends = [end.strip().upper() for end in text.replace("\N{EN DASH}", "-").split("-")]
    if len(ends) > 2 or any(end not in LEVELS for end in ends):
        raise InputError(
            "a range of levels is two vertebrae",
            received=text,
            hint=f"Write T12-L5; known: {', '.join(LEVELS)}.",
        )
    return ends[0], ends[-1]


def segment_levels(
    study: Path,
    out: Path,
    segmenter: Segmenter,
    *,
    levels: str,
    structures: Sequence[str],
    every_mm: float,
    follow: FollowWith,
    dicom: Sequence[str],
    series: str | None,
    definitions: TissueDefinitions,
    as_json: bool,
) -> None:
    """Segment, write and report a range of levels."""
    from ctai_sam2.io import read_study
    from ctai_sam2.segmentation.volume import segment_volume
    from ctai_sam2.study.outputs import claim_folder
    from ctai_sam2.study.slice_folder import SliceFolder
    from ctai_sam2.study.volume_outputs import write_volume_result

    wanted = parse_levels(levels)
    unknown = sorted(set(dicom) - {"seg", "rtstruct"})
    if unknown:
        raise InputError("no such DICOM object", received=", ".join(unknown), hint="seg or rtstruct.")
    volume = read_study(study, series_uid=series)
    source = None
    if dicom:
        from ctai_sam2.io.source_images import find_source_images

        source = find_source_images(study, series_uid=series)
    claim_folder(out, volume)
    with progress_bar("slice", hidden=as_json or None) as show:
        result = segment_volume(
            volume,
            segmenter,
            structures=tuple(structures),  # type: ignore[arg-type]
            levels=wanted,
            every_mm=every_mm or None,
            follow=follow,
            kept=SliceFolder(out / "slices"),
            definitions=definitions,
            progress=show,
        )
    files = write_volume_result(
        result,
        out,
        source=source,
        model=segmenter.identity if dicom else None,
        dicom=tuple(dicom),  # type: ignore[arg-type]
    )
    rows = [dict(row) for _, row in result.summary.iterrows()]
    if as_json:
        print_json(
            {
                "levels": rows,
                "warnings": list(result.warnings),
                "files": {
                    "slices": files.slices,
                    "levels": files.levels,
                    "masks": list(files.masks),
                    "dicom": list(files.dicom),
                },
            }
        )
        return
    print_table(rows, SHOWN)
    for warning in result.warnings:
        print_note(warning)
    names = ("levels.csv", "slices.csv", "masks/", *(path.name for path in files.dicom))
    print_line(f"Written to {out}: {', '.join(names)}")
