"""Settings from the environment: one class, prefix ``SAM2_``, ``.env`` read.

Every field's description is its documentation; `settings_table` turns the class
into the table that the manual shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ctai_sam2.errors import InputError

PREFIX = "SAM2_"


class Settings(BaseSettings):
    """What a user or an administrator may set; every field is the variable ``SAM2_<NAME>``.

    Read from keyword arguments, then the environment, then ``.env`` in the working directory.
    The names of the original system are kept.

    Raises
    ------
    InputError
        If a value cannot be used; names the variable, and never shows a secret.

    Examples
    --------
    >>> Settings(_env_file=None, device="cpu").device
    'cpu'
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        env_ignore_empty=True,
    )

    enabled: bool = Field(True, description="Whether one-click segmentation is offered at all.")
    model: str = Field(
        "sam2-ct-nano",
        description="Named checkpoint, as `ctai-sam2 models list` shows it; "
        "with a checkpoint file of one's own, the model it derives from.",
    )
    model_path: Path | None = Field(
        None,
        description="A checkpoint file to use for the model, or the folder that holds checkpoints. "
        "Default: the user's data folder.",
    )
    model_sha256: str | None = Field(
        None,
        description="Expected SHA-256 of the checkpoint; needed to download one whose hash is unknown here.",
    )
    model_config_file: Path | None = Field(
        None, description="A SAM2 model configuration (YAML) for a checkpoint of one's own."
    )
    models_url: str | None = Field(
        None,
        description="Mirror to download checkpoints from: an http(s) folder of the original file names.",
    )
    device: str = Field(
        "auto",
        description="auto (CUDA, else Apple MPS, else CPU), cpu, cuda, cuda:N or mps.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of the image encoder; auto is bfloat16 on CUDA that has it, else float32.",
    )
    engine: Literal["torch", "openvino", "auto"] = Field(
        "torch",
        description="What computes the network on a CPU; auto is OpenVINO where the extra fast-cpu is "
        "installed. It is taken only where its masks are those of PyTorch.",
    )
    num_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of torch in this process; unset leaves torch's own choice.",
    )
    max_embeddings: int = Field(
        16, ge=1, le=4096, description="Image embeddings kept in memory, at 16.8 MB each; smaller ones more."
    )
    confidence_threshold: float = Field(
        0.5, ge=0, le=1, description="Confidence below which a mask is flagged for review."
    )
    cache_dir: Path | None = Field(
        None, description="Folder of the prediction cache. Default: the user's cache folder."
    )
    cache_expire_hours: float = Field(
        24, gt=0, le=24 * 365, description="Age in hours after which a cached prediction is computed again."
    )
    cache_max_mb: float = Field(512, gt=0, description="Maximum size of the prediction cache in MB.")
    cache_memory_mb: float = Field(
        64, ge=1, description="Maximum size in MB of the masks of the prediction cache held in memory."
    )
    editor_keys: Path | None = Field(
        None,
        description="File of the keys that were changed in the editors. Default: in the user's "
        "configuration folder.",
    )
    service_url: str | None = Field(
        None,
        description="Address of a segmentation service, or several separated by commas: the first that is "
        "available is used. Unset means none is used.",
    )
    prefer: Literal["service", "local"] = Field(
        "service",
        description="Which is tried first where a service is named: the service or the local model.",
    )
    api_key: SecretStr | None = Field(
        None, description="Key the service requires; mandatory when it listens beyond this machine."
    )
    allow_plain_http: bool = Field(
        False,
        description="Whether slices and key may travel unencrypted (http://) to a service on another "
        "machine, for a network that you trust.",
    )
    request_timeout: float = Field(
        30,
        gt=0,
        le=3600,
        description="Seconds the service may take for a response; the client waits 5 s longer.",
    )
    max_concurrency: int = Field(
        2, ge=1, le=256, description="Predictions the service runs at the same time."
    )
    queue_length: int = Field(
        32,
        ge=0,
        le=10_000,
        description="Requests that may wait in the service; further ones are refused (429).",
    )
    batch_size: int = Field(
        1, ge=1, le=64, description="Slices embedded together by the service where a GPU is used."
    )
    host: str = Field("127.0.0.1", description="Address the service listens on.")
    allowed_hosts: str | None = Field(
        None,
        description="Names, separated by commas, by which a service without a key may be reached, and whose "
        "web pages may use it, in addition to this machine's own; * for any.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port the service listens on; 0 takes a free one.")
    max_body_mb: float = Field(32, gt=0, le=2048, description="Size in MB of a request the service takes.")
    max_pixels: int = Field(
        4096 * 4096, ge=64, le=4096 * 4096, description="Pixels of an image the service takes."
    )
    max_points: int = Field(1024, ge=1, le=1024, description="Points the service takes in one prompt.")
    bodies_mb: float = Field(
        64, gt=0, description="Size in MB of all the requests together that the service keeps in memory."
    )
    max_connections: int = Field(
        512,
        ge=1,
        le=65_536,
        description="Connections the service keeps open; beyond, the one silent for longest is closed.",
    )
    min_upload_kb_s: float = Field(
        16, gt=0, description="Rate in kB/s below which the service gives up on a body, after 5 s."
    )
    decode_timeout: float = Field(
        5, gt=0, le=3600, description="Processor seconds that the service lets the decoding of an image take."
    )
    decode_memory_mb: float = Field(
        512, ge=64, description="Memory in MB the service lets the decoding of an image take (on Linux)."
    )
    decode_workers: int = Field(
        2, ge=1, le=64, description="Processes in which the service decodes images that may take long."
    )
    image_store_mb: float = Field(
        256, gt=0, description="Size in MB of the decoded images the service keeps for further clicks."
    )

    def __init__(self, **values: Any) -> None:
        # Unknown lines of a .env file belong to other programs; an unknown argument is a slip.
        unknown = [name for name in values if name not in type(self).model_fields and name[0] != "_"]
        if unknown:
            raise InputError(
                "there is no such setting",
                received=", ".join(unknown),
                hint=f"Settings are {', '.join(type(self).model_fields)}.",
            )
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(error) from None
        except (UnicodeDecodeError, OSError) as error:
            raise InputError(
                "the .env file cannot be read", received=type(error).__name__, hint="Save it as UTF-8 text."
            ) from None

    @property
    def service_urls(self) -> tuple[str, ...]:
        """The addresses in ``service_url``."""
        return tuple(self.service_url.split(",")) if self.service_url else ()

    @property
    def allowed_host_names(self) -> tuple[str, ...]:
        """The names in ``allowed_hosts``, in small letters."""
        names = (self.allowed_hosts or "").lower().split(",")
        return tuple(name.strip() for name in names if name.strip())

    @field_validator("service_url")
    @classmethod
    def _require_plain_urls(cls, value: str | None) -> str | None:
        if value is None:
            return None
        urls = [_plain_url(part.strip()) for part in value.split(",") if part.strip()]
        if not urls:
            raise ValueError("must be an address beginning with http:// or https://")
        return ",".join(dict.fromkeys(urls))

    @field_validator("models_url")
    @classmethod
    def _require_plain_url(cls, value: str | None) -> str | None:
        return None if value is None else _plain_url(value)

    @field_validator("host")
    @classmethod
    def _require_host(cls, value: str) -> str:
        if not value.strip() or any(character in value for character in "/ @"):
            raise ValueError("must be an address or a name without scheme and port")
        return value.strip()

    @field_validator("device")
    @classmethod
    def _require_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value.strip().lower()):
            raise ValueError(f"{value!r} is none of auto, cpu, cuda, cuda:N, mps")
        return value.strip().lower()

    @field_validator("model")
    @classmethod
    def _require_name(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must name a model")
        return value.strip()

    @field_validator("model_sha256")
    @classmethod
    def _require_sha256(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch("[0-9a-fA-F]{64}", value.strip()):
            raise ValueError("a SHA-256 is 64 hexadecimal digits")
        return None if value is None else value.strip().lower()


def list_settings() -> list[tuple[str, str, str, str]]:
    """Every setting as (variable, values, default, description), in the order of the class.

    Examples
    --------
    >>> list_settings()[0][:3]
    ('SAM2_ENABLED', 'true or false', 'true')
    """
    rows = []
    for name, info in Settings.model_fields.items():
        default = "" if info.default is None else str(info.default)
        if isinstance(info.default, bool):
            default = default.lower()
        rows.append((PREFIX + name.upper(), _describe_type(info.annotation), default, info.description or ""))
    return rows


def settings_table() -> str:
    """Write the settings as a Markdown table, for the manual."""
    lines = ["| variable | value | default | meaning |", "|---|---|---|---|"]
    for variable, kind, default, description in list_settings():
        lines.append(f"| `{variable}` | {kind} | {f'`{default}`' if default else 'unset'} | {description} |")
    return "\n".join(lines) + "\n"


def _plain_url(value: str) -> str:
    """Check an address; return it without a slash at its end."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address beginning with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password; use SAM2_API_KEY, or ~/.netrc for a mirror")
    return value.rstrip("/")


def _explain(error: ValidationError) -> InputError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    problem = str(first["msg"]).removeprefix("Value error, ")
    described = {variable: description for variable, _, _, description in list_settings()}
    variable = PREFIX + name.upper()
    return InputError(
        f"the setting {variable} cannot be used: {problem[:1].lower()}{problem[1:]}",
        hint=f"Meaning of {variable}: {described.get(variable, 'see the table of settings')}",
    )


def _describe_type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(str(value) for value in get_args(annotation))
    names = {bool: "true or false", int: "whole number", float: "number", Path: "path", SecretStr: "secret"}
    inner: Iterable[Any] = get_args(annotation) or (annotation,)
    return next((names.get(kind, "text") for kind in inner if kind is not type(None)), "text")
