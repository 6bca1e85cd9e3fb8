"""The phantom study that the demonstration runs on: real DICOM files, then read back like anyone's."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import platformdirs

from ctai_sam2 import io, phantom
from ctai_sam2.errors import StorageError
from ctai_sam2.files.atomic import require_writable
from ctai_sam2.io import write_dicom_series
from ctai_sam2.phantom import make_volume, reference_parameters
from ctai_sam2.types import CTVolume

SHAPE_ZYX = (96, 512, 512)
SPACING_ZYX_MM = (3.0, 0.8, 0.8)
SEED = 20


def make_demo_study(folder: Path | None = None) -> Path:
    """Write the phantom as an axial DICOM series from T12 to the sacrum, unless an earlier run did.

    Parameters
    ----------
    folder : Path, optional
        Where to write. When omitted the study is drawn once and kept in the user's cache folder; a version
        whose phantom or writer differs makes its own.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    folder = folder or _kept()
    if _is_filled(folder):
        return folder
    drawn = make_volume(
        reference_parameters(),
        shape_zyx=SHAPE_ZYX,
        spacing_zyx_mm=SPACING_ZYX_MM,
        rng=np.random.default_rng(SEED),
    )
    # The folder appears only when the series is complete, even if two processes draw it at the same time.
    require_writable(folder.parent)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_dicom_series(staging / "series", CTVolume(hu_zyx=drawn.hu_zyx, affine=drawn.affine))
        if not _is_filled(folder):
            if folder.is_dir():
                folder.rmdir()
            (staging / "series").rename(folder)
    except OSError as error:
        if not _is_filled(folder):
            raise StorageError(f"{folder.name} could not be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _kept() -> Path:
    """Where the study is kept; those drawn by other code are removed."""
    sources = [*Path(phantom.__path__[0]).glob("*.py"), *Path(io.__path__[0]).glob("dicom_writer.py")]
    code = b"".join(path.read_bytes() for path in sorted([*sources, Path(__file__)]))
    name = f"demo-study-{hashlib.sha256(code).hexdigest()[:12]}"
    folder = Path(platformdirs.user_cache_dir("ctai_sam2", appauthor=False)) / name
    try:
        require_writable(folder.parent)
    except StorageError:
        return Path(tempfile.mkdtemp()) / name
    for other in folder.parent.glob("demo-study-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder
