"""What client and service say to each other: paths, headers, codec, version. Imported by both.

A slice is uploaded once, under the SHA-256 of the file sent; every click then
names that digest and carries a prompt as JSON. Masks travel, both ways, as
``{"shape": [H, W], "runs": text}``: the run lengths of COCO's form (column by
column, background first), each as a variable-length integer (seven bits a byte,
lowest first, the high bit set on all but the last), deflated, in base64. That is
some two hundred bytes for a psoas and two thousand for skeletal muscle.

Whatever arrives is checked; nothing is inflated beyond the size it must have.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import mask_to_rle, rle_to_mask
from ctai_sam2.models.protocol import MAX_SIDE_PX
from ctai_sam2.types import Mask, ModelIdentity, Prediction, Prompt, Window

PROTOCOL_VERSION = "1"
"""Raised whenever an older client or service would misunderstand the other."""

PROTOCOL_HEADER = "X-Ctai-Protocol"
REQUEST_ID_HEADER = "X-Request-ID"
API_KEY_HEADER = "X-API-Key"

HEALTH_PATH = "/health"
READY_PATH = "/ready"
METRICS_PATH = "/metrics"
IMAGE_PATH = "/v1/images/{sha256}"
SEGMENT_PATH = "/v1/images/{sha256}/segment"
SEGMENT_ONCE_PATH = "/v1/segment"
ORIGINAL_PATH = "/api/segmentation/sam2"
ORIGINAL_HEALTH_PATH = "/api/segmentation/sam2/health"

IMAGE_UNKNOWN = "image_unknown"
"""Error code by which the service asks for the image (again)."""
INPUT_INVALID = "prompt_invalid"
"""Error code for what `InputError` stands for on this side."""
PROTOCOL_MISMATCH = "protocol_mismatch"
"""Error code for a client of another version."""

MAX_CANDIDATES = 3
_INTEGER_BYTES = 4
"""Enough for the longest run: 4 x 7 bits, of which a mask of 4096 x 4096 pixels needs 25."""

_SHA256 = re.compile("[0-9a-f]{64}")
_REQUEST_ID = re.compile("[0-9a-f]{32}")


def is_digest(text: str) -> bool:
    """Tell whether a text is a SHA-256 in small hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Tell whether a text is a request id: 32 small hexadecimal digits, which can name nobody."""
    return _REQUEST_ID.fullmatch(text) is not None


def encode_image(image_hw: NDArray[np.uint8]) -> bytes:
    """Write a slice, uint8 of shape (H, W), as a lossless PNG."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(image_hw).save(target, "PNG", compress_level=1)
    return target.getvalue()


def digest_of(data: bytes) -> str:
    """SHA-256 of a file's content, the name by which the service knows an image."""
    return hashlib.sha256(data).hexdigest()


def encode_mask(mask: Mask) -> dict[str, Any]:
    """Write a mask, bool of shape (H, W), as JSON values.

    Examples
    --------
    >>> square = np.zeros((512, 512), bool); square[100:200, 50:90] = True
    >>> encode_mask(square)
    {'shape': [512, 512], 'runs': 'eNp7coIxZQ7zAKAds3gBmZ8q5g=='}
    >>> bool((decode_mask(encode_mask(square)) == square).all())
    True
    """
    rle = mask_to_rle(mask)
    packed = zlib.compress(_pack_integers(np.array(rle["counts"], np.int64)), 9)
    return {"shape": rle["size"], "runs": base64.b64encode(packed).decode("ascii")}


def decode_mask(value: Any, *, max_side_px: int = MAX_SIDE_PX) -> Mask:
    """Read what `encode_mask` wrote.

    Raises
    ------
    InputError
        If it is anything else; the message says in what.
    """
    try:
        height, width = (int(side) for side in value["shape"])
        packed = base64.b64decode(value["runs"], validate=True)
    except (TypeError, KeyError, ValueError, OverflowError, binascii.Error) as error:
        raise InputError("a mask travels as its shape [H, W] and its runs in base64") from error
    if not (1 <= height <= max_side_px and 1 <= width <= max_side_px):
        raise InputError("a mask has an impossible shape", received=f"{height} x {width}"[:40])
    longest = height * width + 1  # bytes, where every pixel is a run of its own
    inflater = zlib.decompressobj()
    try:
        runs = inflater.decompress(packed, longest + 1)
    except zlib.error as error:
        raise InputError("the runs of a mask are damaged") from error
    if len(runs) > longest or not inflater.eof:
        raise InputError("the runs of a mask do not fit its shape", received=f"{height} x {width} pixels")
    counts = _unpack_integers(np.frombuffer(runs, np.uint8))
    if counts is None or counts.sum() != height * width:
        raise InputError("the runs of a mask do not fit its shape", received=f"{height} x {width} pixels")
    return rle_to_mask({"size": [height, width], "counts": counts})


