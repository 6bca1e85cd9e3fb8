"""Print the bill of materials of this environment: CycloneDX 1.5 as JSON, by the standard library alone."""

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions


def main() -> None:
    """List every installed distribution, with its version, licence and package URL."""
    found = {_name_of(one): one for one in distributions()}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": "ctai-sam2", "version": _version_of(found)},
            "properties": [{"name": "python", "value": platform.python_version()}],
        },
        "components": [_component(name, found[name]) for name in sorted(found) if name != "ctai-sam2"],
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _component(name: str, distribution: Distribution) -> dict[str, object]:
    purl = f"pkg:pypi/{name}@{distribution.version}"
    component: dict[str, object] = {
        "type": "library",
        "name": name,
        "version": distribution.version,
        "purl": purl,
        "bom-ref": purl,
    }
    expression, named = licences_of(distribution)
    if expression:
        component["licenses"] = [{"expression": expression}]
    elif named:
        component["licenses"] = [{"license": {"name": one}} for one in named]
    return component


def licences_of(distribution: Distribution) -> tuple[str | None, list[str]]:
    """Return the SPDX expression a distribution declares, and without one the licences it names."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return expression, []
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License :: ")]
    names = [line.rpartition(" :: ")[2] for line in classifiers]
    text = (metadata.get("License") or "").strip()
    # Some put the whole text there.
    return None, names or ([text.splitlines()[0]] if text else [])


def _name_of(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def _version_of(found: dict[str, Distribution]) -> str:
    return found["ctai-sam2"].version if "ctai-sam2" in found else "unknown"


if __name__ == "__main__":
    main()
