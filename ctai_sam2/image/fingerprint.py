"""Which slice a journal belongs to, by its pixels: nothing in it leads back to a patient."""

from __future__ import annotations

import hashlib

import numpy as np

from ctai_sam2.types import CTSlice, CTVolume


def fingerprint(source: CTSlice | CTVolume) -> str:
    """Digest of a slice's or volume's pixels, shape and spacing, in hex.

    Where it lies in the patient does not count, nor does how the array is laid out in memory.

    Parameters
    ----------
    source : CTSlice or CTVolume
        What is outlined.

    Examples
    --------
    >>> one = CTSlice(hu=np.zeros((4, 5), np.int16), spacing_mm=(1.0, 1.0))
    >>> other = CTSlice(hu=np.zeros((4, 5), np.int16), spacing_mm=(1.0, 2.0))
    >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(other)
    (True, False)
    """
    hu = source.hu if isinstance(source, CTSlice) else source.hu_zyx
    spacing = source.spacing_mm if isinstance(source, CTSlice) else source.spacing_zyx_mm
    pixels = np.ascontiguousarray(hu, dtype=hu.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape} ".encode())
    digest.update(" ".join(f"{step:.6g}" for step in spacing).encode())
    digest.update(pixels.data if pixels.size else b"")
    return digest.hexdigest()
