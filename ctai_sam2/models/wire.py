"""The protocol of client and service: paths, headers, codec, version. Imported by both.

The JSON bodies are in `ctai_sam2.models.messages`.

A slice is uploaded once, under the SHA-256 of the file sent; every click then
names that digest and carries a prompt as JSON. Masks travel, both ways, as
``{"shape": [H, W], "runs": text}``: the run lengths of COCO's form (column by
column, background first), each as a variable-length integer (seven bits a byte,
lowest first, the high bit set on all but the last), deflated, in base64. That is
some two hundred bytes for a psoas and two thousand for skeletal muscle.

Whatever arrives is validated; nothing is inflated beyond the size it must have.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import as_mask, mask_to_runs
from ctai_sam2.models.messages import (
    MAX_CANDIDATES,
    MaskBody,
    MessageBody,
    ModelBody,
    PredictionBody,
    PromptBody,
)
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
"""Error code by which the service requests the image (again)."""
INPUT_INVALID = "prompt_invalid"
"""Error code for what `InputError` stands for on this side."""
PROTOCOL_MISMATCH = "protocol_mismatch"
"""Error code for a client of another version."""

MAX_SMALL_RESPONSE_BYTES = 65_536
"""Upper limit of a response without masks: health, errors, a stored image."""

Message = TypeVar("Message", bound=MessageBody)

_MASK_FORM = "a mask travels as its shape [H, W] and its runs in base64"
_RUNS_UNFIT = "the runs of a mask do not fit its shape"
_PIECE_RUNS = 1 << 16
_INTEGER_BYTES = 4
"""Enough for the longest run: 4 x 7 bits, of which a mask of 4096 x 4096 pixels needs 25."""

_REQUEST_ID = re.compile("[0-9a-f]{32}")


def is_request_id(text: str) -> bool:
    """Tell whether a text is a request id: 32 small hexadecimal digits, which cannot identify a person."""
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
    inside = as_mask(mask)
    packed = zlib.compress(_pack_integers(mask_to_runs(inside)), 9)
    return {"shape": list(inside.shape), "runs": base64.b64encode(packed).decode("ascii")}


def decode_mask(
    value: Any, *, max_side_px: int = MAX_SIDE_PX, shape_hw: tuple[int, int] | None = None
) -> Mask:
    """Read what `encode_mask` wrote.

    Memory stays within a few times the pixels of the shape, whatever the runs hold.

    Parameters
    ----------
    value : mapping or MaskBody
        The JSON values.
    max_side_px : int
        Rows and columns beyond this are refused.
    shape_hw : tuple of int, optional
        The only shape that is accepted. Give it wherever the image is known: any other shape is then refused
        before anything is unpacked.

    Raises
    ------
    InputError
        If it is anything else; the message says in what.
    """
    if isinstance(value, MaskBody):
        (height, width), text = value.shape, value.runs
    else:
        try:
            height, width = (int(side) for side in value["shape"])
            text = value["runs"]
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise InputError(_MASK_FORM) from error
    if not (1 <= height <= max_side_px and 1 <= width <= max_side_px):
        raise InputError("a mask has an impossible shape", received=f"{height} x {width}"[:40])
    if shape_hw is not None and (height, width) != shape_hw:
        raise InputError(
            "a mask has another shape than the image",
            received=f"{height} x {width} for {shape_hw[0]} x {shape_hw[1]} pixels",
        )
    try:
        if len(text) > max_mask_chars((height, width)):
            raise InputError(_RUNS_UNFIT, received=f"{height} x {width} pixels")
        packed = base64.b64decode(text, validate=True)
    except InputError:
        raise
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(_MASK_FORM) from error
    longest = height * width + 1  # bytes, where every pixel is a run of its own
    inflater = zlib.decompressobj()
    try:
        runs = inflater.decompress(packed, longest + 1)
    except zlib.error as error:
        raise InputError("the runs of a mask are damaged") from error
    if len(runs) > longest or not inflater.eof:
        raise InputError(_RUNS_UNFIT, received=f"{height} x {width} pixels")
    mask = _fill_runs(np.frombuffer(runs, np.uint8), height * width)
    if mask is None:
        raise InputError(_RUNS_UNFIT, received=f"{height} x {width} pixels")
    return mask.reshape((height, width), order="F")


def max_mask_chars(shape_hw: tuple[int, int]) -> int:
    """Upper limit of the characters of a mask's runs: three times what a mask of pure noise takes.

    Examples
    --------
    >>> max_mask_chars((512, 512))
    132096
    """
    return 1024 + shape_hw[0] * shape_hw[1] // 2


def max_prediction_bytes(shape_hw: tuple[int, int]) -> int:
    """Upper limit of the bytes of a prediction on an image of this shape, as JSON."""
    return MAX_SMALL_RESPONSE_BYTES + MAX_CANDIDATES * max_mask_chars(shape_hw)


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


def decode_prompt(
    body: Mapping[str, Any] | PromptBody, *, shape_hw: tuple[int, int] | None = None
) -> tuple[Prompt, Window | None]:
    """Read what `encode_prompt` wrote.

    Parameters
    ----------
    body : mapping or PromptBody
        The JSON values.
    shape_hw : tuple of int, optional
        Shape of the image it is meant for; a mask of another shape is refused before it is unpacked.

    Raises
    ------
    InputError
        If something in it cannot be used.
    """
    message = body if isinstance(body, PromptBody) else _validate(PromptBody, body, "the prompt")
    x0, y0, x1, y1 = message.box or (0.0, 0.0, 0.0, 0.0)
    prompt = Prompt(
        points_xy=np.array(message.points or np.zeros((0, 2)), np.float64),
        labels=None if message.labels is None else np.array(message.labels, np.int32),
        box_xyxy=None if message.box is None else (x0, y0, x1, y1),
        mask=None if message.mask is None else decode_mask(message.mask, shape_hw=shape_hw),
        structure=message.structure,
    )
    window = message.window
    return prompt, None if window is None else Window(level=window.level, width=window.width)


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
        If it is anything else, or out of bounds.
    """
    model = value if isinstance(value, ModelBody) else _validate(ModelBody, value, "the model's identity")
    return ModelIdentity(
        name=model.name,
        weights_sha256=model.sha256,
        image_size=model.image_size,
        device=model.device,
        dtype=model.dtype,
        code_version=model.code_version,
        structures=tuple(model.structures),
    )


