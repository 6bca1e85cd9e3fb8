"""``ctai-sam2 serve``: start the segmentation service."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Annotated

import typer

from ctai_sam2.cli.options import Model
from ctai_sam2.cli.report import reporting_errors
from ctai_sam2.errors import InputError

_HOMES = ("ctai_sam2._service", "service")
"""Where the service is: in an installed wheel, in a checkout."""


@reporting_errors
def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on (SAM2_HOST).")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on (SAM2_PORT).")] = None,
    model: Model = None,
) -> None:
    """Serve segmentation over HTTP until stopped; other machines need a key (SAM2_API_KEY)."""
    from ctai_sam2.settings import Settings

    given = {"host": host, "port": port, "model": model}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    _find_service().serve(settings)


def _find_service() -> ModuleType:
    for name in _HOMES:
        try:
            importlib.import_module(
                f"{name}.lifecycle"
            )  # and with it FastAPI, which the service itself loads late
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise InputError(
                    f"the service needs the package {error.name}",
                    hint='Install it with pip install "ctai-sam2[service]".',
                ) from error
    raise InputError("the service is not part of this installation", hint="Install ctai-sam2 from its wheel.")
