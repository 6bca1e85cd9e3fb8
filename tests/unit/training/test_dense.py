from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctai_sam2.errors import InputError
from ctai_sam2.models.dense_head import DENSE_CLASSES, DENSE_PREFIX, DENSE_ZOOM
from ctai_sam2.phantom import FAT_STREAK, Label
from ctai_sam2.segmentation.quality import NumberEvidence, Trust
from ctai_sam2.training import bank, dense_trust
from ctai_sam2.training.__main__ import main
from ctai_sam2.training.dense_batches import (
    DenseBatches,
    as_bank_image,
    read_partial_case,
    recolour,
    spine_xy,
)
from ctai_sam2.training.dense_classes import allowed_classes, bits, label_table
from ctai_sam2.training.dense_export import add_dense_head
from ctai_sam2.training.dense_phantoms import (
    FURTHER_KINDS,
    HELD_BACK_KIND,
    KINDS,
    draw_hard_phantom,
    hard_parameters,
    load_hard_bank,
)
from ctai_sam2.training.dense_trainer import DENSE_SCHEDULES, DenseTrainer, dense_loss
from ctai_sam2.training.dense_trust import (
    Evidence,
    bound_trust,
    fit_trust,
    judge_confidence,
    leave_patients_out,
)


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray]:
    return draw_hard_phantom(size_px=96, seed=0, number=1, kind="thin")


def test_every_phantom_label_has_a_class(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    table = label_table()
    assert DENSE_CLASSES[table[Label.PSOAS_LEFT]] == "psoas"
    assert DENSE_CLASSES[table[Label.PSOAS_LEFT | FAT_STREAK]] == "psoas"
    assert DENSE_CLASSES[table[Label.KIDNEY_LEFT]] == "organ"
    for label in Label:
        if label not in (Label.AIR, Label.TABLE_SHELL, Label.TABLE_FOAM):
            assert DENSE_CLASSES[table[label]] != "outside" or label.name.startswith("ARM_"), label


@pytest.mark.parametrize("kind", [*KINDS, *FURTHER_KINDS, HELD_BACK_KIND])
def test_a_phantom_of_each_kind_is_decided_by_its_seed(kind: str) -> None:
    one, other = (hard_parameters(np.random.default_rng(4), kind) for _ in range(2))
    assert one == other


def test_further_kinds_are_drawn_in_turn_and_hold_ribs_or_fluid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "_CHUNK", 2)
    _, labels = load_hard_bank(tmp_path, count=2, size_px=64, seed=1, kinds=FURTHER_KINDS, processes=1)
    upper, swollen = labels
    assert np.isin(upper, (Label.BONE, Label.CARTILAGE)).sum() > np.isin(swollen, Label.CARTILAGE).sum()
    assert (swollen == Label.ASCITES).any()
    assert [path.name for path in tmp_path.iterdir()] == ["dense-upper-swollen-1-64-00000.npz"]


def test_reference_masks_leave_open_what_they_do_not_say() -> None:
    hu = np.full((4, 6), 50, np.int16)
    hu[:, 3:] = -100
    muscle = np.zeros((4, 6), bool)
    muscle[:, :2] = True
    psoas = np.zeros((4, 6), bool)
    psoas[:, 0] = True
    sat = np.zeros((4, 6), bool)
    sat[:, 5] = True
    allowed = allowed_classes(hu, {"muscle": muscle, "psoas_left": psoas, "sat": sat})
    assert (allowed[:, 0] == bits("psoas")).all()
    assert (allowed[:, 1] == bits("quadratus", "paraspinal", "wall")).all()
    # Dense as muscle and not in the mask: anything else.
    assert not (allowed[:, 2] & bits("psoas", "wall")).any()
    assert (allowed[:, 2] & bits("organ")).all()
    # Fat outside of the mask of SAT: may lie within a muscle, whose mask is limited to its HU.
    assert not (allowed[:, 3] & bits("sat")).any()
    assert (allowed[:, 3] & bits("wall")).all()
    assert (allowed[:, 5] == bits("sat")).all()


