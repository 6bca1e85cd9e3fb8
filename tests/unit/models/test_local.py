"""The local segmenter against upstream's predictor, and its ways to fail."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctai_sam2.errors import DeviceUnavailable, InputError, Unavailable, WeightsError, WeightsMissing
from ctai_sam2.image.masks import mask_to_box_xyxy
from ctai_sam2.image.windowing import window_to_uint8
from ctai_sam2.models import LocalSegmenter, ModelStore, local, sam2_inference
from ctai_sam2.models.sam2_inference import Network, prepare_image
from ctai_sam2.models.sam2_network import build_sam2, load_weights, read_state_dict
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.types import Prompt
from tests.fakes import make_image, save_random_checkpoint

SHAPE = (300, 400)
BLOB = np.zeros(SHAPE, bool)
BLOB[100:200, 100:250] = True
PROMPTS = {
    "point": Prompt.point(150, 120),
    "points of both kinds": Prompt(points_xy=[[150, 120], [300.5, 20.25], [0, 299]], labels=[1, 0, 1]),
    "box": Prompt(box_xyxy=(100, 90, 260, 210)),
    "box and points": Prompt(points_xy=[[150, 120], [110, 100]], labels=[1, 0], box_xyxy=(100, 90, 260, 210)),
    "mask and point": Prompt(points_xy=[[150, 120]], mask=BLOB),
    "mask alone": Prompt(mask=BLOB),
}
NANO_SIZE = 64
# Half of what its weights were made for: the same layers in a quarter of the time and memory.
TINY_SIZE = 512


def open_upstream(checkpoint: Path, config: str, image_size: int | None) -> Any:
    """Upstream's predictor, with the feature sizes that it gets wrong below 1024 corrected."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    model = build_sam2(config, image_size=image_size)
    load_weights(model, read_state_dict(checkpoint))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it scripts its transforms, which torch has deprecated
        predictor = SAM2ImagePredictor(model)
    predictor._bb_feat_sizes = [(model.image_size // step,) * 2 for step in (4, 8, 16)]
    return predictor


def ask_upstream(predictor: Any, prompt: Prompt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask_input = None
    if prompt.mask is not None:
        side = predictor.model.image_size // 4
        signs = torch.from_numpy(np.where(prompt.mask, 10.0, -10.0).astype(np.float32))[None, None]
        mask_input = functional.interpolate(
            signs, (side, side), mode="bilinear", align_corners=False, antialias=True
        )[0].numpy()
    has_points = len(prompt.points_xy) > 0
    candidates: tuple[np.ndarray, np.ndarray, np.ndarray] = predictor.predict(
        point_coords=np.array(prompt.points_xy) if has_points else None,
        point_labels=np.array(prompt.labels) if has_points else None,
        box=None if prompt.box_xyxy is None else np.array(prompt.box_xyxy),
        mask_input=mask_input,
        multimask_output=True,
    )
    return candidates


class Pair:
    """Upstream and ours with the same weights, on the same image."""

    def __init__(self, folder: Path, config: str, image_size: int | None) -> None:
        checkpoint = save_random_checkpoint(folder / "random.pt", config, image_size=image_size, seed=3)
        self.image = make_image(SHAPE, seed=5)
        self.upstream = open_upstream(checkpoint, config, image_size)
        self.upstream.set_image(np.repeat(self.image[..., None], 3, axis=2))
        self.ours = LocalSegmenter(checkpoint, config=config, image_size=image_size, device="cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def get(name: str) -> Pair:
        if name not in made:
            configs = {"tiny": ("sam2.1_hiera_tiny", TINY_SIZE), "nano": ("sam2_ct_nano", NANO_SIZE)}
            config, size = configs[name]
            made[name] = Pair(tmp_path_factory.mktemp("pair"), config, size)
        return made[name]

    return get


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("network", ["tiny", "nano"])
def test_masks_are_those_of_upstream(
    pairs: Callable[[str], Pair], network: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, prompt = pairs(network), PROMPTS[name]
    logits: list[np.ndarray] = []
    upsample = sam2_inference.upsample_masks
    monkeypatch.setattr(
        sam2_inference,
        "upsample_masks",
        lambda low, shape: (logits.append(low.numpy()), upsample(low, shape))[1],
    )
    masks, scores, low_res = ask_upstream(pair.upstream, prompt)
    prediction = pair.ours.predict(pair.image, prompt)
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(logits[0][0].clip(-32, 32), low_res, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prediction.scores, scores[order], rtol=1e-6)
    # Random logits cross zero everywhere: rounding turns a pixel in some hundred thousand.
    assert (prediction.masks != masks[order].astype(bool)).mean() < 2e-5
    # Random logits lie near zero, so masks that are all one value would prove nothing.
    assert 0.01 < prediction.masks.mean() < 0.99


@pytest.mark.parametrize("shape_hw", [(439, 441), (512, 512), (50, 700), (128, 128), (17, 33)])
@pytest.mark.parametrize(
    "blob", [(10, 20, 90, 120), (0, 3, 120, 128), (60, 61, 40, 41), (0, 128, 0, 128), None]
)
def test_a_box_is_stretched_like_the_whole_slice(
    shape_hw: tuple[int, int], blob: tuple[int, int, int, int] | None
) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = -torch.rand(1, 3, 128, 128, generator=generator) - 0.01
    if blob is not None:
        top, bottom, left, right = blob
        logits[:, :2, top:bottom, left:right] += 2 * torch.rand(1, generator=generator) + 0.5
    whole = functional.interpolate(logits, shape_hw, mode="bilinear", align_corners=False)[0] > 0
    found = sam2_inference.upsample_masks(logits, shape_hw)
    assert np.array_equal(found, whole.numpy())
    assert blob is None or shape_hw == (17, 33) or found[0].any()
    assert not found[2].any()


@pytest.mark.parametrize("side", [64, 300, 1024])
def test_image_is_prepared_as_upstream_does(side: int) -> None:
    from sam2.utils.transforms import SAM2Transforms

    image = make_image((300, 300) if side == 300 else SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transforms = SAM2Transforms(resolution=side, mask_threshold=0)
        theirs = transforms(np.repeat(image[..., None], 3, axis=2))
    assert torch.equal(prepare_image(image, side)[0], theirs)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_checkpoint(
        tmp_path_factory.mktemp("weights") / "random.pt", "sam2_ct_nano", image_size=NANO_SIZE
    )


def open_nano(checkpoint: Path, **options: Any) -> LocalSegmenter:
    return LocalSegmenter(
        checkpoint, config="sam2_ct_nano", image_size=NANO_SIZE, **{"device": "cpu", **options}
    )


def test_embeddings_are_kept_by_content_and_bounded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    encode = Network.encode
    monkeypatch.setattr(Network, "encode", lambda self, image: (runs.append(1), encode(self, image))[1])
    a, b, c = (make_image((32, 40), seed) for seed in range(3))
    with open_nano(checkpoint) as segmenter:
        segmenter.predict(a, Prompt.point(3, 4))
        size = sum(local._bytes_of(one) for one in segmenter._embeddings.values())
    runs.clear()
    monkeypatch.setattr(local, "_EMBEDDING_BYTES", size)
    with open_nano(checkpoint, max_embeddings=2) as segmenter:
        for image in (a, b, a.copy(), c, a, b):
            segmenter.predict(image, Prompt.point(3, 4))
        # a and b once, c once and pushes b out, b again.
        assert len(runs) == 4
        segmenter.predict(a.reshape(40, 32), Prompt.point(3, 4))
        assert len(runs) == 5


def test_threads_asking_for_one_slice_encode_it_once(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    encode = Network.encode
    monkeypatch.setattr(Network, "encode", lambda self, image: (runs.append(1), encode(self, image))[1])
    image = make_image((32, 40))
    with open_nano(checkpoint) as segmenter:
        barrier = threading.Barrier(4)

        def ask() -> None:
            barrier.wait()
            segmenter.embed(image)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(runs) == 1


def test_identity_tells_everything(checkpoint: Path) -> None:
    with open_nano(checkpoint) as segmenter:
        identity = segmenter.identity
    assert identity.name == "random"
    assert identity.weights_sha256 == ModelStore().digest(checkpoint)
    assert (identity.image_size, identity.device, identity.dtype) == (NANO_SIZE, "cpu", "float32")


def test_bfloat16_embeds_nearly_the_same(checkpoint: Path) -> None:
    image = make_image((64, 64))
    with open_nano(checkpoint) as exact, open_nano(checkpoint, dtype="bfloat16") as short:
        assert short.identity.dtype == "bfloat16"
        a = exact._require_loaded().network.encode(image).top
        b = short._require_loaded().network.encode(image).top
    assert b.dtype == torch.float32
    assert (a - b).norm() <= 0.01 * a.norm()
    assert not torch.equal(a, b)


def test_bfloat16_gives_nearly_the_same_masks_with_trained_weights() -> None:
    phantom = make_axial_slice(reference_parameters(), rng=np.random.default_rng(1))
    image = window_to_uint8(phantom.hu)
    with LocalSegmenter(device="cpu") as exact, LocalSegmenter(device="cpu", dtype="bfloat16") as short:
        for name in ("psoas_left", "psoas_right", "vertebra", "muscle"):
            box = mask_to_box_xyxy(phantom.masks[name])
            assert box is not None
            a, b = (one.predict(image, Prompt(box_xyxy=box)).mask for one in (exact, short))
            assert a.any()
            assert (a & b).sum() >= 0.99 * (a | b).sum(), name


def test_threads_of_torch_are_left_alone_unless_asked(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with open_nano(checkpoint) as segmenter:
        segmenter.warm_up()
    assert asked == []
    with open_nano(checkpoint, num_threads=1) as segmenter:
        segmenter.warm_up()
    assert asked == [1]


def test_a_missing_file_is_missing_weights_and_may_arrive_later(checkpoint: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.pt"
    segmenter = open_nano(late)
    assert not segmenter.health().available
    with pytest.raises(WeightsMissing, match=r"late\.pt"):
        segmenter.predict(make_image(), Prompt.point(1, 1))
    late.write_bytes(checkpoint.read_bytes())
    segmenter.predict(make_image(), Prompt.point(1, 1))
    assert segmenter.health().available


def test_a_checkpoint_not_downloaded_says_how_to_get_it(tmp_path: Path) -> None:
    segmenter = LocalSegmenter("sam2.1_hiera_tiny", store=ModelStore(tmp_path))
    health = segmenter.health()
    assert not health.available
    assert "models download sam2.1_hiera_tiny" in health.detail
    with pytest.raises(WeightsMissing, match="models download"):
        _ = segmenter.identity


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_a_weights_error_and_stays_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "torn.pt"
    path.write_bytes(content)
    segmenter = open_nano(path)
    with pytest.raises(WeightsError, match=r"torn\.pt") as caught:
        segmenter.predict(make_image(), Prompt.point(1, 1))
    assert not isinstance(caught.value, Unavailable)
    assert not segmenter.health().available


def test_a_checkpoint_of_another_network_is_refused(checkpoint: Path) -> None:
    segmenter = LocalSegmenter(checkpoint, config="sam2.1_hiera_tiny", device="cpu")
    with pytest.raises(WeightsError, match="do not fit"):
        segmenter.predict(make_image(), Prompt.point(1, 1))


def test_a_wrong_digest_is_refused_before_anything_is_unpickled(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read an unverified checkpoint"))
    with pytest.raises(WeightsError, match="not the one it claims to be"):
        _ = open_nano(checkpoint, sha256="0" * 64).identity


@pytest.mark.parametrize("device", ["cuda:99", "npu", "tpu", "mps:7"])
def test_a_device_that_is_not_there_is_unavailable(checkpoint: Path, device: str) -> None:
    with pytest.raises(DeviceUnavailable, match="device"):
        open_nano(checkpoint, device=device).predict(make_image(), Prompt.point(1, 1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_is_unavailable_and_frees_embeddings(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with open_nano(checkpoint) as segmenter:
        segmenter.embed(make_image())
        monkeypatch.setattr(Network, "encode", fail)
        with pytest.raises(DeviceUnavailable, match="memory of cpu"):
            segmenter.predict(make_image(seed=1), Prompt.point(1, 1))
        assert len(segmenter._embeddings) == 0


def test_other_errors_of_torch_are_not_disguised(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with open_nano(checkpoint) as segmenter:
        monkeypatch.setattr(Network, "encode", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            segmenter.predict(make_image(), Prompt.point(1, 1))


def test_numbers_that_are_not_finite_are_told(tmp_path: Path, checkpoint: Path) -> None:
    state = read_state_dict(checkpoint)
    broken = {name: torch.full_like(value, torch.nan) for name, value in state.items()}
    torch.save({"model": broken}, tmp_path / "nan.pt")
    with (
        open_nano(tmp_path / "nan.pt") as segmenter,
        pytest.raises(WeightsError, match="not finite"),
    ):
        segmenter.predict(make_image(), Prompt.point(1, 1))


def test_a_closed_segmenter_says_so(checkpoint: Path) -> None:
    segmenter = open_nano(checkpoint)
    segmenter.close()
    assert not segmenter.health().available
    with pytest.raises(Unavailable, match="closed"):
        segmenter.predict(make_image(), Prompt.point(1, 1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weights": "no-such-model"}, "no checkpoint of that name"),
        ({"weights": Path("own.pt")}, "architecture"),
        ({"weights": Path("own.pt"), "architecture": "no-such-model"}, "no checkpoint of that name"),
        ({"max_embeddings": 0}, "at least one embedding"),
        ({"num_threads": 0}, "at least one thread"),
        ({"dtype": "int8"}, "precision"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        LocalSegmenter(**arguments)


def test_a_file_of_ones_own_is_built_as_the_architecture_named(tmp_path: Path) -> None:
    own = save_random_checkpoint(tmp_path / "own.pt", "sam2_ct_nano")
    with LocalSegmenter(own, architecture="sam2-ct-nano", device="cpu") as segmenter:
        assert segmenter.identity.name == "own"


def test_slices_embedded_together_give_the_masks_of_slices_alone(tmp_path: Path) -> None:
    checkpoint = save_random_checkpoint(tmp_path / "random.pt", "sam2_ct_nano", image_size=NANO_SIZE)
    images = [make_image(shape, seed) for seed, shape in enumerate([(300, 400), (64, 64), (90, 70)])]

    def open_one() -> LocalSegmenter:
        return LocalSegmenter(checkpoint, config="sam2_ct_nano", image_size=NANO_SIZE, device="cpu")

    with open_one() as together, open_one() as alone:
        together.embed_many([*images, images[0]])
        assert len(together._embeddings) == 3
        kept = dict(together._embeddings)
        for image in images:
            one, other = (each.predict(image, Prompt.point(30, 30)) for each in (together, alone))
            # Not to the last bit: a batch may be summed in another order.
            assert (one.masks != other.masks).mean() < 1e-3
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        assert dict(together._embeddings) == kept, "embedded ahead, nothing is embedded again"
        with pytest.raises(InputError):
            together.embed_many([images[0], images[0][0]])


def test_a_checkpoint_whose_pickle_is_cut_is_damaged(tmp_path: Path) -> None:
    for name, content in (("x.pt", b"\x80\x02."), ("y.pt", b"\x80\x02}.")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError):
            read_state_dict(tmp_path / name)
