from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctai_sam2.errors import InputError, WeightsError
from ctai_sam2.measure.overlap import dice
from ctai_sam2.models.dense_head import (
    DENSE_CLASSES,
    DENSE_PREFIX,
    DENSE_STRUCTURES,
    DENSE_ZOOM,
    DenseUNet,
    Division,
    divide_image,
    fold_normalisation,
)
from ctai_sam2.models.local import LocalSegmenter
from ctai_sam2.models.sam2_network import build_sam2
from ctai_sam2.types import Prompt


@pytest.fixture(scope="module")
def head() -> DenseUNet:
    torch.manual_seed(3)
    network = DenseUNet()
    for _ in range(2):
        # Running means and variances that are not those of the start.
        network(torch.rand(2, 1, 64, 64))
    return network.eval()


@pytest.fixture(scope="module")
def weights(head: DenseUNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    plain = {
        name: value.contiguous()
        for name, value in build_sam2("sam2_ct_nano", image_size=64).state_dict().items()
    }
    folded = {
        DENSE_PREFIX + name: value.contiguous()
        for name, value in fold_normalisation(head.state_dict()).items()
    }
    for name, state in (
        ("plain", plain),
        ("dense", plain | folded),
        ("cut", plain | dict(list(folded.items())[:-1])),
    ):
        save_file(state, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in ("plain", "dense", "cut")}


def open_weights(path: Path) -> LocalSegmenter:
    return LocalSegmenter(path, config="sam2_ct_nano", image_size=64)


def picture(shape: tuple[int, int] = (90, 80)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def test_folding_normalisation_changes_nothing_but_the_number_of_layers(head: DenseUNet) -> None:
    folded = DenseUNet(normalised=False).eval()
    folded.load_state_dict(fold_normalisation(head.state_dict()))
    grey = torch.rand(1, 1, 96, 96)
    with torch.inference_mode():
        assert torch.allclose(head(grey), folded(grey), atol=1e-4)
    assert not any("running" in name for name in folded.state_dict())


def test_the_head_stays_small(head: DenseUNet) -> None:
    assert sum(parameter.numel() for parameter in head.parameters()) <= 1_300_000


def test_every_pixel_gets_one_class(head: DenseUNet) -> None:
    division = divide_image(head, picture(), torch.device("cpu"))
    parts = [
        division.mask(name)
        for name in (
            "psoas",
            "quadratus",
            "paraspinal",
            "wall",
            "between",
            "sat",
            "skin",
            "vat",
            "viscera",
            "spine",
            "bone",
        )
    ]
    assert parts[0].shape == (90, 80)
    assert np.sum(parts, axis=0).max() <= 1
    assert np.array_equal(division.mask("muscle"), np.any(parts[:4], axis=0))
    assert set(division.scores) == set(DENSE_STRUCTURES)
    assert all(0 <= score <= 1 for score in division.scores.values())


def test_left_and_right_psoas_are_told_by_the_spine_not_by_the_image() -> None:
    labels = np.zeros((20, 40), np.uint8)
    labels[8:12, 24:30] = DENSE_CLASSES.index("vertebra")
    labels[8:12, 21:24] = DENSE_CLASSES.index("psoas")
    labels[8:12, 30:33] = DENSE_CLASSES.index("psoas")
    division = Division(labels, {})
    # Both lie in the image's right half; the patient's right is on the image's left.
    assert division.mask("psoas_right")[:, 21:24].sum() == 12
    assert division.mask("psoas_left")[:, 30:33].sum() == 12
    assert not (division.mask("psoas_left") & division.mask("psoas_right")).any()


def test_a_name_alone_is_segmented_by_the_head_and_a_click_by_the_decoder(weights: dict[str, Path]) -> None:
    with open_weights(weights["plain"]) as plain, open_weights(weights["dense"]) as dense:
        assert set(DENSE_STRUCTURES) <= set(dense.identity.structures)
        assert "sat" not in plain.identity.structures
        for prompt in (
            Prompt.point(40, 40),
            Prompt.point(40, 40, structure="muscle"),
            Prompt(structure="vertebrae"),
        ):
            one, other = plain.predict(picture(), prompt), dense.predict(picture(), prompt)
            assert np.array_equal(one.masks, other.masks)
            assert np.array_equal(one.scores, other.scores)
        named = dense.predict(picture(), Prompt(structure="sat"))
        assert named.masks.shape == (1, 90, 80)
        again = dense.predict(picture(), Prompt(structure="sat"))
        assert np.array_equal(named.masks, again.masks)
        with pytest.raises(InputError, match="by name"):
            plain.predict(picture(), Prompt(structure="sat"))
        with pytest.raises(InputError, match="by name"):
            dense.predict(picture(), Prompt(structure="spleen"))


def test_a_name_alone_needs_no_embedding(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from ctai_sam2.models.sam2_inference import Network

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran")

    with open_weights(weights["dense"]) as dense:
        _ = dense.identity
        monkeypatch.setattr(Network, "encode", refuse)
        dense.predict(picture(), Prompt(structure="wall"))


def test_a_cut_head_is_an_error_and_not_another_model(weights: dict[str, Path]) -> None:
    with open_weights(weights["cut"]) as cut, pytest.raises(WeightsError, match="do not fit"):
        cut.predict(picture(), Prompt(structure="sat"))


class ByBrightness(torch.nn.Module):
    """Says what a pixel is by its grey alone, at half the size, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        self.shown.append(grey)
        grey = torch.nn.functional.avg_pool2d(grey, 2)
        logits = torch.full((1, len(DENSE_CLASSES), *grey.shape[-2:]), -20.0)
        for name, level in (("outside", 0.0), ("sat", 0.3), ("psoas", 0.6), ("vertebra", 0.9)):
            logits[:, DENSE_CLASSES.index(name)] = -400 * (grey[:, 0] - level) ** 2
        return logits


def test_the_spines_surroundings_are_seen_closer_and_put_back_where_they_were() -> None:
    image = np.zeros((640, 640), np.uint8)
    y, x = np.indices(image.shape)
    image[np.hypot(y - 330, x - 310) < 290] = round(0.3 * 255)
    spine = np.hypot(y - 400, x - 350) < 40
    # Stripes that the whole view cannot resolve, and a muscle far from the spine.
    stripes = (np.abs(x - 420) < 24) & (np.abs(y - 400) < 60) & (x % 8 < 4)
    far = np.hypot(y - 120, x - 250) < 25
    image[stripes | far] = round(0.6 * 255)
    image[spine] = round(0.9 * 255)
    head = ByBrightness()
    found = divide_image(head, image, torch.device("cpu")).mask("psoas")
    whole, close = head.shown
    assert float((whole > 0.8).float().mean()) == pytest.approx(spine.mean(), rel=0.1)
    assert float((close > 0.8).float().mean()) == pytest.approx(spine.mean() / DENSE_ZOOM**2, rel=0.1)
    near = np.abs(x - 420) < 30
    assert dice(found & near, stripes) > 0.85
    assert dice(found & (y < 200), far) > 0.9


def test_without_a_spine_there_is_no_closer_view() -> None:
    head = ByBrightness()
    divide_image(head, np.full((64, 64), 77, np.uint8), torch.device("cpu"))
    assert len(head.shown) == 1
