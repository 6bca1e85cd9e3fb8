"""``ctai-sam2 models``: which checkpoints there are, and getting them onto this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctai_sam2.cli.options import AsJson, progress_bar
from ctai_sam2.cli.report import print_json, print_line, print_table, reporting_errors

if TYPE_CHECKING:
    from ctai_sam2.models.registry import ModelStatus

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, download, verify, export and import checkpoints."
)

Name = Annotated[str, typer.Argument(help="A name from 'models list'.")]


@app.command("list")
@reporting_errors
def list_models(as_json: AsJson = False) -> None:
    """Say which checkpoints are known and which are here."""
    from ctai_sam2.models.factory import open_store
    from ctai_sam2.settings import Settings

    chosen = Settings().model
    rows = [
        _row(status) | {"chosen": status.checkpoint.name == chosen} for status in open_store().list_models()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["model"] = f"{row['name']}{' *' if row['chosen'] else ''}"
    print_table(rows, ("model", "image_size", "size_mb", "licence", "detail"))
    print_line("\n* used unless another is named (SAM2_MODEL).")


@app.command()
@reporting_errors
def download(
    name: Name,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="Expected digest, where the registry knows none.")
    ] = None,
    mirror_url: Annotated[
        str | None, typer.Option("--mirror", help="http(s) folder that holds the file (SAM2_MODELS_URL).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint; resumes where it was cut, and keeps only what has the right digest."""
    from ctai_sam2.models.factory import download_model

    with progress_bar("B", hidden=as_json, unit_scale=True, desc=name) as show:
        path = download_model(name, sha256=sha256, mirror_url=mirror_url, progress=show)
    if as_json:
        print_json({"name": name, "path": path})
    else:
        print_line(f"{name} is here and verified: {path}")


@app.command()
@reporting_errors
def verify(name: Name, as_json: AsJson = False) -> None:
    """Read a checkpoint's whole file and compare its sha256."""
    from ctai_sam2.models.factory import open_store

    status = open_store().verify(name)
    if as_json:
        print_json(_row(status))
    else:
        print_line(f"{name}: {status.detail}")


@app.command("export")
@reporting_errors
def export_models(
    bundle: Annotated[Path, typer.Argument(help="The zip file to write.")],
    names: Annotated[list[str], typer.Argument(help="Checkpoints to pack.")],
    as_json: AsJson = False,
) -> None:
    """Pack checkpoints into one file, to carry to a machine without network."""
    from ctai_sam2.models.bundle import export_bundle
    from ctai_sam2.models.factory import open_store

    path = export_bundle(names, open_store(), bundle)
    if as_json:
        print_json({"bundle": path, "names": names})
    else:
        print_line(f"Packed {', '.join(names)} into {path}")


@app.command("import")
@reporting_errors
def import_models(
    bundle: Annotated[Path, typer.Argument(help="A file that 'models export' wrote.")],
    as_json: AsJson = False,
) -> None:
    """Unpack a bundle; every file is verified, or none is taken."""
    from ctai_sam2.models.bundle import import_bundle
    from ctai_sam2.models.factory import open_store

    names = import_bundle(bundle, open_store())
    if as_json:
        print_json({"names": names})
    else:
        print_line(f"Here and verified: {', '.join(names)}")


def _row(status: ModelStatus) -> dict[str, object]:
    checkpoint = status.checkpoint
    size_bytes = status.path.stat().st_size if status.path else checkpoint.size_bytes
    return {
        "name": checkpoint.name,
        "image_size": checkpoint.image_size,
        "size_mb": round(size_bytes / 1e6, 1) if size_bytes else None,
        "licence": checkpoint.licence,
        "source": checkpoint.source,
        "sha256": checkpoint.sha256,
        "path": status.path,
        "verified": status.verified,
        "detail": status.detail,
    }
