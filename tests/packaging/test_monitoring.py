"""Alerts and dashboard speak of figures that the service has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.faults import STATUSES
from tests.fakes import FakeSegmenter
from tests.service.running import serving
from tests.service.test_load import click, put

MONITORING = Path(__file__).resolve().parents[2] / "docker" / "monitoring"
PROMETHEUS_OWN = {"up"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def dashboard() -> dict[str, Any]:
    return json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))


def expressions() -> list[str]:
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    asked += [
        variable["query"]["query"]
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]
    return [rule["expr"] for rule in rules()] + asked


@pytest.fixture(scope="module")
def exposed() -> dict[str, list[dict[str, str]]]:
    """Labels of every sample that a service at work shows, by name."""
    with serving(FakeSegmenter()) as url:
        put(url)
        click(url)
        text = requests.get(f"{url}/metrics", timeout=20).text
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_what_is_there(
    exposed: dict[str, list[dict[str, str]]], expression: str
) -> None:
    selectors = re.findall(r"\b(ctai_\w+|up)\b(?:\{((?:[^{}\"]|\"[^\"]*\")*)\})?", expression)
    assert selectors
    for name, matchers in selectors:
        if name in PROMETHEUS_OWN:
            continue
        assert name in exposed, name
        for label, operator, value in re.findall(r"(\w+)(=~|=)\"([^\"]*)\"", matchers):
            if label in ("instance", "job"):
                continue
            known = {labels[label] for labels in exposed[name]}
            if label == "status":
                assert set(map(int, value.split("|"))) <= set(STATUSES)
            elif operator == "=" and label != "result":
                assert value in known, f"{label}={value}"
    for label in re.findall(r"by \(([\w, ]+)\)", expression):
        names = {part.strip() for part in label.split(",")} - {"instance"}
        assert any(names <= set(labels) for name, _ in selectors for labels in exposed.get(name, []))


def test_every_figure_is_on_the_dashboard(exposed: dict[str, list[dict[str, str]]]) -> None:
    shown = " ".join(expressions())
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in exposed}
    assert [family for family in sorted(families) if family not in shown] == []


def test_alerts_say_what_to_do_and_are_named_once() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} <= set(rule["annotations"])
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
