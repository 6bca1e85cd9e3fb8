from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from ctai_sam2.errors import AnatomyNotFound
from ctai_sam2.image.body import body_mask, body_of
from ctai_sam2.phantom import make_axial_slice, random_parameters, reference_parameters
from ctai_sam2.types import CTSlice


def disc(shape: tuple[int, int], centre_rc: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(y - centre_rc[0], x - centre_rc[1]) <= radius


def scene() -> tuple[np.ndarray, np.ndarray]:
    hu = np.full((200, 200), -1000)
    body = disc(hu.shape, (100, 100), 60)
    hu[body] = -90
    return hu, body


def test_gas_lungs_and_padding_do_not_matter() -> None:
    hu, body = scene()
    hu[disc(hu.shape, (90, 90), 20)] = -950
    hu[~disc(hu.shape, (100, 100), 95)] = -3024
    assert (body_mask(hu, (2.0, 2.0)) == body).all()


def test_table_touching_the_back_is_left_out() -> None:
    hu, body = scene()
    hu[161:163, 20:180] = 200
    found = body_mask(hu, (2.0, 2.0))
    assert (found ^ body).sum() < 60
    assert not found[161:163, 20:60].any()


def test_arm_beside_the_trunk_is_left_out() -> None:
    hu, body = scene()
    arm = disc(hu.shape, (100, 172), 13)
    hu[arm] = 40
    assert (body_mask(hu, (2.0, 2.0)) & arm & ~body).mean() < 0.2 * arm.mean()  # the sliver at the contact


def test_body_cut_off_by_the_field_of_view_is_closed_there() -> None:
    hu, body = scene()
    hu[disc(hu.shape, (100, 100), 25)] = -900
    cut, expected = hu[:, 85:], body[:, 85:]
    assert (body_mask(cut, (2.0, 2.0)) == expected).mean() > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_phantoms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phantom = make_axial_slice(random_parameters(rng), shape_hw=(200, 200), spacing_mm=(2.2, 2.2), rng=rng)
    found, truth = body_mask(phantom.hu, phantom.spacing_mm), phantom.masks["body"]
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97


def test_no_body() -> None:
    with pytest.raises(AnatomyNotFound, match="no body"):
        body_mask(np.full((50, 50), -1000), (1.0, 1.0))


def test_the_body_of_a_slice_is_found_once_and_let_go_with_it() -> None:
    ct_slice = CTSlice(
        hu=make_axial_slice(reference_parameters(), rng=np.random.default_rng(0)).hu, spacing_mm=(0.8, 0.8)
    )
    first = body_of(ct_slice)
    assert (first == body_mask(ct_slice.hu, ct_slice.spacing_mm)).all()
    assert body_of(ct_slice) is first
    assert not first.flags.writeable
    kept = weakref.ref(ct_slice)
    del ct_slice
    gc.collect()
    assert kept() is None
