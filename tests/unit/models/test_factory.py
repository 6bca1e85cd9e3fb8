from __future__ import annotations

from pathlib import Path

import pytest

from ctai_sam2.errors import InputError, Unavailable
from ctai_sam2.models import CachedSegmenter, LocalSegmenter, download, open_segmenter
from ctai_sam2.models.factory import cache_folder, download_model, open_store
from ctai_sam2.settings import Settings
from ctai_sam2.types import Prompt
from tests.fakes import make_image, save_random_checkpoint


def make_settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(_env_file=None, cache_dir=tmp_path / "cache", device="cpu", **values)


def test_auto_caches_and_names_the_backend(tmp_path: Path) -> None:
    own = save_random_checkpoint(tmp_path / "own.pt", "sam2_ct_nano")
    settings = make_settings(tmp_path, model_path=own)
    for is_kept in (False, True):
        with open_segmenter(settings=settings) as segmenter:
            assert isinstance(segmenter, CachedSegmenter)
            prediction = segmenter.predict(make_image(), Prompt.point(40, 48))
        assert (prediction.backend, prediction.cached) == ("local", is_kept)
        assert prediction.identity.name == "own"


def test_local_is_bare(tmp_path: Path) -> None:
    with open_segmenter("local", make_settings(tmp_path)) as segmenter:
        assert isinstance(segmenter, LocalSegmenter)
    assert not (tmp_path / "cache").exists()


def test_a_named_model_is_looked_for_in_the_folder_of_the_settings(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, model="sam2.1_hiera_tiny", model_path=tmp_path)
    assert open_store(settings).folder == tmp_path
    with open_segmenter(settings=settings) as segmenter:
        assert "models download" in segmenter.health().detail
        with pytest.raises(
            Unavailable, match=r"local: the checkpoint sam2\.1_hiera_tiny is not on this machine"
        ):
            segmenter.predict(make_image(), Prompt.point(1, 1))


def test_a_missing_file_of_ones_own_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, model_path=tmp_path / "gone.pt")
    with open_segmenter(settings=settings) as segmenter:
        assert "gone.pt" in segmenter.health().detail


def test_switched_off(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="switched off"):
        open_segmenter(settings=make_settings(tmp_path, enabled=False))


@pytest.mark.parametrize("kind", ["gpu", ""])
def test_an_unknown_kind_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="auto, local, remote"):
        open_segmenter(kind, make_settings(tmp_path))  # type: ignore[arg-type]


def test_an_unknown_model_is_refused_with_the_names_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sam2-ct-nano"):
        open_segmenter(settings=make_settings(tmp_path, model="sam9"))


def test_the_cache_folder_is_the_one_of_the_settings(tmp_path: Path) -> None:
    assert cache_folder(make_settings(tmp_path)) == tmp_path / "cache"
    assert cache_folder(Settings(_env_file=None, cache_dir=None)).name == "answers"


@pytest.mark.parametrize(("name", "is_given"), [("medsam2", True), ("sam2.1_hiera_tiny", False)])
def test_the_digest_of_the_settings_counts_only_for_their_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_given: bool
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(
        download, "download_checkpoint", lambda *_, **options: asked.append(options) or tmp_path
    )
    settings = make_settings(
        tmp_path, model="medsam2", model_sha256="a" * 64, models_url="http://mirror.invalid/m/"
    )
    download_model(name, settings)
    assert asked[0]["sha256"] == ("a" * 64 if is_given else None)
    assert asked[0]["mirror_url"] == "http://mirror.invalid/m"
