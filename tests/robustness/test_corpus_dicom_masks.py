"""Whatever a SEG or RTSTRUCT holds, the masks are right and what was left out is said, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.corpus_rtstruct import rtstruct_cases
from tests.robustness.corpus_seg import seg_cases
from tests.robustness.mask_case import MaskCase, assert_right_or_refused

CASES = [*seg_cases(), *rtstruct_cases()]


def test_the_corpus_is_large_and_holds_both_kinds() -> None:
    assert len(CASES) >= 120
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.expected is None for case in CASES) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_masks_are_right_or_refused(tmp_path: Path, case: MaskCase) -> None:
    assert_right_or_refused(case, tmp_path)
