"""The drawn spines, the samples made of them, and a training run of a few steps."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ctai_sam2.errors import InputError
from ctai_sam2.segmentation.levels import model
from ctai_sam2.segmentation.levels.image import PIXEL_MM
from ctai_sam2.segmentation.levels.labels import L3, LEVEL_CLASSES, S1, TISSUE_CLASSES
from ctai_sam2.segmentation.levels.network import LevelMaps, LevelNetwork
from ctai_sam2.training.levels.bank import DrawnBank
from ctai_sam2.training.levels.canvas import NO_LEVEL, Tissue
from ctai_sam2.training.levels.commands import levels
from ctai_sam2.training.levels.drawn import draw_spine
from ctai_sam2.training.levels.export import export_levels
from ctai_sam2.training.levels.known import KnownImage, from_drawn
from ctai_sam2.training.levels.outlines import known_slice
from ctai_sam2.training.levels.real import patient_of
from ctai_sam2.training.levels.samples import CROP_MM, make_sample
from ctai_sam2.training.levels.trainer import level_losses, network_from

BODY, SACRUM = TISSUE_CLASSES.index("body"), TISSUE_CLASSES.index("sacrum")


@pytest.fixture(scope="module")
def known() -> KnownImage:
    return from_drawn(draw_spine(np.random.default_rng(1)))


def test_a_spine_is_drawn_the_same_again() -> None:
    one, two = (draw_spine(np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.tissue, two.tissue)
    assert np.array_equal(one.level, two.level)


@pytest.mark.parametrize("seed", range(6))
def test_levels_follow_each_other_and_lie_on_bone(seed: int) -> None:
    spine = draw_spine(np.random.default_rng(seed))
    names = [int(level) for _, _, level in spine.centres_xyl]
    rows = {name: float(y) for _, y, name in spine.centres_xyl}
    assert S1 in names
    ordered = [rows[name] for name in range(1, S1 + 1) if name in rows]
    assert ordered == sorted(ordered)
    bone = {Tissue.BODY, Tissue.BODY_CORTEX, Tissue.SACRUM, Tissue.SACRUM_CORTEX, Tissue.METAL}
    bone |= {Tissue.CALCIFICATION, Tissue.SOFT}
    inside = 0
    for x, y, level in spine.centres_xyl:
        row, column = round(float(y)), round(float(x))
        if 0 <= row < spine.level.shape[0] and 0 <= column < spine.level.shape[1]:
            inside += 1
            assert spine.level[row, column] == level
            assert Tissue(int(spine.tissue[row, column])) in bone
    assert inside >= 5


def test_a_plane_far_from_the_spine_meets_no_canal() -> None:
    seen = []
    for seed in range(40):
        spine = draw_spine(np.random.default_rng([seed, 2]))
        l3 = [y for _, y, level in spine.centres_xyl if level == L3]
        if l3:
            rows = slice(int(l3[0]) - 8, int(l3[0]) + 8)
            seen.append((abs(spine.l3_offset_mm), bool((spine.tissue[rows] == Tissue.CANAL).any())))
    assert all(canal for offset, canal in seen if offset < 4)
    assert not any(canal for offset, canal in seen if offset > 14)


def test_a_sample_has_its_targets_where_the_image_shows_them(known) -> None:
    rng = np.random.default_rng(0)
    height, width = (round(mm / PIXEL_MM) for mm in CROP_MM)
    peaks = 0
    for _ in range(6):
        sample = make_sample(known, rng)
        assert sample.image.shape == (2, height, width)
        assert sample.dense.shape == sample.centre.shape == (height, width)
        assert sample.level.shape == (height // 2, width // 2)
        assert np.abs(sample.image).max() <= 1.0
        rows, columns = np.nonzero(sample.centre > 0.98)
        peaks += len(rows)
        at = sample.dense[rows, columns]
        assert (np.isin(at, (BODY, SACRUM)).mean() if len(at) else 1.0) > 0.8
        beyond = (sample.level >= len(LEVEL_CLASSES)) & (sample.level != NO_LEVEL)
        assert not beyond.any()
    assert peaks >= 20


def test_a_sample_is_a_function_of_its_generator(known) -> None:
    one, two = (make_sample(known, np.random.default_rng(9)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_targets_of_a_real_slice_come_from_middles_and_masks() -> None:
    hu = np.full((300, 200), 50, np.int16)
    names = ("T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2")
    centres = {name: (90.0, 30.0 + 32.0 * number) for number, name in enumerate(names)}
    mask = np.zeros(hu.shape, bool)
    mask[112:140, 74:108] = True
    image = known_slice(hu, centres, {"L3": mask}, row_mm=1.0, patient="p")
    assert (image.level[mask] == L3).all()
    assert (image.dense[mask] == BODY).all()
    row, column = 254, 90
    assert image.dense[222, column] == SACRUM
    assert image.level[222, column] == S1
    assert image.level[row, column] in (S1 + 1, NO_LEVEL)
    assert {int(level) for _, _, level in image.centres_xyl} == {2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize(
    ("case", "patient"),
    [
        ("sbu_A027284_sag_19000925-083", "A027284"),
        ("pcb001_sagittal", "pcb001"),
        ("crlm1006_sagittal_x250", "crlm1006"),
        ("ts_example_sagittal_mid", "ts_example"),
    ],
)
def test_patients_are_told_apart(case: str, patient: str) -> None:
    assert patient_of(case) == patient


def test_losses_fall_to_nothing_for_a_perfect_prediction(known) -> None:
    sample = make_sample(known, np.random.default_rng(0))
    dense, level = torch.from_numpy(sample.dense)[None], torch.from_numpy(sample.level)[None]
    centre = torch.from_numpy(sample.centre)[None]
    named = level.long().clamp(max=len(LEVEL_CLASSES) - 1)
    perfect = LevelMaps(
        tissue=30.0
        * torch.nn.functional.one_hot(dense.long(), len(TISSUE_CLASSES)).permute(0, 3, 1, 2).float(),
        centre=torch.logit(centre.clamp(1e-6, 1 - 1e-6))[:, None],
        level=30.0 * torch.nn.functional.one_hot(named, len(LEVEL_CLASSES)).permute(0, 3, 1, 2).float(),
    )
    losses = level_losses(perfect, dense, centre, level)
    assert float(losses["tissue"]) < 1e-3
    assert float(losses["level"]) < 1e-3
    assert float(losses["right"]) == 1.0
    with torch.no_grad():
        start = level_losses(LevelNetwork()(torch.from_numpy(sample.image)[None]), dense, centre, level)
    assert all(float(start[name]) > float(losses[name]) for name in ("tissue", "centre", "level"))


def options(folder: Path, **changes) -> argparse.Namespace:
    held = {
        "out": folder / "run",
        "bank": folder / "bank",
        "drawn": 3,
        "phantoms": 1,
        "real": None,
        "real_share": 0.5,
        "held_out": [],
        "begin_from": None,
        "steps": 2,
        "images": 2,
        "learning_rate": None,
        "seed": 1,
        "device": "cpu",
        "threads": 1,
        "workers": 0,
    }
    return argparse.Namespace(**{**held, **changes})


def test_a_run_goes_on_where_it_stopped_and_ships(tmp_path: Path) -> None:
    levels(options(tmp_path))
    first = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert first["step"] == 2
    levels(options(tmp_path, steps=3))
    again = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert again["step"] == 3
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [2, 3]
    card = export_levels(tmp_path / "run", tmp_path / "levels.safetensors")
    assert card["bytes"] < 1_500_000
    assert card["parameters"] < 700_000
    network = network_from(tmp_path / "run" / "checkpoint.pt")
    assert not network.training
    levels(options(tmp_path, out=tmp_path / "other", begin_from=tmp_path / "run" / "checkpoint.pt", steps=1))
    with pytest.raises(InputError, match="other spines"):
        DrawnBank(tmp_path / "bank", count=4, seed=1)


def test_what_ships_is_small_and_says_what_it_saw() -> None:
    folder = Path(model.__file__).parent
    assert (folder / model.WEIGHTS).stat().st_size <= 1_500_000
    card = json.loads((folder / model.WEIGHTS).with_suffix(".json").read_text(encoding="utf-8"))
    assert card["parameters"] == sum(p.numel() for p in model.load_level_network().parameters()) <= 700_000
    assert card["training"]["steps"] >= 1000
