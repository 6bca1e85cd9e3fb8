"""A file of masks and what it means, and the labels that all files hold."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import import_masks
from ctai_sam2.types import CTSlice, CTVolume

SHAPE_ZYX = (5, 14, 11)
SPACING_XYZ = (0.8, 0.7, 2.5)
ORIGIN_LPS = (-30.0, 12.0, -400.0)
Z = 2
_MOST_SECONDS = 10.0
_MOST_BYTES = 2 * 1024**3

AFFINE_LPS = np.diag([*SPACING_XYZ, 1.0])
AFFINE_LPS[:3, 3] = ORIGIN_LPS
AFFINE_RAS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE_LPS


@dataclass(frozen=True, kw_only=True)
class MaskCase:
    """A file, on what it is read, and what it means.

    ``expected`` holds the set pixels by structure; None where the file has to be refused. ``said`` is a word
    of the note or of the refusal that a user has to see.
    """

    name: str
    write: Callable[[Path], Path]
    expected: Mapping[str, np.ndarray[Any, Any]] | None
    on_slice: bool = False
    said: str | None = None
    options: Mapping[str, Any] | None = None


def assert_right_or_refused(case: MaskCase, folder: Path) -> None:
    """Read a case: the masks are those expected and the note is there, or it is refused in time and room."""
    path = case.write(folder)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.process_time()
    of = the_slice() if case.on_slice else volume()
    if case.expected is None:
        with pytest.raises(CtaiError) as refused:
            import_masks(path, of, **(case.options or {}))
        assert case.said is None or case.said in str(refused.value)
    else:
        found = import_masks(path, of, **(case.options or {}))
        assert list(found) == list(case.expected)
        for name, mask in case.expected.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=name)
        if case.said is not None:
            assert any(case.said in note for note in found.warnings), found.warnings
    assert time.process_time() - started < _MOST_SECONDS
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) * 1024 < _MOST_BYTES


def volume() -> CTVolume:
    rng = np.random.default_rng(5)
    return CTVolume(hu_zyx=rng.integers(-200, 200, SHAPE_ZYX).astype(np.int16), affine=AFFINE_LPS)


def the_slice() -> CTSlice:
    return volume().axial(Z)


def labels_zyx() -> np.ndarray[Any, Any]:
    """Three boxes, none like its mirror image."""
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[1:4, 2:6, 1:4] = 1
    labels[2:4, 7:10, 5:10] = 2
    labels[2, 10:13, 1:9] = 3
    return labels


NAMES = {1: "one", 2: "two", 3: "three"}
LABELS = labels_zyx()
WHOLE = {name: label == LABELS for label, name in NAMES.items()}
ON_SLICE = {name: LABELS[Z] == label for label, name in NAMES.items()}
NUMBERED = {f"label_{label}": mask for label, mask in ((k, k == LABELS) for k in NAMES)}
NUMBERED_ON_SLICE = {name: mask[Z] for name, mask in NUMBERED.items()}


def image_of(values_xyz: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] = AFFINE_RAS) -> Any:
    image: Any = nibabel.Nifti1Image(values_xyz, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image


def saved(image: Any, name: str = "m.nii.gz") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nibabel.save(image, folder / name)
        return folder / name

    return write


def bytes_of(content: bytes, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def picture_of(image: Any, name: str = "m.png", **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image.save(folder / name, **options)
        return folder / name

    return write
