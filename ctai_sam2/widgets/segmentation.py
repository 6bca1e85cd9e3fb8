"""One click for the editor: from a label and prompts to the model's mask."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ctai_sam2 import segmentation  # its names are loaded with the first mask, after the first picture
from ctai_sam2.editor import Message
from ctai_sam2.errors import AnatomyNotFound, CtaiError, InputError
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.models import Prefetching, Segmenter, open_segmenter
from ctai_sam2.structures import STRUCTURES
from ctai_sam2.types import CTSlice, CTVolume, Prompt

if TYPE_CHECKING:
    from ctai_sam2.segmentation import AxialSession, L3Result, PredictsMasks, StructureResult

_log = logging.getLogger(__name__)

_shared_lock = threading.Lock()
_shared: list[Segmenter] = []
_loading: list[threading.Thread] = []
"""The thread that loads its model, once there is one."""


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


def load_ahead(segmenter: Segmenter | None, one_click: OneClick | None, ct_slice: CTSlice) -> None:
    """Load the shared segmenter's model and look at a slice in the background, once: a click finds both done.

    A segmenter that an editor was given is its owner's to load.
    """
    with _shared_lock:
        if _loading or not any(segmenter is shared for shared in _shared):
            return
        thread = threading.Thread(
            target=_warm_up, args=(_shared[0], one_click, ct_slice), name="loading the model", daemon=True
        )
        _loading.append(thread)
    thread.start()


def _warm_up(segmenter: Segmenter, one_click: OneClick | None, ct_slice: CTSlice) -> None:
    """Get a segmenter ready for a slice; what prevents that is shown when it is asked for a mask."""
    try:
        if one_click is not None and ct_slice.plane == "axial":
            one_click.prepare(ct_slice)
        elif isinstance(segmenter, Prefetching):
            segmenter.warm_up()
    except CtaiError as error:
        _log.info("the model is not loaded ahead of time: %s", type(error).__name__)


def segmenter_or_reason(
    segmenter: Segmenter | Literal["auto"] | None,
) -> tuple[Segmenter | None, Message | None]:
    """Open the segmenter that was chosen, or say why there is none.

    Raises
    ------
    InputError
        If it is another word than ``"auto"``.
    """
    if segmenter is None:
        return None, None
    if not isinstance(segmenter, str):
        return segmenter, None
    if segmenter != "auto":
        raise InputError(
            "no such segmenter", received=segmenter, hint='Give "auto", None, or what open_segmenter returns.'
        )
    try:
        return shared_segmenter(), None
    except CtaiError as error:
        return None, Message("ai.unavailable", {"why": str(error)})


class OneClick:
    """Serves the editor's requests with a segmenter; caches the last slice's frame and anatomy.

    Parameters
    ----------
    segmenter : PredictsMasks
        Any segmenter.
    volume : CTVolume, optional
        The slices come from; L3 is then also identified from the neighbouring slices and the iliac crests.
    """

    def __init__(self, segmenter: PredictsMasks, volume: CTVolume | None = None) -> None:
        self._segmenter = segmenter
        self._volume = volume
        self._session: AxialSession | None = None
        self._session_lock = threading.Lock()
        self._levels: tuple[CTSlice, L3Result] | None = None

    def levels(self, ct_slice: CTSlice) -> L3Result | None:
        """Vertebral bodies found when L3 was last requested on this slice; None for any other."""
        return self._levels[1] if self._levels is not None and self._levels[0] is ct_slice else None

    def __call__(
        self, ct_slice: CTSlice, label: str, prompt: Prompt | None, revision: int
    ) -> StructureResult:
        """Segment a label on a slice; see `editor.MaskSource`.

        Raises
        ------
        AnatomyNotFound
            If nothing was pointed at and the anatomy to point with is not visible.
        Unavailable
            If the segmenter is not available.
        """
        if label == "l3":
            return self._segment_l3(ct_slice, prompt)
        session = self._session_on(ct_slice)
        if label in SIDED_GROUPS:
            return _segment_group(session, label, prompt)
        return session.segment(next(name for name in STRUCTURES if name == label), prompt=prompt)

    def prepare(self, ct_slice: CTSlice) -> None:
        """Embed and divide an axial slice before a mask is requested; loads the model.

        Raises
        ------
        SegmenterError
            If the segmenter fails.
        """
        session = self._session_on(ct_slice)
        if isinstance(self._segmenter, Prefetching):
            self._segmenter.embed(session.frame.image)
        _ = session.judged

    def _session_on(self, ct_slice: CTSlice) -> AxialSession:
        with self._session_lock:
            if self._session is None or self._session.ct_slice is not ct_slice:
                self._session = segmentation.AxialSession.open(ct_slice, self._segmenter)
            return self._session

    def _segment_l3(self, ct_slice: CTSlice, prompt: Prompt | None) -> StructureResult:
        if prompt is not None:
            return segmentation.segment_structure(ct_slice, "l3", self._segmenter, prompt=prompt)
        if self._volume is None:
            found = segmentation.find_l3(ct_slice, self._segmenter)
        else:
            found = segmentation.find_l3_in_volume(
                self._volume, self._segmenter, sagittal_index=ct_slice.index
            )
        self._levels = (ct_slice, found)
        if found.l3 is None:
            raise AnatomyNotFound("; ".join(found.warnings), hint="Choose a body, or click on L3, then run.")
        return replace(found.l3, warnings=found.warnings)


def _segment_group(session: AxialSession, label: str, prompt: Prompt | None) -> StructureResult:
    """Segment a muscle group: as the model divides all muscle, or as muscle where one points at it."""
    muscle = session.segment("muscle", prompt=prompt)
    if prompt is not None:
        return muscle
    groups = session.groups_of(muscle)
    if label not in groups:
        raise AnatomyNotFound(
            "this model does not divide the muscle into groups",
            hint="Draw the group, click on it, or use the embedded model.",
        )
    return replace(muscle, mask=groups[label])
