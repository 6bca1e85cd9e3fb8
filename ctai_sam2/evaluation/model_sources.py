"""Opening the models that are to be scored: by name, from a weights file, or untrained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctai_sam2.errors import InputError
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.models.local import DType, LocalSegmenter
from ctai_sam2.models.registry import EMBEDDED, ModelStore

UNTRAINED_SEED = 0


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model's weights are and which network they belong to.

    Parameters
    ----------
    weights : str or Path
        A name of the registry, or a file.
    config : str
        SAM2 model configuration, by name or as the path of a YAML file.
    image_size : int or None
        Side in pixels of the network's input; None as configured.
    """

    weights: str | Path
    config: str
    image_size: int | None


def locate_model(
    model: str | Path, *, config: str | None = None, store: ModelStore | None = None
) -> ModelSource:
    """Find out which network a model's weights belong to, without reading them.

    Parameters
    ----------
    model : str or Path
        A name of the registry or a weights file.
    config : str, optional
        The network, where neither the registry nor a card next to the file says. A file written by
        ``python -m ctai_sam2.training export`` has such a card, with the same name and ``.json``;
        of other files the embedded model's network is expected.
    store : ModelStore, optional
        Folder of named checkpoints.

    Raises
    ------
    InputError
        If neither a checkpoint of that name nor a file is there.
    """
    store = store or ModelStore()
    known = store.find(model) if isinstance(model, str) else None
    if known is not None:
        return ModelSource(
            weights=known.name,
            config=config or str(known.config),
            image_size=known.image_size if config is None else None,
        )
    path = Path(model).expanduser()
    if not path.is_file():
        raise InputError(
            "there is neither a model nor a weights file of that name",
            received=path.name,
            hint=f"Known are {', '.join(store.names)}; or give a file.",
        )
    if config is not None:
        return ModelSource(weights=path, config=config, image_size=_card_of(path)[1])
    card_config, card_size = _card_of(path)
    known = store.find_file_name(path.name) or store.get(EMBEDDED)
    return ModelSource(
        weights=path,
        config=card_config or str(known.config),
        image_size=card_size or (None if card_config else known.image_size),
    )


def open_model(
    source: ModelSource,
    *,
    device: str = "auto",
    dtype: DType = "auto",
    num_threads: int | None = None,
    store: ModelStore | None = None,
) -> LocalSegmenter:
    """Open a model bare, without a prediction cache, so that times are those of the model."""
    return LocalSegmenter(
        source.weights,
        config=source.config,
        image_size=source.image_size,
        device=device,
        dtype=dtype,
        num_threads=num_threads,
        store=store,
    )


@contextmanager
def open_untrained(
    source: ModelSource, *, device: str = "auto", dtype: DType = "auto", num_threads: int | None = None
) -> Iterator[LocalSegmenter]:
    """Open the same network with random weights (seed 0), for comparison."""
    from ctai_sam2.models.sam2_network import save_untrained

    with tempfile.TemporaryDirectory(prefix="ctai-sam2-") as folder:
        path = Path(folder) / "untrained.safetensors"
        save_untrained(path, source.config, image_size=source.image_size, seed=UNTRAINED_SEED)
        untrained = ModelSource(weights=path, config=source.config, image_size=source.image_size)
        with open_model(untrained, device=device, dtype=dtype, num_threads=num_threads) as segmenter:
            yield segmenter


def _card_of(path: Path) -> tuple[str | None, int | None]:
    """Read configuration and image size from the card that training writes next to weights."""
    card = path.with_suffix(".json")
    try:
        content = parse_json(card.read_text(encoding="utf-8"))
        config, size = content["config"]["model"], content["image_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    return (config, size) if isinstance(config, str) and isinstance(size, int) else (None, None)