def test_a_batch_is_decided_by_seed_and_step(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    hu, labels = phantom
    real = read_partial_case(hu, (4.0, 4.0), {"muscle": label_table()[labels] == 6}, size_px=96)
    batches = [
        DenseBatches(
            phantoms=[as_bank_image(hu, labels, "phantom")],
            real=[real],
            size_px=64,
            images=4,
            real_share=0.5,
            seed=1,
        )
        for _ in range(2)
    ]
    grey, targets, partial = batches[0].batch(3)
    for one, other in zip((grey, targets, partial), batches[1].batch(3), strict=True):
        assert torch.equal(one, other)
    assert grey.shape == (4, 1, 64, 64)
    assert 0 <= float(grey.min()) <= float(grey.max()) <= 1
    assert partial.any()
    assert not partial.all()
    assert (targets[~partial].sum(dim=1) == 4).all()
    assert (targets[partial].sum(dim=1) >= 4).all()


def test_recolouring_moves_density_and_not_shape(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    hu, labels = phantom
    moved = recolour(hu.astype(np.float32), labels, rng=np.random.default_rng(0))
    assert moved.shape == hu.shape
    assert np.abs(moved - hu)[labels == Label.PSOAS_LEFT].mean() > 1
    assert abs(float((moved - hu)[labels == Label.AIR].mean())) < 1


def test_loss_of_a_partial_image_asks_only_for_what_is_known() -> None:
    classes = len(DENSE_CLASSES)
    logits = torch.zeros(1, classes, 2, 2)
    logits[:, 3] = 20.0
    targets = torch.zeros(1, classes, 2, 2, dtype=torch.uint8)
    targets[:, 3:7] = 4
    known = dense_loss(logits, targets, torch.tensor([True]))
    targets[:, 3] = 0
    assert float(known) < 1e-3 < 5 < float(dense_loss(logits, targets, torch.tensor([True])))


def test_training_resumes_leaves_folds_out_and_exports(tmp_path: Path, hard_bank: Path) -> None:
    hu, labels = draw_hard_phantom(size_px=64, seed=0, number=0)
    cases = tmp_path / "cases"
    cases.mkdir()
    for patient in ("anna", "bert"):
        np.savez(
            cases / f"{patient}_axial.npz",
            image=hu,
            spacing=(6.0, 6.0),
            meta='{"plane": "axial"}',
            mask_muscle=np.isin(label_table()[labels], (3, 4, 5, 6)),
        )
    arguments = ["dense", "--out", str(tmp_path / "run"), "--schedule", "smoke", "--workers", "0"]
    arguments += ["--bank", str(hard_bank), "--real-cases", str(cases), "--fold", "anna"]
    assert main(arguments) == 0
    first = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    fold = torch.load(tmp_path / "run" / "fold-anna" / "checkpoint.pt", weights_only=True)
    assert first["step"] == fold["step"] == 2
    assert main(arguments) == 0
    again = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(first["mean"][name], again["mean"][name]) for name in first["mean"])
    save_file({"encoder": torch.ones(3)}, tmp_path / "base.safetensors")
    card = add_dense_head(
        tmp_path / "base.safetensors",
        tmp_path / "run" / "checkpoint.pt",
        tmp_path / "out.safetensors",
        version="9",
    )
    state = load_file(tmp_path / "out.safetensors")
    assert torch.equal(state["encoder"], torch.ones(3))
    assert sum(name.startswith(DENSE_PREFIX) for name in state) == len(state) - 1
    assert card["version"] == "9"
    (tmp_path / "no.pt").write_bytes(b"")
    fresh = DenseTrainer(DENSE_SCHEDULES["smoke"].phases, tmp_path / "x", phantoms=[])
    with pytest.raises(InputError, match="dense head"):
        fresh.start_from(tmp_path / "no.pt")


def some_evidence() -> list[Evidence]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(200):
        score = float(rng.uniform(0.4, 0.99))
        good = rng.uniform() < score**2
        for structure in ("psoas_left", "muscle", "sat", "vat"):
            found.append(
                Evidence(
                    case=f"case{number}",
                    patient=f"patient{number % 5}",
                    structure=structure,
                    is_real=number % 2 == 0,
                    score=score,
                    agreement=score if structure in ("psoas_left", "muscle") else None,
                    contrast=score if structure == "psoas_left" else None,
                    gates=("open_ring",) if number % 50 == 0 else (),
                    dice=0.95 if good else 0.6,
                    area_error_pct=1.0,
                )
            )
    return found


def test_confidence_grows_with_evidence_and_a_gate_caps_it() -> None:
    evidence = some_evidence()
    curves = fit_trust(evidence)
    for curve in curves.values():
        good, poor = (NumberEvidence(score=one, agreement=one, contrast=one) for one in (0.99, 0.3))
        assert curve.probability(good) > 0.9 > 0.5 > curve.probability(poor)
    judged = judge_confidence(evidence, curves)
    assert judged["all"]["sure"] > 0
    assert (
        judged["all"]["sure_and_good"] / judged["all"]["sure"]
        > judged["all"]["good"] / judged["all"]["numbers"]
    )
    assert judged["psoas"]["area_under_curve"] > 0.6
    assert judged["psoas"]["warned_and_bad"] <= judged["psoas"]["warned"]
    left_out = leave_patients_out(evidence)
    assert len(left_out) == 400
    gated = judge_confidence([one for one in evidence if one.gates], curves)
    assert gated["all"]["numbers"] > gated["all"]["sure"] == 0


@pytest.mark.parametrize(("bad", "ceiling"), [(0, 1.0), (1, 1.0), (2, 0.86)])
def test_no_more_is_stated_than_held_of_numbers_left_out(bad: int, ceiling: float) -> None:
    sample = next(one for one in some_evidence() if one.structure == "muscle" and one.is_good)
    stated = [(replace(sample, dice=0.6 if number < bad else 0.95), 0.99) for number in range(20)]
    stated += [(replace(sample, dice=0.6), 0.89)] * 30
    curve = Trust(bias=5.0, overlap=0.0)
    bounded = bound_trust({"muscle": curve, "sat": curve}, stated)
    assert (bounded["muscle"].ceiling, bounded["sat"].ceiling) == (ceiling, 1.0)
    assert bounded["muscle"].probability(NumberEvidence(score=0.9, agreement=None)) == pytest.approx(
        min(ceiling, 0.993), abs=0.001
    )


def test_half_of_the_scans_of_another_kind_judge_the_curves_they_are_not_part_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(cases: Any, skip: Any = ()) -> Iterator[Evidence]:
        for name, _ in cases:
            yield from (replace(one, case=name, is_real=False) for one in some_evidence()[:40])

    def draw(count: int, *, seed: int, kind: str | None = None) -> Iterator[str]:
        return (f"phantom-{kind or 'any'}-{number}" for number in range(count))

    monkeypatch.setattr(dense_trust, "collect_evidence", collect)
    monkeypatch.setattr(dense_trust, "draw_cases", draw)
    document = dense_trust.write_trust(
        tmp_path / "trust.json",
        cases=tmp_path,
        model=None,
        folds={},
        phantoms=4,  # type: ignore[arg-type]
    )
    numbers = {name: judged["all"]["numbers"] for name, judged in document["judged"].items()}
    assert numbers == {
        "patients, each left out of the fit": 0,
        "phantoms that took part": 4 * 40,
        "loud phantoms, the half that took no part": 2 * 40,
        "phantoms with ribs or fluid, no part": 4 * 40,
    }
    assert len(json.loads((tmp_path / "trust.evidence.json").read_text(encoding="utf-8"))) == 12 * 40


def test_a_zoomed_image_lies_about_the_spine(phantom: tuple[np.ndarray, np.ndarray]) -> None:
    hu, labels = phantom
    image = as_bank_image(hu, labels, "phantom")

    def share_of_spine(zoom_share: float) -> float:
        batches = DenseBatches(
            phantoms=[image], real=[], size_px=64, images=6, real_share=0, seed=2, zoom_share=zoom_share
        )
        _, targets, _ = batches.batch(0)
        spine = targets[:, [DENSE_CLASSES.index(name) for name in ("vertebra", "disc")]].sum(1).float()
        assert (spine.flatten(1).sum(1) > 0).all()
        return float(spine.mean())

    ratio = share_of_spine(1.0) / share_of_spine(0.0)
    assert 1 / DENSE_ZOOM**2 * 0.7 < ratio < 1 / DENSE_ZOOM**2 * 1.4


def test_the_middle_of_the_spine_is_read_from_labels_and_from_partial_masks() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[4:9, 10:15] = Label.BODY_TRABECULAR
    hu = np.zeros((20, 20), np.int16)
    assert spine_xy(as_bank_image(hu, labels, "phantom"), partial=False) == (12.0, 6.0)
    assert spine_xy(as_bank_image(hu, np.zeros_like(labels), "phantom"), partial=False) is None
    psoas = np.zeros((20, 20), bool)
    psoas[10:14, [3, 17]] = True
    partial = as_bank_image(hu, allowed_classes(hu, {"psoas_left": psoas}), "case")
    assert spine_xy(partial, partial=True) == (10.0, 11.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_head_trains_on_cuda(tmp_path: Path) -> None:
    command = ["dense", "--out", str(tmp_path), "--schedule", "smoke", "--device", "cuda", "--workers", "2"]
    assert main(command) == 0
    state = torch.load(tmp_path / "checkpoint.pt", map_location="cpu", weights_only=True)
    assert state["step"] == 2
    assert all(torch.isfinite(value).all() for value in state["mean"].values())
