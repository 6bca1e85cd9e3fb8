from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ctai_sam2.errors import WeightsError
from ctai_sam2.io import write_volume_nifti
from ctai_sam2.models.dense_head import DENSE_CLASSES
from ctai_sam2.models.sam2_network import NANO_CONFIG
from ctai_sam2.training import pseudo_labels
from ctai_sam2.training.bank import LabelledImage
from ctai_sam2.training.dense_batches import as_bank_image, remap_densities
from ctai_sam2.training.dense_classes import bits
from ctai_sam2.training.dense_phantoms import draw_hard_phantom
from ctai_sam2.training.pseudo_labels import EVERY, load_unlabelled, look, settle
from ctai_sam2.types import CTVolume
from tests.fakes import save_random_checkpoint

SIDE = 12
NOTHING = np.zeros((SIDE, SIDE), bool)


def seen(*names: str, chance: float = 0.9) -> np.ndarray:
    """Chances of one view: a class for each third of the columns."""
    chances = np.full((len(DENSE_CLASSES), SIDE, SIDE), (1 - chance) / (len(DENSE_CLASSES) - 1))
    for part, name in enumerate(names):
        columns = slice(part * SIDE // len(names), (part + 1) * SIDE // len(names))
        chances[DENSE_CLASSES.index(name), :, columns] = chance
    return chances.astype(np.float32)


def one_click(**masks: np.ndarray) -> dict[str, np.ndarray]:
    return {"psoas_left": NOTHING, "psoas_right": NOTHING, "muscle": NOTHING} | masks


def test_a_class_is_settled_where_all_views_agree_and_stays_open_where_they_do_not() -> None:
    views = np.stack([seen("sat", "vat", "organ"), seen("sat", "organ", "organ")])
    codes = settle(views, [], one_click(), pixel_mm=1.0)
    assert (codes[:, :4] == bits("sat")).all()
    assert (codes[:, 4:8] == bits("vat", "organ")).all()
    assert (codes[:, 8:] == bits("organ")).all()


def test_what_no_neighbouring_slice_shows_is_left_open() -> None:
    views = np.stack([seen("sat", "organ")] * 2)
    around = [np.full((SIDE, SIDE), DENSE_CLASSES.index("sat"))] * 2
    codes = settle(views, around, one_click(), pixel_mm=1.0)
    assert (codes[:, :6] == bits("sat")).all()
    assert (codes[:, 6:] == EVERY).all()


def test_the_one_click_decides_what_is_psoas_and_vetoes_muscle() -> None:
    views = np.stack([seen("psoas", "disc", "wall")] * 2)
    left = NOTHING.copy()
    left[:8, :8] = True
    muscle = NOTHING.copy()
    muscle[:, :8] = True
    codes = settle(views, [], one_click(psoas_left=left, muscle=muscle), pixel_mm=1.0)
    # Disc of the head, psoas of the one click.
    assert (codes[:8, :8] == bits("psoas")).all()
    # Psoas of the head that the one click takes for another muscle, and muscle that it takes for none.
    assert (codes[8:, :4] == bits("psoas", "quadratus", "paraspinal")).all()
    assert (codes[:, 8:] == EVERY).all()


class Brightness(nn.Module):
    """A head for which everything bright is bone, the rest outside."""

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        bright = nn.functional.avg_pool2d(grey, 2)[:, 0] > 0.5
        logits = torch.full((len(grey), len(DENSE_CLASSES), *bright.shape[1:]), -20.0)
        logits[:, DENSE_CLASSES.index("bone")] = torch.where(bright, 20.0, -20.0)
        logits[:, 0] = torch.where(bright, -20.0, 20.0)
        return logits


def test_views_of_another_size_or_mirrored_are_put_back_in_place() -> None:
    hu = np.full((96, 96), -1000, np.int16)
    hu[30:50, 20:40] = 1000
    views = look(Brightness(), hu)
    assert views.shape == (4, len(DENSE_CLASSES), 96, 96)
    np.testing.assert_allclose(views.sum(axis=1), 1, atol=1e-4)
    for view in views:
        found = view.argmax(axis=0) == DENSE_CLASSES.index("bone")
        assert 2 * (found & (hu > 0)).sum() / (found.sum() + (hu > 0).sum()) > 0.9


def test_bending_the_scale_of_densities_keeps_their_order() -> None:
    hu = np.linspace(-1024, 1500, 60, dtype=np.float32).reshape(6, 10)
    moved = remap_densities(hu, rng=np.random.default_rng(3))
    assert (np.diff(moved.ravel()) >= 0).all()
    assert np.abs(moved - hu).max() > 5


def study_of_phantoms(path: Path, count: int) -> Path:
    hu = np.stack([draw_hard_phantom(size_px=256, seed=5, number=3, kind="ordinary")[0]] * count)
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    return write_volume_nifti(path, CTVolume(hu_zyx=hu, affine=affine))


def test_slices_of_a_study_are_labelled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_labels, "_MOST_DOUBT", 1.0)
    study = study_of_phantoms(tmp_path / "study.nii.gz", 1)
    (first,) = load_unlabelled(study, cache=tmp_path / "bank", size_px=256)
    assert first.hu.shape == first.codes.shape == (256, 256)
    settled = np.bitwise_count(first.codes) == 1
    assert 0.6 < settled.mean() < 1
    assert (first.codes[0, 0]) == bits("outside")
    assert (first.codes == bits("psoas")).sum() > 100
    # The second time they are read.
    monkeypatch.setattr(pseudo_labels, "label_slices", None)
    (again,) = load_unlabelled(study, cache=tmp_path / "bank", size_px=256)
    assert np.array_equal(first.codes, again.codes)


def test_two_studies_of_one_name_have_labels_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_labels, "label_slices", lambda *_, **__: iter(()))
    for patient, count in (("a", 1), ("b", 2)):
        (tmp_path / patient).mkdir()
        study = study_of_phantoms(tmp_path / patient / "Erika.nii.gz", count)
        assert load_unlabelled(study, cache=tmp_path / "bank", size_px=256) == []
    names = [path.name for path in (tmp_path / "bank").iterdir()]
    assert len(names) == 2
    assert not any("Erika" in name for name in names)


def test_weights_without_a_dense_head_label_nothing(tmp_path: Path) -> None:
    weights = save_random_checkpoint(tmp_path / "none.pt", NANO_CONFIG)
    with pytest.raises(WeightsError, match="no dense head"):
        load_unlabelled(tmp_path, weights=weights, cache=tmp_path)


def test_a_held_out_study_is_not_labelled(
    tmp_path: Path, hard_bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctai_sam2.training import commands
    from ctai_sam2.training.__main__ import main

    asked = []

    def label(study: Path, **_: Any) -> list[LabelledImage]:
        asked.append(study.name)
        return [
            as_bank_image(np.zeros((64, 64), np.int16), np.full((64, 64), EVERY, np.uint16), "unlabelled")
        ]

    monkeypatch.setattr(commands, "load_unlabelled", label)
    arguments = ["dense", "--out", str(tmp_path / "run"), "--schedule", "smoke", "--workers", "0"]
    arguments += ["--bank", str(hard_bank), "--unlabelled", "anna", "bert", "--fold", "anna"]
    assert main(arguments) == 0
    assert sorted(asked) == ["anna", "bert", "bert"]
