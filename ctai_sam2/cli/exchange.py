"""``ctai-sam2 export`` and ``ctai-sam2 import``: masks to and from other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ctai_sam2.cli.report import print_json, print_line, print_table, reporting_errors
from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.io.structure_terms import Authorship
    from ctai_sam2.types import CTSlice, CTVolume, Mask

_SAM2_IMAGE_SIZE = 1024  # of Meta's configurations

Study = Annotated[Path, typer.Argument(help="DICOM folder or file, or NIfTI, that the masks were drawn on.")]
Series = Annotated[str | None, typer.Option("--series", help="SeriesInstanceUID, where there are several.")]
AxialIndex = Annotated[
    int | None, typer.Option("--axial-index", help="One slice of the study (0 = lowest); PNG needs it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@reporting_errors
def export(
    study: Study,
    masks: Annotated[
        list[str],
        typer.Argument(
            help="Files with masks (NIfTI, PNG, SEG, RTSTRUCT, COCO); name=file renames a single mask."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .dcm, .nii.gz, .json or .png.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", "-f", help="seg, rtstruct, nifti, coco or png; else by the ending (.dcm: seg)."
        ),
    ] = None,
    series: Series = None,
    axial_index: AxialIndex = None,
    made_by: Annotated[
        str,
        typer.Option("--made-by", help="manual, semiautomatic or automatic; the latter two with --model."),
    ] = "manual",
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the model that made the masks ('models list').")
    ] = None,
    pseudonym: Annotated[
        str | None,
        typer.Option("--pseudonym", help="DICOM: replaces name and ID; empties dates and numbers."),
    ] = None,
    later_wins: Annotated[
        bool, typer.Option("--later-wins", help="NIfTI, PNG: a pixel of two masks goes to the later file's.")
    ] = False,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="COCO: lists of corners instead of run lengths.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write masks for other programs: DICOM SEG, RTSTRUCT, NIfTI, COCO or PNG."""
    from ctai_sam2.exchange import Format, export_masks

    of = _open(study, series, axial_index)
    collected: dict[str, Mask] = {}
    for entry in masks:
        for name, mask in _read_masks(entry, of, study, series).items():
            if name in collected:
                raise InputError(
                    "a structure is given twice", received=name, hint="Rename one with name=file."
                )
            collected[name] = mask
    path = export_masks(
        collected,
        of,
        out,
        format=cast("Format | None", format),
        source=None if _is_nifti(study) else study,
        series_uid=series,
        authorship=_authorship(made_by, model),
        pseudonym=pseudonym,
        overlaps="later" if later_wins else "refuse",
        encoding="polygon" if polygons else "rle",
    )
    rows = _describe(collected, of)
    if as_json:
        print_json({"file": path, "masks": rows})
        return
    print_table(rows, ("structure", "voxels", "volume_cm3", "slices"))
    print_line(f"\nWritten: {path}")


