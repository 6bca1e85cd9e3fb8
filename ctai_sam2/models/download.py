"""Download a checkpoint: resumable, verified, or not at all.

The bytes go to a ``.part`` file next to the target and are moved there only once
their SHA-256 is right, so that no broken file ever bears a checkpoint's name.
An interrupted download is continued with an HTTP range request; that is why
requests is used here and not pooch, which starts again from zero. Proxies,
certificates and ``~/.netrc`` are those of requests (``HTTPS_PROXY``,
``REQUESTS_CA_BUNDLE``).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import requests

from ctai_sam2.errors import InputError, StorageError, WeightsError, WeightsMissing
from ctai_sam2.models.registry import (
    Checkpoint,
    ModelStore,
    hash_file,
    put_checkpoint,
    record_digest,
    require_digest,
    require_sha256,
)

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the bytes in all, None where the server does not say."""

_CHUNK = 1 << 18


def download_checkpoint(
    name: str,
    store: ModelStore,
    *,
    sha256: str | None = None,
    mirror_url: str | None = None,
    progress: Progress | None = None,
    timeout_s: tuple[float, float] = (10.0, 60.0),
    attempts: int = 3,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a named checkpoint into the store, unless the right file is already there.

    Parameters
    ----------
    name : str
        From the registry.
    store : ModelStore
        Where it goes.
    sha256 : str, optional
        Expected digest; needed where the registry knows none, and must agree where it does.
    mirror_url : str, optional
        Folder on a mirror that holds the file under its original name.
    progress : callable, optional
        Called after every piece with (bytes here, bytes in all or None).
    timeout_s : tuple of float
        Seconds to connect, and seconds without a byte.
    attempts : int
        How often a cut connection is taken up again.
    sleep : callable
        Waits between attempts.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    InputError
        If the name is unknown, the model is embedded, no digest is known and none was given, or the
        environment names a file of trusted certificates that does not exist.
    WeightsMissing
        If it could not be fetched: no connection, time-out, refused, not found. What arrived is kept for the
        next attempt.
    WeightsError
        If what arrived is not the checkpoint (nothing is kept), or the disk is full.
    StorageError
        If the folder cannot be written.
    """
    checkpoint = store.get(name)
    if checkpoint.is_embedded or checkpoint.url is None:
        raise InputError(f"{name} ships with the package", hint="There is nothing to download.")
    expected = _require_expected(checkpoint, sha256)
    target = store.make_folder() / checkpoint.file_name
    with _storage_errors(target.name):
        if target.is_file() and hash_file(target) == expected:
            if checkpoint.sha256 is None:
                record_digest(target, expected)
            return target
    _require_authorities()
    url = f"{mirror_url.rstrip('/')}/{checkpoint.file_name}" if mirror_url else checkpoint.url
    fetch_file(
        url,
        target,
        sha256=expected,
        size_bytes=checkpoint.size_bytes,
        keeps_digest=checkpoint.sha256 is None,
        progress=progress,
        timeout_s=timeout_s,
        attempts=attempts,
        sleep=sleep,
    )
    logger.info("downloaded and verified %s", name)
    return target


def fetch_file(
    url: str,
    target: Path,
    *,
    sha256: str,
    size_bytes: int | None = None,
    keeps_digest: bool = False,
    progress: Progress | None = None,
    timeout_s: tuple[float, float] = (10.0, 60.0),
    attempts: int = 3,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch one file of known digest, which is stored next to it if ``keeps_digest``.

    Other parameters and errors are those of `download_checkpoint`.
    """
    # The digest in the name keeps the rest of another version from being continued.
    part = target.with_name(f"{target.name}.{sha256[:8]}.part")
    for attempt in range(1, attempts + 1):
        try:
            with _storage_errors(target.name, part), requests.Session() as session:
                _fetch_into(session, url, part, size_bytes, progress, timeout_s)
            break
        except _Interrupted as error:
            if attempt == attempts:
                raise WeightsMissing(
                    f"{target.name} could not be downloaded: {error}",
                    received=urlsplit(url).hostname or "no host",
                    hint="Try again, it continues where it stopped; check the network, HTTPS_PROXY and "
                    "SAM2_MODELS_URL; or import an offline bundle.",
                ) from error.__cause__
            logger.info("attempt %d of %d: %s", attempt, attempts, error)
            sleep(float(2 ** (attempt - 1)))
    with _storage_errors(target.name, part):
        try:
            require_digest(hash_file(part), sha256, target.name)
        except WeightsError:
            part.unlink()
            raise
        put_checkpoint(part, target, sha256 if keeps_digest else None)


class _Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""


def _fetch_into(
    session: requests.Session,
    url: str,
    part: Path,
    size_bytes: int | None,
    progress: Progress | None,
    timeout_s: tuple[float, float],
) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if size_bytes is not None and have >= size_bytes:
        if have == size_bytes:
            return
        part.unlink()
        have = 0
    # A compressed transfer would make ranges count other bytes than the file's.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with session.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
            have, total = _read_status(response, part, have)
            if size_bytes is not None and total is not None and total != size_bytes:
                part.unlink(missing_ok=True)
                raise WeightsError(
                    f"the server offers another file than {part.name.rsplit('.', 2)[0]}",
                    received=f"{total} bytes instead of {size_bytes}",
                    hint="A proxy or mirror may return a page of its own; check SAM2_MODELS_URL.",
                )
            _require_space(part, total, have)
            with part.open("ab" if have else "wb") as file:
                for piece in response.iter_content(_CHUNK):
                    file.write(piece)
                    have += len(piece)
                    if size_bytes is not None and have > size_bytes:
                        break
                    if progress is not None:
                        progress(have, total)
                file.flush()
                os.fsync(file.fileno())
    except requests.Timeout as error:
        raise _Interrupted("the server did not respond in time") from error
    except requests.exceptions.SSLError as error:
        raise _Interrupted("the server's certificate is not trusted") from error
    except requests.exceptions.ProxyError as error:
        raise _Interrupted("the proxy refused") from error
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise _Interrupted("the connection failed or was cut") from error
    except requests.RequestException as error:
        raise _Interrupted(f"the request failed ({type(error).__name__})") from error
    whole = size_bytes if total is None else total
    if whole is not None and have < whole:
        raise _Interrupted(f"only {have} of {whole} bytes arrived")


def _read_status(response: requests.Response, part: Path, have: int) -> tuple[int, int | None]:
    """Where the body starts in the file, and the size of the whole."""
    status = response.status_code
    length = response.headers.get("Content-Length", "")
    if status == 206 and have:
        start, total = _parse_content_range(response.headers.get("Content-Range", ""))
        if start == have:
            return have, total
        part.unlink(missing_ok=True)
        raise _Interrupted("the server continued at another place")
    if status == 200:
        # The whole file, whether or not a range was requested.
        return 0, int(length) if length.isdigit() else None
    if status == 416 and have:
        part.unlink(missing_ok=True)
        raise _Interrupted("what was there could not be continued")
    reason = f"the server returned status {status}"
    if status in (408, 425, 429) or status >= 500:
        raise _Interrupted(reason)
    raise WeightsMissing(
        f"{part.name.rsplit('.', 2)[0]} could not be downloaded: {reason}",
        received=urlsplit(response.url).hostname or "no host",
        hint="Check SAM2_MODELS_URL and the network's rules, or import an offline bundle.",
    )


def _parse_content_range(text: str) -> tuple[int | None, int | None]:
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        return None, None
    return int(start), int(total) if total.isdigit() else None


def _require_expected(checkpoint: Checkpoint, given: str | None) -> str:
    wanted = require_sha256(given) if given else None
    if checkpoint.sha256 is None:
        if wanted is None:
            raise InputError(
                f"the SHA-256 of {checkpoint.name} is not known here, and nothing is downloaded unverified",
                hint=f"Get it from {checkpoint.source} and give --sha256 or SAM2_MODEL_SHA256.",
            )
        return wanted
    if wanted is not None and wanted != checkpoint.sha256:
        raise InputError(
            f"the SHA-256 given for {checkpoint.name} is not the known one",
            received=f"{wanted[:12]}..., known {checkpoint.sha256[:12]}...",
        )
    return checkpoint.sha256


def _require_authorities() -> None:
    """Refuse a file of certificates that is not there; requests would raise what looks like a full disk."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and not os.path.exists(path):
            raise InputError(
                f"the file of trusted certificates that {variable} names does not exist",
                hint=f"Correct {variable}, or unset it.",
            )


def _require_space(part: Path, total: int | None, have: int) -> None:
    if total is not None and total - have > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _storage_errors(name: str, *scraps: Path) -> Iterator[None]:
    """Turn trouble with the disk into ours; a full disk gets its scraps back."""
    try:
        yield
    except requests.RequestException:  # an OSError too, but not of the disk
        raise
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            for scrap in scraps:
                scrap.unlink(missing_ok=True)
            raise WeightsError(
                f"there is no room on the disk for {name}",
                hint="Free some, or set SAM2_MODEL_PATH to a folder on a larger disk.",
            ) from error
        raise StorageError(
            f"{name} cannot be written",
            received=error.strerror or type(error).__name__,
            hint="Set SAM2_MODEL_PATH to a folder you may write to.",
        ) from error
