from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ctai_sam2.errors import InputError, ServiceUnreachable
from ctai_sam2.evaluation import Plan, Score, evaluate_model, write_evaluation
from ctai_sam2.evaluation.baselines import grow_region
from ctai_sam2.evaluation.figure import build_figure
from ctai_sam2.evaluation.sessions import Desk, click_repeatedly
from ctai_sam2.evaluation.summary import break_down
from ctai_sam2.io import read_case_npz
from ctai_sam2.measure.overlap import dice
from ctai_sam2.types import CTSlice, Prediction, Prompt
from tests.fakes import FAKE_IDENTITY, FakeSegmenter

SHAPE = (96, 96)


class Knower(FakeSegmenter):
    """Predicts the disc, shrunk by as many pixels as clicks are missing."""

    def __init__(self, needed: int = 1) -> None:
        super().__init__()
        self.needed = needed
        self.prompts: list[Prompt] = []

    def predict(self, image_hw, prompt, *, window=None):  # type: ignore[no-untyped-def]
        self.prompts.append(prompt)
        rows, columns = np.nonzero(image_hw > 200)
        mask = np.zeros(image_hw.shape, bool)
        missing = max(self.needed - len(prompt.points_xy), 0)
        y, x = rows.mean(), columns.mean()
        grid = np.indices(image_hw.shape)
        radius = np.sqrt(len(rows) / np.pi) - 3 * missing
        mask[np.hypot(grid[0] - y, grid[1] - x) <= radius] = True
        return Prediction(
            masks=mask[None], scores=np.array([0.8]), identity=FAKE_IDENTITY, processing_time_ms=1.0
        )


def disc(radius: float = 14) -> np.ndarray:
    y, x = np.indices(SHAPE)
    return np.asarray(np.hypot(y - 48, x - 48) <= radius)


def write_case(folder: Path, name: str, mask_name: str = "liver", **extra: object) -> Path:
    hu = np.full(SHAPE, -20, np.int16)
    hu[disc()] = 300
    path = folder / f"{name}.npz"
    np.savez(
        path,
        image=hu,
        spacing=np.array([2.0, 2.0]),
        meta=json.dumps({"plane": "axial", "quality": {}}),
        **{f"mask_{mask_name}": disc()},
        **extra,
    )
    return path


PLAN = Plan(structures=("liver",), baselines=False)


def test_clicks_are_counted_until_the_dice_is_reached(tmp_path: Path) -> None:
    case = read_case_npz(write_case(tmp_path, "a"))
    model = Knower(needed=3)
    results = click_repeatedly(Desk(ct=case.slice, segmenter=model), "liver", case.masks["liver"])
    dices = {result.prompt: dice(result.mask, case.masks["liver"]) for result in results}
    assert dices["click_1"] < 0.85 <= dices["click_3"]
    assert {result.noc_90 for result in results} == {3}
    assert [len(prompt.points_xy) for prompt in model.prompts][:3] == [1, 2, 3]


def test_a_dice_never_reached_is_more_than_ten_clicks(tmp_path: Path) -> None:
    case = read_case_npz(write_case(tmp_path, "a"))
    results = click_repeatedly(Desk(ct=case.slice, segmenter=Knower(needed=99)), "liver", case.masks["liver"])
    assert {result.noc_85 for result in results} == {11}


def test_what_a_user_gets_is_named_and_cleaned_and_bare_is_not(tmp_path: Path) -> None:
    # The disc is brighter than muscle: HU limits leave nothing of it but what was clicked.
    write_case(tmp_path, "a", "psoas_left")
    found = {}
    for bare in (False, True):
        model = Knower()
        plan = Plan(structures=("psoas_left",), baselines=False, bare=bare)
        rows = evaluate_model(model, cases=tmp_path, plan=plan).rows
        found[bare] = next(row for row in rows if row.prompt == "click_1").dice
        assert model.prompts[0].structure == (None if bare else "psoas_left")
    assert found[True] > 0.9
    assert found[False] < 0.1


def test_files_that_cannot_be_scored_are_told_of_and_the_rest_goes_on(tmp_path: Path) -> None:
    write_case(tmp_path, "good")
    write_case(tmp_path, "other", "spleen")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no")
    result = evaluate_model(Knower(), cases=tmp_path, plan=PLAN)
    assert result.cases == 1
    assert {row.case for row in result.rows} == {"good"}
    assert sorted(text.split(":")[0] for text in result.skipped) == ["broken.npz", "other"]


def test_a_fold_scores_its_patient_and_counts_as_unseen(tmp_path: Path) -> None:
    write_case(tmp_path, "anna_1")
    write_case(tmp_path, "berta_1")
    fold = Knower(needed=99)
    result = evaluate_model(Knower(), cases=tmp_path, plan=PLAN, folds={"anna": fold})
    groups = {row.case: row.group for row in result.rows}
    assert groups == {"anna_1": "unseen", "berta_1": "seen"}
    worst = {row.case: row.dice for row in result.rows if row.prompt == "click_5"}
    assert worst["anna_1"] < 0.8 < worst["berta_1"]
    with pytest.raises(InputError, match="2 folds"):
        evaluate_model(Knower(), cases=tmp_path, plan=PLAN, folds={"anna": fold, "anna_": fold})


