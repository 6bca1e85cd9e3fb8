"""SAM2's own memory over a stack of slices: masks on some, and the network follows them to the others.

The classes are upstream's video predictor. It takes a video from files, holds all of it, and keeps the state
of every frame; here slices are fetched when their turn comes, and of the state only what the network still
reads is kept, so memory does not grow with the stack. What is computed is the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.image.hashing import hash_content
from ctai_sam2.models.tensor_threads import run_long

T = TypeVar("T")

VIDEO_PREDICTOR: Final = "sam2.sam2_video_predictor.SAM2VideoPredictor"
"""Upstream's class, as `build_sam2` takes it."""

_OBJECT = 1
_ENCODED = 6
"""Slices kept encoded, 17 MB each at 1024 pixels: structures are followed through the same ones at a time."""


class SliceMemory:
    """A SAM2 network whose memory was trained, such as Meta's SAM 2.1 or MedSAM2. Safe in threads.

    Parameters
    ----------
    predictor : SAM2VideoPredictor
        Upstream's, with weights, in evaluation mode.
    errors : callable
        Returns the context in which tensors are computed, such as one that translates errors.
    """

    def __init__(
        self, predictor: Any, errors: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._predictor = predictor
        self._errors = errors
        self._lock = threading.Lock()
        self._encoded: LRUCache[str, Any] = LRUCache(_ENCODED)
        self._position_codes: list[Any] = []
        """Of the feature maps' places, the same for every slice."""

    def follow(
        self,
        slice_at: Callable[[int], NDArray[np.uint8]],
        count: int,
        anchors: Mapping[int, NDArray[np.bool_]],
        *,
        start: int,
        reverse: bool = False,
    ) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Follow a structure from a slice to one end of the stack.

        Parameters
        ----------
        slice_at : callable
            Returns the windowed slice of an index, uint8 of shape (H, W); all of one shape.
        count : int
            How many slices there are.
        anchors : mapping of int to ndarray of bool, shape (H, W)
            The masks that are drawn. All of them guide the network.
        start : int
            Where to begin.
        reverse : bool
            Downwards, to slice 0, instead of upwards.

        Yields
        ------
        (int, ndarray of bool)
            Index and mask, ``start`` first; of a drawn slice what the network makes of the drawing.

        Raises
        ------
        InputError
            If there is no anchor, or one is outside of the stack or of another shape.
        """
        if not anchors:
            raise InputError("at least one slice must be drawn for the memory to follow")
        if min(start, *anchors) < 0 or max(start, *anchors) >= count:
            raise InputError(
                "an anchor is outside the stack",
                received=sorted({start, *anchors}),
                hint=f"Slices are 0 to {count - 1}.",
            )
        state = self._compute(lambda: self._begin(slice_at, count, anchors))
        for index in range(start, -1, -1) if reverse else range(start, count):
            yield index, self._compute(partial(self._step, state, index, reverse))

    def _compute(self, work: Callable[[], T]) -> T:
        """Compute tensors where the segmenter does, and leave the mode of the calling thread as it is."""
        import torch

        def run() -> T:
            with torch.inference_mode():
                return work()

        with self._errors():
            return run_long(run) if self._predictor.device.type == "cpu" else run()

    def _begin(
        self,
        slice_at: Callable[[int], NDArray[np.uint8]],
        count: int,
        anchors: Mapping[int, NDArray[np.bool_]],
    ) -> dict[str, Any]:
        import torch

        shape = slice_at(min(anchors)).shape
        state = _new_state(
            _Slices(slice_at, count, self._predictor.image_size), shape, self._predictor.device
        )
        for index, mask in anchors.items():
            if mask.shape != shape:
                raise InputError(
                    "an anchor has another shape than the slices", received=f"{mask.shape} and {shape}"
                )
            self._encode(state, index)
            self._predictor.add_new_mask(state, index, _OBJECT, torch.tensor(mask))
            # Upstream does this once at the end, and encodes each drawn slice again for it.
            self._predictor.propagate_in_video_preflight(state)
        return state

    def _step(self, state: dict[str, Any], index: int, reverse: bool) -> NDArray[np.bool_]:
        predictor = self._predictor
        outputs = state["output_dict_per_obj"][0]
        if index in outputs["cond_frame_outputs"]:
            logits = outputs["cond_frame_outputs"][index]["pred_masks"]
        else:
            self._encode(state, index)
            current, logits = predictor._run_single_frame_inference(
                inference_state=state,
                output_dict=outputs,
                frame_idx=index,
                batch_size=1,
                is_init_cond_frame=False,
                point_inputs=None,
                mask_inputs=None,
                reverse=reverse,
                run_mem_encoder=True,
            )
            outputs["non_cond_frame_outputs"][index] = current
        state["frames_tracked_per_obj"][0][index] = {"reverse": reverse}
        reads = max(predictor.max_obj_ptrs_in_encoder, _memory_reach(predictor))
        for old in [i for i in outputs["non_cond_frame_outputs"] if abs(i - index) > reads]:
            del outputs["non_cond_frame_outputs"][old]
        _, full = predictor._get_orig_video_res_output(state, logits)
        return np.asarray((full[0, 0] > 0).cpu().numpy())

    def _encode(self, state: dict[str, Any], index: int) -> None:
        """Put a slice's features where upstream looks for them, encoded once for all structures."""
        slices = state["images"]
        with self._lock:
            key = hash_content(slices.picture(index))
            if key not in self._encoded:
                found = self._predictor.forward_image(slices[index][None].to(self._predictor.device))
                self._encoded[key] = found["backbone_fpn"]
                self._position_codes = found["vision_pos_enc"]
            features = self._encoded[key]
            entry = {"backbone_fpn": features, "vision_pos_enc": self._position_codes}
        # Upstream hands the picture through, and nothing reads it.
        state["cached_features"] = {index: (features[-1][:, :1], entry)}


class _Slices:
    """What upstream's predictor takes for a loaded video: each slice is prepared when it is looked up."""

    def __init__(self, slice_at: Callable[[int], NDArray[np.uint8]], count: int, size: int) -> None:
        self._slice_at, self._count, self._size = slice_at, count, size

    def picture(self, index: int) -> NDArray[np.uint8]:
        return self._slice_at(index)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        from ctai_sam2.models.sam2_inference import prepare_image

        return prepare_image(self._slice_at(index), self._size)[0]


def _memory_reach(predictor: Any) -> int:
    """How many slices back the memory attention reads."""
    return int(predictor.num_maskmem * predictor.memory_temporal_stride_for_eval)


def _new_state(slices: _Slices, shape_hw: tuple[int, ...], device: Any) -> dict[str, Any]:
    """Make what upstream's ``init_state`` makes of a video file."""
    empty: dict[str, Any] = {
        name: {}
        for name in (
            *("point_inputs_per_obj", "mask_inputs_per_obj", "cached_features", "constants"),
            *("output_dict_per_obj", "temp_output_dict_per_obj", "frames_tracked_per_obj"),
        )
    }
    return {
        **empty,
        "images": slices,
        "num_frames": len(slices),
        "offload_video_to_cpu": False,
        "offload_state_to_cpu": False,
        "video_height": shape_hw[0],
        "video_width": shape_hw[1],
        "device": device,
        "storage_device": device,
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
    }
