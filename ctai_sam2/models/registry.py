"""Named checkpoints: what they are, where they are stored, and whether they are what they claim to be.

Nothing here touches the network; `ctai_sam2.models.download` does, on request.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from ctai_sam2.errors import InputError, StorageError, WeightsError, WeightsMissing
from ctai_sam2.files.atomic import write_text
from ctai_sam2.files.json_text import parse_json

EMBEDDED = "sam2-ct-nano"
"""Name of the model that ships with the package."""

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint known by name.

    Parameters
    ----------
    name : str
        What settings and commands call it.
    file_name : str
        Name of its file, in whatever folder.
    config : str
        Model configuration, as `ctai_sam2.models.sam2_network.build_sam2` takes it.
    licence, source : str
        Terms of the weights, and where they come from.
    image_size : int, optional
        Side in pixels at which the encoder runs, where it differs from the configuration's.
    url : str, optional
        Address to download from; None for the embedded model.
    sha256 : str, optional
        Hex digest of the file; None where it is not known here, so that the user must give it.
    size_bytes : int, optional
        Size of the file.
    """

    name: str
    file_name: str
    config: str
    licence: str
    source: str
    image_size: int | None = None
    url: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def is_embedded(self) -> bool:
        """True for the model that ships with the package."""
        return self.name == EMBEDDED


@dataclass(frozen=True, kw_only=True)
class ModelStatus:
    """A checkpoint and the state of its file on this machine.

    Parameters
    ----------
    checkpoint : Checkpoint
        What it is.
    path : Path, optional
        Its path; None if it is not here.
    verified : bool, optional
        Whether the file's digest is the expected one; None if it was not checked or none is known.
    detail : str
        One sentence for a person.
    """

    checkpoint: Checkpoint
    path: Path | None
    verified: bool | None
    detail: str


def _meta(size: str, sha256: str, size_bytes: int) -> Checkpoint:
    name = f"sam2.1_hiera_{size}"
    return Checkpoint(
        name=name,
        file_name=f"{name}.pt",
        config=name,
        licence="Apache-2.0",
        source="https://github.com/facebookresearch/sam2",
        url=f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/{name}.pt",
        sha256=sha256,
        size_bytes=size_bytes,
    )


_TINY = "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"
_SMALL = "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"
_BASE_PLUS = "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"
_LARGE = "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"

# Meta publishes no digests; these are the ones that independent projects pin for the same addresses.
CHECKPOINTS: tuple[Checkpoint, ...] = (
    Checkpoint(
        name=EMBEDDED,
        file_name="sam2_ct_nano.safetensors",
        config="sam2_ct_nano",
        licence="Apache-2.0",
        source="trained by this project; see its model card",
    ),
    _meta("tiny", _TINY, 156_008_466),
    _meta("small", _SMALL, 184_416_285),
    _meta("base_plus", _BASE_PLUS, 323_606_802),
    _meta("large", _LARGE, 898_083_611),
    Checkpoint(
        name="medsam2",
        file_name="MedSAM2_latest.pt",
        config="sam2.1_hiera_tiny",
        image_size=512,
        licence="See its model page; not checked here",
        source="https://huggingface.co/wanglab/MedSAM2",
        url="https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
    ),
)


