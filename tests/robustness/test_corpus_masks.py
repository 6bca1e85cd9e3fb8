"""Whatever a mask file holds, the masks are right and what was left out is said, or it is refused."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import CtaiError
from ctai_sam2.exchange import import_masks
from tests.robustness.corpus_masks import MaskCase, cases, the_slice, volume

CASES = list(cases())
_MOST_SECONDS = 10.0
_MOST_BYTES = 2 * 1024**3


def test_the_corpus_is_large_and_holds_both_kinds() -> None:
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.expected is None for case in CASES) >= 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_masks_are_right_or_refused(tmp_path: Path, case: MaskCase) -> None:
    path = case.write(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.process_time()
    of = the_slice() if case.on_slice else volume()
    if case.expected is None:
        with pytest.raises(CtaiError) as refused:
            import_masks(path, of, **(case.options or {}))
        assert case.said is None or case.said in str(refused.value)
    else:
        found = import_masks(path, of, **(case.options or {}))
        assert list(found) == list(case.expected)
        for name, mask in case.expected.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=name)
        if case.said is not None:
            assert any(case.said in note for note in found.warnings), found.warnings
    assert time.process_time() - started < _MOST_SECONDS
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) * 1024 < _MOST_BYTES
