"""What reaches the browser, and in which state an error leaves the manager."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from ipycanvas import Canvas

from ctai_sam2.editor import L3, MIDDLE, Controller, render_grey, render_overlay
from ctai_sam2.editor import commands as do
from ctai_sam2.types import Window
from ctai_sam2.widgets.canvas import SliceCanvas
from ctai_sam2.widgets.canvas_manager import Pacer, drawing
from tests.unit.editor.making import make_document, make_slice
from tests.unit.widgets.recording import Recorder, model


@pytest.fixture
def controller() -> Controller:
    return Controller(make_document(MIDDLE, source=make_slice(spacing_mm=(2.0, 0.5))))


@pytest.fixture
def canvas(controller: Controller, recorder: Recorder) -> SliceCanvas:
    canvas = SliceCanvas(controller, width=300, height=200)
    controller.subscribe(canvas.require)
    canvas.paint()
    return canvas


def test_the_first_painting_is_one_message_with_grey_and_masks(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    assert len(recorder.messages) == 1
    [(_, _, _, grey)] = recorder.images()
    assert np.array_equal(grey, render_grey(controller.document))
    # Without masks their canvas is emptied, and no image of nothing is sent.
    assert "clearRect" in recorder.names()


def test_a_stroke_sends_only_lines_until_it_ends_and_then_its_box(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    controller.do("tool.brush")
    controller.adjust(active="muscle", brush_radius_mm=2.0)
    canvas.paint()
    recorder.clear()
    controller.press(10, 9, space="image")
    controller.move(14, 9, space="image")
    canvas.paint()
    assert recorder.images() == []
    assert "strokeLines" in recorder.names()
    assert "drawImage" not in recorder.names()
    recorder.clear()
    controller.release(14, 9, space="image")
    canvas.paint()
    [(_, x, y, sent)] = recorder.images()
    whole = render_overlay(controller.document)[0]
    assert sent.size < whole.size / 2
    assert np.array_equal(sent, whole[y : y + sent.shape[0], x : x + sent.shape[1]])
    before = recorder.names().index("putImageData")
    assert recorder.names()[before - 1] == "clearRect"


def test_the_right_letter_is_beside_what_covers_the_picture(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    recorder.clear()
    canvas.resize(300, 200, covered_right=80)
    canvas.paint()
    right = controller.document.edge_letters()[1]
    assert right
    [x] = [values[1] for _, name, values, _ in recorder.commands if name == "fillText" and values[0] == right]
    assert 200 < x < 300 - 80


def test_zoom_and_pan_send_no_pixels(controller: Controller, canvas: SliceCanvas, recorder: Recorder) -> None:
    recorder.clear()
    controller.wheel(2, 100, 50)
    canvas.paint()
    assert recorder.images() == []
    a, b, c, d, e, f = next(values for _, name, values, _ in recorder.commands if name == "setTransform")
    assert (b, c) == (0, 0)
    assert d / a == pytest.approx(4.0)  # rows lie 2 mm apart, columns 0.5 mm
    assert (e, f) == pytest.approx(controller.document.view.viewport.pan_xy)


def test_window_and_opacity_send_their_layer_alone(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    recorder.clear()
    controller.adjust(window=Window(level=0, width=100))
    canvas.paint()
    assert [image.ndim for _, _, _, image in recorder.images()] == [2]
    controller.apply(do.FillRectangle(label="muscle", box_xyxy=(2, 2, 9, 9)))
    canvas.paint()
    recorder.clear()
    controller.adjust(opacity=0.9)
    canvas.paint()
    assert [image.ndim for _, _, _, image in recorder.images()] == [3]


def test_a_sharp_screen_gets_more_canvas_pixels_and_the_same_places(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    one = canvas.to_page(30, 40)
    assert one == (30, 40)
    canvas.set_pixel_ratio(2.0)
    assert (canvas.widget.width, canvas.widget.height) == (600, 400)
    assert canvas.to_page(60, 80) == (30, 40)
    recorder.clear()
    canvas.paint()
    a, *_ = next(values for _, name, values, _ in recorder.commands if name == "setTransform")
    assert a == pytest.approx(2 * controller.document.view.viewport.transform[0])
    canvas.set_pixel_ratio(77.0)
    assert canvas.pixel_ratio == 2.0


def test_a_reloaded_page_gets_everything_again(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    controller.apply(do.FillRectangle(label="muscle", box_xyxy=(2, 2, 9, 9)))
    canvas.paint()
    recorder.clear()
    canvas.widget[3]._handle_frontend_event(None, {"event": "client_ready"}, [])
    grey, overlay = recorder.images()
    assert np.array_equal(grey[3], render_grey(controller.document))
    assert np.array_equal(overlay[3], render_overlay(controller.document)[0])


def test_another_readers_mask_is_drawn_over_and_taken_away(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    other = np.zeros((20, 30), bool)
    other[4:9, 4:9] = True
    with controller.lock:
        canvas.require(controller.document.set_references({"muscle": other}))
    recorder.clear()
    canvas.paint()
    sent = recorder.images()[-1][3]
    assert (sent[..., 3] > 0).sum() == 16
    with controller.lock:
        canvas.require(controller.document.set_references({"muscle": None}))
    recorder.clear()
    canvas.paint()
    assert recorder.images() == []
    assert recorder.names().count("clear") >= 2


def test_the_l3_editor_shows_the_rectangles_around_the_mask(recorder: Recorder) -> None:
    controller = Controller(make_document(L3))
    canvas = SliceCanvas(controller, width=300, height=200)
    controller.subscribe(canvas.require)
    canvas.paint()
    recorder.clear()
    for x in (4, 14):
        controller.apply(do.FillRectangle(label="l3", box_xyxy=(x, 4, x + 4, 9)))
    canvas.paint()
    rings = [buffers for _, name, _, buffers in recorder.commands if name == "strokeLines"]
    points = np.frombuffer(rings[-1][0], np.float64).reshape(-1, 2)
    assert points[0] == pytest.approx(controller.document.view.viewport.to_screen(13.5, 3.5))
    assert points[2] == pytest.approx(controller.document.view.viewport.to_screen(18.5, 9.5))
    controller.do("undo")
    recorder.clear()
    canvas.paint()
    assert sum(name == "strokeLines" for name in recorder.names()) == len(rings) - 2


def test_everything_that_can_be_under_the_hand_is_drawn(
    controller: Controller, canvas: SliceCanvas, recorder: Recorder
) -> None:
    drawn: set[str] = set()
    for tool in controller.document.profile.tools:
        controller.do(f"tool.{tool}")
        recorder.clear()
        for x in (5, 15, 15):
            controller.press(x, 8, space="image")
            controller.move(x + 6, 14, space="image")
            canvas.paint()
        drawn |= set(recorder.names())
        controller.cancel()
    assert {"ellipse", "strokeLine", "strokeLines", "fillCircle", "strokeCircle", "setLineDash"} <= drawn


def test_an_error_while_drawing_leaves_the_manager_usable(recorder: Recorder) -> None:
    canvas = Canvas()
    manager = canvas._canvas_manager

    def fail() -> None:
        with drawing(canvas):
            canvas.fill_rect(0, 0, 1, 1)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert manager._caching is False
    assert manager._commands_cache == []
    recorder.clear()
    with drawing(canvas):
        canvas.fill_rect(0, 0, 2, 2)
    assert recorder.commands == [(model(canvas), "fillRect", [0, 0, 2, 2], [])]


def test_every_message_names_its_canvas_first(recorder: Recorder) -> None:
    canvas = Canvas()
    for _ in range(2):
        with drawing(canvas):
            canvas.fill_rect(0, 0, 1, 1)
    assert [command[0] for command in recorder.commands] == [model(canvas)] * 2


def test_threads_do_not_mix_their_messages(recorder: Recorder) -> None:
    canvases = [Canvas() for _ in range(4)]

    def draw(canvas: Canvas) -> None:
        for _ in range(50):
            with drawing(canvas):
                canvas.fill_rect(0, 0, 1, 1)
                canvas.fill_rect(1, 1, 1, 1)

    threads = [threading.Thread(target=draw, args=(canvas,)) for canvas in canvases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.messages) == 200
    assert all(len({command[0] for command in message}) == 1 for message in recorder.messages)


def test_a_pacer_runs_the_first_request_at_once_and_the_rest_together() -> None:
    ran = threading.Semaphore(0)
    count = []

    def run() -> None:
        count.append(1)
        ran.release()

    pacer = Pacer(run, every_s=0.05)
    for _ in range(20):
        pacer.request()
    assert len(count) == 1
    assert ran.acquire(timeout=10)
    assert ran.acquire(timeout=10)
    assert len(count) == 2
    pacer.close()
    pacer.request()
    assert len(count) == 2