def encode_prediction(prediction: Prediction, image_sha256: str) -> dict[str, Any]:
    """Write a prediction as JSON values, with the digest of the image it is of.

    Candidates resemble each other: the second and third travel as the pixels in which they differ from the
    first, which takes about half the space.
    """
    return {
        "image": image_sha256,
        "masks": _encode_candidates(prediction),
        "scores": [float(score) for score in prediction.scores],
        "model": encode_identity(prediction.identity),
        "processing_time_ms": float(prediction.processing_time_ms),
        "cached": prediction.cached,
    }


_encoded: WeakKeyDictionary[Prediction, Future[list[dict[str, Any]]]] = WeakKeyDictionary()
_encoded_lock = threading.Lock()


def _encode_candidates(prediction: Prediction) -> list[dict[str, Any]]:
    """Write the masks of a prediction, once: the cache of a service stores what is sent as a response."""
    with _encoded_lock:
        known = _encoded.get(prediction)
        if known is not None:
            found = known
        else:
            found = _encoded[prediction] = Future()
    if known is None:
        try:
            first, *others = prediction.masks
            found.set_result([encode_mask(first), *(encode_mask(first ^ mask) for mask in others)])
        except BaseException as error:
            found.set_exception(error)
    return list(found.result())


def decode_prediction(
    body: Any,
    *,
    image_sha256: str,
    shape_hw: tuple[int, int],
    window: Window | None = None,
    backend: str = "remote",
) -> Prediction:
    """Read what `encode_prediction` wrote, and compare it with the request.

    Parameters
    ----------
    body : bytes, mapping or PredictionBody
        The response: as it came, or parsed.
    image_sha256 : str
        Digest of the image that was sent.
    shape_hw : tuple of int
        Shape of that image.
    window, backend
        As in `Prediction`.

    Raises
    ------
    InputError
        If it is no prediction, out of bounds, or one of another image.
    """
    message = body if isinstance(body, PredictionBody) else _validate(PredictionBody, body, "the prediction")
    if message.image != image_sha256:
        raise InputError("the prediction is of another image")
    masks = np.stack([decode_mask(mask, shape_hw=shape_hw) for mask in message.masks])
    masks[1:] ^= masks[0]
    return Prediction(
        masks=masks,
        scores=np.array(message.scores, np.float32),
        identity=decode_identity(message.model),
        processing_time_ms=message.processing_time_ms,
        cached=message.cached,
        backend=backend,
        window=window,
    )


def parse_message(kind: type[Message], data: bytes) -> Message:
    """Parse JSON and validate it.

    Raises
    ------
    InputError
        If it is not JSON or of another form; names the place, never the content.
    """
    return _validate(kind, data, "the message")


def _validate(kind: type[Message], value: Any, name: str) -> Message:
    try:
        if isinstance(value, bytes):
            return kind.model_validate_json(value)
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:80]
        # What the parser itself says can quote what it read.
        reason = "it is not valid JSON" if first["type"] == "json_invalid" else str(first["msg"])[:120]
        raise InputError(
            f"{name} cannot be read" + (f" at '{place}'" if place else ""), received=reason
        ) from None


def _pack_integers(values: NDArray[np.int64]) -> bytes:
    # A row for each integer: its bytes, and whether another is needed after it.
    places = -(-int(values.max()).bit_length() // 7) or 1
    rest = values.astype(np.uint32)[:, None] >> 7 * np.arange(places, dtype=np.uint32)
    more = rest >= 0x80
    packed = (rest & 0x7F).astype(np.uint8) | more.view(np.uint8) << 7
    needed = np.ones_like(more)
    needed[:, 1:] = more[:, :-1]
    return packed[needed].tobytes()


def _fill_runs(data: NDArray[np.uint8], count: int) -> NDArray[np.bool_] | None:
    """Draw runs, background first, into ``count`` pixels; None where they are damaged or do not fit.

    In pieces: where every pixel is a run, the integers take a hundred times the memory of the mask.
    """
    ends = np.flatnonzero(data < 0x80)
    if len(ends) == 0 or ends[-1] != len(data) - 1:
        return None
    pixels = np.zeros(count, np.bool_)
    start = drawn = 0
    is_inside = False
    for piece in np.array_split(ends, range(_PIECE_RUNS, len(ends), _PIECE_RUNS)):
        lengths = _unpack_integers(data[start : piece[-1] + 1])
        if lengths is None or drawn + int(lengths.sum()) > count:
            return None
        inside = (np.arange(len(lengths)) + is_inside) % 2 == 1
        end = drawn + int(lengths.sum())
        pixels[drawn:end] = np.repeat(inside, lengths)
        start, drawn, is_inside = int(piece[-1]) + 1, end, bool((len(lengths) + is_inside) % 2)
    return pixels if drawn == count else None


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