class ModelStore:
    """The folder of checkpoints on this machine, and the registry of names.

    Parameters
    ----------
    folder : Path, optional
        Folder of downloaded and imported files; the user's data folder when omitted.
    checkpoints : sequence of Checkpoint, optional
        The registry; all known ones when omitted.
    """

    def __init__(
        self, folder: str | Path | None = None, *, checkpoints: Iterable[Checkpoint] = CHECKPOINTS
    ) -> None:
        self.folder = Path(folder).expanduser() if folder else _default_folder()
        self._checkpoints = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the embedded model first."""
        return tuple(self._checkpoints)

    def find(self, name: str) -> Checkpoint | None:
        """Return the checkpoint of that name, or None."""
        return self._checkpoints.get(name)

    def find_file_name(self, file_name: str) -> Checkpoint | None:
        """Return the checkpoint whose file is called so, or None."""
        return next((one for one in self._checkpoints.values() if one.file_name == file_name), None)

    def get(self, name: str) -> Checkpoint:
        """Return the checkpoint of that name.

        Raises
        ------
        InputError
            If there is none.
        """
        found = self.find(name)
        if found is None:
            raise InputError(
                "no checkpoint of that name is known",
                received=name,
                hint=f"Known are {', '.join(self.names)}.",
            )
        return found

    def path_of(self, checkpoint: Checkpoint) -> Path:
        """Path of the checkpoint's file, whether or not it exists."""
        return (
            embedded_folder() / checkpoint.file_name
            if checkpoint.is_embedded
            else self.folder / checkpoint.file_name
        )

    def locate(self, name: str) -> Path:
        """Find the checkpoint's file without reading it.

        Raises
        ------
        InputError
            If no checkpoint of that name is known.
        WeightsMissing
            If its file is not on this machine; says how to get it.
        """
        checkpoint = self.get(name)
        path = self.path_of(checkpoint)
        if not path.is_file():
            if checkpoint.is_embedded:
                hint = "The package was installed without it; install it again."
            else:
                hint = f"Run ctai-sam2 models download {name}, or import an offline bundle."
            raise WeightsMissing(f"the checkpoint {name} is not on this machine", hint=hint)
        return path

    def require_file(self, path: Path, name: str) -> Path:
        """Check that a checkpoint given as a file is there.

        Raises
        ------
        WeightsMissing
            If there is no such file.
        """
        if not path.is_file():
            raise WeightsMissing(
                f"there is no checkpoint file {path.name}", received=name, hint="Check SAM2_MODEL_PATH."
            )
        return path

    def expected_sha256(self, checkpoint: Checkpoint) -> str | None:
        """Return the digest the file must have: the registry's, else the one it came with."""
        if checkpoint.is_embedded:
            recorded = embedded_card().get("sha256")
            return require_sha256(recorded) if isinstance(recorded, str) else None
        if checkpoint.sha256 is not None:
            return checkpoint.sha256
        record = digest_record(self.path_of(checkpoint))
        if not record.is_file():
            return None
        try:
            text = record.read_text(encoding="ascii", errors="replace")
            return require_sha256(text[:64])
        except (OSError, InputError) as error:
            raise WeightsError(
                f"the stored SHA-256 of {checkpoint.name} cannot be read",
                hint="Download or import the checkpoint again.",
            ) from error

    def digest(self, path: Path) -> str:
        """SHA-256 of a file as hex; read once, and again only if size or time of change differ.

        Raises
        ------
        WeightsMissing
            If the file cannot be read.
        """
        try:
            state = path.stat()
            key = (str(path), state.st_size, state.st_mtime_ns)
            with self._lock:
                known = self._digests.get(key)
            if known is None:
                known = hash_file(path)
                with self._lock:
                    self._digests[key] = known
        except OSError as error:
            raise WeightsMissing(
                f"the checkpoint {path.name} cannot be read", received=type(error).__name__
            ) from error
        return known

    def verify(self, name: str) -> ModelStatus:
        """Read the whole file and compare its digest.

        Raises
        ------
        InputError
            If no checkpoint of that name is known.
        WeightsMissing
            If its file is not on this machine.
        WeightsError
            If the file is not the one it claims to be.
        """
        checkpoint, path = self.get(name), self.locate(name)
        expected, actual = self.expected_sha256(checkpoint), hash_file(path)
        if expected is None:
            detail = f"No expected SHA-256 is known; the file has {actual}."
            return ModelStatus(checkpoint=checkpoint, path=path, verified=None, detail=detail)
        require_digest(actual, expected, name)
        return ModelStatus(
            checkpoint=checkpoint, path=path, verified=True, detail=f"SHA-256 {actual} as expected."
        )

    def list_models(self) -> list[ModelStatus]:
        """Tell of every known checkpoint whether it is here; no file is read."""
        rows = []
        for checkpoint in self._checkpoints.values():
            path: Path | None = self.path_of(checkpoint)
            if path is not None and path.is_file():
                detail = "embedded in the package" if checkpoint.is_embedded else "on this machine"
            else:
                path, detail = None, "not on this machine"
            rows.append(ModelStatus(checkpoint=checkpoint, path=path, verified=None, detail=detail))
        return rows

    def make_folder(self) -> Path:
        """Create the folder if needed.

        Raises
        ------
        StorageError
            If it cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                "the folder for checkpoints cannot be created",
                received=type(error).__name__,
                hint="Set SAM2_MODEL_PATH to a folder you may write to.",
            ) from error
        return self.folder


def hash_file(path: Path) -> str:
    """SHA-256 of a file as lower-case hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def require_sha256(text: str) -> str:
    """Check that a text is a SHA-256 and return it in lower case.

    Raises
    ------
    InputError
        If it is not 64 hexadecimal digits.

    Examples
    --------
    >>> require_sha256("AB" * 32)[:4]
    'abab'
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise InputError("a SHA-256 is 64 hexadecimal digits", received=f"{len(text)} characters")
    return text.strip().lower()


def require_digest(actual: str, expected: str, name: str) -> None:
    """Compare two digests.

    Raises
    ------
    WeightsError
        If they differ.
    """
    if actual != expected:
        raise WeightsError(
            f"the checkpoint {name} is not the one it claims to be",
            received=f"sha256 {actual[:12]}..., expected {expected[:12]}...",
            hint="Delete it and download or import it again; if that fails too, ask where it comes from.",
        )


def digest_record(path: Path) -> Path:
    """Path, next to a file, of the digest stored for it where the registry has none."""
    return path.with_name(path.name + ".sha256")


def record_digest(path: Path, sha256: str) -> None:
    """Store the digest of a file next to it.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_text(digest_record(path), f"{sha256}  {path.name}\n")


def put_checkpoint(source: Path, target: Path, sha256: str | None) -> None:
    """Move a complete, verified file to a checkpoint's place; store its digest unless that is None.

    Wherever this is interrupted, no digest stands next to a file that has another one.

    Raises
    ------
    OSError
        If it cannot be moved.
    StorageError
        If the digest cannot be written.
    """
    digest_record(target).unlink(missing_ok=True)
    os.replace(source, target)
    if sha256 is not None:
        record_digest(target, sha256)


def embedded_folder() -> Path:
    """Return the package's folder of embedded weights."""
    return Path(str(resources.files("ctai_sam2.models"))) / "embedded"


@cache
def embedded_card() -> dict[str, Any]:
    """Read the card next to the embedded weights: digest, image size, training; empty if there is none.

    Raises
    ------
    WeightsError
        If it cannot be read.
    """
    path = embedded_folder() / "sam2_ct_nano.json"
    if not path.is_file():
        return {}
    try:
        card = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path.name} of the embedded model cannot be read", hint="Install again."
        ) from error
    return card if isinstance(card, dict) else {}


def _default_folder() -> Path:
    return Path(platformdirs.user_data_dir("ctai_sam2", appauthor=False)) / "models"
