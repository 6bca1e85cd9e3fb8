"""No mutated image gives a wrong value in silence or an error that is not one of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import InputError
from tests.robustness.corpus_images import image_cases
from tests.robustness.image_case import ImageCase, failure_of

CASES = image_cases()
_FEWEST = 200


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len(CASES) >= _FEWEST
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_right_value_or_the_error_demanded(tmp_path: Path, case: ImageCase) -> None:
    assert failure_of(case, tmp_path) is None


def test_the_oracle_finds_what_is_wrong(tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        return folder

    def case(**more: object) -> ImageCase:
        return ImageCase(name="x", write=write, **more)  # type: ignore[arg-type]

    def refuse(_: Path) -> None:
        raise InputError("no")

    right = np.zeros(3)
    assert failure_of(case(read=lambda _: right, expected=right), tmp_path) is None
    assert "other values" in str(failure_of(case(read=lambda _: right, expected=right + 1), tmp_path))
    assert "taken in silence" in str(failure_of(case(read=lambda _: right, error=InputError), tmp_path))
    assert "untyped" in str(failure_of(case(read=lambda _: 1 / 0, error=InputError), tmp_path))
    assert "refused" in str(failure_of(case(read=refuse, expected=right), tmp_path))
    assert "another message" in str(failure_of(case(read=refuse, error=InputError, words="yes"), tmp_path))
