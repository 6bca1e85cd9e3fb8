"""Tissue definitions."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.measure import definitions as d


def custom(**changes: Any) -> d.TissueDefinitions:
    return d.TissueDefinitions(**{"name": "mine", "version": "2", "source": "a test", **changes})


def test_the_default_holds_the_published_ranges() -> None:
    default = d.DEFAULT_DEFINITIONS
    ranges = {
        tissue: (getattr(default, tissue).low_hu, getattr(default, tissue).high_hu)
        for tissue in ("muscle", "imat", "sat", "vat")
    }
    assert ranges == {"muscle": (-29, 150), "imat": (-190, -30), "sat": (-190, -30), "vat": (-150, -50)}
    assert default.density_rule == "original"
    assert default.identifier == f"alberta@1#{default.content_hash}"


def test_presets_are_found_by_name_and_differ_in_content() -> None:
    assert all(d.load_definitions(name) is preset for name, preset in d.TISSUE_DEFINITIONS.items())
    hashes = {preset.content_hash for preset in d.TISSUE_DEFINITIONS.values()}
    assert len(hashes) == len(d.TISSUE_DEFINITIONS) == 3


def test_the_hash_follows_the_numbers_and_nothing_else() -> None:
    base = custom()
    assert base.content_hash == custom(name="other", version="9", source="elsewhere").content_hash
    assert base.content_hash == custom(muscle=d.HuRange(low_hu=-29.0, high_hu=150)).content_hash
    assert base.content_hash == custom(fixed_density_g_cm3=1.04).content_hash, (
        "unused under the original rule"
    )
    changed = [
        custom(muscle=d.HuRange(low_hu=-30, high_hu=150)),
        custom(imat=d.HuRange(low_hu=-200, high_hu=-30)),
        custom(sat=d.HuRange(low_hu=-200, high_hu=-30)),
        custom(vat=d.HuRange(low_hu=-200, high_hu=-30)),
        custom(density_rule="fixed"),
        custom(density_rule="fixed", fixed_density_g_cm3=1.04),
    ]
    assert len({base.content_hash, *(each.content_hash for each in changed)}) == 7


def test_density_rules() -> None:
    assert custom().muscle_density_g_cm3(40.0) == pytest.approx(1.04)
    assert custom(density_rule="fixed").muscle_density_g_cm3(40.0) == 1.06
    assert math.isnan(custom(density_rule="fixed").muscle_density_g_cm3(math.nan))


hu = st.floats(-1024, 3000, allow_nan=False)
ranges = st.tuples(hu, hu).filter(lambda pair: pair[0] < pair[1])


@settings(max_examples=50, deadline=None)
@given(ranges, ranges, st.sampled_from(["original", "fixed"]), st.floats(0.5, 2.0), st.text(min_size=1))
def test_json_comes_back_equal(
    muscle: tuple[float, float], vat: tuple[float, float], rule: Any, density: float, source: str
) -> None:
    if not source.strip():
        source = "somewhere"
    before = custom(
        muscle=d.HuRange(low_hu=muscle[0], high_hu=muscle[1]),
        vat=d.HuRange(low_hu=vat[0], high_hu=vat[1]),
        density_rule=rule,
        fixed_density_g_cm3=density,
        source=source,
    )
    after = d.TissueDefinitions.from_json(before.to_json())
    assert after == before
    assert after.identifier == before.identifier


def test_files_come_back_equal_and_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "definitions.json"
    d.save_definitions(custom(), path)
    d.save_definitions(custom(version="3"), path)
    assert d.load_definitions(path) == custom(version="3")
    assert d.load_definitions(str(path)) == custom(version="3")
    assert [each.name for each in tmp_path.iterdir()] == ["definitions.json"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"x\.json"):
        d.save_definitions(custom(), tmp_path / "file" / "x.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(StorageError):
        d.save_definitions(custom(), tmp_path / "folder.json")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder.json"]


def test_ranges_left_out_of_a_file_take_their_defaults() -> None:
    text = json.dumps({"name": "a", "version": "1", "source": "s", "vat": {"low_hu": -190, "high_hu": -30}})
    read = d.TissueDefinitions.from_json(text)
    assert read.vat.low_hu == -190
    assert read.muscle == d.HuRange(low_hu=-29, high_hu=150)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "3",
        "{}",
        '{"name": "a", "version": "1"}',
        '{"name": "a", "version": "1", "source": "s", "mussel": {}}',
        '{"name": "a", "version": "1", "source": "s", "muscle": [-29, 150]}',
        '{"name": "a", "version": "1", "source": "s", "muscle": {"low_hu": -29}}',
        '{"name": "a", "version": "1", "source": "s", "muscle": {"low_hu": "-29", "high_hu": 150}}',
        '{"name": "a", "version": "1", "source": "s", "muscle": {"low_hu": NaN, "high_hu": 150}}',
        '{"name": "a", "version": "1", "source": "s", "density_rule": "guess"}',
        '{"name": "a", "version": "1", "source": "s", "density_rule": ["fixed"]}',
        '{"name": "a", "version": 1, "source": "s"}',
        '{"name": "a", "version": "1", "source": "s", "content_hash": "0000000000"}',
    ],
)
def test_unusable_json_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        d.TissueDefinitions.from_json(text)


def test_a_number_edited_by_hand_does_not_keep_its_identifier() -> None:
    edited = custom().to_json().replace("150.0", "151.0")
    with pytest.raises(InputError, match="version"):
        d.TissueDefinitions.from_json(edited)


@pytest.mark.parametrize("missing", ["nothing-of-this-name", "no/such/file.json", "a\0b"])
def test_unknown_names_are_refused(missing: str) -> None:
    with pytest.raises(InputError, match="alberta"):
        d.load_definitions(missing)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError):
        d.load_definitions(tmp_path / "x.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a@b"},
        {"version": ""},
        {"version": None},
        {"source": " "},
        {"muscle": (-29, 150)},
        {"density_rule": "other"},
        {"fixed_density_g_cm3": 1060},
        {"fixed_density_g_cm3": math.nan},
        {"fixed_density_g_cm3": True},
    ],
)
def test_unusable_definitions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        custom(**changes)


@pytest.mark.parametrize("bounds", [(150, -29), (5, 5), (math.nan, 1), (-math.inf, 0), ("a", 1), (None, 1)])
def test_unusable_ranges_are_refused(bounds: tuple[Any, Any]) -> None:
    with pytest.raises(InputError):
        d.HuRange(low_hu=bounds[0], high_hu=bounds[1])


def test_definitions_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        d.DEFAULT_DEFINITIONS.version = "2"  # type: ignore[misc]
