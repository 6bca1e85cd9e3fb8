from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctai_sam2.errors import InputError
from ctai_sam2.settings import PREFIX, Settings, list_settings, settings_table


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_names_of_the_original_system_are_kept() -> None:
    original = {
        "SAM2_ENABLED",
        "SAM2_SERVICE_URL",
        "SAM2_MODEL_PATH",
        "SAM2_DEVICE",
        "SAM2_REQUEST_TIMEOUT",
        "SAM2_CACHE_EXPIRE_HOURS",
        "SAM2_CONFIDENCE_THRESHOLD",
        "SAM2_BATCH_SIZE",
    }
    assert original < {variable for variable, *_ in list_settings()}


def test_defaults() -> None:
    settings = Settings()
    assert settings.enabled
    assert settings.model == "sam2-ct-nano"
    assert (settings.cache_expire_hours, settings.request_timeout) == (24, 30)


def test_keywords_beat_the_environment_and_that_beats_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("SAM2_MODEL=medsam2\nSAM2_DEVICE=cuda:1\nSAM2_BATCH_SIZE=3\nOTHER=1\n")
    monkeypatch.setenv("SAM2_DEVICE", "CPU")
    monkeypatch.setenv("SAM2_BATCH_SIZE", "2")
    settings = Settings(batch_size=1)
    assert (settings.model, settings.device, settings.batch_size) == ("medsam2", "cpu", 1)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_SERVICE_URL", "")
    assert Settings().service_url is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SAM2_ENABLED", "perhaps"),
        ("SAM2_DEVICE", "tpu"),
        ("SAM2_DEVICE", "cuda:x"),
        ("SAM2_DTYPE", "float8"),
        ("SAM2_REQUEST_TIMEOUT", "soon"),
        ("SAM2_REQUEST_TIMEOUT", "-1"),
        ("SAM2_REQUEST_TIMEOUT", "nan"),
        ("SAM2_CACHE_EXPIRE_HOURS", "0"),
        ("SAM2_CACHE_EXPIRE_HOURS", "inf"),
        ("SAM2_CONFIDENCE_THRESHOLD", "1.5"),
        ("SAM2_BATCH_SIZE", "0"),
        ("SAM2_MAX_CONCURRENCY", "two"),
        ("SAM2_NUM_THREADS", "0"),
        ("SAM2_SERVICE_URL", "ftp://host"),
        ("SAM2_SERVICE_URL", "host:8000"),
        ("SAM2_SERVICE_URL", "http://user:secret@host"),
        ("SAM2_MODELS_URL", "/a/folder"),
        ("SAM2_MODEL_SHA256", "abc"),
        ("SAM2_MODEL", "  "),
    ],
)
def test_a_wrong_value_names_the_variable_and_its_meaning(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=variable) as caught:
        Settings()
    assert "Meaning of" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM2_API_KEY", "very-private")
    settings = Settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "very-private"
    assert "very-private" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().device = "cuda"  # type: ignore[misc]


def test_a_file_that_is_no_text_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SAM2_MODEL=\xff\xfe\x00")
    with pytest.raises(InputError, match=r"\.env"):
        Settings()


def test_every_setting_is_described_in_the_table() -> None:
    table = settings_table()
    for variable, kind, _, description in list_settings():
        assert len(description) > 20
        assert f"| `{variable}` | {kind} |" in table
    assert table.count("\n") == len(Settings.model_fields) + 2
