"""What a NIfTI or Analyze file holds: stored values, scaling and place, every field of its header used.

nibabel parses the header. The bytes are read here, so that compressed streams are read to their end, sizes
are known before anything is allocated, and an offset into the header is seen.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import GeometryError, InputError
from ctai_sam2.files.folders import read_file, require_file
from ctai_sam2.image.plausibility import require_memory
from ctai_sam2.io.compressed import GZIP_MAGIC, gunzip, gunzip_start, surplus_warnings
from ctai_sam2.io.library_messages import quiet
from ctai_sam2.io.stored_volume import StoredVolume, require_invertible

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
"""Endings of NIfTI volumes and of NIfTI or Analyze pairs of header and image."""

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
_TEMPLATE_CODES = (3, 4)  # Talairach and MNI 152: a space of atlases, not the patient's
_HEADER_BYTES = {348: 352, 540: 544}
"""Size of a NIfTI-1 and a NIfTI-2 header to the first byte that may be a voxel."""

_SAME_MM = 0.1
_SAME_SIZE = 0.02
_SAME_ANGLE_DEG = 5.0


def is_nifti_name(name: str) -> bool:
    """Tell whether a file's name is one of a NIfTI or Analyze file."""
    return name.lower().endswith(NIFTI_SUFFIXES)


def load_nifti(path: Path) -> StoredVolume:
    """Read a NIfTI-1 or NIfTI-2 file, or a pair of ``.hdr`` and ``.img``, compressed or not.

    Raises
    ------
    InputError
        If it is missing, damaged, too large, or no scalar three-dimensional volume.
    GeometryError
        If its affine is singular, or the two orientations of its header contradict each other.
    """
    require_file(path)
    header_path, image_path = _pair_of(path)
    raw_header = read_file(header_path)
    raw_image = raw_header if image_path is None else read_file(image_path)
    name = path.name
    start = (
        gunzip_start(raw_header, 544, name=name, kind="NIfTI")
        if raw_header[:2] == GZIP_MAGIC
        else raw_header[:544]
    )
    header, image_class = _parse_header(name, start, is_pair=image_path is not None)
    shape = _checked_shape(name, header)
    dtype = _checked_dtype(name, header)
    offset, warnings = _data_offset(name, header, is_pair=image_path is not None)
    size = offset + math.prod(shape) * dtype.itemsize
    content, found = _plain_bytes(raw_image, size, name)
    warnings += found
    _refuse_overlap(name, content, offset, is_pair=image_path is not None)
    stored = np.frombuffer(content, dtype=dtype, count=math.prod(shape), offset=offset)
    slope, intercept = _scaling(name, header)
    affine, is_placed, found = _affine_lps(name, header, image_class)
    return StoredVolume(
        stored=stored.reshape(shape, order="F"),
        slope=slope,
        intercept=intercept,
        affine=affine,
        is_placed=is_placed,
        warnings=tuple([*warnings, *found]),
        description=bytes(header["descrip"].tobytes()).rstrip(b"\0").decode("ascii", "replace") or None,
    )


def _pair_of(path: Path) -> tuple[Path, Path | None]:
    """Header and image of a pair, whichever of the two was given; a single file and None."""
    lower = path.name.lower()
    for end in (".gz", ""):
        for mine, other in ((".hdr", ".img"), (".img", ".hdr")):
            if lower.endswith(mine + end):
                stem = path.name[: len(path.name) - len(mine + end)]
                names = [stem + suffix + gz for suffix in (other, other.upper()) for gz in (end, "", ".gz")]
                partner = next((path.with_name(n) for n in names if os.path.isfile(path.with_name(n))), None)
                if partner is None:
                    raise InputError(
                        f"{path.name} is half of a pair, and its other half is not there",
                        received=f"no {stem}{other}",
                        hint="Put the .hdr and the .img file next to each other.",
                    )
                return (path, partner) if mine == ".hdr" else (partner, path)
    return path, None


