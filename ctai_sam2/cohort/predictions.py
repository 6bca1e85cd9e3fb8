"""The model's predictions of a case, stored: its numbers can be made again without the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import CtaiError, DamagedFile
from ctai_sam2.files.atomic import write_bytes
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.io.array_archive import pack_arrays, unpack_arrays
from ctai_sam2.models.cache_key import make_key
from ctai_sam2.segmentation import PredictsMasks
from ctai_sam2.types import Acquisition, CTSlice, Mask, ModelIdentity, Prediction, Prompt, Window

_FORMAT = 2
"""1 had the level's gap as slice indices only."""

_META = "meta.json"
_COMPRESSION = 1
"""Fast: noise does not compress, masks do at any level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CasePredictions:
    """All that is needed to measure a case again without its volume and without a model.

    Parameters
    ----------
    ct_slice : CTSlice
        The mid-L3 slice.
    axial_index : int or None
        Its index in the volume; None for a slice without one.
    predictions : mapping of str to Prediction
        By `ReplayingSegmenter.key_of`.
    l3_mask, l3_slice : ndarray of bool (H, W) and CTSlice, optional
        L3 on its sagittal slice, where it was looked for and found; of the slice only the geometry counts.
    l3_certainty : str or None
        How the software knew the level; None where no sagittal slice was looked at.
    l3_probability : float or None
        How likely the level is L3, where that is known.
    l3_confidence : float or None
        The model's, in the mask of L3.
    l3_gap_mm : float or None
        Distance between the slice and the middle of the L3 found, from slice positions; None without one.
    level_chosen_by : {"user", "software"}
        Who chose the slice.
    level_warnings : tuple of str
        Why the level may be wrong.
    is_gap_known : bool
        False where an older version stored the gap in slices only: the level is then found again.
    """

    ct_slice: CTSlice
    axial_index: int | None
    predictions: Mapping[str, Prediction]
    l3_mask: Mask | None = None
    l3_slice: CTSlice | None = None
    l3_certainty: str | None = None
    l3_probability: float | None = None
    l3_confidence: float | None = None
    l3_gap_mm: float | None = None
    level_chosen_by: Literal["user", "software"] = "software"
    level_warnings: tuple[str, ...] = ()
    is_gap_known: bool = True


class ReplayingSegmenter:
    """A segmenter that returns stored predictions again, and calls a live one for the others.

    Parameters
    ----------
    live : callable
        Opens or returns the live segmenter; called at the first request without a stored prediction.
    stored : mapping of str to Prediction, optional
        Predictions of the same model.
    """

    def __init__(
        self, live: Callable[[], PredictsMasks], stored: Mapping[str, Prediction] | None = None
    ) -> None:
        self._live = live
        self._stored = dict(stored or {})
        self.used: dict[str, Prediction] = {}
        """Predictions returned, new and stored ones."""
        self.live_calls = 0
        """Requests that went to the live segmenter."""

    @property
    def identity(self) -> ModelIdentity:
        """The model's; of a stored prediction where there is one."""
        for prediction in (*self.used.values(), *self._stored.values()):
            return prediction.identity
        return self._live().identity

    def predict(
        self, image_hw: NDArray[np.uint8], prompt: Prompt, *, window: Window | None = None
    ) -> Prediction:
        """Return a stored prediction, or a live one; see `Segmenter.predict`."""
        key = self.key_of(image_hw, prompt)
        prediction = self.used.get(key) or self._stored.get(key)
        if prediction is None:
            prediction = self._live().predict(image_hw, prompt, window=window)
            self.live_calls += 1
        self.used[key] = prediction
        return prediction

    @staticmethod
    def key_of(image_hw: NDArray[np.uint8], prompt: Prompt) -> str:
        """Digest of image and prompt."""
        key = make_key(image_hw, prompt, None, _NO_MODEL)
        return hashlib.sha256(f"{key.pixels} {key.prompt}".encode()).hexdigest()[:32]