def encode_prompt(prompt: Prompt, window: Window | None = None) -> dict[str, Any]:
    """Write a prompt, and the window the image was made with, as JSON values; what is absent is left out."""
    body: dict[str, Any] = {}
    if len(prompt.points_xy):
        body["points"] = [[float(x), float(y)] for x, y in prompt.points_xy]
        body["labels"] = [int(label) for label in np.asarray(prompt.labels)]
    if prompt.box_xyxy is not None:
        body["box"] = [float(corner) for corner in prompt.box_xyxy]
    if prompt.mask is not None:
        body["mask"] = encode_mask(prompt.mask)
    if prompt.structure is not None:
        body["structure"] = prompt.structure
    if window is not None:
        body["window"] = {"level": float(window.level), "width": float(window.width)}
    return body


def decode_prompt(body: Mapping[str, Any]) -> tuple[Prompt, Window | None]:
    """Read what `encode_prompt` wrote.

    Raises
    ------
    InputError
        If something in it cannot be used.
    """
    window = body.get("window")
    mask = body.get("mask")
    points = np.zeros((0, 2), np.float32) if not body.get("points") else body["points"]
    try:
        prompt = Prompt(
            points_xy=points,
            labels=body.get("labels"),
            box_xyxy=body.get("box"),
            mask=None if mask is None else decode_mask(mask),
            structure=body.get("structure"),
        )
        return prompt, None if window is None else Window(level=window["level"], width=window["width"])
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError("the prompt cannot be read", received=type(error).__name__) from error


def encode_identity(identity: ModelIdentity) -> dict[str, Any]:
    """Write a model's identity as JSON values."""
    return {
        "name": identity.name,
        "sha256": identity.weights_sha256,
        "image_size": identity.image_size,
        "device": identity.device,
        "dtype": identity.dtype,
        "code_version": identity.code_version,
        "structures": list(identity.structures),
    }


def decode_identity(value: Any) -> ModelIdentity:
    """Read what `encode_identity` wrote.

    Raises
    ------
    InputError
        If it is anything else.
    """
    try:
        return ModelIdentity(
            name=str(value["name"]),
            weights_sha256=str(value["sha256"]),
            image_size=int(value["image_size"]),
            device=str(value["device"]),
            dtype=str(value["dtype"]),
            code_version=str(value["code_version"]),
            structures=tuple(str(name) for name in value["structures"]),
        )
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError("the model's identity cannot be read") from error


def encode_prediction(prediction: Prediction, image_sha256: str) -> dict[str, Any]:
    """Write a prediction as JSON values, with the digest of the image it is about.

    Candidates are much alike: the second and third travel as the pixels in which they differ from the
    first, which takes about half the room.
    """
    first, *others = prediction.masks
    return {
        "image": image_sha256,
        "masks": [encode_mask(first), *(encode_mask(first ^ mask) for mask in others)],
        "scores": [float(score) for score in prediction.scores],
        "model": encode_identity(prediction.identity),
        "processing_time_ms": float(prediction.processing_time_ms),
        "cached": prediction.cached,
    }


def decode_prediction(
    body: Any,
    *,
    image_sha256: str,
    shape_hw: tuple[int, int],
    window: Window | None = None,
    backend: str = "remote",
) -> Prediction:
    """Read what `encode_prediction` wrote, and hold it against what was asked.

    Raises
    ------
    InputError
        If it is no prediction, or one of another image.
    """
    try:
        if body["image"] != image_sha256:
            raise InputError("the answer is about another image")
        if not 1 <= len(body["masks"]) <= MAX_CANDIDATES:
            raise InputError("an answer holds one to three masks", received=len(body["masks"]))
        masks = np.stack([decode_mask(mask) for mask in body["masks"]])
        masks[1:] ^= masks[0]
        if masks.shape[1:] != shape_hw:
            raise InputError("the masks have another shape than the image", received=masks.shape[1:])
        return Prediction(
            masks=masks,
            scores=np.array(body["scores"], np.float32),
            identity=decode_identity(body["model"]),
            processing_time_ms=float(body["processing_time_ms"]),
            cached=bool(body["cached"]),
            backend=backend,
            window=window,
        )
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise InputError("the answer cannot be read", received=type(error).__name__) from error


def _pack_integers(values: NDArray[np.int64]) -> bytes:
    places = np.arange(_INTEGER_BYTES)
    needed = 1 + (values[:, None] >= 1 << 7 * places[1:]).sum(axis=1, keepdims=True)
    groups = (values[:, None] >> 7 * places) & 0x7F | np.where(places < needed - 1, 0x80, 0)
    packed: bytes = groups[places < needed].astype(np.uint8).tobytes()
    return packed


def _unpack_integers(data: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Read what `_pack_integers` wrote, or None where it is something else."""
    last = np.flatnonzero(data < 0x80)
    lengths = np.diff(last, prepend=-1)
    if len(last) == 0 or last[-1] != len(data) - 1 or lengths.max() > _INTEGER_BYTES:
        return None
    starts = last - lengths + 1
    places = np.arange(len(data)) - np.repeat(starts, lengths)
    values: NDArray[np.int64] = np.add.reduceat((data & 0x7F).astype(np.int64) << 7 * places, starts)
    return values
