"""The OpenAPI document: bodies are checked by hand, so they are described by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ctai_sam2.models import wire

from . import schemas
from .faults import STATUSES

_REFERENCE = "#/components/schemas/{model}"
_TAKEN = (schemas.PromptBody, schemas.OriginalBody)
_DIGEST_PATTERN = "^[0-9a-f]{64}$"


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors a path may answer with."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in sorted(statuses):
        described[status] = {"model": schemas.ErrorBody, "description": STATUSES[status]}
        if status in (429, 503):
            described[status]["headers"] = {
                "Retry-After": {"description": "in s", "schema": {"type": "integer"}}
            }
    return described


def raw_body(*media_types: str) -> dict[str, Any]:
    """Describe a body that is a file."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": dict.fromkeys(media_types, binary)}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is JSON."""
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def form_body(properties: Mapping[str, Any], *, required: Sequence[str]) -> dict[str, Any]:
    """Describe a body that is a form."""
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def describe_api(app: FastAPI) -> None:
    """Let an application describe itself, bodies and key included."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def openapi_text() -> str:
    """Write the document as it is kept under ``docs``: made without a model."""
    from ctai_sam2.models.local import LocalSegmenter
    from ctai_sam2.settings import Settings

    from .app import make_app

    app = make_app(LocalSegmenter(), Settings(_env_file=None))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, taken = models_json_schema([(model, "validation") for model in _TAKEN], ref_template=_REFERENCE)
    components = document.setdefault("components", {})
    found = components.setdefault("schemas", {})
    for name, schema in taken["$defs"].items():
        found.setdefault(name, schema)
    # The framework's own form for refusals, which this service never uses.
    for name in ("HTTPValidationError", "ValidationError"):
        found.pop(name, None)
    components["schemas"] = dict(sorted(found.items()))
    components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": wire.API_KEY_HEADER}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path.startswith(("/v1/", "/api/")):
                operation["security"] = [{"key": []}, {}]
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "sha256":
                    parameter["schema"] = {"type": "string", "pattern": _DIGEST_PATTERN}
    return document
