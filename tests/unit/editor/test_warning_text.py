"""Warnings are shown with the label's name, in Chinese too, and the table is that of the code."""

from __future__ import annotations

import ast
import inspect

import pytest

from ctai_sam2.editor import show_warning
from ctai_sam2.editor.warning_text import WARNINGS
from ctai_sam2.segmentation import image_checks, quality
from tests.docs.test_messages import texts_in_the_code


def messages_of_gates() -> list[str]:
    """Every sentence that a gate can give, with {} for its values."""
    found = []
    nodes = [
        node for module in (quality, image_checks) for node in ast.walk(ast.parse(inspect.getsource(module)))
    ]
    for node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("fail", "Gate"):
            text = next(
                (one.value for one in node.keywords if one.arg == "message"), node.args[-1:] and node.args[-1]
            )
            if isinstance(text, ast.Constant):
                found.append(str(text.value))
            elif isinstance(text, ast.JoinedStr):
                parts = text.values
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts))
    return found


@pytest.mark.parametrize("english", WARNINGS)
def test_a_warning_of_the_table_is_one_of_the_code(english: str) -> None:
    sentence = english.format(*["0.5"] * english.count("{}"))
    said = [sentence, f"x: {sentence}", f"x: {sentence}; look at it"]
    assert any(pattern.fullmatch(each) for each in said for pattern in texts_in_the_code())


def test_every_gate_has_its_chinese() -> None:
    assert len(messages_of_gates()) >= 15
    assert set(messages_of_gates()) - set(WARNINGS) == set()


@pytest.mark.parametrize("english", WARNINGS)
def test_a_warning_is_said_in_chinese_with_its_numbers(english: str) -> None:
    values = ["0.46"] * english.count("{}")
    shown = show_warning(f"muscle: {english.format(*values)}; look at it [a_gate]", "zh")
    assert shown == f"全部骨骼肌：{WARNINGS[english].format(*values)}，请检查"


def test_what_is_not_in_the_table_stays_as_it_is() -> None:
    assert show_warning("the moon is in the picture", "zh") == "the moon is in the picture"
    assert show_warning("liver: look at it", "en") == "liver: look at it"
