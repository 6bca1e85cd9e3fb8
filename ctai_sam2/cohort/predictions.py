"""What the model said about a slice, kept: numbers can be made again from it without asking the model."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import StorageError
from ctai_sam2.io import write_bytes
from ctai_sam2.models.cache_key import make_key
from ctai_sam2.segmentation import PredictsMasks
from ctai_sam2.types import Acquisition, CTSlice, Mask, ModelIdentity, Prediction, Prompt, Window

_FORMAT = 1
_COMPRESSION = 1
"""Fast: noise does not compress, masks do at any level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """All that is needed to measure a case again without its volume and without a model.

    Parameters
    ----------
    ct_slice : CTSlice
        The mid-L3 slice.
    axial_index : int or None
        Its index in the volume; None for a slice without one.
    l3_mask, l3_slice : ndarray of bool (H, W) and CTSlice, optional
        L3 on its sagittal slice, where it was looked for and found; of the slice only the geometry counts.
    l3_certainty : str or None
        How the level is known; None where no sagittal slice was looked at.
    l3_probability : float or None
        How likely the level is L3, where that could be told.
    l3_confidence : float or None
        The model's, in the mask of L3.
    l3_index : int or None
        Axial index through the middle of the L3 found, whichever slice was measured.
    level_warnings : tuple of str
        Why the level may be wrong.
    answers : mapping of str to Prediction
        By `Answers.key_of`.
    """

    ct_slice: CTSlice
    axial_index: int | None
    answers: Mapping[str, Prediction]
    l3_mask: Mask | None = None
    l3_slice: CTSlice | None = None
    l3_certainty: str | None = None
    l3_probability: float | None = None
    l3_confidence: float | None = None
    l3_index: int | None = None
    level_warnings: tuple[str, ...] = ()


class Answers:
    """A segmenter that gives known answers again, and asks a live one for the others.

    Parameters
    ----------
    live : callable
        Opens or returns the live segmenter; called at the first question without a known answer.
    known : mapping of str to Prediction, optional
        Answers of the same model.
    """

    def __init__(
        self, live: Callable[[], PredictsMasks], known: Mapping[str, Prediction] | None = None
    ) -> None:
        self._live = live
        self._known = dict(known or {})
        self.used: dict[str, Prediction] = {}
        """Answers given, new and known ones."""
        self.asked = 0
        """Questions that went to the live segmenter."""

    @property
    def identity(self) -> ModelIdentity:
        """The model's; of a known answer where there is one."""
        for prediction in (*self.used.values(), *self._known.values()):
            return prediction.identity
        return self._live().identity

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Answer from what is known, or live; see `Segmenter.predict`."""
        key = self.key_of(image_hw, prompt)
        prediction = self.used.get(key) or self._known.get(key)
        if prediction is None:
            prediction = self._live().predict(image_hw, prompt, window=window)
            self.asked += 1
        self.used[key] = prediction
        return prediction

    @staticmethod
    def key_of(image_hw: NDArray[np.uint8], prompt: Prompt) -> str:
        """Digest of image and prompt."""
        key = make_key(image_hw, prompt, None, _NOBODY)
        return hashlib.sha256(f"{key.pixels} {key.prompt}".encode()).hexdigest()[:32]


def write_kept(path: Path, kept: Kept) -> Path:
    """Write what is kept of a case, whole or not at all.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"hu": np.ascontiguousarray(kept.ct_slice.hu)}
    if kept.l3_mask is not None:
        arrays["l3"] = np.packbits(kept.l3_mask)
    predictions = []
    for number, (key, one) in enumerate(kept.answers.items()):
        arrays[f"masks_{number}"] = np.packbits(one.masks)
        predictions.append(
            {
                "key": key,
                "shape": one.masks.shape,
                "scores": [float(score) for score in one.scores],
                "identity": asdict(one.identity),
                "time_ms": one.processing_time_ms,
                "backend": one.backend,
                "window": None if one.window is None else [one.window.level, one.window.width],
            }
        )
    meta = {
        "format": _FORMAT,
        "axial_index": kept.axial_index,
        "slice": _describe_slice(kept.ct_slice),
        "l3_slice": None if kept.l3_slice is None else _describe_slice(kept.l3_slice),
        "l3_shape": None if kept.l3_mask is None else kept.l3_mask.shape,
        "l3_certainty": kept.l3_certainty,
        "l3_probability": kept.l3_probability,
        "l3_confidence": kept.l3_confidence,
        "l3_index": kept.l3_index,
        "level_warnings": list(kept.level_warnings),
        "predictions": predictions,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive:
        archive.writestr("meta.json", json.dumps(meta))
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())
    return write_bytes(path, buffer.getvalue())


