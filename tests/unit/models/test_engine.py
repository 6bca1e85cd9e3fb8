"""Another engine than PyTorch: taken where its masks agree, refused with a reason where anything is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ctai_sam2.errors import InputError
from ctai_sam2.models import LocalSegmenter, engine
from ctai_sam2.models.engine import Engine, EngineChoice, choose_engine
from ctai_sam2.models.sam2_inference import DecoderGraph, Embedding, EncoderGraph, Network, prepare_image
from ctai_sam2.models.sam2_network import build_sam2
from ctai_sam2.types import Prompt
from tests.fakes import make_image

IMAGE = make_image((96, 96), seed=1)
MANY = Prompt(points_xy=[[3 * i, 90 - 2 * i] for i in range(20)], labels=[i % 2 for i in range(20)])
PROMPTS = [Prompt.point(40, 40), Prompt(box_xyxy=(10, 20, 60, 70)), MANY]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(4)
    model = build_sam2("sam2_ct_nano", image_size=64)
    return Network(model, device=torch.device("cpu"), dtype="float32")


class GraphEngine:
    """Computes the exported graphs with PyTorch itself, and as wrongly as a test wants."""

    name = "openvino"

    def __init__(self, network: Network, noise: float = 0.0, score: float = 0.0) -> None:
        self.encoder, self.decoder = EncoderGraph(network), DecoderGraph(network)
        self.noise, self.score = noise, score
        self.calls = 0

    def encode(self, batch: Tensor) -> list[Tensor]:
        self.calls += 1
        with torch.inference_mode():
            maps = list(self.encoder(batch))
        return [m + self.noise * torch.linspace(-1, 1, m.numel()).reshape(m.shape) for m in maps]

    def decode(self, embedding: Embedding, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        with torch.inference_mode():
            logits, ious = self.decoder(*embedding.high_res, embedding.top, sparse, dense)
        return logits, ious + self.score


def choose(network: Network, make: Callable[..., Engine], wish: str = "openvino") -> EngineChoice:
    return choose_engine(network, wish, weights_sha256="0" * 64, folder=None, make=make)  # type: ignore[arg-type]


def test_exported_graphs_are_the_network(network: Network) -> None:
    embedding = network.encode(IMAGE)
    with torch.inference_mode():
        maps = EncoderGraph(network)(prepare_image(IMAGE, network.image_size))
    for ours, theirs in zip([*embedding.high_res, embedding.top], maps, strict=True):
        assert torch.equal(ours, theirs)
    for prompt in PROMPTS:
        ours, theirs = (
            network.decode_with(one, embedding, prompt, IMAGE.shape) for one in (None, GraphEngine(network))
        )
        # Our decoder adds in another order than the graph, which is upstream's.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_engine_with_the_same_masks_computes(network: Network) -> None:
    made = GraphEngine(network)
    choice = choose(network, lambda *_: made)
    assert choice == EngineChoice(name="openvino", least_iou=1.0)
    calls = made.calls
    network.decode(network.encode(IMAGE), PROMPTS[0], IMAGE.shape)
    assert made.calls == calls + 2


@pytest.mark.parametrize("fault", [{"noise": 3.0}, {"score": 0.5}, {"score": float("nan")}])
def test_an_engine_with_other_masks_or_scores_is_refused(
    network: Network, fault: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    choice = choose(network, lambda *_: GraphEngine(network, **fault))
    assert choice.name == "torch"
    assert choice.refusal is not None
    assert "masks differ from PyTorch's" in choice.refusal
    assert network.engine is None
    assert "PyTorch computes instead of openvino" in caplog.text


def test_an_engine_that_breaks_is_refused_without_its_words(network: Network) -> None:
    def make(*_: object) -> Engine:
        raise RuntimeError("/home/someone/secret")

    choice = choose(network, make)
    assert choice == EngineChoice(name="torch", refusal="failed with RuntimeError")


def test_pytorch_goes_on_where_an_engine_fails_later(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    embedding = network.encode(IMAGE)
    expected = network.decode(embedding, PROMPTS[0], IMAGE.shape)
    made = GraphEngine(network)
    assert choose(network, lambda *_: made).name == "openvino"
    del made.decoder
    found = network.decode(embedding, PROMPTS[0], IMAGE.shape)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert network.engine is None
    assert "PyTorch computes instead of openvino: AttributeError" in caplog.text


def test_a_wrong_request_is_no_fault_of_the_engine(network: Network) -> None:
    made = GraphEngine(network)
    choose(network, lambda *_: made)
    with pytest.raises(InputError, match="does not know this structure"):
        network.decode(network.encode(IMAGE), Prompt(structure="spleen"), IMAGE.shape)
    assert network.engine is made


def test_pytorch_is_the_default_and_auto_without_the_extra(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*_: object) -> Engine:
        raise AssertionError("nothing is to be made")

    monkeypatch.setattr(engine, "is_installed", lambda: False)
    for wish in ("torch", "auto"):
        assert choose(network, make, wish) == EngineChoice(name="torch")


def test_without_the_extra_the_segmenter_says_so_and_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "is_installed", lambda: False)
    with LocalSegmenter(device="cpu", engine="openvino") as wished, LocalSegmenter(device="cpu") as plain:
        assert wished.engine.refusal is not None
        assert "ctai-sam2[fast-cpu]" in wished.engine.refusal
        assert wished.identity == plain.identity
        for prompt in PROMPTS:
            theirs, ours = (one.predict(IMAGE, prompt) for one in (plain, wished))
            np.testing.assert_array_equal(theirs.masks, ours.masks)


def test_another_engine_is_none() -> None:
    with pytest.raises(InputError, match="no such engine"):
        LocalSegmenter(engine="tensorflow")  # type: ignore[arg-type]


@pytest.fixture
def openvino() -> None:
    if not engine.is_installed():
        pytest.skip("the extra fast-cpu is not installed")


def test_openvino_reports_nothing_over_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ctai_sam2.models.openvino_engine import import_openvino

    (tmp_path / "openvino_telemetry.py").write_text("")
    (tmp_path / "openvino.py").write_text(
        "try:\n    import openvino_telemetry\nexcept ImportError:\n    openvino_telemetry = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0].startswith("openvino")]:
        monkeypatch.delitem(sys.modules, name)
    imported = import_openvino()
    del sys.modules["openvino"]  # not by monkeypatch, which would put it back
    assert imported.openvino_telemetry is None
    assert "openvino_telemetry" not in sys.modules


@pytest.mark.usefixtures("openvino")
def test_openvino_predicts_what_pytorch_does_and_keeps_its_export(tmp_path: Path) -> None:
    with LocalSegmenter(device="cpu") as plain:
        expected = [plain.predict(IMAGE, prompt) for prompt in PROMPTS]
    kept = []
    for _ in range(2):
        with LocalSegmenter(device="cpu", engine="openvino", engine_folder=tmp_path) as fast:
            assert fast.engine.refusal is None
            assert fast.identity.device == "cpu (openvino)"
            for prompt, theirs in zip(PROMPTS, expected, strict=True):
                ours = fast.predict(IMAGE, prompt)
                assert (ours.masks == theirs.masks).mean() > 0.999
                np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")})
    assert len(kept[0]) == 2
    assert kept[0] == kept[1], "an export that is there is used again"


@pytest.mark.usefixtures("openvino")
def test_a_damaged_export_is_refused_once_and_then_made_anew(network: Network, tmp_path: Path) -> None:
    def choose_kept() -> EngineChoice:
        network.engine = None
        return choose_engine(network, "openvino", weights_sha256="0" * 64, folder=tmp_path)

    assert choose_kept().name == "openvino"
    for path in tmp_path.rglob("encoder.xml"):
        path.write_text("<net")
    assert choose_kept().refusal is not None
    assert choose_kept().name == "openvino"


@pytest.mark.usefixtures("openvino")
@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_others_can_write_to_is_not_trusted(network: Network, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    choice = choose_engine(network, "openvino", weights_sha256="0" * 64, folder=tmp_path)
    assert choice.name == "torch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("openvino")
def test_exports_are_bounded(tmp_path: Path) -> None:
    from ctai_sam2.models.openvino_engine import drop_oldest

    for age in range(6):
        place = tmp_path / str(age)
        place.mkdir()
        os.utime(place, (1000 - age, 1000 - age))
    drop_oldest(tmp_path, keep=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
