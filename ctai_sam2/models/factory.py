"""Build the segmenter that the settings specify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import platformdirs

from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.models.cache import CachedSegmenter
from ctai_sam2.models.fallback import FallbackSegmenter
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.protocol import Segmenter
from ctai_sam2.models.registry import ModelStore
from ctai_sam2.settings import Settings

if TYPE_CHECKING:
    from ctai_sam2.models.download import Progress

SegmenterKind = Literal["auto", "local", "remote"]
"""``auto`` is every backend there is, first available first, with a cache in front; or one backend bare."""


RETRY_BEFORE_FALLBACK_S = 5.0
"""How long requests to a busy service are repeated before this process does the work itself."""
HEALTH_REFRESH_S = 30.0
"""How often the health of several backends is looked at in the background."""


def open_segmenter(kind: SegmenterKind = "auto", settings: Settings | None = None) -> Segmenter:
    """Open the segmenter that the settings specify; close it, or use it in a ``with`` block.

    Cheap: the model is loaded with the first prediction, or by ``warm_up``.

    Parameters
    ----------
    kind : {"auto", "local", "remote"}
        ``auto``: the service where the settings name one, and SAM2 in this process, in the order of the
        settings, with the prediction cache in front. ``local``: SAM2 in this process without a cache.
        ``remote``: the service without a cache.
    settings : Settings, optional
        Read from the environment when omitted.

    Returns
    -------
    Segmenter
        Ready for requests.

    Raises
    ------
    InputError
        If the kind or a setting cannot be used.
    Unavailable
        If segmentation is switched off.
    """
    if kind not in get_args(SegmenterKind):
        raise InputError(
            "there is no such kind of segmenter",
            received=kind,
            hint=f"Use one of {', '.join(get_args(SegmenterKind))}; a model is chosen with "
            "settings=Settings(model=...) or SAM2_MODEL.",
        )
    settings = settings or Settings()
    if not settings.enabled:
        raise Unavailable("one-click segmentation is switched off", hint="Set SAM2_ENABLED=true.")
    if kind != "auto":
        return _BACKENDS[kind](settings)
    backends: dict[str, Segmenter] = {"local": open_local(settings)}
    if settings.service_urls:
        remote = _open_remote(settings, retry_for_s=RETRY_BEFORE_FALLBACK_S)
        is_first = settings.prefer == "service"
        backends = {"remote": remote, **backends} if is_first else {**backends, "remote": remote}
    return CachedSegmenter(
        FallbackSegmenter(
            backends,
            # A single backend is checked when needed; of several, one must know which is available again.
            refresh_s=HEALTH_REFRESH_S if len(backends) > 1 else None,
        ),
        cache_folder(settings),
        expires_hours=settings.cache_expire_hours,
        max_bytes=int(settings.cache_max_mb * 1e6),
        memory_bytes=int(settings.cache_memory_mb * 1e6),
    )


def open_store(settings: Settings | None = None) -> ModelStore:
    """Open the store of checkpoints that the settings name."""
    path = (settings or Settings()).model_path
    return ModelStore(None if path is None or is_checkpoint_file(path) else path)


def cache_folder(settings: Settings | None = None) -> Path:
    """Return the folder of the prediction cache that the settings name, which need not exist yet."""
    named = (settings or Settings()).cache_dir
    if named is not None:
        return named
    return Path(platformdirs.user_cache_dir("ctai_sam2", appauthor=False)) / "answers"


def download_model(
    name: str,
    settings: Settings | None = None,
    *,
    sha256: str | None = None,
    mirror_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a checkpoint to where `open_segmenter` looks for it; see `download_checkpoint`.

    Parameters
    ----------
    name : str
        From the registry.
    settings : Settings, optional
        Give the folder, the mirror and, for the model they name, its digest.
    sha256, mirror_url : str, optional
        Expected digest and mirror, instead of the settings'.
    progress : callable, optional
        Called after every piece with (bytes here, bytes in all or None).

    Returns
    -------
    Path
        The verified file.
    """
    from ctai_sam2.models.download import download_checkpoint

    settings = settings or Settings()
    if sha256 is None and name == settings.model:
        sha256 = settings.model_sha256
    return download_checkpoint(
        name,
        open_store(settings),
        sha256=sha256,
        mirror_url=mirror_url or settings.models_url,
        progress=progress,
    )


def open_local(settings: Settings) -> LocalSegmenter:
    """Open SAM2 in this process without a cache, as the settings say."""
    path = settings.model_path
    return LocalSegmenter(
        path if path is not None and is_checkpoint_file(path) else settings.model,
        architecture=settings.model,
        config=settings.model_config_file,
        device=settings.device,
        dtype=settings.dtype,
        max_embeddings=settings.max_embeddings,
        num_threads=settings.num_threads,
        sha256=settings.model_sha256,
        store=open_store(settings),
        engine=settings.engine,
        engine_folder=cache_folder(settings) / "engines",
    )


def _open_remote(settings: Settings, *, retry_for_s: float | None = None) -> Segmenter:
    if not settings.service_urls:
        raise InputError(
            "no segmentation service is named", hint="Set SAM2_SERVICE_URL, for example http://gpu-box:8000."
        )
    # What talks HTTP is a twentieth of an editor's imports, and most have no service.
    from ctai_sam2.models.remote import RemoteSegmenter

    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    opened = {
        url: RemoteSegmenter(
            url,
            api_key=key,
            request_timeout_s=settings.request_timeout,
            retry_for_s=retry_for_s,
            allow_plain_http=settings.allow_plain_http,
        )
        for url in settings.service_urls
    }
    return FallbackSegmenter(opened) if len(opened) > 1 else next(iter(opened.values()))


_BACKENDS: dict[str, Callable[[Settings], Segmenter]] = {"local": open_local, "remote": _open_remote}


def is_checkpoint_file(path: Path) -> bool:
    """Whether ``SAM2_MODEL_PATH`` means a checkpoint, there or missing, and not a folder of models."""
    return path.is_file() or (path.suffix in (".pt", ".pth", ".safetensors") and not path.is_dir())
