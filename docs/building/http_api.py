"""Write ``docs/http-api.md`` from ``docs/openapi.json``.

``python docs/building/http_api.py > docs/http-api.md``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[1] / "openapi.json"

_HEAD = """\
# HTTP API

The service that `ctai-sam2 serve` starts. This page is written from [openapi.json](openapi.json) by
`python docs/building/http_api.py`; the running service offers the same document at `/openapi.json`.

Paths under `/v1/` and `/api/` require the header `{key}` where the service has a key (`SAM2_API_KEY`).
`/health`, `/ready`, `/metrics` and `/openapi.json` are open. Every error response is an `ErrorBody`.
Coordinates are pixels of the slice as sent: x is the column, y the row, (0, 0) the centre of the first pixel.

## One request with curl

An image and a prompt in, masks out. The image is PNG, JPEG or DICOM; the key is needed where there is one.

<!-- not run: needs a service that runs -->
```sh
curl -s http://127.0.0.1:8000/v1/segment -H "{key}: $SAM2_API_KEY" \\
  -F file=@slice.png \\
  -F 'prompt={{"points": [[301, 268]], "labels": [1], "structure": "psoas_left"}}' > prediction.json
```

A slice that gets several prompts is sent once: `PUT /v1/images/SHA256` with the file as the body, then
`POST /v1/images/SHA256/segment` with a prompt.

## The masks in the response

`masks[0]` is the best mask; each further one holds the pixels in which that candidate differs from it. A mask
is run lengths down the columns, of zeros first, then of ones, and so on; as variable-length integers (seven
bits a byte, low ones first), deflated, in base64. Without this package:

```python
import base64
import zlib

import numpy as np


def decode(mask):
    data, lengths, value, shift = zlib.decompress(base64.b64decode(mask["runs"])), [], 0, 0
    for byte in data:
        value, shift = value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            lengths, value, shift = [*lengths, value], 0, 0
    bits = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return bits.reshape(mask["shape"], order="F")


square = decode({{"shape": [512, 512], "runs": "eNp7coIxZQ7zAKAds3gBmZ8q5g=="}})
print(square[100:200, 50:90].all(), square.sum())
```

It prints `True 4000`. Check your decoder by these.
"""


def render(document: Mapping[str, Any]) -> str:
    """Write the page for one OpenAPI document."""
    key = document["components"]["securitySchemes"]["key"]["name"]
    parts = [_HEAD.format(key=key), "## Paths\n"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append("\n".join(_operation(path, method, operation)))
    parts.append("## Bodies\n")
    for name, schema in document["components"]["schemas"].items():
        parts.append("\n".join(_body(name, schema)))
    return "\n".join(parts).rstrip() + "\n"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method.upper()} {path}\n"
    yield f"{operation['summary']}\n"
    if "description" in operation:
        yield f"{operation['description']}\n"
    for parameter in operation.get("parameters", ()):
        needed = "required" if parameter.get("required") else "optional"
        yield f"- `{parameter['name']}` (in the {parameter['in']}, {needed}): {_type(parameter['schema'])}"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"- body `{media}`: {_type(content['schema'])}"
        yield from _fields(content["schema"], "    - ")
    if "parameters" in operation or "requestBody" in operation:
        yield ""
    yield "| status | meaning | body |"
    yield "|---|---|---|"
    for status, response in operation["responses"].items():
        bodies = [_type(content["schema"]) for content in response.get("content", {}).values()]
        yield f"| {status} | {_cell(response['description'])} | {', '.join(bodies)} |"
    yield ""


def _body(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in schema:
        yield f"{schema['description']}\n"
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    required = schema.get("required", ())
    for field, described in schema.get("properties", {}).items():
        default = "required" if field in required else f"`{json.dumps(described.get('default'))}`"
        kind, meaning = _cell(_type(described)), _cell(described.get("description", ""))
        yield f"| `{field}` | {kind} | {default} | {meaning} |"
    yield ""


def _fields(schema: Mapping[str, Any], bullet: str) -> Iterator[str]:
    for field, described in schema.get("properties", {}).items():
        needed = "required" if field in schema.get("required", ()) else "optional"
        meaning = described.get("description", "")
        yield f"{bullet}`{field}` ({needed}): {_type(described)}{'. ' + meaning if meaning else ''}"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(item) for item in schema['prefixItems'])}]"
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"list of ({_type(schema.get('items', {}))})"
    limits = [f"{sign} {schema[key]}" for key, sign in _LIMITS.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"`{schema['pattern']}`")
    if "format" in schema:
        limits.append(schema["format"])
    return f"{kind} ({', '.join(limits)})" if limits else kind


_LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render(json.loads(DOCUMENT.read_text(encoding="utf-8"))))
