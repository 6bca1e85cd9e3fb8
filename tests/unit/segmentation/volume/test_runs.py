"""Runs over a range of slices: which are decoded, what is kept, and bad input. No model and no anatomy."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import AnatomyNotFound, InputError, ServiceUnreachable, StorageError
from ctai_sam2.measure.definitions import DEFAULT_DEFINITIONS
from ctai_sam2.measure.overlap import dice
from ctai_sam2.segmentation.results import StructureResult
from ctai_sam2.segmentation.volume import (
    SliceMask,
    VolumeAnchor,
    VolumeResult,
    correct_volume,
    segment_volume,
)
from ctai_sam2.segmentation.volume import engine as engine_module
from ctai_sam2.segmentation.volume import follower as follower_module
from ctai_sam2.segmentation.volume.follower import EngineParameters
from ctai_sam2.study.slice_folder import SliceFolder
from ctai_sam2.types import CTSlice, CTVolume, Prompt
from tests.fakes import FakeSegmenter

SHAPE = (48, 64)
rows, columns = np.indices(SHAPE)


def muscle_at(z_mm: float) -> np.ndarray:
    """A muscle that moves and grows along the body, none above 90 mm."""
    if z_mm > 90:
        return np.zeros(SHAPE, bool)
    return np.asarray(np.hypot(columns - 20 - 0.1 * z_mm, rows - 24) <= 8 + 0.05 * z_mm)


def volume_of(positions: list[float], *, tilt: float = 0.0) -> CTVolume:
    hu = np.full((len(positions), *SHAPE), -100, np.int16)
    for index, z_mm in enumerate(positions):
        hu[index][muscle_at(z_mm)] = 50
    step = (positions[-1] - positions[0]) / max(len(positions) - 1, 1) or 3.0
    affine = np.diag([1.0, 1.0, step, 1.0])
    affine[1, 2] = tilt * step
    return CTVolume(hu_zyx=hu, affine=affine, slice_positions_mm=positions)


class Session:
    """Sees muscle where it is; one request to the segmenter for each mask, as in the real one."""

    opened: list[float]

    def __init__(self, ct_slice: CTSlice, segmenter: FakeSegmenter) -> None:
        self.ct_slice, self.segmenter = ct_slice, segmenter

    @classmethod
    def open(cls, ct_slice: CTSlice, segmenter: FakeSegmenter, **_: object) -> Session:
        return cls(ct_slice, segmenter)

    def segment(self, structure: str, *, prompt: Prompt | None = None) -> StructureResult:
        self.segmenter.predict(np.zeros(SHAPE, np.uint8), Prompt.point(30, 24))
        mask = self.ct_slice.hu > 0
        if not mask.any():
            raise AnatomyNotFound("no muscle is visible")
        return StructureResult(
            structure=structure,  # type: ignore[arg-type]
            mask=mask,
            prediction=None,
            prompts=(),
            prompted_by="anatomy",
            confidence=0.9,
        )


class Dying(FakeSegmenter):
    """Is lost after some requests."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def predict(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        if self.calls >= self.after:
            self.error = ServiceUnreachable("the service does not respond")
        return super().predict(*args, **kwargs)  # type: ignore[arg-type]

    @property
    def identity(self):  # type: ignore[no-untyped-def]
        return self._identity


@pytest.fixture(autouse=True)
def _sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (engine_module, follower_module):
        monkeypatch.setattr(module, "AxialSession", Session)


def run(volume: CTVolume, segmenter: FakeSegmenter | None = None, **options: object):  # type: ignore[no-untyped-def]
    options = {"structures": ("muscle",), "indices": (0, volume.shape_zyx[0] - 1), **options}
    return segment_volume(volume, segmenter or FakeSegmenter(), **options)  # type: ignore[arg-type]


def test_slices_between_plausible_ones_are_interpolated() -> None:
    volume = volume_of([1.5 * i for i in range(41)])
    segmenter = FakeSegmenter()
    result = run(volume, segmenter)
    assert segmenter.calls == 8
    slices = result.structure_slices["muscle"]
    assert {one.source for one in slices.values()} == {"automatic", "interpolated"}
    for index, z_mm in enumerate(volume.slice_positions_mm):
        assert dice(slices[index].full(SHAPE), muscle_at(z_mm)) > 0.95
    exact = run(volume, every_mm=None).summary.volume_cm3[0]
    assert result.summary.volume_cm3[0] == pytest.approx(exact, rel=0.02)


