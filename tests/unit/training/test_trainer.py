from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ctai_sam2.errors import InputError
from ctai_sam2.models.dense_head import DENSE_PREFIX
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.registry import embedded_folder
from ctai_sam2.models.sam2_network import build_sam2
from ctai_sam2.training.__main__ import main
from ctai_sam2.training.bank import LabelledImage
from ctai_sam2.training.export import export_weights
from ctai_sam2.training.losses import MaskLosses, combine_losses, feature_scale_loss, mask_losses
from ctai_sam2.training.network import align_attention, embed_images, predict_masks
from ctai_sam2.training.schedule import NANO, SMOKE
from ctai_sam2.training.trainer import CHECKPOINT_NAME, Trainer
from ctai_sam2.types import Prompt


def trainer(folder: Path, bank: list[LabelledImage], seed: int = 0) -> Trainer:
    return Trainer(SMOKE, folder, phantoms=bank, real=[], seed=seed)


def test_a_resumed_run_ends_at_the_same_weights(tmp_path: Path, bank: list[LabelledImage]) -> None:
    straight = trainer(tmp_path / "straight", bank)
    straight.run()
    trainer(tmp_path / "cut", bank).run(until=2)
    resumed = trainer(tmp_path / "cut", bank)
    resumed.resume()
    assert resumed.step == 2
    resumed.run()
    fresh = trainer(tmp_path / "fresh", bank)
    for (name, one), other in zip(
        straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert all(torch.equal(straight.ema[name], resumed.ema[name]) for name in straight.ema)
    moved = [
        name
        for name, value in fresh.model.state_dict().items()
        if not torch.equal(value, straight.model.state_dict()[name])
    ]
    assert any(name.startswith("image_encoder") for name in moved)
    assert any(name.startswith("sam_mask_decoder") for name in moved)
    assert not any(name.startswith("memory_") for name in moved)

    card = export_weights(tmp_path / "cut", tmp_path / "out.safetensors", name="tiny", version="0")
    assert card["sha256"] == hashlib.sha256((tmp_path / "out.safetensors").read_bytes()).hexdigest()
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(json.dumps(card))
    with LocalSegmenter(tmp_path / "out.safetensors", config="sam2_ct_nano", image_size=64) as segmenter:
        prediction = segmenter.predict(np.zeros((80, 90), np.uint8), Prompt.point(40, 40))
        named = segmenter.predict(np.zeros((80, 90), np.uint8), Prompt(structure="psoas_left"))
        with pytest.raises(InputError, match="by name"):
            segmenter.predict(np.zeros((80, 90), np.uint8), Prompt(structure="spleen"))
    assert prediction.masks.shape[1:] == named.masks.shape[1:] == (80, 90)


def test_a_left_out_patient_costs_the_last_phase_only(tmp_path: Path, bank: list[LabelledImage]) -> None:
    trainer(tmp_path / "base", bank).run()
    fold = trainer(tmp_path / "fold", bank)
    fold.resume(tmp_path / "base" / "checkpoint-dense.pt")
    assert fold.step == SMOKE.phases[0].steps
    fold.run()
    assert (tmp_path / "fold" / CHECKPOINT_NAME).is_file()


def test_another_run_is_not_resumed(tmp_path: Path, bank: list[LabelledImage]) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        trainer(tmp_path, bank).resume()
    with pytest.raises(InputError, match="no checkpoint"):
        export_weights(tmp_path, tmp_path / "x.safetensors", name="x", version="0")
    trainer(tmp_path, bank).run(until=1)
    assert (tmp_path / CHECKPOINT_NAME).is_file()
    with pytest.raises(InputError, match="another run"):
        trainer(tmp_path, bank, seed=1).resume()
    with pytest.raises(InputError, match="safetensors"):
        export_weights(tmp_path, tmp_path / "x.pt", name="x", version="0")


def test_training_sees_what_upstream_computes() -> None:
    torch.manual_seed(0)
    model = build_sam2("sam2_ct_nano", image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model._prepare_backbone_features(model.forward_image(images))[1]
        features[-1] = features[-1] + model.no_mem_embed
        mine = embed_images(model, images)
        for theirs, ours in zip(features, (mine.fine, mine.middle, mine.coarse), strict=True):
            torch.testing.assert_close(
                theirs.permute(1, 2, 0).reshape(ours.shape), ours, rtol=1e-4, atol=1e-4
            )
        points, labels = torch.tensor([[[10.0, 20.0]], [[40.0, 8.0]]]), torch.tensor([[1], [1]])
        logits, quality = predict_masks(model, mine, objects=1, points_xy=points, labels=labels)
        sparse, dense = model.sam_prompt_encoder(points=(points[1:], labels[1:]), boxes=None, masks=None)
        theirs, score, _, _ = model.sam_mask_decoder(
            image_embeddings=mine.coarse[1:],
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[mine.fine[1:], mine.middle[1:]],
        )
    torch.testing.assert_close(theirs, logits[1:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score, quality[1:, 1:], rtol=1e-4, atol=1e-4)


def test_queries_and_keys_begin_alike() -> None:
    model = build_sam2("sam2_ct_nano", image_size=64)
    layer = model.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    assert not torch.equal(layer.q_proj.weight, layer.k_proj.weight)
    align_attention(model)
    assert torch.equal(layer.q_proj.weight, layer.k_proj.weight)


def test_losses_fall_as_masks_get_better() -> None:
    target = torch.zeros(1, 16, 16)
    target[0, 4:12, 4:12] = 1
    right = (target * 2 - 1)[:, None] * 8
    losses = mask_losses(torch.cat([right, -right], dim=1), target)
    assert losses.iou[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert losses.mask[0, 0] < 0.05 < 1 < losses.mask[0, 1]


@pytest.mark.parametrize(("ambiguous", "share"), [(True, 0.05 / 3), (False, 0.7 / 3)])
def test_a_clear_prompt_holds_every_candidate_to_the_mask(ambiguous: bool, share: float) -> None:
    quality = torch.zeros(1, 4)
    sure = torch.tensor([ambiguous])

    def total(worst: float) -> float:
        losses = MaskLosses(mask=torch.tensor([[0.5, 0.2, 0.4, worst]]), iou=torch.zeros(1, 4))
        return float(combine_losses(losses, quality, ambiguous=sure))

    assert total(2.0) - total(1.0) == pytest.approx(share, abs=1e-5)


def test_features_of_any_other_size_cost() -> None:
    assert (
        feature_scale_loss([torch.full((1, 1, 4, 4), 58.0)])
        > feature_scale_loss([torch.full((1, 1, 4, 4), 2.0)])
        > 0
    )


def test_shipped_weights_are_small_and_from_this_schedule() -> None:
    path = embedded_folder() / "sam2_ct_nano.safetensors"
    assert path.stat().st_size <= 12_000_000
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["steps"] == NANO.total_steps
    assert card["config"]["sha256"] == NANO.sha256()


def test_the_dense_head_was_added_beside_the_prompted_model_of_version_2() -> None:
    digest = hashlib.sha256()
    state = load_file(embedded_folder() / "sam2_ct_nano.safetensors")
    for name, tensor in sorted(state.items()):
        if not name.startswith(DENSE_PREFIX):
            digest.update(name.encode() + tensor.numpy().tobytes())
    # What segments from clicks is, bit for bit, what did so before there was a dense head.
    assert digest.hexdigest() == "1c142e27dc8f3c19ecf13612b0d832bcf1073054ce492dddfb62ed199237c802"
    head = [tensor for name, tensor in state.items() if name.startswith(DENSE_PREFIX)]
    assert 0 < sum(tensor.numel() for tensor in head) <= 1_300_000
    assert all(bool(torch.isfinite(tensor).all()) for tensor in head)


def test_training_takes_a_device_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["train", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu", "--workers", "0"]) == 0
    )
    assert (tmp_path / CHECKPOINT_NAME).is_file()
    assert main(["train", "--preset", "smoke", "--out", str(tmp_path / "x"), "--device", "abacus"]) == 1


@pytest.mark.gpu
def test_training_runs_on_a_gpu(tmp_path: Path, bank: list[LabelledImage]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    run = Trainer(SMOKE, tmp_path, phantoms=bank, real=[], seed=0, device=torch.device("cuda"))
    run.run()
    assert all(bool(torch.isfinite(value).all()) for value in run.ema.values())
    again = Trainer(SMOKE, tmp_path, phantoms=bank, real=[], seed=0)
    again.resume()
    assert again.step == SMOKE.total_steps
