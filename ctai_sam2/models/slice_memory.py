"""SAM2's own memory over a stack of slices: masks on some, and the network follows them to the others.

The classes are upstream's video predictor. It takes a video from files, holds all of it, and keeps the state
of every frame; here slices are fetched when their turn comes, and of the state only what the network still
reads is kept, so memory does not grow with the stack. What is computed is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError
from ctai_sam2.models.registry import ModelStore

_OBJECT = 1
_PREDICTOR = "sam2.sam2_video_predictor.SAM2VideoPredictor"


class SliceMemory:
    """A SAM2 network whose memory was trained, such as Meta's SAM 2.1 or MedSAM2.

    The embedded model has no trained memory.

    Parameters
    ----------
    predictor : SAM2VideoPredictor
        Upstream's, with weights, in evaluation mode.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor

    @classmethod
    def open(
        cls, weights: str | Path, *, config: str | Path | None = None, image_size: int | None = None
    ) -> SliceMemory:
        """Load a checkpoint.

        Parameters
        ----------
        weights : str or Path
            A registered name, or a file together with its configuration.
        config : str or Path, optional
            As for `LocalSegmenter`.
        image_size : int, optional
            Side of the network's input; as registered or configured when omitted.

        Raises
        ------
        InputError
            If the name is unknown, a file comes without configuration, or the model has no trained memory.
        WeightsMissing, WeightsError
            If the checkpoint is not there, is damaged or does not fit.
        """
        from ctai_sam2.models.sam2_network import NANO_CONFIG, build_sam2, load_weights, read_state_dict

        store = ModelStore()
        known = store.find(weights) if isinstance(weights, str) else None
        if known is not None:
            path = store.locate(known.name)
            config = known.config if config is None else config
            image_size = known.image_size if image_size is None else image_size
        else:
            path = Path(weights)
        if config is None:
            raise InputError("a checkpoint of one's own needs its model configuration", received=path.name)
        if str(config) == NANO_CONFIG:
            raise InputError(
                "the embedded model has no trained memory",
                hint="Give SAM 2.1 or MedSAM2; segment_volume works with every model.",
            )
        model = build_sam2(config, image_size=image_size, target=_PREDICTOR)
        load_weights(model, read_state_dict(path))
        return cls(model.requires_grad_(False).eval())

    def follow(
        self,
        slice_at: Callable[[int], NDArray[np.uint8]],
        count: int,
        anchors: Mapping[int, NDArray[np.bool_]],
    ) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Follow a structure from the slices on which it is drawn, first upwards, then downwards.

        Parameters
        ----------
        slice_at : callable
            Returns the windowed slice of an index, uint8 of shape (H, W); all of one shape.
        count : int
            How many slices there are.
        anchors : mapping of int to ndarray of bool, shape (H, W)
            The masks that are drawn.

        Yields
        ------
        (int, ndarray of bool)
            Index and mask: from the lowest anchor upwards to the end, then from the highest one downwards; a
            slice between two anchors comes twice, once from either side.

        Raises
        ------
        InputError
            If there is no anchor, or one is outside of the stack or of another shape.
        """
        if not anchors:
            raise InputError("at least one slice must be drawn for the memory to follow")
        if min(anchors) < 0 or max(anchors) >= count:
            raise InputError(
                "an anchor is outside the stack",
                received=sorted(anchors),
                hint=f"Slices are 0 to {count - 1}.",
            )
        for reverse in (False, True):
            start = max(anchors) if reverse else min(anchors)
            order = range(start, -1, -1) if reverse else range(start, count)
            # A state of its own for each direction: what was followed upwards must not guide downwards.
            yield from self._walk(
                _Slices(slice_at, count, self._predictor.image_size), anchors, order, reverse
            )

    def _walk(
        self, slices: _Slices, anchors: Mapping[int, NDArray[np.bool_]], order: range, reverse: bool
    ) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        import torch

        predictor = self._predictor
        reads = max(predictor.max_obj_ptrs_in_encoder, _memory_reach(predictor))
        with torch.inference_mode():
            shape = slices.shape_hw
            state = _new_state(slices, shape, predictor.device)
            for index, mask in anchors.items():
                if mask.shape != shape:
                    raise InputError(
                        "an anchor has another shape than the slices", received=f"{mask.shape} and {shape}"
                    )
                predictor.add_new_mask(state, index, _OBJECT, torch.tensor(mask))
            predictor.propagate_in_video_preflight(state)
            outputs = state["output_dict_per_obj"][0]
            for index in order:
                if index in outputs["cond_frame_outputs"]:
                    logits = outputs["cond_frame_outputs"][index]["pred_masks"]
                else:
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
                for old in [i for i in outputs["non_cond_frame_outputs"] if abs(i - index) > reads]:
                    del outputs["non_cond_frame_outputs"][old]
                _, full = predictor._get_orig_video_res_output(state, logits)
                yield index, (full[0, 0] > 0).cpu().numpy()


class _Slices:
    """What upstream's predictor takes for a loaded video: each slice is prepared when it is looked up."""

    def __init__(self, slice_at: Callable[[int], NDArray[np.uint8]], count: int, size: int) -> None:
        self._slice_at, self._count, self._size = slice_at, count, size

    @property
    def shape_hw(self) -> tuple[int, int]:
        height, width = self._slice_at(0).shape
        return height, width

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        from ctai_sam2.models.sam2_inference import prepare_image

        return prepare_image(self._slice_at(index), self._size)[0]


def _memory_reach(predictor: Any) -> int:
    """How many slices back the memory attention reads."""
    return int(predictor.num_maskmem * predictor.memory_temporal_stride_for_eval)


def _new_state(slices: _Slices, shape_hw: tuple[int, int], device: Any) -> dict[str, Any]:
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
