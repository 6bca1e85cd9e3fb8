"""A document as plain values for a journal, and again from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ctai_sam2.editor.changes import Change
from ctai_sam2.editor.document import Document
from ctai_sam2.editor.history import Edit
from ctai_sam2.editor.levels import LevelSpan
from ctai_sam2.editor.sheet import Sheet
from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.types import Mask


def snapshot(document: Document) -> dict[str, Any]:
    """Masks, prompts and history as plain values, from which `restore` makes them again bit for bit."""
    empty = _empty_of(document)
    return {
        "sheets": [
            {"index": index, **sheet.to_json(empty)} for index, sheet in sorted(document.sheets.items())
        ],
        "done": [edit.to_json() for edit in document.history.done],
        "undone": [edit.to_json() for edit in document.history.undone],
        "dropped": document.history.dropped,
        "levels": levels_event(document),
    }


def levels_event(document: Document) -> dict[str, Any]:
    """Levels and range as plain values, for a record."""
    return {
        "levels": [level.to_json() for level in document.levels],
        "span": None if document.span is None else list(document.span),
    }


def restore(document: Document, events: Iterable[Mapping[str, Any]]) -> Change:
    """Replay recorded events on a document, which must be untouched.

    Parameters
    ----------
    events : iterable of mapping
        ``{"type": "snapshot", "state": …}``, ``{"type": "edit", "edit": …, "dropped": n}``,
        ``{"type": "undo"}`` (of one slice with ``"index"``), ``{"type": "redo"}``,
        ``{"type": "levels", …}`` and ``{"type": "batch", "events": […]}``, in order.

    Raises
    ------
    RecordError
        If an event cannot be read or does not fit the slice or the labels.
    InputError
        If the document has been edited already.
    """
    if document.sheets or document.history.done or document.history.undone:
        raise InputError("a record is replayed on an untouched document")
    try:
        for event in events:
            _replay(document, event)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            "a recorded change does not fit this editor",
            received=type(error).__name__,
            hint="Open it with the editor and the version it was made with.",
        ) from error
    return Change(aspects=frozenset({"mask", "prompts", "history"}), index=document.index)


def _replay(document: Document, event: Mapping[str, Any]) -> None:
    kind = event["type"]
    if kind == "edit":
        document.commit(
            _checked(document, Edit.from_json(event["edit"], document.shape_hw)), drop=event["dropped"]
        )
    elif kind in ("undo", "redo"):
        if "index" in event:
            found = document.history.take_back_on(int(event["index"]))
        else:
            found = document.history.take_back() if kind == "undo" else document.history.take_again()
        if found is None:
            raise ValueError(f"nothing to {kind}")
        document.perform(found, forward=kind == "redo")
    elif kind == "snapshot":
        _load(document, event["state"])
    elif kind == "levels":
        _load_levels(document, event)
    elif kind == "batch":
        for each in event["events"]:
            _replay(document, each)
    else:
        raise ValueError("unknown event")


def _load(document: Document, state: Mapping[str, Any]) -> None:
    empty = _empty_of(document)
    document.sheets.clear()
    for value in state["sheets"]:
        index = int(value["index"])
        document.slice_at(index)
        sheet = Sheet.from_json(value, empty)
        for label in sheet.labels:
            document.require_label(label)
        document.sheets[index] = sheet
    history = document.history
    for stack, name in ((history.done, "done"), (history.undone, "undone")):
        stack[:] = [_checked(document, Edit.from_json(value, document.shape_hw)) for value in state[name]]
    history.dropped = int(state["dropped"])
    if "levels" in state:
        _load_levels(document, state["levels"])
    document.revision += 1


def _load_levels(document: Document, value: Mapping[str, Any]) -> None:
    span = value["span"]
    levels = [LevelSpan.from_json(level) for level in value["levels"]]
    document.set_levels(levels, None if span is None else (int(span[0]), int(span[1])))


def _checked(document: Document, edit: Edit) -> Edit:
    document.slice_at(edit.index)
    for label in edit.labels:
        document.require_label(label)
    return edit


def _empty_of(document: Document) -> Mask:
    return np.zeros(document.shape_hw, dtype=np.bool_)
