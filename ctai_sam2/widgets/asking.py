"""One click for the editor: from a label and prompts to the model's answer."""

from __future__ import annotations

import threading
from dataclasses import replace

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.oneclick import (
    STRUCTURES,
    AxialSession,
    PredictsMasks,
    StructureResult,
    find_l3,
    segment_structure,
)
from ctai_sam2.segmenters import Segmenter, open_segmenter
from ctai_sam2.types import CTSlice, Prompt

_shared_lock = threading.Lock()
_shared: list[Segmenter] = []


def shared_segmenter() -> Segmenter:
    """Return the process's segmenter for editors that were given none: the model is loaded once.

    Raises
    ------
    Unavailable
        If segmentation is switched off.
    """
    with _shared_lock:
        if not _shared:
            _shared.append(open_segmenter("auto"))
        return _shared[0]


class OneClick:
    """Answers the editor's questions with a segmenter; keeps the last slice's frame and anatomy.

    Parameters
    ----------
    segmenter : PredictsMasks
        Any segmenter.
    """

    def __init__(self, segmenter: PredictsMasks) -> None:
        self._segmenter = segmenter
        self._session: AxialSession | None = None

    def __call__(self, slice_: CTSlice, label: str, prompt: Prompt | None, revision: int) -> StructureResult:
        """Segment a label on a slice; see `editor.Ask`.

        Raises
        ------
        AnatomyNotFound
            If nothing was pointed at and the anatomy to point with is not visible.
        Unavailable
            If the segmenter cannot answer.
        """
        if label == "l3":
            return self._segment_l3(slice_, prompt)
        if self._session is None or self._session.slice_ is not slice_:
            self._session = AxialSession.open(slice_, self._segmenter)
        return self._session.segment(next(name for name in STRUCTURES if name == label), prompt=prompt)

    def _segment_l3(self, slice_: CTSlice, prompt: Prompt | None) -> StructureResult:
        if prompt is not None:
            return segment_structure(slice_, "l3", self._segmenter, prompt=prompt)
        found = find_l3(slice_, self._segmenter)
        if found.l3 is None:
            raise AnatomyNotFound(
                "L3 cannot be told from its neighbours: the sacrum is not visible",
                hint="Click on L3, then run.",
            )
        return replace(found.l3, warnings=found.warnings)
