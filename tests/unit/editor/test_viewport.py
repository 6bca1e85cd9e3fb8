"""Screen and image, in true millimetres."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctai_sam2.editor import Viewport
from ctai_sam2.errors import InputError

viewports = st.builds(
    Viewport,
    shape_hw=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    spacing_mm=st.tuples(st.floats(0.3, 6), st.floats(0.3, 6)),
    canvas_hw=st.tuples(st.integers(10, 2000), st.integers(10, 2000)),
)
places = st.tuples(st.floats(-50, 2000), st.floats(-50, 2000))


@given(viewports, places, st.floats(0.01, 100), places)
def test_to_image_undoes_to_screen(
    viewport: Viewport, centre: tuple[float, float], factor: float, point: tuple[float, float]
) -> None:
    view = viewport.fitted().zoomed(factor, *centre)
    assert view.to_image(*view.to_screen(*point)) == pytest.approx(point, abs=1e-4)


@given(viewports)
def test_fit_shows_all_in_the_middle_and_a_millimetre_is_a_millimetre(viewport: Viewport) -> None:
    view = viewport.fitted()
    height, width = view.shape_hw
    x0, y0 = view.to_screen(-0.5, -0.5)
    x1, y1 = view.to_screen(width - 0.5, height - 0.5)
    assert x0 + x1 == pytest.approx(view.canvas_hw[1])
    assert y0 + y1 == pytest.approx(view.canvas_hw[0])
    mm_x, mm_y = width * view.spacing_mm[1], height * view.spacing_mm[0]
    assert (x1 - x0) / mm_x == pytest.approx((y1 - y0) / mm_y)


def test_zoom_keeps_what_lies_under_the_hand() -> None:
    view = Viewport(shape_hw=(100, 100), spacing_mm=(5.0, 0.8)).fitted()
    assert view.zoomed(3, 200, 250).to_image(200, 250) == pytest.approx(view.to_image(200, 250))


@given(viewports, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_slice_never_leaves_the_canvas(viewport: Viewport, dx: float, dy: float) -> None:
    view = viewport.fitted().panned(dx, dy)
    x0, y0 = view.to_screen(-0.5, -0.5)
    x1, y1 = view.to_screen(view.shape_hw[1] - 0.5, view.shape_hw[0] - 0.5)
    assert x1 > 0
    assert y1 > 0
    assert x0 < view.canvas_hw[1]
    assert y0 < view.canvas_hw[0]


def test_scale_bar_is_round_and_fits() -> None:
    view = Viewport(shape_hw=(512, 512), spacing_mm=(0.8, 0.8)).fitted()
    mm, px = view.scale_bar(120)
    assert (mm, px) == (50.0, pytest.approx(50 * 512 / 409.6))


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError):
        Viewport(shape_hw=(5, 5), spacing_mm=(1, 1), px_per_mm=float("nan"))
