"""From a model's predicted IoU to the probability that its mask is good."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctai_sam2.errors import InputError, WeightsError
from ctai_sam2.files.json_text import parse_json

GOOD_DICE = 0.85
"""Dice from which on a mask counts as good: about what two readers reach on the psoas."""

METADATA_KEY = "calibration"
"""Where a safetensors file carries its calibration, as JSON."""

_LEAST_ODDS = 1e-4


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A logistic curve over the logit of the predicted IoU; it keeps the candidates' order.

    Parameters
    ----------
    gain, bias : float
        ``probability = sigmoid(gain * logit(predicted IoU) + bias)``; the gain is positive.

    Raises
    ------
    InputError
        If a number is not finite or the gain is not positive.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, 1999.

    Examples
    --------
    >>> Calibration(gain=2.0, bias=0.0).apply([0.5, 0.9]).round(3).tolist()
    [0.5, 0.988]
    """

    gain: float
    bias: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.gain, self.bias]).all() and self.gain > 0):
            raise InputError("a calibration needs a positive gain", received=(self.gain, self.bias))

    def apply(self, predicted_iou: ArrayLike) -> NDArray[np.float64]:
        """Probability that the mask reaches a Dice of `GOOD_DICE`, of the same shape, 0 to 1."""
        predicted = np.clip(np.asarray(predicted_iou, dtype=np.float64), _LEAST_ODDS, 1 - _LEAST_ODDS)
        logit = np.log(predicted / (1 - predicted))
        return np.asarray(1 / (1 + np.exp(-(self.gain * logit + self.bias))), dtype=np.float64)

    def to_json(self) -> str:
        """Return the text that a weights file carries."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises
        ------
        WeightsError
            If it is something else.
        """
        try:
            values = parse_json(text)
            return cls(gain=float(values["gain"]), bias=float(values["bias"]))
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise WeightsError("the weights file's calibration cannot be read") from error
