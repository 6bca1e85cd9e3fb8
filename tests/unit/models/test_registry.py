from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ctai_sam2.errors import InputError, WeightsError, WeightsMissing
from ctai_sam2.models.registry import CHECKPOINTS, EMBEDDED, Checkpoint, ModelStore, embedded_folder
from ctai_sam2.models.sam2_network import NANO_CONFIG, OFFICIAL_CONFIGS

TINY = "sam2.1_hiera_tiny"


def make_store(tmp_path: Path, content: bytes | None = b"weights", **changes: object) -> ModelStore:
    checkpoint = Checkpoint(
        **{  # type: ignore[arg-type]
            "name": "model",
            "file_name": "model.pt",
            "config": "sam2_ct_nano",
            "licence": "none",
            "source": "here",
            "sha256": hashlib.sha256(b"weights").hexdigest(),
            **changes,
        }
    )
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    return ModelStore(tmp_path, checkpoints=[checkpoint])


def test_the_registry_is_consistent() -> None:
    assert (
        len({one.name for one in CHECKPOINTS})
        == len({one.file_name for one in CHECKPOINTS})
        == len(CHECKPOINTS)
    )
    for one in CHECKPOINTS:
        assert one.config in (*OFFICIAL_CONFIGS, NANO_CONFIG)
        assert one.licence
        assert Path(one.file_name).name == one.file_name
        assert one.is_embedded == (one.url is None)
        if one.url is not None:
            assert one.url.startswith("https://")
            assert one.url.endswith("/" + one.file_name)
        if one.sha256 is not None:
            assert len(bytes.fromhex(one.sha256)) == 32
            assert one.size_bytes


def test_every_checkpoint_of_meta_is_known() -> None:
    assert set(OFFICIAL_CONFIGS) < set(ModelStore().names)


def test_listing_reads_nothing_and_tells_what_is_there(tmp_path: Path) -> None:
    [status] = make_store(tmp_path).list_models()
    assert (status.path, status.detail) == (tmp_path / "model.pt", "on this machine")
    (tmp_path / "model.pt").unlink()
    [status] = make_store(tmp_path, None).list_models()
    assert (status.path, status.detail) == (None, "not on this machine")


def test_locating(tmp_path: Path) -> None:
    assert make_store(tmp_path).locate("model") == tmp_path / "model.pt"
    with pytest.raises(InputError, match="Known are"):
        make_store(tmp_path).locate("another")
    with pytest.raises(WeightsMissing, match="models download"):
        ModelStore(tmp_path).locate(TINY)


def test_the_embedded_model_lies_in_the_package_whatever_the_folder(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert store.path_of(store.get(EMBEDDED)).parent == embedded_folder()


def test_verifying(tmp_path: Path) -> None:
    assert make_store(tmp_path).verify("model").verified is True
    assert make_store(tmp_path, sha256=None).verify("model").verified is None
    with pytest.raises(WeightsError, match="not the one it claims to be"):
        make_store(tmp_path, b"other weights").verify("model")


def test_a_digest_is_read_again_when_the_file_changes(tmp_path: Path) -> None:
    store, path = make_store(tmp_path), tmp_path / "model.pt"
    before = store.digest(path)
    assert store.digest(path) == before
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(1, 1))
    assert store.digest(path) == hashlib.sha256(b"WEIGHTS").hexdigest() != before


def test_a_digest_of_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="cannot be read"):
        make_store(tmp_path).digest(tmp_path / "gone.pt")


def test_the_embedded_model_is_the_one_described() -> None:
    store = ModelStore()
    if not store.path_of(store.get(EMBEDDED)).is_file():
        pytest.skip("the embedded model has not been trained yet")
    assert store.verify(EMBEDDED).verified is True
