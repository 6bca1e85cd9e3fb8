from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ctai_sam2.errors import InputError, StorageError, WeightsError, WeightsMissing
from ctai_sam2.models import bundle as bundle_module
from ctai_sam2.models.bundle import export_bundle, import_bundle
from ctai_sam2.models.registry import Checkpoint, ModelStore

A, B = b"first weights" * 1000, b"second weights" * 1000


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_store(folder: Path, *, filled: bool = True) -> ModelStore:
    common = {"config": "sam2_ct_nano", "licence": "none", "source": "here"}
    known = Checkpoint(name="a", file_name="a.pt", sha256=digest(A), **common)
    unknown = Checkpoint(name="b", file_name="b.pt", **common)
    folder.mkdir(exist_ok=True)
    if filled:
        (folder / "a.pt").write_bytes(A)
        (folder / "b.pt").write_bytes(B)
    return ModelStore(folder, checkpoints=[known, unknown])


@pytest.fixture
def source(tmp_path: Path) -> ModelStore:
    return make_store(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> ModelStore:
    return make_store(tmp_path / "target", filled=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_exported_is_imported(tmp_path: Path, source: ModelStore, target: ModelStore) -> None:
    bundle = export_bundle(["a", "b", "a"], source, tmp_path / "out" / "models.zip")
    assert import_bundle(bundle, target) == ["a", "b"]
    assert (target.folder / "a.pt").read_bytes() == A
    assert target.verify("a").verified is True
    assert target.verify("b").verified is True
    assert names(target.folder) == ["a.pt", "b.pt", "b.pt.sha256"]
    assert names(tmp_path / "out") == ["models.zip"]


def test_exporting_what_cannot_be_exported(tmp_path: Path, source: ModelStore) -> None:
    with pytest.raises(InputError, match="nothing to pack"):
        export_bundle([], source, tmp_path / "x.zip")
    with pytest.raises(InputError, match="ships with the package"):
        export_bundle(["sam2-ct-nano"], ModelStore(tmp_path), tmp_path / "x.zip")
    with pytest.raises(WeightsMissing):
        export_bundle(["sam2.1_hiera_tiny"], ModelStore(tmp_path), tmp_path / "x.zip")
    (source.folder / "a.pt").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="not the one"):
        export_bundle(["a"], source, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_a_disk_that_fails_while_exporting_leaves_no_bundle(
    tmp_path: Path, source: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module.zipfile.ZipFile, "write", refuse)
    with pytest.raises(StorageError, match="no space left"):
        export_bundle(["a"], source, tmp_path / "x.zip")
    assert [name for name in names(tmp_path) if name.startswith("x.zip")] == []


def write_bundle(
    path: Path,
    entries: list[dict[str, Any]],
    contents: dict[str, bytes],
    manifest: dict[str, Any] | None = None,
) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        content = {"format": "ctai-sam2-models/1", "files": entries, **(manifest or {})}
        bundle.writestr("manifest.json", json.dumps(content))
        for name, data in contents.items():
            bundle.writestr(name, data)
    return path


def entry(name: str, content: bytes, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "file_name": f"{name}.pt",
        "sha256": digest(content),
        "size_bytes": len(content),
        **changes,
    }


def deep_list(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("entries", "files", "manifest"),
    [
        ([entry("a", A, file_name="../../evil.pt")], {"../../evil.pt": A}, {}),
        ([entry("a", A, file_name="/tmp/evil.pt")], {"/tmp/evil.pt": A}, {}),
        ([entry("../../evil", A)], {"../../evil.pt": A}, {}),
        ([entry("stranger", A)], {"stranger.pt": A}, {}),
        ([entry("a", B)], {"a.pt": B}, {}),
        ([entry("b", A)], {"b.pt": B}, {}),
        ([entry("b", B, sha256="abc")], {"b.pt": B}, {}),
        ([entry("b", B, size_bytes="many")], {"b.pt": B}, {}),
        ([entry("b", B, size_bytes=10)], {"b.pt": B}, {}),
        ([entry("b", b"", size_bytes=-1)], {"b.pt": b""}, {}),
        ([entry("b", B, size_bytes=1e3)], {"b.pt": B}, {}),
        ([entry("b", B, size_bytes=10**400)], {"b.pt": B}, {}),
        ([entry("b", B, size_bytes=True)], {"b.pt": B}, {}),
        ([entry("b", B), entry("b", B)], {"b.pt": B}, {}),
        ([entry("b", B)], {"b.pt": B}, {"padding": " " * 2_000_000}),
        ([entry("b", B)], {"b.pt": B}, {"deep": deep_list(900)}),
        ([entry("b", B)], {}, {}),
        ([entry("b", B), entry("a", B)], {"a.pt": B, "b.pt": B}, {}),
        ([], {}, {"format": "something else"}),
        ([], {}, {"files": 3}),
        ([{}], {}, {}),
        (["text"], {}, {}),
    ],
)
def test_a_bundle_that_lies_is_refused_and_nothing_of_it_is_kept(
    tmp_path: Path, target: ModelStore, entries: Any, files: dict[str, bytes], manifest: dict[str, Any]
) -> None:
    before = names(tmp_path)
    bundle = write_bundle(tmp_path / "bundle.zip", entries, files, manifest)
    with pytest.raises(WeightsError):
        import_bundle(bundle, target)
    assert names(target.folder) == []
    assert names(tmp_path) == sorted([*before, "bundle.zip"])


@pytest.mark.parametrize(
    "spoil", [lambda _: b"", lambda _: b"text", lambda data: data[:300], lambda data: data[300:]]
)
def test_a_damaged_bundle_is_refused(
    tmp_path: Path, source: ModelStore, target: ModelStore, spoil: Any
) -> None:
    bundle = export_bundle(["a"], source, tmp_path / "x.zip")
    bundle.write_bytes(spoil(bundle.read_bytes()))
    with pytest.raises(WeightsError, match=r"x\.zip"):
        import_bundle(bundle, target)
    assert names(target.folder) == []


def test_a_flipped_byte_is_noticed(tmp_path: Path, source: ModelStore, target: ModelStore) -> None:
    bundle = export_bundle(["a"], source, tmp_path / "x.zip")
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.write_bytes(data)
    with pytest.raises(WeightsError):
        import_bundle(bundle, target)
    assert names(target.folder) == []


def test_more_than_the_disk_holds_is_refused_before_it_is_written(tmp_path: Path, target: ModelStore) -> None:
    bundle = write_bundle(tmp_path / "x.zip", [entry("b", B, size_bytes=1 << 60)], {"b.pt": B})
    with pytest.raises(StorageError, match="no room"):
        import_bundle(bundle, target)
    assert names(target.folder) == []


def test_no_bundle_at_all(tmp_path: Path, target: ModelStore) -> None:
    with pytest.raises(WeightsError, match="there is no bundle"):
        import_bundle(tmp_path / "gone.zip", target)


def test_a_name_in_a_bundle_that_is_no_text_is_damage(tmp_path: Path, target: ModelStore) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("ü", b"")  # noted as UTF-8
    data = (tmp_path / "x.zip").read_bytes().replace("ü".encode(), b"\xff\xff")
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        import_bundle(tmp_path / "x.zip", target)
