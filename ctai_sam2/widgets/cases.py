"""The cases of an editor: their names and sources, and what became of each."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ctai_sam2.editor import Controller
from ctai_sam2.errors import InputError
from ctai_sam2.journal import fingerprint
from ctai_sam2.types import CTSlice, CTVolume
from ctai_sam2.types.checks import require_type
from ctai_sam2.widgets.case_bar import CaseState
from ctai_sam2.widgets.open_case import require_names

Source: TypeAlias = CTSlice | CTVolume
Cases: TypeAlias = Source | Sequence[Source] | Mapping[str, Source]


class CaseProgress:
    """States of cases, and the revision at which the row of the one in view was written.

    Parameters
    ----------
    states : mapping of str to CaseState
        Of every case, in order, as found on disk.
    """

    def __init__(self, states: Mapping[str, CaseState]) -> None:
        self._states = dict(states)
        # Revisions are counted anew by each controller, as often as a case is opened.
        self._written: weakref.WeakKeyDictionary[Controller, int] = weakref.WeakKeyDictionary()

    @property
    def names(self) -> list[str]:
        """Every case, in order."""
        return list(self._states)

    def states(self, name: str, controller: Controller) -> Mapping[str, CaseState]:
        """State of every case, where ``controller`` has the one in view."""
        if self.is_unwritten(name, controller):
            self._states[name] = "drawn"
        return dict(self._states)

    def is_unwritten(self, name: str, controller: Controller) -> bool:
        """Whether something was edited since the row was written."""
        is_done = self._states[name] == "done"
        since = self._written.get(controller, controller.opened_revision if is_done else None)
        if since is None:
            return bool(controller.document.history.done)
        # Also where everything was undone: the row still has its masks.
        return since != controller.document.revision

    def mark_written(self, name: str, controller: Controller) -> None:
        """Note that the case's row is up to date."""
        self._written[controller] = controller.document.revision
        self._states[name] = "done"

    def mark_drawn(self, name: str) -> None:
        """Note that a case was left with a row that is not up to date."""
        self._states[name] = "drawn"

    def neighbour(self, name: str, by: int) -> str:
        """Name of the case so many further on; the first or last one at the ends."""
        names = self.names
        return names[min(max(names.index(name) + by, 0), len(names) - 1)]

    def next_to_do(self, name: str) -> str | None:
        """Name of the next case that is not done, after the last one from the first again."""
        names = self.names
        place = names.index(name)
        later = [*names[place + 1 :], *names[:place]]
        return next((each for each in later if self._states[each] != "done"), None)


def state_on_disk(journal: Path, table: Path) -> CaseState:
    """Find out what became of a case from its journal and its table."""
    try:
        drawn_at = journal.stat().st_mtime
    except OSError:
        return "open"
    try:
        return "done" if table.stat().st_mtime >= drawn_at else "drawn"
    except OSError:
        return "drawn"


def named_cases(source: Cases, name: str | None) -> Mapping[str, Source]:
    """Give every source a name: its own, or one made from its pixels.

    Raises
    ------
    InputError
        If there is no case, one is no slice or volume, or a name cannot be a file's.
    """
    if isinstance(source, CTSlice | CTVolume):
        return {name or _name_of(source): source}
    if not isinstance(source, Mapping | list | tuple):
        # Text is a sequence too: of a path by mistake every letter would be a case.
        require_type(source, (CTVolume, CTSlice), "what an editor shows")
    cases = source if isinstance(source, Mapping) else {_name_of(each): each for each in source}
    if not cases:
        raise InputError("there is no case to outline")
    require_names(cases)
    return cases


def _name_of(source: Source) -> str:
    require_type(source, (CTVolume, CTSlice), "what an editor shows")
    return fingerprint(source)[:12]
