"""Build SAM2 networks from their configurations, and read and load their weights.

The only module, with `ctai_sam2.models.local` and `ctai_sam2.training`, that imports torch.
"""

from __future__ import annotations

import importlib
import importlib.resources
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

import safetensors
import safetensors.torch
import torch

from ctai_sam2.errors import InputError, WeightsError
from ctai_sam2.models.calibration import METADATA_KEY, Calibration
from ctai_sam2.models.dense_head import DENSE_PREFIX, DenseUNet

OFFICIAL_CONFIGS: Final[Mapping[str, str]] = {
    "sam2.1_hiera_tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1_hiera_small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1_hiera_base_plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1_hiera_large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}
"""Names of Meta's SAM 2.1 networks and where the installed ``sam2`` package describes them."""

NANO_CONFIG: Final = "sam2_ct_nano"
"""Name of the small network whose weights ship with this package."""

_NAMES_SHOWN: Final = 3
# The encoder tiles 8 x 8 windows over a quarter of the image.
_SIZE_STEP: Final = 32


def build_sam2(
    config: str | Path, *, image_size: int | None = None, target: str | None = None
) -> torch.nn.Module:
    """Build a SAM2 network with untrained weights, on the CPU, in evaluation mode.

    Parameters
    ----------
    config : str or pathlib.Path
        A name of `OFFICIAL_CONFIGS`, "sam2_ct_nano", or the path of a YAML file of the
        same layout (a ``model`` entry with ``_target_``).
    image_size : int, optional
        Side of the square network input in pixels, a multiple of 32; by default as configured.
    target : str, optional
        Dotted name of the class to build instead of the configured one, such as the video predictor.

    Returns
    -------
    torch.nn.Module
        A ``sam2.modeling.sam2_base.SAM2Base``.

    Raises
    ------
    InputError
        Where the configuration is unknown, unreadable or does not build a network.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    _import_sam2_quietly()
    try:
        tree = OmegaConf.create(_read_config_text(config))
        model_tree = tree.model
        if image_size is not None:
            model_tree.image_size = int(image_size)
        if target is not None:
            model_tree["_target_"] = target
        configured_size = int(model_tree.image_size)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "the model configuration cannot be read",
            received=Path(config).name,
            hint="It must be YAML with a 'model' entry.",
        ) from error
    if configured_size < _SIZE_STEP or configured_size % _SIZE_STEP:
        raise InputError(f"image_size must be a positive multiple of {_SIZE_STEP}", received=configured_size)
    try:
        model = instantiate(model_tree, _recursive_=True)
    except Exception as error:
        raise InputError(
            "the model configuration does not build a network", received=Path(config).name
        ) from error
    structures = structure_names(config)
    if structures:
        channels = int(model.state_dict()["no_mem_embed"].shape[-1])
        model.structure_tokens = StructureTokens(structures, channels)
    return cast(torch.nn.Module, model.eval())


def structure_names(config: str | Path) -> tuple[str, ...]:
    """Return the structures a network of this configuration knows by name; empty for Meta's.

    Raises
    ------
    InputError
        Where the configuration is unknown or unreadable.
    """
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(OmegaConf.create(_read_config_text(config)))
    return tuple(map(str, tree.get("structures", ()))) if isinstance(tree, dict) else ()


def attach_dense_head(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network the dense head whose parameters a state holds; nothing where it holds none.

    Parameters
    ----------
    model : torch.nn.Module
        From `build_sam2`; changed in place.
    state : mapping of str to torch.Tensor
        From `read_state_dict`.
    """
    if any(name.startswith(DENSE_PREFIX) for name in state):
        model.dense_head = DenseUNet(normalised=False).eval()


class StructureTokens(torch.nn.Module):
    """Learned prompts for structures by name.

    Parameters
    ----------
    names : tuple of str
        What can be named.
    channels : int
        Width of the decoder's tokens.
    """

    TOKENS: Final = 2

    def __init__(self, names: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.names = names
        self.weight = torch.nn.Parameter(torch.randn(len(names), self.TOKENS, channels) * 0.5)

    def forward(self, indices: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
        """Return tokens (K, 2, channels) for indices (K,); below 0 the token ``nothing`` (1, channels)."""
        named: torch.Tensor = self.weight[indices.clamp(min=0)]
        return torch.where((indices >= 0)[:, None, None], named, nothing[None])


def save_untrained(
    path: str | Path, config: str | Path, *, image_size: int | None = None, seed: int = 0
) -> Path:
    """Write a network's random weights, decided by the seed, as safetensors; returns the path.

    Parameters
    ----------
    path : str or pathlib.Path
        Where to write.
    config, image_size
        As in `build_sam2`.
    seed : int
        Of torch's generator, whose state stays as it was.

    Raises
    ------
    InputError
        As in `build_sam2`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_sam2(config, image_size=image_size)
    safetensors.torch.save_file(model.state_dict(), path)
    return Path(path)


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint file without running code from it.

    Parameters
    ----------
    path : str or pathlib.Path
        ``*.safetensors``, or a PyTorch checkpoint with a ``model`` entry as Meta publishes.

    Returns
    -------
    dict of str to torch.Tensor
        Parameter name to tensor on the CPU; half precision is widened to float32.

    Raises
    ------
    WeightsError
        Where the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError("the weights file does not exist", received=path.name)
    state: object
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(str(path), device="cpu")
        else:
            # Mapped, the file is not in memory a second time while its values are copied into the network.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            state = content["model"] if isinstance(content, Mapping) else None
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        struct.error,
    ) as error:
        raise WeightsError(
            "the weights file is damaged or not a checkpoint",
            received=path.name,
            hint="Fetch it again.",
        ) from error
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise WeightsError("the weights file holds no network state", received=path.name)
    return {
        str(name): tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }


def read_calibration(path: str | Path) -> Calibration | None:
    """Return the calibration of the predicted IoU that a weights file carries; None without one.

    Raises
    ------
    WeightsError
        Where the file or its calibration is damaged.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return None
    try:
        with safetensors.safe_open(str(path), framework="pt") as content:
            text = (content.metadata() or {}).get(METADATA_KEY)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            "the weights file is damaged", received=path.name, hint="Fetch it again."
        ) from error
    return None if text is None else Calibration.from_json(text)


def load_weights(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a state into a network; every name and shape must fit.

    Parameters
    ----------
    model : torch.nn.Module
        From `build_sam2`; changed in place.
    state : mapping of str to torch.Tensor
        From `read_state_dict`.

    Raises
    ------
    WeightsError
        Where names are missing or unexpected or shapes differ; the network is unchanged then.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    unlike = [name for name in own if name in state and own[name].shape != state[name].shape]
    faults = [
        f"{len(names)} {kind}: {', '.join(names[:_NAMES_SHOWN])}{' …' if len(names) > _NAMES_SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", unlike))
        if names
    ]
    if faults:
        raise WeightsError(
            "the weights do not fit the network",
            received="; ".join(faults),
            hint="Check that configuration and checkpoint belong together.",
        )
    model.load_state_dict(dict(state), strict=True)


def _read_config_text(config: str | Path) -> str:
    if config == NANO_CONFIG:
        return (importlib.resources.files("ctai_sam2.models") / "configs" / f"{NANO_CONFIG}.yaml").read_text(
            encoding="utf-8"
        )
    if isinstance(config, str) and config in OFFICIAL_CONFIGS:
        return (importlib.resources.files("sam2") / OFFICIAL_CONFIGS[config]).read_text(encoding="utf-8")
    path = Path(config)
    if not path.is_file():
        raise InputError(
            "the model configuration is not known",
            received=path.name,
            hint=f"Use one of {', '.join((*OFFICIAL_CONFIGS, NANO_CONFIG))}, or the path of a YAML file.",
        )
    return path.read_text(encoding="utf-8")


def _import_sam2_quietly() -> None:
    """Import ``sam2`` and take back the global hydra initialisation it makes at import."""
    from hydra.core.global_hydra import GlobalHydra

    was_initialised = GlobalHydra.instance().is_initialized()
    importlib.import_module("sam2.modeling.sam2_base")
    if not was_initialised and GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
