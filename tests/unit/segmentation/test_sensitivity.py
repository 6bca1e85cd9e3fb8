from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.errors import InputError, ServiceUnreachable
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.segmentation import robustness, slice_sensitivity
from ctai_sam2.segmentation.sensitivity import jitter_prompt
from ctai_sam2.types import CTSlice, CTVolume, Prompt
from tests.fakes import FakeSegmenter

SLICE = CTSlice(
    hu=np.pad(np.full((78, 98), 40, np.int16), 1, constant_values=-1000), spacing_mm=(1.0, 2.0), plane="axial"
)


def disc(x: float = 50, y: float = 40, radius: float = 12) -> np.ndarray:
    rows, columns = np.indices(SLICE.shape_hw)
    return np.asarray(np.hypot(columns - x, rows - y) <= radius)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 60), st.integers(0, 99), st.integers(0, 79))
def test_a_jittered_prompt_stays_on_the_slice(seed: int, jitter_mm: float, x: int, y: int) -> None:
    prompt = Prompt(
        points_xy=[[x, y], [3, 3]], labels=[1, 0], box_xyxy=(10, 10, 30, 40), mask=disc(), structure="muscle"
    )
    moved = jitter_prompt(
        prompt, np.zeros(SLICE.shape_hw, bool), SLICE, jitter_mm, np.random.default_rng(seed)
    )
    moved.require_within(SLICE.shape_hw)
    assert moved.structure == "muscle"
    assert list(moved.labels) == [1, 0]


def test_positive_points_stay_in_the_structure_and_move_in_millimetres() -> None:
    mask, rng = disc(), np.random.default_rng(0)
    prompt = Prompt(points_xy=[[50, 40], [10, 10]], labels=[1, 0])
    places = np.array([jitter_prompt(prompt, mask, SLICE, 6.0, rng).points_xy for _ in range(300)])
    inside = np.rint(places[:, 0]).astype(int)
    assert mask[inside[:, 1], inside[:, 0]].all()
    free = places[:, 1] - [10, 10]
    # Columns are 2 mm wide and rows 1 mm: half as far in pixels.
    assert free[:, 0].std() == pytest.approx(3.0, rel=0.25)
    assert free[:, 1].std() == pytest.approx(6.0, rel=0.25)


def test_areas_and_agreement_are_reported() -> None:
    result = robustness(SLICE, Prompt.point(50, 40), FakeSegmenter(), structure="muscle", n=12, jitter_mm=3.0)
    assert result.areas_mm2.shape == result.agreement.shape == (12,)
    assert result.area_mean_mm2 == pytest.approx(result.central.mask.sum() * 2.0, rel=0.1)
    assert 0.5 < result.pairwise_agreement < 1
    assert (result.agreement < 1).any()
    assert result.share_hw.max() == 1.0
    assert 0 < result.share_hw[result.central.mask].mean() <= 1
    assert result.failed == 0
    again = robustness(SLICE, Prompt.point(50, 40), FakeSegmenter(), structure="muscle", n=12, jitter_mm=3.0)
    np.testing.assert_array_equal(result.share_hw, again.share_hw)


def test_more_jitter_means_less_agreement() -> None:
    near, far = (
        robustness(SLICE, Prompt.point(50, 40), FakeSegmenter(), structure="muscle", n=10, jitter_mm=mm)
        for mm in (0.5, 6.0)
    )
    assert near.pairwise_agreement > far.pairwise_agreement


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 1}, "trials"),
        ({"jitter_mm": 0.0}, "more than 0"),
        ({"jitter_mm": float("nan")}, "more than 0"),
        ({"structure": None}, "needs a structure"),
    ],
)
def test_nonsense_is_refused(change: dict[str, object], message: str) -> None:
    options = {"n": 5, "jitter_mm": 2.0, "structure": "muscle", **change}
    with pytest.raises(InputError, match=message):
        robustness(SLICE, Prompt.point(50, 40), FakeSegmenter(), **options)  # type: ignore[arg-type]


def test_slices_about_the_middle_are_measured_and_a_failure_is_a_row() -> None:
    phantom = make_axial_slice(
        reference_parameters(), shape_hw=(192, 192), spacing_mm=(2.0, 2.0), rng=np.random.default_rng(0)
    )
    empty = np.full_like(phantom.hu, -1000)
    volume = CTVolume(hu_zyx=np.stack([empty, phantom.hu, phantom.hu]), affine=np.diag([2.0, 2.0, 4.0, 1.0]))
    rows = slice_sensitivity(volume, 1, FakeSegmenter(), k=2, structures=("psoas_left",))
    assert [row.axial_index for row in rows] == [0, 1, 2]
    assert [row.offset_mm for row in rows] == [-4.0, 0.0, 4.0]
    below, middle, above = rows
    assert below.area_cm2 is None
    assert below.error is not None
    assert middle.area_change_pct == 0
    assert above.area_cm2 == middle.area_cm2
    assert above.hu_mean == middle.hu_mean


class Dying(FakeSegmenter):
    """Fails after a number of predictions, as a service that goes away does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def predict(self, image_hw, prompt, *, window=None):  # type: ignore[no-untyped-def]
        if self.calls >= self.after:
            raise ServiceUnreachable("the service does not respond")
        return super().predict(image_hw, prompt, window=window)


@pytest.mark.parametrize("after", [1, 7])
def test_an_outage_is_raised_and_never_an_empty_mask(after: int) -> None:
    with pytest.raises(ServiceUnreachable):
        robustness(SLICE, Prompt.point(50, 40), Dying(after), structure="muscle", n=12)


def test_an_outage_says_nothing_about_a_slice() -> None:
    phantom = make_axial_slice(
        reference_parameters(), shape_hw=(192, 192), spacing_mm=(2.0, 2.0), rng=np.random.default_rng(0)
    )
    volume = CTVolume(hu_zyx=np.stack([phantom.hu] * 3), affine=np.diag([2.0, 2.0, 4.0, 1.0]))
    with pytest.raises(ServiceUnreachable):
        slice_sensitivity(volume, 1, Dying(1), k=1, structures=("psoas_left",))


@pytest.mark.parametrize(
    "change", [{"axial_index": 9}, {"k": 0}, {"structures": ("liver",)}, {"structures": ()}]
)
def test_no_such_slice_or_structure(change: dict[str, object]) -> None:
    volume = CTVolume(hu_zyx=np.zeros((3, 8, 8), np.int16), affine=np.eye(4))
    options = {"axial_index": 1, "k": 1, "structures": ("psoas",), **change}
    index = options.pop("axial_index")
    with pytest.raises(InputError):
        slice_sensitivity(volume, index, FakeSegmenter(), **options)  # type: ignore[arg-type]