def test_the_end_of_a_muscle_is_looked_for_slice_by_slice() -> None:
    volume = volume_of([70 + 1.5 * i for i in range(25)])
    segmenter = FakeSegmenter()
    result = run(volume, segmenter)
    slices = result.structure_slices["muscle"]
    for index, z_mm in enumerate(volume.slice_positions_mm):
        assert bool(slices[index].crop.size) == (z_mm <= 90)
    assert segmenter.calls < 25


def test_progress_counts_every_slice_once() -> None:
    seen: list[tuple[int, int]] = []
    run(
        volume_of([70 + 1.5 * i for i in range(25)]),
        progress=lambda done, total, step: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    volume = volume_of([3.0 * i for i in range(20)])
    kept = SliceFolder(tmp_path)
    anchor = VolumeAnchor(structure="muscle", axial_index=4, mask=muscle_at(30))
    with pytest.raises(ServiceUnreachable):
        run(volume, Dying(6), kept=kept, every_mm=None, anchors=[anchor])
    finished = len(list(tmp_path.glob("0*.zip")))
    assert finished >= 4
    after = FakeSegmenter()
    result = run(volume, after, kept=kept, every_mm=None)
    assert result.structure_slices["muscle"][4].source == "anchor"
    uninterrupted = FakeSegmenter()
    whole = run(volume, uninterrupted, every_mm=None, anchors=[anchor])
    assert after.calls == uninterrupted.calls - finished
    np.testing.assert_array_equal(result.masks["muscle"], whole.masks["muscle"])


def test_what_was_kept_for_other_pixels_or_limits_is_not_used(tmp_path: Path) -> None:
    kept = SliceFolder(tmp_path)
    run(volume_of([3.0 * i for i in range(5)]), kept=kept, every_mm=None)
    for options in (
        {"volume": volume_of([20 + 3.0 * i for i in range(5)])},
        {"definitions": DEFAULT_DEFINITIONS.__class__(name="other", version="1", source="test")},
    ):
        segmenter = FakeSegmenter()
        volume = options.pop("volume", volume_of([3.0 * i for i in range(5)]))
        run(volume, segmenter, kept=kept, every_mm=None, **options)  # type: ignore[arg-type]
        assert segmenter.calls == 5


def test_a_damaged_slice_is_made_again_and_damaged_anchors_are_an_error(tmp_path: Path) -> None:
    volume = volume_of([3.0 * i for i in range(5)])
    kept = SliceFolder(tmp_path)
    result = run(volume, kept=kept, every_mm=None)
    (tmp_path / "00002.zip").write_bytes(b"PK damaged")
    segmenter = FakeSegmenter()
    run(volume, segmenter, kept=kept, every_mm=None)
    assert segmenter.calls == 1
    correct_volume(
        result,
        [VolumeAnchor(structure="muscle", axial_index=1, mask=muscle_at(20))],
        FakeSegmenter(),
        kept=kept,
    )
    (tmp_path / "anchors.zip").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match="damaged"):
        run(volume, kept=kept)


def test_anchors_of_other_structures_and_runs_stay_kept(tmp_path: Path) -> None:
    volume, kept = volume_of([3.0 * i for i in range(5)]), SliceFolder(tmp_path)
    for structure, index in (("muscle", 1), ("psoas_left", 2), ("psoas_left", 3)):
        anchor = VolumeAnchor(structure=structure, axial_index=index, mask=muscle_at(20))  # type: ignore[arg-type]
        result = run(volume, structures=(structure,), kept=kept, anchors=[anchor])
    again = run(volume, structures=("muscle", "psoas_left"), kept=kept)
    drawn = {
        (name, index)
        for name, found in again.structure_slices.items()
        for index, one in found.items()
        if one.source == "anchor"
    }
    assert drawn == {("muscle", 1), ("psoas_left", 2), ("psoas_left", 3)}
    correct_volume(
        result,
        [VolumeAnchor(structure="psoas_left", axial_index=4, mask=muscle_at(20))],
        FakeSegmenter(),
        kept=kept,
    )
    assert run(volume, kept=kept).structure_slices["muscle"][1].source == "anchor"


def test_an_anchor_outside_of_the_range_is_refused() -> None:
    volume = volume_of([3.0 * i for i in range(12)])
    anchor = VolumeAnchor(structure="muscle", axial_index=11, mask=muscle_at(20))
    with pytest.raises(InputError, match="outside"):
        run(volume, indices=(0, 8), anchors=[anchor])