def write_predictions(path: Path, case: CasePredictions) -> Path:
    """Write a case's predictions, whole or not at all.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"hu": np.ascontiguousarray(case.ct_slice.hu)}
    if case.l3_mask is not None:
        arrays["l3"] = np.packbits(case.l3_mask)
    predictions = []
    for number, (key, one) in enumerate(case.predictions.items()):
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
        "axial_index": case.axial_index,
        "slice": _describe_slice(case.ct_slice),
        "l3_slice": None if case.l3_slice is None else _describe_slice(case.l3_slice),
        "l3_shape": None if case.l3_mask is None else case.l3_mask.shape,
        "l3_certainty": case.l3_certainty,
        "l3_probability": case.l3_probability,
        "l3_confidence": case.l3_confidence,
        "l3_gap_mm": case.l3_gap_mm,
        "level_chosen_by": case.level_chosen_by,
        "level_warnings": list(case.level_warnings),
        "predictions": predictions,
    }
    return write_bytes(path, pack_arrays(arrays, texts={_META: json.dumps(meta)}, compression=_COMPRESSION))


def read_predictions(path: Path) -> CasePredictions:
    """Read what `write_predictions` wrote, in this version or an earlier one.

    Raises
    ------
    DamagedFile
        If it is missing, damaged or of a newer version.
    """
    try:
        arrays, texts = unpack_arrays(path)
        meta = parse_json(texts[_META])
        if meta["format"] not in (1, _FORMAT):
            raise ValueError(meta["format"])
        gap_mm, is_gap_known = _gap_of(meta)

        predictions = {
            one["key"]: Prediction(
                masks=_unpack(arrays[f"masks_{number}"], tuple(one["shape"])),
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
        l3_mask = None if l3_shape is None else _unpack(arrays["l3"], tuple(l3_shape))
        l3_slice = None
        if meta["l3_slice"] is not None and l3_mask is not None:
            l3_slice = _make_slice(np.zeros(l3_mask.shape, np.int16), meta["l3_slice"])
        return CasePredictions(
            ct_slice=_make_slice(arrays["hu"], meta["slice"]),
            axial_index=meta["axial_index"],
            predictions=predictions,
            l3_mask=l3_mask,
            l3_slice=l3_slice,
            l3_certainty=_certainty_of(meta),
            l3_probability=meta["l3_probability"],
            l3_confidence=meta["l3_confidence"],
            l3_gap_mm=gap_mm,
            is_gap_known=is_gap_known,
            level_chosen_by=_chooser_of(meta),
            level_warnings=tuple(meta["level_warnings"]),
        )
    except _DAMAGE as error:
        raise DamagedFile(
            f"the predictions in {path.name} cannot be read back",
            received=type(error).__name__,
            hint="Run the cohort again: the case is then done anew.",
        ) from error


# What reading raises where values are missing or not those that were written.
_DAMAGE = (CtaiError, ValueError, LookupError, TypeError, AttributeError, OverflowError)


def _gap_of(meta: Mapping[str, Any]) -> tuple[float | None, bool]:
    """Return the level's gap, and whether it is known: format 1 had slice indices only."""
    if meta["format"] != 1:
        return meta["l3_gap_mm"], True
    found, measured = meta["l3_index"], meta["axial_index"]
    if found is None or measured is None:
        return None, True
    return (0.0, True) if found == measured else (None, False)


def _certainty_of(meta: Mapping[str, Any]) -> str | None:
    """Return the certainty of the level; format 1 had another word for a level that the user specified."""
    certainty: str | None = meta["l3_certainty"]
    return "user" if certainty == "told" else certainty


def _chooser_of(meta: Mapping[str, Any]) -> Literal["user", "software"]:
    """Return who chose the slice; format 1 did not store it, and measured the L3 found or a given slice."""
    if meta["format"] != 1:
        return "user" if meta["level_chosen_by"] == "user" else "software"
    is_found = meta["l3_index"] is not None and meta["l3_index"] == meta["axial_index"]
    return "software" if is_found and _certainty_of(meta) != "user" else "user"


_NO_MODEL = ModelIdentity(name="", weights_sha256="", image_size=0, device="", dtype="", code_version="")


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


def _make_slice(hu: NDArray[Any], meta: Mapping[str, Any]) -> CTSlice:
    return CTSlice(
        hu=hu,
        spacing_mm=tuple(meta["spacing_mm"]),
        plane=meta["plane"],
        affine=None if meta["affine"] is None else np.array(meta["affine"]),
        thickness_mm=meta["thickness_mm"],
        index=meta["index"],
        acquisition=Acquisition(**meta["acquisition"]),
        warnings=tuple(meta["warnings"]),
    )
