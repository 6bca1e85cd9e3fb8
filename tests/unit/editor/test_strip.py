"""The strip of a volume: what is decided about slices, undone by slice, replayed; no model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.editor import MIDDLE, Controller, Document, apply
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.levels import LevelSpan
from ctai_sam2.editor.replay import restore
from ctai_sam2.editor.slice_state import SliceState
from ctai_sam2.editor.strip import interpolation, next_red, stretch, strip_slices
from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.image.masks import area_mm2
from ctai_sam2.types import CTVolume
from tests.unit.editor.making import SHAPE, make_slice, state_of

LABEL = "muscle"


class KeptEvents:
    """A record in memory."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def append(self, event: Any) -> None:
        self.events.append(dict(event))

    def replay(self) -> list[dict[str, Any]]:
        return list(self.events)

    def compact(self, snapshot: Any) -> None:
        self.events = [{"type": "snapshot", "state": snapshot}]


def make_source(positions: list[float] | None = None, depth: int = 7) -> CTVolume:
    positions = positions or [5.0 * z for z in range(depth)]
    hu = np.stack([make_slice().hu for _ in positions])
    return CTVolume(hu_zyx=hu, affine=np.diag([1.0, 1.0, 5.0, 1.0]), slice_positions_mm=positions)


def disc(radius: float, x: float = 15) -> np.ndarray:
    rows, columns = np.indices(SHAPE)
    return np.asarray(np.hypot(columns - x, rows - 10) <= radius)


def make_controller(source: CTVolume | None = None, **options: Any) -> Controller:
    controller = Controller(Document(source or make_source(), MIDDLE, index=0), **options)
    controller.adjust(active=LABEL)
    return controller


def draw(controller: Controller, index: int, mask: np.ndarray) -> None:
    controller.go_to(index)
    controller.apply(do.SetMask(label=LABEL, mask=mask))


def by_model(controller: Controller, gates: dict[int, str]) -> None:
    """Masks as an engine leaves them, in one step."""
    controller.apply_all(
        [
            (
                index,
                do.Compound(
                    commands=(
                        do.SetMask(label=LABEL, mask=disc(4), origin="ai"),
                        do.SetState(label=LABEL, state=SliceState(source="automatic", gate=gate)),  # type: ignore[arg-type]
                    )
                ),
            )
            for index, gate in gates.items()
        ]
    )


def areas(controller: Controller) -> list[int]:
    return [int(controller.document.mask(LABEL, index).sum()) for index in range(7)]


def test_slices_between_drawn_ones_are_interpolated_by_position_as_one_step() -> None:
    positions = [0.0, 2.0, 4.0, 14.0, 20.0, 25.0, 30.0]
    controller = make_controller(make_source(positions))
    draw(controller, 0, disc(3))
    draw(controller, 4, disc(8))
    controller.do("interpolate")
    document = controller.document
    for index in (1, 2, 3):
        radius = 3 + 5 * positions[index] / 20
        drawn = np.sqrt(area_mm2(document.mask(LABEL, index), (1, 1)) / np.pi)
        assert drawn == pytest.approx(radius, abs=0.6)
        assert document.state(LABEL, index).source == "interpolated"
    assert areas(controller)[5:] == [0, 0]
    controller.undo()
    assert [bool(area) for area in areas(controller)] == [True, False, False, False, True, False, False]
    controller.redo()
    assert all(areas(controller)[:5])
    draw(controller, 2, disc(1))
    assert document.state(LABEL, 2).source == "anchor"
    before = areas(controller)
    controller.do("interpolate")
    assert areas(controller)[2] == before[2]
    assert areas(controller)[1] < before[1]


def test_a_step_on_many_slices_is_one_event_and_one_step() -> None:
    record = KeptEvents()
    controller = make_controller(record=record)
    changes: list[Any] = []
    controller.subscribe(changes.append)
    by_model(controller, dict.fromkeys(range(7), "green"))
    assert [event["type"] for event in record.events] == ["batch"]
    assert len([change for change in changes if "mask" in change.aspects]) == 7
    controller.undo()
    assert not any(areas(controller))


def test_what_the_model_made_or_is_absent_is_not_interpolated() -> None:
    controller = make_controller()
    draw(controller, 0, disc(3))
    draw(controller, 6, disc(3))
    by_model(controller, {3: "green"})
    controller.go_to(5)
    controller.do("absent_here")
    controller.do("interpolate")
    assert areas(controller)[3] == int(disc(4).sum())
    assert [bool(area) for area in areas(controller)] == [True, False, False, True, False, False, True]
    assert "two slices" in (controller.message.text("en") if controller.message else "")


def test_a_correction_fixes_a_slice_and_undo_gives_its_gate_back() -> None:
    controller = make_controller()
    by_model(controller, {1: "green", 2: "red", 3: "amber"})
    assert next_red(controller.document, LABEL) == 2
    controller.do("next_red")
    assert controller.document.index == 2
    controller.apply(do.Paint(label=LABEL, points_xy=((3, 3),), radius_mm=2))
    assert controller.document.state(LABEL).is_fixed
    assert next_red(controller.document, LABEL) is None
    controller.do("next_red")
    assert controller.document.index == 2
    controller.undo()
    assert controller.document.state(LABEL) == SliceState(source="automatic", gate="red")


