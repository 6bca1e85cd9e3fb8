"""Write the locked requirements of the image, with the hashes of every file: ``make lock``.

``docker/requirements.txt`` holds what the service needs, ``docker/build-requirements.txt`` what builds
packages that come as source. PyTorch and what only it needs are left out: they come from PyTorch's own index,
whose files have other hashes than PyPI's, at the versions in the Dockerfile. Needs ``uv``; versions that are
locked already are kept unless ``--upgrade`` is given.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCKER = Path(__file__).parent
PYTHON = "3.11"
BUILD = "hatchling\nsetuptools\nwheel\n"
PYTORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-.*)$")
COMMAND = "uv pip compile --no-config --no-annotate --no-header --generate-hashes"


def main() -> None:
    """Write both files."""
    options = ["--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_28", *sys.argv[1:]]
    for name, source, text, more in (
        ("requirements.txt", "pyproject.toml", None, ["--extra", "service"]),
        ("build-requirements.txt", "-", BUILD, ["--constraint", str(DOCKER / "requirements.txt")]),
    ):
        target = DOCKER / name
        run = subprocess.run(
            [*COMMAND.split(), *options, *more, "--output-file", str(target), source],
            cwd=DOCKER.parent,
            input=text,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        blocks = re.split(r"\n(?=\S)", run.stdout.strip())
        kept = [block for block in blocks if not PYTORCH.match(block.partition("==")[0])]
        target.write_text(
            "# Written by docker/lock.py: make lock\n" + "\n".join(kept) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
