"""Carry checkpoints to a machine without network: one zip file with a manifest of digests."""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctai_sam2.errors import InputError, StorageError, WeightsError
from ctai_sam2.files.atomic import atomic_write
from ctai_sam2.models.registry import Checkpoint, ModelStore, put_checkpoint, require_digest

_MANIFEST = "manifest.json"
_FORMAT = "ctai-sam2-models/1"
_MANIFEST_LIMIT = 1 << 20
_MAX_CHECKPOINT_BYTES = 1 << 62
_CHUNK = 1 << 20


class _ManifestEntry(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str = Field(max_length=255)
    file_name: str = Field(max_length=255)
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    size_bytes: int = Field(ge=0, le=_MAX_CHECKPOINT_BYTES)


class _Manifest(BaseModel):
    model_config = ConfigDict(strict=True)

    format: str
    files: list[_ManifestEntry] = Field(max_length=1000)


_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)


def export_bundle(names: Iterable[str], store: ModelStore, target: str | Path) -> Path:
    """Pack checkpoints of the store into one file.

    Parameters
    ----------
    names : iterable of str
        Checkpoints to pack; each is verified first.
    store : ModelStore
        Where they lie.
    target : path
        The zip file to write; replaced only when the new one is complete.

    Raises
    ------
    InputError
        If a name is unknown or embedded, or there is none.
    WeightsMissing
        If a checkpoint is not on this machine.
    WeightsError
        If one is not what it claims to be.
    StorageError
        If the bundle cannot be written.
    """
    target = Path(target)
    chosen = [store.get(name) for name in dict.fromkeys(names)]
    if not chosen:
        raise InputError("there is nothing to pack", hint="Name at least one checkpoint.")
    for checkpoint in chosen:
        if checkpoint.is_embedded:
            raise InputError(f"{checkpoint.name} ships with the package", hint="It needs no bundle.")
        store.verify(checkpoint.name)
    entries = []
    for checkpoint in chosen:
        path = store.path_of(checkpoint)
        entries.append(
            {
                "name": checkpoint.name,
                "file_name": checkpoint.file_name,
                "sha256": store.digest(path),
                "size_bytes": path.stat().st_size,
                "licence": checkpoint.licence,
                "source": checkpoint.source,
            }
        )
    with (
        atomic_write(target) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as bundle,
    ):
        bundle.writestr(_MANIFEST, json.dumps({"format": _FORMAT, "files": entries}, indent=2))
        for checkpoint in chosen:
            bundle.write(store.path_of(checkpoint), checkpoint.file_name)
    return target


def import_bundle(source: str | Path, store: ModelStore) -> list[str]:
    """Unpack a bundle into the store: every file verified, or none taken.

    Only files that the registry names are taken, under the registry's file names. Where the registry knows
    a digest it counts; otherwise the manifest's does, and the bundle's author vouches for it.

    Parameters
    ----------
    source : path
        A file that `export_bundle` wrote.
    store : ModelStore
        Where the checkpoints go.

    Returns
    -------
    list of str
        Names of the checkpoints that are there now.

    Raises
    ------
    WeightsError
        If it is no bundle, is damaged, or holds something else than it says.
    StorageError
        If the store cannot be written.
    """
    source = Path(source)
    folder = store.make_folder()
    try:
        with (
            zipfile.ZipFile(source) as bundle,
            tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as scratch,
        ):
            arrived = []
            for checkpoint, digest, size_bytes in _read_manifest(bundle, store):
                path = Path(scratch) / checkpoint.file_name
                with bundle.open(checkpoint.file_name) as packed, path.open("wb") as file:
                    actual = _copy(packed, file, size_bytes)
                require_digest(actual, checkpoint.sha256 or digest, checkpoint.name)
                arrived.append((checkpoint, digest, path))
            for checkpoint, digest, path in arrived:
                put_checkpoint(path, store.path_of(checkpoint), None if checkpoint.sha256 else digest)
    except _DAMAGE as error:
        raise WeightsError(
            f"{source.name} is damaged or no bundle of checkpoints", hint="Copy it again."
        ) from error
    except FileNotFoundError as error:
        raise WeightsError(f"there is no bundle {source.name}") from error
    except StorageError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # the directory of a cut zip file points before its beginning
            raise WeightsError(f"{source.name} is damaged", hint="Copy it again.") from error
        raise StorageError(
            f"the bundle {source.name} cannot be unpacked",
            received=error.strerror or type(error).__name__,
            hint="Check the room on the disk and the rights of the folder for checkpoints.",
        ) from error
    return [checkpoint.name for checkpoint, _, _ in arrived]


def _read_manifest(bundle: zipfile.ZipFile, store: ModelStore) -> list[tuple[Checkpoint, str, int]]:
    with bundle.open(_MANIFEST) as file:
        text = file.read(_MANIFEST_LIMIT + 1)
    if len(text) > _MANIFEST_LIMIT:
        raise WeightsError(
            "the bundle's manifest is larger than any", received=f"over {_MANIFEST_LIMIT} bytes"
        )
    try:
        manifest = _Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise WeightsError(
            "the bundle's manifest cannot be read",
            received=".".join(map(str, first["loc"]))[:80] or first["type"],
        ) from None
    if manifest.format != _FORMAT:
        raise WeightsError(
            "the bundle has another format", received=manifest.format[:40], hint=f"Known: {_FORMAT}."
        )
    entries = [_read_entry(entry, store) for entry in manifest.files]
    if len({checkpoint.name for checkpoint, _, _ in entries}) != len(entries):
        raise WeightsError("the bundle's manifest names a checkpoint twice")
    return entries


def _read_entry(entry: _ManifestEntry, store: ModelStore) -> tuple[Checkpoint, str, int]:
    # Names in a bundle are untrusted text: only those that are registered mean a file here.
    checkpoint = store.find(entry.name)
    if checkpoint is None or checkpoint.is_embedded or entry.file_name != checkpoint.file_name:
        raise WeightsError("the bundle holds a checkpoint that is not known here", received=entry.name[:40])
    return checkpoint, entry.sha256.lower(), entry.size_bytes


def _copy(packed: Any, file: BinaryIO, size_bytes: int) -> str:
    """Copy no more than was promised, and digest it on the way."""
    if size_bytes > shutil.disk_usage(Path(file.name).parent).free:
        raise StorageError("there is no room on the disk for the bundle", received=f"{size_bytes} bytes")
    digest, left = hashlib.sha256(), size_bytes
    while left > 0 and (piece := packed.read(min(_CHUNK, left))):
        digest.update(piece)
        file.write(piece)
        left -= len(piece)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()