def read_kept(path: Path) -> Kept:
    """Read what `write_kept` wrote.

    Raises
    ------
    StorageError
        If it is missing, damaged or of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            if meta["format"] != _FORMAT:
                raise ValueError(meta["format"])

            def array(name: str) -> NDArray[Any]:
                content = io.BytesIO(archive.read(f"{name}.npy"))
                return np.asarray(np.lib.format.read_array(content, allow_pickle=False))

            answers = {
                one["key"]: Prediction(
                    masks=_unpack(array(f"masks_{number}"), tuple(one["shape"])),
                    scores=np.array(one["scores"], np.float32),
                    identity=ModelIdentity(
                        **{**one["identity"], "structures": tuple(one["identity"]["structures"])}
                    ),
                    processing_time_ms=one["time_ms"],
                    backend=one["backend"],
                    window=None
                    if one["window"] is None
                    else Window(level=one["window"][0], width=one["window"][1]),
                )
                for number, one in enumerate(meta["predictions"])
            }
            l3_shape = meta["l3_shape"]
            l3_mask = None if l3_shape is None else _unpack(array("l3"), tuple(l3_shape))
            l3_slice = None
            if meta["l3_slice"] is not None and l3_mask is not None:
                l3_slice = _make_slice(np.zeros(l3_mask.shape, np.int16), meta["l3_slice"])
            return Kept(
                ct_slice=_make_slice(array("hu"), meta["slice"]),
                axial_index=meta["axial_index"],
                answers=answers,
                l3_mask=l3_mask,
                l3_slice=l3_slice,
                l3_certainty=meta["l3_certainty"],
                l3_probability=meta["l3_probability"],
                l3_confidence=meta["l3_confidence"],
                l3_index=meta["l3_index"],
                level_warnings=tuple(meta["level_warnings"]),
            )
    except Exception as error:  # zip, JSON and array files can be broken in many ways
        raise StorageError(
            f"what is kept in {path.name} cannot be read back",
            received=type(error).__name__,
            hint="Run the cohort again: the case is then computed anew.",
        ) from error


_NOBODY = ModelIdentity(name="", weights_sha256="", image_size=0, device="", dtype="", code_version="")


def _unpack(bits: NDArray[Any], shape: tuple[int, ...]) -> Mask:
    count = int(np.prod(shape))
    return np.unpackbits(bits, count=count).astype(np.bool_).reshape(shape)


def _describe_slice(ct_slice: CTSlice) -> dict[str, Any]:
    return {
        "spacing_mm": ct_slice.spacing_mm,
        "plane": ct_slice.plane,
        "affine": None if ct_slice.affine is None else ct_slice.affine.tolist(),
        "thickness_mm": ct_slice.thickness_mm,
        "index": ct_slice.index,
        "acquisition": asdict(ct_slice.acquisition),
        "warnings": ct_slice.warnings,
    }


def _make_slice(hu: NDArray[Any], told: Mapping[str, Any]) -> CTSlice:
    return CTSlice(
        hu=hu,
        spacing_mm=tuple(told["spacing_mm"]),
        plane=told["plane"],
        affine=None if told["affine"] is None else np.array(told["affine"]),
        thickness_mm=told["thickness_mm"],
        index=told["index"],
        acquisition=Acquisition(**told["acquisition"]),
        warnings=tuple(told["warnings"]),
    )
