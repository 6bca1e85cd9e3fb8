"""``ctai-sam2 export`` and ``ctai-sam2 import``: masks to and from other programs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ctai_sam2.cli.options import AsJson, Series, pairs_of
from ctai_sam2.cli.report import print_json, print_line, print_note, print_table, reporting_errors
from ctai_sam2.errors import InputError

if TYPE_CHECKING:
    from ctai_sam2.io.imported_masks import ImportedMasks
    from ctai_sam2.io.structure_terms import Authorship
    from ctai_sam2.types import CTSlice, CTVolume, Mask

_SAM2_IMAGE_SIZE = 1024  # of Meta's configurations

Study = Annotated[Path, typer.Argument(help="DICOM folder or file, or NIfTI, that the masks were drawn on.")]
AxialIndex = Annotated[
    int | None, typer.Option("--axial-index", help="One slice of the study (0 = lowest); PNG needs it.")
]
ImageOfCoco = Annotated[
    str | None, typer.Option("--image", help="COCO: which image, by its file name or id.")
]
LabelTable = Annotated[
    Path | None,
    typer.Option("--labels", help="Names of a label map's labels: JSON, ITK-SNAP, 3D Slicer or BIDS table."),
]


@reporting_errors
def export(
    study: Study,
    masks: Annotated[
        list[str],
        typer.Argument(
            help="Files with masks (NIfTI, NRRD, PNG, SEG, RTSTRUCT, COCO); name=file renames a single mask."
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
    image: ImageOfCoco = None,
    labels: LabelTable = None,
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
    from ctai_sam2.io.label_maps import overlap_losses

    of = _open(study, series, axial_index)
    collected: dict[str, Mask] = {}
    notes: list[str] = []
    for entry in masks:
        found = _read_masks(entry, of, study, series, image=image, labels=labels)
        notes += found.warnings
        for name, mask in found.items():
            if name in collected:
                raise InputError(
                    "a structure is given twice", received=name, hint="Rename one with name=file."
                )
            collected[name] = mask
    if later_wins:
        notes += overlap_losses(collected, of)
    with warnings.catch_warnings():
        # What was lost to later masks is said with its numbers.
        warnings.simplefilter("ignore", UserWarning)
        path = export_masks(
            collected,
            of,
            out,
            format=cast("Format | None", format),
            source=None if _is_volume_file(study) else study,
            series_uid=series,
            authorship=_authorship(made_by, model),
            pseudonym=pseudonym,
            overlaps="later" if later_wins else "refuse",
            encoding="polygon" if polygons else "rle",
        )
    rows = _describe(collected, of)
    if as_json:
        print_json({"file": path, "masks": rows, "warnings": list(dict.fromkeys(notes))})
        return
    print_table(rows, ("structure", "voxels", "volume_cm3", "slices"))
    for note in dict.fromkeys(notes):
        print_note(note)
    print_line(f"\nWritten: {path}")


@reporting_errors
def import_(
    study: Study,
    file: Annotated[Path, typer.Argument(help="SEG, RTSTRUCT, NIfTI, NRRD, COCO or PNG of another program.")],
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
    image: ImageOfCoco = None,
    labels: LabelTable = None,
    any_series: Annotated[
        bool, typer.Option("--any-series", help="Accept masks drawn on another series with the same grid.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read another program's masks: a NIfTI each, and a PNG each where they lie on one slice."""
    from ctai_sam2.exchange import import_masks, slices_with_masks
    from ctai_sam2.files.safe_text import safe_stem
    from ctai_sam2.io import write_mask_nifti, write_mask_png
    from ctai_sam2.study.outputs import claim_folder
    from ctai_sam2.types import CTVolume

    of = _open(study, series, axial_index)
    source = None if any_series or _is_volume_file(study) else study
    found = import_masks(
        file,
        of,
        source=source,
        series_uid=series,
        names=pairs_of(rename, "--rename theirs=ours, as in Segment_1=psoas_left"),
        structures=structure,
        image=image,
        table=labels,
    )
    notes = list(found.warnings)
    masks = dict(found)
    claim_folder(out, of)
    if isinstance(of, CTVolume):
        used = slices_with_masks(masks)
        if len(used) == 1:
            of, axial_index = of.axial(used[0]), used[0]
            masks = {name: mask[used[0]] for name, mask in masks.items()}
    written: list[Path] = []
    stems: list[str] = []
    for name, mask in masks.items():
        stem = safe_stem(name, stems)
        stems.append(stem)
        if stem != safe_stem(name):
            notes.append(f"{name} was written as {stem}, since another mask has that file name")
        written.append(write_mask_nifti(out / f"{stem}.nii.gz", mask, of, description=found.description))
        if not isinstance(of, CTVolume):
            written.append(write_mask_png(out / f"{stem}.png", mask, description=found.description))
    rows = _describe(masks, of)
    if as_json:
        print_json({"axial_index": axial_index, "masks": rows, "files": written, "warnings": notes})
        return
    print_table(rows, ("structure", "voxels", "volume_cm3", "slices"))
    for note in notes:
        print_note(note)
    if axial_index is not None:
        print_line(f"\nOn axial slice {axial_index}: measure with --axial-index {axial_index}")
    print_line("\nWritten:")
    for path in written:
        print_line(f"  {path}")


def _open(study: Path, series: str | None, axial_index: int | None) -> CTSlice | CTVolume:
    from ctai_sam2.io import read_slice, read_study

    if study.is_file() and not _is_volume_file(study) and axial_index is None:
        return read_slice(study)
    volume = read_study(study, series_uid=series)
    return volume if axial_index is None else volume.axial(axial_index)


def _is_volume_file(path: Path) -> bool:
    """Tell whether a study is one file of a volume, to which no DICOM object can refer."""
    from ctai_sam2.io.label_volumes import LABEL_VOLUME_ENDINGS

    return path.name.lower().endswith(LABEL_VOLUME_ENDINGS)


def _read_masks(
    entry: str,
    of: CTSlice | CTVolume,
    study: Path,
    series: str | None,
    *,
    image: str | None,
    labels: Path | None,
) -> ImportedMasks:
    from ctai_sam2.exchange import import_masks, split_label
    from ctai_sam2.io.imported_masks import ImportedMasks

    name, separator, rest = entry.partition("=")
    if separator and Path(entry).exists():
        name, separator, rest = "", "", entry
    path, label = split_label(rest if separator else entry)
    found = import_masks(
        path,
        of,
        source=None if _is_volume_file(study) else study,
        series_uid=series,
        structures=None if label is None else [label],
        image=image,
        table=labels,
    )
    if not separator:
        return found
    if len(found) != 1:
        raise InputError(
            "name=file renames a single mask, and the file holds several",
            received=", ".join(found),
            hint="Give the file alone, or one mask of it as name=file#label.",
        )
    return ImportedMasks({name: next(iter(found.values()))}, warnings=found.warnings)


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