def test_what_is_found_beyond_the_end_of_a_psoas_is_left_out() -> None:
    volume = volume_of([70 + 3.0 * i for i in range(25)])
    hu = np.array(volume.hu_zyx)
    # A point is left where the psoas ends, and another muscle comes above.
    hu[7:12, 24, 30], hu[12:, 20:30, 20:30] = 50, 50
    volume = replace(volume, hu_zyx=hu)
    result = run(volume, structures=("psoas_left", "muscle"), every_mm=None)
    psoas, muscle = (result.structure_slices[name] for name in ("psoas_left", "muscle"))
    assert {psoas[i].source for i in range(7, 25)} == {"absent"}
    assert all(psoas[i].crop.any() for i in range(7))
    assert all(muscle[i].crop.any() for i in range(25))
    # What is missing below is no end.
    turned = replace(volume, hu_zyx=hu[::-1].copy())
    below = run(turned, structures=("psoas_left",), every_mm=None).structure_slices["psoas_left"]
    assert all(below[i].crop.any() for i in range(25))
    # Not up to where a reader says that there is some.
    anchor = VolumeAnchor(structure="psoas_left", axial_index=20, mask=muscle_at(20))
    anchored = run(volume, structures=("psoas_left",), every_mm=None, anchors=[anchor])
    assert anchored.structure_slices["psoas_left"][20].source == "anchor"
    assert all(anchored.structure_slices["psoas_left"][i].crop.any() for i in range(12, 21))


def test_a_full_disk_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        run(volume_of([0.0, 3.0, 6.0]), kept=SliceFolder(tmp_path / "file"))


@pytest.mark.parametrize("positions", [[0.0, 3.0], [0.0, 0.8, 1.6, 30.0, 31.0], [5.0, 5.5, 9.0, 9.1]])
def test_odd_stacks_are_integrated_by_position(positions: list[float]) -> None:
    volume = volume_of(positions)
    result = run(volume, every_mm=None)
    areas = np.array([muscle_at(z).sum() / 100 for z in positions])
    expected = np.trapezoid(areas, positions) / 10
    assert result.summary.volume_cm3[0] == pytest.approx(expected)
    assert any("gaps" in text for text in result.warnings) == (np.ptp(np.diff(positions)) > 3)


def test_one_slice_has_no_volume() -> None:
    result = run(volume_of([0.0]))
    assert np.isnan(result.summary.volume_cm3[0])
    assert any("single slice" in text for text in result.warnings)


def test_a_tilted_stack_counts_the_distance_between_its_planes() -> None:
    straight, tilted = (run(volume_of([3.0 * i for i in range(6)], tilt=t)) for t in (0.0, 0.3))
    assert tilted.summary.volume_cm3[0] == pytest.approx(straight.summary.volume_cm3[0])


def test_memory_does_not_grow_with_the_number_of_slices() -> None:
    peaks = []
    for count in (70, 700):
        volume = volume_of([80 * i / count for i in range(count)])
        tracemalloc.start()
        run(volume, every_mm=None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A mask's box is 20 x 20 pixels; whole slices of HU would be 6 kB each, masks 3 kB.
    assert (peaks[1] - peaks[0]) / 630 < 2500


def with_small_muscle(result: VolumeResult) -> VolumeResult:
    small = SliceMask(corner_yx=(20, 20), crop=np.ones((4, 4), bool), source="automatic")
    return replace(result, structure_slices={"muscle": dict.fromkeys(result.indices, small)})


def test_a_correction_looks_at_slices_a_step_apart_and_interpolates_between() -> None:
    volume = volume_of([1.5 * i for i in range(31)])
    result = run(volume)
    segmenter = FakeSegmenter()
    anchor = VolumeAnchor(structure="muscle", axial_index=10, mask=muscle_at(15))
    corrected = correct_volume(
        with_small_muscle(result),
        [anchor],
        segmenter,
        parameters=EngineParameters(longest_whole_run_mm=1e4),
    )
    slices = corrected.structure_slices["muscle"]
    # 6 mm are 4 slices: 5 steps up and 3 down, where the last is the end of the range.
    assert segmenter.calls == 8
    assert {one.source for one in slices.values()} == {"anchor", "propagated", "interpolated"}
    for index, z_mm in enumerate(volume.slice_positions_mm):
        assert dice(slices[index].full(SHAPE), muscle_at(z_mm)) > 0.9


def test_a_correction_of_all_muscle_fades_and_ends() -> None:
    volume = volume_of([3.0 * i for i in range(31)])
    result = run(volume)
    segmenter = FakeSegmenter()
    anchor = VolumeAnchor(structure="muscle", axial_index=15, mask=muscle_at(45))
    corrected = correct_volume(with_small_muscle(result), [anchor], segmenter)
    areas = [int(one.crop.sum()) for _, one in sorted(corrected.structure_slices["muscle"].items())]
    # 30 mm are 10 slices.
    assert set(areas[:6]) == set(areas[25:]) == {16}
    assert areas[16] > areas[18] > areas[21] > areas[23] > 16
    assert segmenter.calls == 10
