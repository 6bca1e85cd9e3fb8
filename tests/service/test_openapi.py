"""Whatever the OpenAPI document allows or forbids: the service responds as documented, and lives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fakes import FakeSegmenter
from tests.service.running import serving

DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "docs" / "openapi.json").read_text("utf-8"))
schema = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/dicom")
def serialise_bytes(_: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(FakeSegmenter()) as address:
        yield address
        assert requests.get(f"{address}/ready", timeout=20).status_code == 200


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_documented_and_alive(case: schemathesis.Case, url: str) -> None:
    response = case.call(base_url=url)
    case.validate_response(response, checks=CHECKS)
