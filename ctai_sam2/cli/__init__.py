"""The command ``ctai-sam2``: wires the rooms together, and is the only one that prints.

Exit codes: 0 done; 1 a bug or something unforeseen; 2 wrong usage or unusable
input; 3 no segmenter or no weights available; 4 damaged or unsuitable image
data; 5 nothing could be written or read back.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line (the console script's entry point)."""
    from ctai_sam2.cli.app import app

    app()