def test_propagation_reaches_up_to_decided_slices_ends_and_the_range() -> None:
    controller = make_controller()
    document = controller.document
    by_model(controller, dict.fromkeys(range(7), "green"))
    controller.go_to(3)
    assert (stretch(document, LABEL, "up"), stretch(document, LABEL, "down")) == ([4, 5, 6], [2, 1, 0])
    controller.set_levels([], (1, 5))
    assert (stretch(document, LABEL, "up"), stretch(document, LABEL, "down")) == ([4, 5], [2, 1])
    controller.go_to(4)
    controller.do("end_here")
    controller.go_to(2)
    controller.do("lock_here")
    controller.go_to(3)
    assert (stretch(document, LABEL, "up"), stretch(document, LABEL, "down")) == ([4], [])
    controller.go_to(2)
    controller.do("lock_here")
    controller.go_to(3)
    assert stretch(document, LABEL, "down") == [2, 1]
    with pytest.raises(InputError, match="outside the volume"):
        controller.set_levels([], (0, 7))


def test_an_absent_slice_is_empty_and_decided() -> None:
    controller = make_controller()
    by_model(controller, {2: "amber"})
    controller.go_to(2)
    controller.do("absent_here")
    assert not controller.document.mask(LABEL).any()
    assert controller.document.state(LABEL).source == "absent"
    controller.undo()
    assert controller.document.mask(LABEL).any()
    controller.adjust_label(LABEL, locked=True)
    controller.do("absent_here")
    assert controller.document.mask(LABEL).any()


def test_undo_on_a_slice_leaves_other_slices_alone() -> None:
    controller = make_controller()
    draw(controller, 1, disc(3))
    draw(controller, 1, disc(5))
    draw(controller, 4, disc(6))
    controller.go_to(1)
    controller.do("undo_slice")
    assert (areas(controller)[1], areas(controller)[4]) == (int(disc(3).sum()), int(disc(6).sum()))
    controller.do("undo_slice")
    assert areas(controller)[1] == 0
    controller.do("undo_slice")
    assert "Nothing to undo" in (controller.message.text("en") if controller.message else "")
    controller.do("redo")
    controller.do("redo")
    assert (areas(controller)[1], areas(controller)[4]) == (int(disc(5).sum()), int(disc(6).sum()))


def test_undo_on_the_first_slice_of_a_run_does_not_join_the_rest_to_what_came_before() -> None:
    controller = make_controller()
    draw(controller, 6, disc(2))
    by_model(controller, {0: "green", 1: "green", 2: "green"})
    controller.go_to(0)
    controller.do("undo_slice")
    assert [bool(area) for area in areas(controller)] == [False, True, True, False, False, False, True]
    controller.do("undo")
    assert [bool(area) for area in areas(controller)] == [False] * 6 + [True]


steps = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from(["draw", "model", "absent_here", "lock_here", "end_here", "interpolate"])
        | st.sampled_from(["undo", "redo", "undo_slice"]),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps, st.booleans())
def test_any_steps_are_replayed_and_undone(done: list[tuple[int, str]], compact: bool) -> None:
    record = KeptEvents()
    source = make_source()
    controller = make_controller(source, record=record)
    controller.set_levels([LevelSpan(name="L3", lower_mm=4, upper_mm=12)], (0, 6))
    for number, (index, step) in enumerate(done):
        if step == "draw":
            draw(controller, index, disc(1 + number % 6))
        elif step == "model":
            by_model(controller, {index: "red", (index + 1) % 7: "green"})
        else:
            controller.go_to(index)
            controller.do(step)
    if compact:
        controller.compact_record()
    again = make_controller(source, record=record)
    assert everything(again) == everything(controller)
    for each in (controller, again):
        while each.document.history.done:
            each.undo()
    assert everything(again) == everything(controller)
    assert not any(areas(controller))


def everything(controller: Controller) -> tuple[Any, ...]:
    document = controller.document
    states = tuple(document.recorded_state(LABEL, index) for index in range(7))
    return state_of(document), states, document.levels, document.span


def test_the_strip_names_levels_by_position() -> None:
    controller = make_controller()
    controller.set_levels(
        [LevelSpan(name="L4", lower_mm=0, upper_mm=9), LevelSpan(name="L3", lower_mm=14, upper_mm=31)], None
    )
    draw(controller, 2, disc(3))
    slices = strip_slices(controller.document, LABEL)
    assert [one.level for one in slices] == ["L4", "L4", "", "L3", "L3", "L3", "L3"]
    assert [one.is_outlined for one in slices] == [False, False, True, False, False, False, False]
    assert slices[2].z_mm == 10.0


@pytest.mark.parametrize(
    "wrong",
    [
        {
            "type": "edit",
            "edit": {"name": "x", "index": 0, "masks": [], "marks": [], "states": [{"label": LABEL}]},
            "dropped": 0,
        },
        {"type": "levels", "levels": [{"name": "Q9", "lower_mm": 0, "upper_mm": 1}], "span": None},
        {"type": "levels", "levels": [], "span": [0, 99]},
        {"type": "undo", "index": 3},
    ],
)
def test_a_record_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        restore(Document(make_source(), MIDDLE), [wrong])


def test_a_single_slice_has_no_strip_and_its_verbs_do_nothing() -> None:
    controller = Controller(Document(make_slice(), MIDDLE))
    for action in ("absent_here", "lock_here", "end_here", "interpolate", "next_red"):
        controller.do(action)
    assert not controller.document.history.done
    assert interpolation(controller.document, "muscle") == []


def test_a_state_is_checked() -> None:
    with pytest.raises(InputError, match="no such source"):
        SliceState(source="guess")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no such gate"):
        SliceState(gate="blue")  # type: ignore[arg-type]
    assert apply(Document(make_source(), MIDDLE), do.SetState(label=LABEL, state=None))[1] is None