@reporting_errors
def import_(
    study: Study,
    file: Annotated[Path, typer.Argument(help="SEG, RTSTRUCT, NIfTI, COCO or PNG of another program.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the masks; made if missing.")],
    series: Series = None,
    axial_index: AxialIndex = None,
    structure: Annotated[
        list[str] | None, typer.Option("--structure", "-s", help="Import only this; repeatable.")
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", help="theirs=ours, as in Segment_1=psoas_left; repeatable."),
    ] = None,
    any_series: Annotated[
        bool, typer.Option("--any-series", help="Accept masks drawn on another series with the same grid.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read another program's masks: a NIfTI each, and a PNG each where they lie on one slice."""
    from ctai_sam2.exchange import import_masks, slices_with_masks
    from ctai_sam2.io import write_mask_nifti, write_mask_png
    from ctai_sam2.types import CTVolume

    of = _open(study, series, axial_index)
    source = None if any_series or _is_nifti(study) else study
    masks = import_masks(
        file, of, source=source, series_uid=series, names=_renamings(rename), structures=structure
    )
    if isinstance(of, CTVolume):
        used = slices_with_masks(masks)
        if len(used) == 1:
            of, axial_index = of.axial(used[0]), used[0]
            masks = {name: mask[used[0]] for name, mask in masks.items()}
    written = []
    for name, mask in masks.items():
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        written.append(write_mask_nifti(out / f"{stem}.nii.gz", mask, of))
        if not isinstance(of, CTVolume):
            written.append(write_mask_png(out / f"{stem}.png", mask))
    rows = _describe(masks, of)
    if as_json:
        print_json({"axial_index": axial_index, "masks": rows, "files": written})
        return
    print_table(rows, ("structure", "voxels", "volume_cm3", "slices"))
    if axial_index is not None:
        print_line(f"\nOn axial slice {axial_index}: measure with --axial-index {axial_index}")
    print_line("\nWritten:")
    for path in written:
        print_line(f"  {path}")


def _open(study: Path, series: str | None, axial_index: int | None) -> CTSlice | CTVolume:
    from ctai_sam2.io import read_slice, read_study

    if study.is_file() and not _is_nifti(study) and axial_index is None:
        return read_slice(study)
    volume = read_study(study, series_uid=series)
    return volume if axial_index is None else volume.axial(axial_index)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _read_masks(entry: str, of: CTSlice | CTVolume, study: Path, series: str | None) -> dict[str, Mask]:
    from ctai_sam2.exchange import import_masks

    name, separator, rest = entry.partition("=")
    path = Path(rest if separator else entry)
    masks = import_masks(path, of, source=None if _is_nifti(study) else study, series_uid=series)
    if not separator:
        return masks
    if len(masks) != 1:
        raise InputError(
            "name=file renames a single mask, and the file holds several",
            received=", ".join(masks),
            hint="Give the file alone.",
        )
    return {name: next(iter(masks.values()))}


def _renamings(entries: list[str] | None) -> dict[str, str]:
    names: dict[str, str] = {}
    for entry in entries or ():
        theirs, separator, ours = entry.partition("=")
        if not (theirs and separator and ours):
            raise InputError("a renaming is theirs=ours", received=entry, hint="As in Segment_1=psoas_left.")
        names[theirs] = ours
    return names


def _authorship(made_by: str, model: str | None) -> Authorship:
    from ctai_sam2.io.structure_terms import Authorship, MadeBy

    identity = None
    if model is not None:
        from ctai_sam2._version import __version__
        from ctai_sam2.models.factory import open_store
        from ctai_sam2.models.registry import embedded_card
        from ctai_sam2.settings import Settings
        from ctai_sam2.types import ModelIdentity

        store = open_store(Settings())
        checkpoint = store.get(model)
        own_size = embedded_card()["image_size"] if checkpoint.is_embedded else None
        identity = ModelIdentity(
            name=checkpoint.name,
            weights_sha256=store.expected_sha256(checkpoint) or "unknown",
            image_size=int(own_size or checkpoint.image_size or _SAM2_IMAGE_SIZE),
            device="unknown",
            dtype="unknown",
            code_version=__version__,
        )
    return Authorship(made_by=cast("MadeBy", made_by), model=identity)


def _describe(masks: dict[str, Any], of: CTSlice | CTVolume) -> list[dict[str, object]]:
    from ctai_sam2.types import CTVolume

    rows: list[dict[str, object]] = []
    for name, mask in masks.items():
        row: dict[str, object] = {"structure": name, "voxels": int(mask.sum())}
        if isinstance(of, CTVolume):
            per_slice = mask.sum(axis=(1, 2))
            _, sy, sx = of.spacing_zyx_mm
            row["volume_cm3"] = float(per_slice @ of.slice_extents_mm) * sy * sx / 1000
            row["slices"] = int((per_slice > 0).sum())
        else:
            row["volume_cm3"] = (
                None
                if of.thickness_mm is None
                else int(mask.sum()) * of.pixel_area_mm2 * of.thickness_mm / 1000
            )
            row["slices"] = int(mask.any())
        rows.append(row)
    return rows
