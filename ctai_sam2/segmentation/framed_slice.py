"""An axial slice as a model sees it: what every way of segmenting it starts from."""

from __future__ import annotations

from dataclasses import dataclass

from ctai_sam2.image.frame import Frame
from ctai_sam2.measure.definitions import TissueDefinitions
from ctai_sam2.segmentation.prediction import predict_on_slice
from ctai_sam2.segmentation.results import PredictsMasks
from ctai_sam2.types import CTSlice, Prediction, Prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class FramedSlice:
    """A slice, the square of it that the model sees, the model, and the limits of what counts.

    Parameters
    ----------
    ct_slice : CTSlice
        The slice.
    frame : Frame
        What the model sees of it.
    segmenter : PredictsMasks
        The model.
    definitions : TissueDefinitions
        HU limits.
    """

    ct_slice: CTSlice
    frame: Frame
    segmenter: PredictsMasks
    definitions: TissueDefinitions

    def predict(self, prompt: Prompt) -> Prediction:
        """Predict from a prompt in pixels of the slice; see `predict_on_slice`."""
        return predict_on_slice(self.segmenter, self.frame, prompt)
