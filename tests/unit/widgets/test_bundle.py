"""What a paint changes as one message: nothing lost, and nothing bundled for a page that cannot take it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import ipywidgets as ipw
import numpy as np
import pytest

from ctai_sam2.types import CTVolume
from ctai_sam2.widgets import MiddleMaskEditor
from ctai_sam2.widgets.bundle import _widgets_in

WAY = np.array([(200 + 3 * i, 200 + i) for i in range(61)], "<f4")


class Page:
    """States as a page has them, fed by messages alone."""

    def __init__(self, editor: MiddleMaskEditor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.editor, self.companion = editor, editor._display.events.companion
        self.states = {widget.model_id: widget.get_state() for widget in self.widgets}
        self.messages: list[str] = []
        self.size = 0
        monkeypatch.setattr(ipw.Widget, "_send", lambda *arguments, **named: self.take(*arguments, **named))

    @property
    def widgets(self) -> list[ipw.Widget]:
        return [*_widgets_in((self.editor._display.panel.widget,)), self.companion]

    def take(self, widget: ipw.Widget, message: Any, buffers: Any = None) -> None:
        content = message.get("content", {})
        kind = content.get("event", "drawing") if message["method"] == "custom" else "state"
        self.messages.append(kind)
        self.size += len(json.dumps(message)) + sum(len(bytes(each)) for each in buffers or ())
        if kind == "state":
            self.states.setdefault(widget.model_id, {}).update(message["state"])
        if kind != "bundle":
            return
        whole = zlib.decompress(buffers[0]) if content["deflated"] else bytes(buffers[0])
        assert sum(content["sizes"]) == len(whole)
        for model, data, _ in json.loads(whole[: content["sizes"][0]]):
            if data["method"] == "update":
                self.states[model].update(data["state"])

    def tell(self, content: Any, buffers: Any = ()) -> None:
        self.companion._handle_custom_msg(content, list(buffers))

    def require_same(self) -> None:
        for widget in self.widgets:
            state = json.loads(json.dumps(widget.get_state()))
            known = json.loads(json.dumps(self.states[widget.model_id]))
            if widget is self.companion:
                known |= {name: value for name, value in state.items() if name[0] == "_"}
            assert known == state


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    hu = np.random.default_rng(0).integers(-100, 100, (5, 60, 60)).astype(np.int16)
    volume = CTVolume(hu_zyx=hu, affine=np.diag([1.0, 1.0, 5.0, 1.0]))
    editor = MiddleMaskEditor(volume, segmenter=None, folder=None)
    # It paints where a test says so and at no other time: a timer's thread would send between two lines.
    editor._display.pacer.close()
    page = Page(editor, monkeypatch)
    page.tell({"event": "draws"})
    yield page
    editor.close()


def stroke(page: Page, number: int) -> None:
    way = [(WAY + 9 * number).tobytes()]
    page.tell({"event": "gesture", "button": "left", "modifiers": [], "number": number, "dtype": "<f4"}, way)
    page.editor._display.pacer._run()


def test_a_stroke_and_a_slice_are_one_small_message_each(page: Page) -> None:
    page.tell({"event": "unpacks", "bundles": 0})
    page.editor.do("tool.brush")
    page.editor._display.pacer._run()
    page.messages.clear()
    page.size = 0
    stroke(page, 1)
    assert page.editor.masks["psoas_left"].any()
    assert set(page.messages) == {"bundle"}
    assert len(page.messages) <= 2
    assert page.size < 3000
    page.require_same()
    page.tell({"event": "holds", "series": page.companion.view["series"], "indices": [3], "next": None})
    page.messages.clear()
    page.size = 0
    page.tell({"event": "slice", "index": 3, "number": 2})
    page.editor._display.pacer._run()
    assert set(page.messages) == {"bundle"}
    assert page.size < 3000
    page.require_same()


def test_a_tool_that_is_painted_back_and_forth_while_it_is_chosen_ends_up_on_the_page(page: Page) -> None:
    page.tell({"event": "unpacks", "bundles": 0})
    controller, tools = page.editor.controller, page.editor._display.panel._rail._tools
    before, chosen = controller.document.view.tool, (tools.index + 2) % len(tools.options)

    def paint_both(change: Any) -> None:
        # As a timer's thread does that comes before the controller has heard of the choice.
        tools.unobserve(paint_both, "value")
        for tool in (before, change["new"]):
            controller.adjust(tool=tool)
            page.editor._display.pacer._run()

    tools.observe(paint_both, "value")
    page.states[tools.model_id]["index"] = chosen
    tools.set_state({"index": chosen})
    assert controller.document.view.tool != before
    page.require_same()


def test_a_page_that_says_its_size_again_is_told_it_again(page: Page) -> None:
    page.tell({"event": "resize", "width": 900, "height": 500, "covered": 0})
    layout = page.editor._display.canvas.widget.layout
    # States from before, as a page that is being restored may be handed.
    page.states[page.companion.model_id] |= {"width": 600, "height": 540}
    page.states[layout.model_id] |= {"width": "600px"}
    page.tell({"event": "resize", "width": 900, "height": 500, "covered": 0})
    assert page.states[page.companion.model_id]["width"] == 900
    assert page.states[page.companion.model_id]["height"] == 500
    assert page.states[layout.model_id]["width"] == "900px"


def test_a_page_that_missed_a_bundle_gets_every_state(page: Page) -> None:
    page.tell({"event": "unpacks", "bundles": 0})
    page.editor.do("tool.brush")
    stroke(page, 1)
    assert page.companion.bundles > 0
    # Loaded anew, with states from before.
    for state in page.states.values():
        state.clear()
    page.tell({"event": "unpacks", "bundles": 0})
    page.require_same()
    page.messages.clear()
    page.tell({"event": "unpacks", "bundles": page.companion.bundles})
    assert page.messages == []


def test_a_page_that_takes_no_bundles_gets_messages_one_by_one(page: Page) -> None:
    page.editor.do("tool.brush")
    stroke(page, 1)
    assert "bundle" not in page.messages
    assert {"state", "drawing"} <= set(page.messages)
    page.require_same()


def test_an_error_in_between_loses_nothing_and_holds_nothing_back(page: Page) -> None:
    page.tell({"event": "unpacks", "bundles": 0})
    shown = next(each for each in page.widgets if isinstance(each, ipw.Button))

    def fail() -> None:
        with page.editor._display.events.bundles.gathered():
            shown.description = "half"
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    page.require_same()
    assert not any(widget._holding_sync for widget in page.widgets)
    page.messages.clear()
    shown.description = "whole"
    assert page.messages == ["state"]
