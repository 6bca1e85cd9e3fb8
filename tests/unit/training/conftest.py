from __future__ import annotations

from pathlib import Path

import pytest

from ctai_sam2.training.bank import LabelledImage, load_phantom_bank
from ctai_sam2.training.dense_phantoms import load_hard_bank


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """One axial and one sagittal phantom, small."""
    folder: Path = tmp_path_factory.mktemp("bank")
    return load_phantom_bank(folder, axial=1, sagittal=1, size_px=128, seed=0)


@pytest.fixture(scope="session")
def hard_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the phantoms of the dense head's smoke run."""
    folder: Path = tmp_path_factory.mktemp("hard-bank")
    load_hard_bank(folder, count=2, size_px=64, seed=0, processes=1)
    return folder
