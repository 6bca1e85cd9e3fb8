"""The fuzzer's targets on its own seeds, whole and damaged: nothing is found, and something could be."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fuzz_uploads import TARGETS
from ctai_sam2.io import uploads

ROUNDS = 40


@pytest.mark.parametrize("name", ["images", "json"])
def test_seeds_and_damaged_seeds_are_handled(name: str) -> None:
    make, seeders = TARGETS[name]
    run = make()
    rng = np.random.default_rng(5)
    for data in (data for seeder in seeders for data in seeder()):
        run(data)
        for _ in range(ROUNDS):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                damaged[at] = int(rng.integers(0, 256))
            run(bytes(damaged[: int(rng.integers(1, len(data) + 1))]))


def test_what_is_not_one_of_our_errors_is_a_find(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise IndexError("a decoder's own")

    monkeypatch.setattr(uploads, "decode_upload", stumble)
    make, seeders = TARGETS["images"]
    with pytest.raises(IndexError):
        make()(seeders[0]()[0])
