"""Slices with reference masks, as used for evaluation and training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.files.folders import require_file
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.image.label_values import as_single_mask
from ctai_sam2.image.padding import AIR_HU
from ctai_sam2.image.plausibility import implausible_values, require_plausible_spacing
from ctai_sam2.io.array_archive import unpack_arrays
from ctai_sam2.types import PLANES, CTSlice, Plane

_MASK_PREFIX = "mask_"


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceCase:
    """A CT slice and the masks drawn on it.

    Parameters
    ----------
    name : str
        The file's name without its ending.
    slice : CTSlice
        The image, in display orientation.
    masks : mapping of str to ndarray of bool, shape (H, W)
        By structure, for example ``psoas_left`` or ``L3``.
    quality : mapping of str to str
        ``high``, ``medium`` or ``low`` by structure, where stated.
    meta : mapping
        Everything else that was recorded: source, licence, level, notes.
    """

    name: str
    slice: CTSlice
    masks: Mapping[str, NDArray[np.bool_]]
    quality: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_case_npz(path: str | os.PathLike[str]) -> ReferenceCase:
    """Read an ``.npz`` file: ``image`` (HU), ``spacing`` (row, column mm), ``meta`` (JSON), ``mask_<name>``.

    Values below -1024 become -1024, as when a CT is read.

    Raises
    ------
    InputError
        If the file is missing or damaged, lacks image or spacing, holds what is no image, or a mask has
        another shape or values that are no mask.
    GeometryError
        If no CT has this spacing.
    """
    path = Path(path)
    require_file(path)
    try:
        arrays, _ = unpack_arrays(path)
    except DamagedFile as error:
        kind = type(error.__cause__).__name__
        raise InputError(f"{path.name} is not a readable case file ({kind})") from error
    missing = [name for name in ("image", "spacing") if name not in arrays]
    if missing:
        raise InputError(f"{path.name} lacks {' and '.join(missing)}", received=", ".join(sorted(arrays)))
    for name, array in arrays.items():
        is_read = name in ("image", "spacing") or name.startswith(_MASK_PREFIX)
        if is_read and array.dtype.kind not in "iufb":
            raise InputError(f"{name} in {path.name} holds no numbers")
    meta = _meta_of(path, arrays.get("meta"))
    image = _image_of(path, arrays["image"], arrays["spacing"], _plane_of(meta, path))
    masks: dict[str, NDArray[np.bool_]] = {}
    for name in sorted(arrays):
        if name.startswith(_MASK_PREFIX):
            if arrays[name].shape != image.shape_hw:
                raise InputError(
                    f"{name} in {path.name} has another shape than the image",
                    received=f"{arrays[name].shape} for {image.shape_hw}",
                )
            masks[name.removeprefix(_MASK_PREFIX)] = as_single_mask(
                arrays[name], what=f"{name} in {path.name}"
            )
    stated = meta.get("ref_quality")
    quality = {
        str(name).removeprefix(_MASK_PREFIX): str(value)
        for name, value in (stated.items() if isinstance(stated, dict) else ())
    }
    return ReferenceCase(
        name=path.stem,
        slice=image,
        masks=MappingProxyType(masks),
        quality=MappingProxyType(quality),
        meta=MappingProxyType(meta),
    )


def _image_of(path: Path, values: NDArray[Any], spacing: NDArray[Any], plane: Plane) -> CTSlice:
    if values.dtype.kind == "b":
        raise InputError(f"the image in {path.name} holds no numbers", received="bool")
    # Values of 8 bits, and those without a sign, are widened: they could not say air.
    hu = np.maximum(values.astype(np.result_type(values.dtype, np.int16)), AIR_HU)
    image = CTSlice(
        hu=hu,
        spacing_mm=tuple(float(value) for value in np.ravel(spacing)),  # type: ignore[arg-type]
        plane=plane,
        warnings=tuple(implausible_values(values)) if np.isfinite(values).all() else (),
    )
    require_plausible_spacing(image.spacing_mm, image.shape_hw, axial=plane == "axial")
    return image


def _meta_of(path: Path, value: NDArray[Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        meta = parse_json(str(value))
    except ValueError as error:
        raise InputError(f"the notes in {path.name} are not JSON") from error
    return meta if isinstance(meta, dict) else {}


def _plane_of(meta: Mapping[str, Any], path: Path) -> Plane:
    stated = str(meta.get("plane") or "").strip().lower()
    for plane in PLANES:
        if stated == plane:
            return plane
    if stated:
        raise InputError(
            f"the notes in {path.name} state an unknown plane", hint=f"One of {', '.join(PLANES)}."
        )
    return "sagittal" if "_sag" in path.stem else "axial"
