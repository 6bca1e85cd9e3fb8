"""What a stored prediction depends on, as digests: nothing in them leads back to a patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.image.hashing import hash_content
from ctai_sam2.types import ModelIdentity, Prompt, Window


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """What a prediction depends on, as digests in hex.

    Parameters
    ----------
    pixels, prompt, window, model : str
        Digests of the image (with type and shape), the prompt, the window, the model.
    code : str
        Version of this package.
    """

    pixels: str
    prompt: str
    window: str
    model: str
    code: str


def make_key(
    image_hw: NDArray[np.uint8], prompt: Prompt, window: Window | None, identity: ModelIdentity
) -> CacheKey:
    """Digest what a prediction depends on.

    Parameters
    ----------
    image_hw : ndarray of uint8, shape (H, W)
        The slice; its memory layout makes no difference.
    prompt, window, identity
        As in `Prediction`. Of the identity the weights, image size and precision count, not the device:
        devices differ by rounding only.

    Examples
    --------
    >>> image = np.zeros((8, 8), np.uint8)
    >>> model = ModelIdentity(
    ...     name="a", weights_sha256="0", image_size=8, device="cpu", dtype="float32", code_version="1"
    ... )
    >>> one = make_key(image, Prompt.point(1, 1), None, model)
    >>> one == make_key(np.asfortranarray(image), Prompt.point(1, 1), None, model)
    True
    """
    image = np.ascontiguousarray(image_hw)
    box = np.array(prompt.box_xyxy or (), np.float64)
    mask = np.zeros((0, 0), bool) if prompt.mask is None else np.asarray(prompt.mask)
    bounds = np.array([] if window is None else [window.level, window.width], np.float64)
    return CacheKey(
        pixels=hash_content(image),
        prompt=hash_content(
            np.asarray(prompt.points_xy), np.asarray(prompt.labels), box, mask, prompt.structure or ""
        ),
        window=hash_content(bounds),
        model=hash_content(identity.weights_sha256, str(identity.image_size), identity.dtype),
        code=identity.code_version,
    )


def explain_miss(key: CacheKey, known: list[CacheKey]) -> str:
    """Say in a sentence which part of a key none of the known ones has."""
    if not known:
        return "Nothing is stored yet."
    same_image = [one for one in known if one.pixels == key.pixels]
    if not same_image:
        return "This image (its pixels) was never segmented."
    nearest = max(same_image, key=lambda one: sum(one_part == part for one_part, part in _pairs(one, key)))
    names = {
        "prompt": "another prompt",
        "window": "another window",
        "model": "another model (weights, image size or precision)",
        "code": f"another version of this package ({nearest.code}, now {key.code})",
    }
    differing = [text for name, text in names.items() if getattr(nearest, name) != getattr(key, name)]
    return f"This image is known, but with {' and '.join(differing)}."


def _pairs(one: CacheKey, other: CacheKey) -> Iterator[tuple[str, str]]:
    return zip(asdict(one).values(), asdict(other).values(), strict=True)
