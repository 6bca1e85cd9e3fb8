from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import ctai_sam2.models as room
from ctai_sam2.models.protocol import MAX_SIDE_PX, MIN_SIDE_PX, require_image


def test_a_usable_image_is_handed_through_without_a_copy() -> None:
    image = np.zeros((MIN_SIDE_PX, 20), np.uint8)
    assert require_image(image) is image


def test_strided_pixels_are_put_in_order() -> None:
    image = np.arange(400, dtype=np.uint16).astype(np.uint8).reshape(20, 20)[:, ::-1]
    ordered = require_image(image)
    assert ordered.flags.c_contiguous
    np.testing.assert_array_equal(ordered, image)


def test_the_limit_itself_is_allowed() -> None:
    assert require_image(np.zeros((MIN_SIDE_PX, MAX_SIDE_PX), np.uint8)).shape == (MIN_SIDE_PX, MAX_SIDE_PX)


def test_every_public_name_is_there() -> None:
    assert room.__all__ == sorted(room.__all__)
    for name in room.__all__:
        assert getattr(room, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = room.nothing_such


def test_opening_a_segmenter_loads_no_torch() -> None:
    code = (
        "import sys\n"
        "from ctai_sam2.models import open_segmenter, Segmenter\n"
        "from ctai_sam2.settings import Settings\n"
        "import tempfile\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    with open_segmenter(settings=Settings(_env_file=None, cache_dir=folder)) as segmenter:\n"
        "        segmenter.health()\n"
        "print('torch' in sys.modules, 'sam2' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
