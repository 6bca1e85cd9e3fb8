"""Both languages say the same things."""

from __future__ import annotations

from string import Formatter

import pytest

from ctai_sam2.editor import ACTIONS, L3, LANGUAGES, MIDDLE, Message, text
from ctai_sam2.editor import commands as do
from ctai_sam2.editor.i18n import TABLE
from ctai_sam2.errors import InputError
from ctai_sam2.image.windowing import PRESETS


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}


@pytest.mark.parametrize("key", TABLE)
def test_every_text_is_in_every_language_with_the_same_placeholders(key: str) -> None:
    assert len(TABLE[key]) == len(LANGUAGES)
    english, chinese = TABLE[key]
    assert placeholders(english) == placeholders(chinese)
    assert english.strip()
    assert any("\u4e00" <= char <= "\u9fff" for char in chinese) or placeholders(chinese)


def test_everything_that_is_shown_has_a_text() -> None:
    needed = {action.text for action in ACTIONS}
    for profile in (L3, MIDDLE):
        needed |= {f"title.{profile.name}"} | {f"label.{label.name}" for label in profile.labels}
        needed |= {f"label.{group}" for group in profile.groups}
        needed |= {f"{kind}.{tool}" for tool in profile.tools for kind in ("tool", "help")}
    kinds = [kind for base in (do.MaskCommand, do.MarksCommand) for kind in base.__subclasses__()]
    kinds += [do.Lasso]
    names = {kind.name.fget(kind.__new__(kind)) for kind in kinds if kind is not do.SetMask}
    needed |= names | {f"edit.set_mask_{origin}" for origin in ("ai", "copy", "import")} | {"edit.compound"}
    needed |= {f"window.{name.replace(' ', '_')}" for name in PRESETS}
    assert needed <= set(TABLE)


def test_no_key_does_two_things_and_every_tool_has_an_action() -> None:
    keys = [key for action in ACTIONS for key in action.keys]
    assert len(keys) == len(set(keys))
    tools = {action.name for action in ACTIONS if action.name.startswith("tool.")}
    assert tools == {f"tool.{tool}" for tool in (*L3.tools, *MIDDLE.tools)}


def test_a_message_speaks_the_language_it_is_shown_in() -> None:
    message = Message("status.undone", {"edit": Message("edit.paint")})
    assert message.text("en") == "Undone: Stroke"
    assert message.text("zh") == "已撤销：笔画"


@pytest.mark.parametrize(
    ("key", "language"), [("nothing", "en"), ("action.run", "fr"), ("ai.candidate", "en")]
)
def test_a_missing_text_or_value_is_an_error(key: str, language: str) -> None:
    with pytest.raises(InputError):
        text(key, language)
