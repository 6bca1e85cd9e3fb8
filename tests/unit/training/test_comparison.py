from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.core.phantom import make_axial_slice, reference_parameters
from ctai_sam2.errors import InputError
from ctai_sam2.training.__main__ import main
from ctai_sam2.training.comparison import compare_phantoms


def test_slices_and_phantoms_are_measured_alike(tmp_path: Path) -> None:
    drawn = make_axial_slice(
        reference_parameters(), shape_hw=(256, 256), spacing_mm=(1.6, 1.6), rng=np.random.default_rng(0)
    )
    masks = {
        f"mask_{name}": drawn.masks[name] for name in ("psoas_left", "psoas_right", "muscle", "vertebra")
    }
    meta = json.dumps({"plane": "axial", "quality": {}})
    np.savez(tmp_path / "a.npz", image=drawn.hu, spacing=np.array([1.6, 1.6]), meta=meta, **masks)
    out = tmp_path / "found.json"
    arguments = ["compare", "--real-cases", str(tmp_path), "--phantoms", "2", "--out", str(out)]
    assert main(arguments) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["real"]["slices"] == 1
    assert found["phantom"]["slices"] == 2
    low, middle, high = found["real"]["quantiles"]["muscle_hu"]
    assert low == middle == high == pytest.approx(drawn.hu[drawn.masks["muscle"]].mean(), abs=0.01)
    assert "sat_cm2" not in found["real"]["quantiles"]
    assert "sat_cm2" in found["phantom"]["quantiles"]


def test_nothing_to_compare_with_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no axial slice"):
        compare_phantoms(tmp_path, phantoms=1)
    with pytest.raises(InputError, match="one phantom"):
        compare_phantoms(tmp_path, phantoms=0)