def test_cases_are_unseen_only_where_it_is_said(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        write_case(tmp_path, name)

    def groups(**options: object) -> dict[str, str]:
        plan = Plan(structures=("liver",), baselines=False, **options)  # type: ignore[arg-type]
        return {row.case: row.group for row in evaluate_model(Knower(), cases=tmp_path, plan=plan).rows}

    assert groups() == {"ann": "seen", "bob": "seen"}
    assert groups(unseen=("bo",)) == {"ann": "seen", "bob": "unseen"}
    assert groups(all_unseen=True) == {"ann": "unseen", "bob": "unseen"}


class Moody(Knower):
    """Dies after some predictions, for one or for all cases that follow."""

    def __init__(self, *, after: int, times: int | None = None) -> None:
        super().__init__()
        self.left, self.times = after, times

    def predict(self, image_hw, prompt, *, window=None):  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left < 0 and (self.times is None or self.times > 0):
            self.times = None if self.times is None else self.times - 1
            raise ServiceUnreachable("the service does not respond")
        return super().predict(image_hw, prompt, window=window)


def test_a_case_with_an_outage_is_skipped_and_never_scored(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_case(tmp_path, name)
    untroubled = evaluate_model(Knower(), cases=tmp_path, plan=PLAN)
    evaluation = evaluate_model(Moody(after=2, times=1), cases=tmp_path, plan=PLAN)
    assert [text for text in evaluation.skipped if "does not respond" in text] == [
        "a.npz: the service does not respond"
    ]
    assert {row.case for row in evaluation.rows} == {"b"}
    assert [row.dice for row in evaluation.rows] == [row.dice for row in untroubled.rows if row.case == "b"]


def test_an_outage_in_every_case_is_raised(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    with pytest.raises(ServiceUnreachable):
        evaluate_model(Moody(after=0), cases=tmp_path, plan=PLAN)


@pytest.mark.parametrize("content", ["none", "empty", "unscored"])
def test_nothing_to_score_is_an_error(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "cases"
    if content != "none":
        folder.mkdir()
    if content == "unscored":
        write_case(folder, "a", "spleen")
    with pytest.raises(InputError, match="case"):
        evaluate_model(Knower(), cases=folder, plan=PLAN)


def test_everything_is_written_and_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_case(tmp_path, "a")
    result = evaluate_model(Knower(needed=2), cases=tmp_path, plan=PLAN, untrained=FakeSegmenter())
    files = write_evaluation(result, tmp_path / "out")
    with files.scores_csv.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["method"], row["prompt"]) for row in rows} >= {("model", "click_1"), ("untrained", "box")}
    document = json.loads(files.json.read_text(encoding="utf-8"))
    assert document["summary"][0]["n"] == 1
    assert document["reliability"]
    page = files.report.read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png;base64") >= 2
    panels = [(axes.get_title(), axes.get_ylabel()) for axes in build_figure(result.rows).axes]
    assert panels == [("liver", "Dice, seen in training")]


def test_region_growing_collects_the_disc() -> None:
    hu = np.full(SHAPE, -100, np.int16)
    hu[disc()] = 50
    grown = grow_region(CTSlice(hu=hu, spacing_mm=(1.0, 1.0), plane="axial"), (48, 48), structure="liver")
    assert dice(grown, disc()) > 0.9


def test_scores_are_broken_down_by_what_cases_and_notes_say(tmp_path: Path) -> None:
    write_case(tmp_path, "anna_1", "muscle")
    write_case(tmp_path, "berta_1", "muscle")
    notes = {"anna": {"phase": "arterial", "slice_mm": 5}, "berta": {"level": "L3", "slice_mm": 1.5}}
    plan = Plan(structures=("muscle",), baselines=False, notes=notes)
    result = evaluate_model(Knower(), cases=tmp_path, plan=plan)
    rows = {(row.by, row.part): row for row in break_down(result.rows)}
    assert {key for key in rows if key[0] != "body size"} == {
        ("phase", "arterial"),
        ("level", "L3"),
        ("slice thickness", "over 4 mm"),
        ("slice thickness", "under 2 mm"),
    }
    # 96 x 96 pixels of 2 mm are a body of at most 369 cm².
    assert {part for by, part in rows if by == "body size"} <= {"under 500 cm²"}


def test_a_thickness_that_is_no_length_is_reported_and_the_rest_is_scored(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_case(tmp_path, name)
    plan = Plan(structures=("liver",), baselines=False, notes={"a": {"slice_mm": -1}, "nobody": {}})
    result = evaluate_model(Knower(), cases=tmp_path, plan=plan)
    assert {row.case for row in result.rows} == {"b"}
    assert any("thickness" in text for text in result.skipped)
    assert "nobody: no case's name contains it" in result.skipped


def test_limits_of_agreement_of_a_part_are_those_of_bland_and_altman() -> None:
    common = {
        "group": "unseen", "plane": "axial", "structure": "muscle", "quality": "", "method": "model",
        "prompt": "button", "model": "m", "dice": 0.9, "hd95_mm": 1.0, "hu_error": 0.0,
        "reference_area_mm2": 100.0, "level": "L3",
    }  # fmt: skip
    scores = [Score(case=str(error), area_error_pct=error, **common) for error in (-4.0, 0.0, 10.0)]
    (row,) = break_down(scores)
    assert (row.by, row.part, row.n, row.area_bias_pct) == ("level", "L3", 3, 0.0)
    assert (row.area_low_pct, row.area_high_pct) == pytest.approx(
        (2 - 1.96 * 52**0.5, 2 + 1.96 * 52**0.5), abs=1e-3
    )