def _parse_header(name: str, start: bytes, *, is_pair: bool) -> tuple[Any, Any]:
    import nibabel

    kinds: Any = (
        (nibabel.Nifti1Pair, nibabel.Nifti2Pair, nibabel.Spm2AnalyzeImage)
        if is_pair
        else (nibabel.Nifti1Image, nibabel.Nifti2Image)
    )
    sizes = (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    size = next((n for n in sizes if n in _HEADER_BYTES), 0)
    for image_class in kinds:
        header_class = image_class.header_class
        length = header_class.template_dtype.itemsize
        if size != length or len(start) < length:
            continue
        try:
            # nibabel would write its remarks on odd headers to the terminal.
            with quiet("nibabel.global"):
                if header_class.may_contain_header(start):
                    return header_class(start[:length], check=True), image_class
        except Exception as error:  # nibabel raises many kinds for damaged headers
            raise _unreadable(name, error) from error
    raise _unreadable(name)


def _unreadable(name: str, error: Exception | None = None) -> InputError:
    kind = "no header of that kind" if error is None else type(error).__name__
    return InputError(
        f"{name} is not a readable NIfTI file ({kind})",
        hint="It may be truncated, or something else under this name; export it again.",
    )


def _checked_shape(name: str, header: Any) -> tuple[int, int, int]:
    full = tuple(int(n) for n in header.get_data_shape())
    shape = full
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or min(shape) <= 0:
        raise InputError(
            f"{name} is not a three-dimensional volume",
            received=f"shape {full}",
            hint="Give one volume: a file of several phases or of directions has to be split first.",
        )
    require_memory(math.prod(shape))
    return shape[0], shape[1], shape[2]


def _checked_dtype(name: str, header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except Exception as error:  # nibabel raises its own error for codes that are none
        raise _unreadable(name, error) from error
    if dtype.names is not None or not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise InputError(f"{name} holds colours or complex numbers, not HU", received=str(dtype))
    return dtype


def _data_offset(name: str, header: Any, *, is_pair: bool) -> tuple[int, list[str]]:
    stated = float(header["vox_offset"])
    if not math.isfinite(stated) or stated < 0 or stated != int(stated):
        raise InputError(
            f"{name} is damaged: the offset of its voxels cannot be used", received=f"vox_offset {stated:g}"
        )
    if is_pair:
        return int(stated), []
    first = _HEADER_BYTES[int(header.template_dtype.itemsize)]
    if stated == 0:
        # Writers of pairs leave 0 here; the header itself cannot hold voxels.
        return first, [f"the header says that voxels begin at byte 0; they were read from byte {first}"]
    if stated < first:
        raise InputError(
            f"{name} is damaged: its voxels begin within its header", received=f"vox_offset {stated:g}"
        )
    return int(stated), []


def _plain_bytes(raw: bytes, size: int, name: str) -> tuple[bytes, list[str]]:
    warnings: list[str] = []
    if raw[:2] == GZIP_MAGIC:
        # Slightly more than declared is accepted with a warning; a decompression bomb is not inflated.
        raw, trailing = gunzip(raw, limit=size + (1 << 20), name=name, kind="NIfTI")
        if trailing:
            warnings.append(f"{trailing} bytes after the end of the compressed data were left out")
    return raw, warnings + surplus_warnings(raw, size, name=name, kind="NIfTI")


def _refuse_overlap(name: str, content: bytes, offset: int, *, is_pair: bool) -> None:
    """Refuse extensions of the header that reach into the voxels."""
    if is_pair:
        return
    little = int.from_bytes(content[:4], "little") in _HEADER_BYTES
    first = _HEADER_BYTES[int.from_bytes(content[:4], "little" if little else "big")]
    if content[first - 4] == 0 or offset < first + 16:
        if content[first - 4] != 0 and offset == first and len(content) > first:
            raise InputError(
                f"{name} is damaged: its header is extended, and its voxels begin before the extension ends",
                received=f"vox_offset {offset}",
            )
        return
    at = first
    while at + 8 <= offset:
        length = int.from_bytes(content[at : at + 4], "little" if little else "big")
        if length < 16 or at + length > offset:
            if length == 0:
                return  # padding up to the voxels
            raise InputError(
                f"{name} is damaged: its header is extended, and its voxels begin before the extension ends",
                received=f"vox_offset {offset}",
            )
        at += length


def _scaling(name: str, header: Any) -> tuple[float, float]:
    if "scl_slope" not in header.template_dtype.names:
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # NaN and 0 are how writers say that nothing is scaled.
    if math.isnan(slope) or slope == 0:
        return 1.0, 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise InputError(
            f"{name} cannot be scaled: its slope or its intercept is no number",
            received=f"scl_slope {slope:g}, scl_inter {intercept:g}",
            hint="Write the volume again.",
        )
    return slope, intercept


def _affine_lps(name: str, header: Any, image_class: Any) -> tuple[NDArray[np.float64], bool, list[str]]:
    warnings: list[str] = []
    zooms = np.asarray(header.get_zooms()[:3], dtype=np.float64)
    scale, unit = 1.0, "unknown"
    is_placed = "sform_code" in header.template_dtype.names
    if is_placed:
        unit = str(_quietly(name, lambda: header.get_xyzt_units()[0]))
        scale = _MM_PER_UNIT.get(unit, 1.0)
        affine, is_placed, found = _chosen_form(name, header)
        warnings += found
    else:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    require_invertible(affine, name)
    if not is_placed:
        warnings.append("the header states no orientation: left and right are assumed, check them")
    if (
        zooms.size == 3
        and zooms.min() > 0
        and not np.allclose(np.linalg.norm(affine[:3, :3], axis=0), zooms, rtol=_SAME_SIZE, atol=0)
    ):
        raise GeometryError(
            f"the header of {name} states two voxel sizes",
            received=f"{_sizes(np.linalg.norm(affine[:3, :3], axis=0))} in its affine,"
            f" {_sizes(zooms)} in pixdim",
            hint="Write the volume again from its source: areas depend on it.",
        )
    if unit in ("meter", "micron"):
        warnings.append(f"lengths are stated in {'metres' if unit == 'meter' else 'micrometres'}")
    return RAS_FROM_LPS @ np.diag([scale] * 3 + [1.0]) @ affine, is_placed, warnings


def _chosen_form(name: str, header: Any) -> tuple[NDArray[np.float64], bool, list[str]]:
    """Take the orientation that holds in the patient, of the two that a header can state."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code <= 0 and qform_code <= 0:
        return np.asarray(_quietly(name, header.get_base_affine), dtype=np.float64), False, []
    sform = np.asarray(_quietly(name, header.get_sform), dtype=np.float64)
    if qform_code <= 0:
        return sform, True, []
    qform = np.asarray(_quietly(name, header.get_qform), dtype=np.float64)
    if sform_code <= 0:
        return qform, True, []
    if float(np.abs(sform - qform).max()) <= _SAME_MM and _agree(sform, qform):
        return sform, True, []
    if sform_code in _TEMPLATE_CODES and qform_code not in _TEMPLATE_CODES:
        return qform, True, ["the header also places the volume in an atlas; the patient's space was taken"]
    if _agree(sform, qform):
        return sform, True, ["the header's two positions (sform, qform) differ; sform was taken"]
    raise GeometryError(
        f"the header of {name} states two orientations that contradict each other (sform, qform)",
        received=f"{_describe(sform)} and {_describe(qform)}",
        hint="Left and right depend on it: write the volume again from its source.",
    )


def _agree(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Tell whether two affines have the same voxel sizes and directions; origins may differ."""
    sizes = [np.linalg.norm(m[:3, :3], axis=0) for m in (first, second)]
    if min(float(s.min()) for s in sizes) <= 0 or not np.allclose(
        sizes[0], sizes[1], rtol=_SAME_SIZE, atol=0
    ):
        return False
    cosines = np.sum(first[:3, :3] / sizes[0] * (second[:3, :3] / sizes[1]), axis=0)
    return bool((cosines >= math.cos(math.radians(_SAME_ANGLE_DEG))).all())


def _describe(affine: NDArray[np.float64]) -> str:
    from nibabel import orientations

    to_codes: Any = orientations.aff2axcodes
    try:
        codes = "".join(str(code) for code in to_codes(affine))
    except ValueError:
        codes = "no direction"
    return f"{codes} of {_sizes(np.linalg.norm(affine[:3, :3], axis=0))}"


def _sizes(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _quietly(name: str, call: Any) -> Any:
    try:
        with quiet("nibabel.global"):
            return call()
    except Exception as error:  # nibabel raises many kinds for headers that contradict themselves
        raise _unreadable(name, error) from error
