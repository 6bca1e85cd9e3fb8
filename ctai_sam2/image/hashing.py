"""Digests of pixels: the same for the same content, however an array is laid out in memory."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hash_content(*parts: NDArray[Any] | str) -> str:
    """SHA-256 in hex of arrays (element type, shape and values) and texts, in this order.

    Parameters
    ----------
    *parts : ndarray or str
        What is digested. Arrays are read in C order, so that their strides make no difference.

    Examples
    --------
    >>> image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    >>> hash_content(image) == hash_content(np.asfortranarray(image))
    True
    >>> hash_content(image) == hash_content(image.reshape(3, 2))
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"text {len(part)}:{part}".encode())
        else:
            digest.update(f"{part.dtype.str} {part.shape}:".encode())
            digest.update(np.ascontiguousarray(part).data if part.size else b"")
    return digest.hexdigest()
