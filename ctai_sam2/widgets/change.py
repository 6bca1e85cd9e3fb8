"""Two dates of one patient side by side: both slices can be corrected, and the change follows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import ipywidgets as ipw

from ctai_sam2.editor import Change, Message
from ctai_sam2.measure.shown import SHOWN
from ctai_sam2.study.change import MeasureChange, StudyChange
from ctai_sam2.study.row import TableRow
from ctai_sam2.types.checks import require_type
from ctai_sam2.widgets.middle import MiddleMaskEditor

_SIDE_WIDTH = "380px"
"""Least width of a side: where two do not fit the second one is under the first."""


class ChangeEditor:
    """Two `MiddleMaskEditor` next to each other, with the change of each number under them.

    Display it as the last line of a cell. A correction of either side changes the numbers at once; the grey
    window is the same on both.

    Parameters
    ----------
    change : StudyChange
        From `compare_studies`.
    **options
        ``segmenter``, ``folder``, ``language``, ``auto_run``, ``height_m``, ``reader`` of `MiddleMaskEditor`,
        for both.

    Raises
    ------
    RecordError
        If a journal is open in another process, or belongs to something else.

    Examples
    --------
    In a notebook::

        change = ct.compare_studies(first, second, segmenter)
        ChangeEditor(change, reader="AB")
    """

    def __init__(self, change: StudyChange, **options: Any) -> None:
        require_type(change, StudyChange, "change")
        self._change = change
        self._mutex = threading.Lock()
        self.first = _opened(change.first, change.rows[0], options)
        try:
            self.second = _opened(change.second, change.rows[1], options)
        except BaseException:
            self.first.close()
            raise
        self._rows: list[TableRow] = [each.measurements() for each in (self.first, self.second)]
        self._numbers = ipw.HTML()
        self._heads = (ipw.HTML(), ipw.HTML())
        places = [
            # Boxes that stretch their content: an editor has no width of its own.
            ipw.VBox([head, each.widget], layout=ipw.Layout(flex=f"1 1 {_SIDE_WIDTH}", min_width="0"))
            for head, each in zip(self._heads, (self.first, self.second), strict=True)
        ]
        both = ipw.HBox(places, layout=ipw.Layout(flex_flow="row wrap"))
        self._widget = ipw.VBox([both, self._numbers])
        for place, editor in enumerate((self.first, self.second)):
            editor.controller.subscribe(partial(self._follow, place))
        self._show()

    @property
    def widget(self) -> Any:
        """The ipywidgets box, to be placed in a layout of one's own."""
        return self._widget

    @property
    def measures(self) -> tuple[MeasureChange, ...]:
        """Each number at both dates, as the masks are now; those that no mask changes stay as they were."""
        with self._mutex:
            return tuple(self._measured(one) for one in self._change.measures)

    def save(self) -> None:
        """Write masks and rows of both; see `CaseEditor.save`.

        Raises
        ------
        StorageError
            If something cannot be written.
        """
        self.first.save()
        self.second.save()

    def close(self) -> None:
        """Release both journals and pages; what was drawn stays on disk. May be called twice."""
        self.first.close()
        self.second.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self._widget._repr_mimebundle_(**options)

    def _measured(self, one: MeasureChange) -> MeasureChange:
        values = [row.get(one.column) for row in self._rows]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if len(numbers) < 2:
            return one
        return replace(one, first=numbers[0], second=numbers[1])

    def _follow(self, place: int, change: Change) -> None:
        """Take a change of one side, under its lock: the other one's must not be waited for."""
        editor, other = (self.first, self.second) if place == 0 else (self.second, self.first)
        if change.aspects & {"mask", "slice"}:
            row = editor.measurements()
            with self._mutex:
                self._rows[place] = row
            self._show()
        if "view" in change.aspects and other.document.view.window != editor.document.view.window:
            lock = other.controller.lock
            if lock.acquire(blocking=False):
                try:
                    _take_window(other, editor)
                finally:
                    lock.release()
            else:
                # It is being painted: a thread that holds no lock can wait for that.
                threading.Thread(target=_take_window, args=(other, editor), daemon=True).start()

    def _show(self) -> None:
        language = self.first.document.view.language
        for head, name in zip(self._heads, ("first", "second"), strict=True):
            head.value = f"<b>{escape(Message(f'change.{name}').text(language))}</b>"
        lines = [_line(one, language) for one in self.measures]
        flags = "".join(f"<li>⚠ {escape(flag)}</li>" for flag in self._change.flags)
        heads = "".join(
            "<th style='text-align:right;padding-left:1.5em'>"
            f"{escape(Message(f'change.{name}').text(language))}</th>"
            for name in ("first", "second", "change", "least")
        )
        self._numbers.value = f"<table><tr><th></th>{heads}</tr>{''.join(lines)}</table><ul>{flags}</ul>"


def _take_window(editor: MiddleMaskEditor, other: MiddleMaskEditor) -> None:
    """Give an editor the grey window that the other one has now."""
    with editor.controller.lock:
        editor.controller.adjust(window=other.document.view.window)


def _opened(study: Any, row: TableRow, options: Mapping[str, Any]) -> MiddleMaskEditor:
    labels = {label.name for label in MiddleMaskEditor.profile.labels}
    masks = {**study.axial.muscle_groups, **study.masks}
    return MiddleMaskEditor(
        study.volume,
        index=study.axial_index,
        masks={name: mask for name, mask in masks.items() if name in labels},
        **{"height_m": row.get("height_m"), **options},
    )


def _line(one: MeasureChange, language: str) -> str:
    """Write a row of the table, in the unit that is shown."""
    shown = SHOWN[one.column]
    first, second, change = (value * shown.factor for value in (one.first, one.second, one.change))
    percent = "" if one.change_percent is None else f" ({one.change_percent:+.1f} %)"
    least = "–" if one.least_change is None else f"{one.least_change * shown.factor:.1f}"
    sign = {True: " ▲" if change > 0 else " ▼", False: " =", None: ""}[one.exceeds]
    cells = (f"{first:.1f}", f"{second:.1f}", f"{change:+.1f}{percent}{sign}", least)
    said = f"<td>{escape(f'{shown.name(language)}, {shown.unit}')}</td>"
    return f"<tr>{said}{''.join(f'<td style=text-align:right>{escape(cell)}</td>' for cell in cells)}</tr>"
