"""The editor of a cohort's worklist: the flagged cases one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import ArrayLike

from ctai_sam2.editor import Controller, Message
from ctai_sam2.errors import InputError
from ctai_sam2.types import CTSlice
from ctai_sam2.widgets.middle import MiddleMaskEditor


class ReviewsCases(Protocol):
    """What this editor asks of a worklist; `ctai_sam2.cohort.Worklist` is one."""

    @property
    def journal_folder(self) -> Path:
        """Where the editor's journals lie."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Open cases, the gravest first: each with ``case_id`` and ``flags``."""
        ...

    def load(self, case_id: str) -> Any:
        """Slice and masks of a case, and which of a reader's masks differ: see `ReviewCase`."""
        ...

    def correct(self, case_id: str, masks: Mapping[str, ArrayLike], *, who: str, what: str = "") -> bool:
        """Take a reader's masks in place of the model's."""
        ...


class ReviewEditor(MiddleMaskEditor):
    """Flagged cases of a cohort in `MiddleMaskEditor`, opened with the model's masks.

    *Save* signs the case: masks that were changed go into the cohort's table with who and when; where none
    was, the model's stand and the case counts as looked at. *Next case* goes on; what is drawn and not
    saved is kept in the journal.

    Parameters
    ----------
    worklist : ReviewsCases
        `ctai_sam2.cohort.Worklist` of the results' folder.
    who : str
        The reader, as it will stand in the table.
    what : str
        A note for each case saved.
    **options
        ``segmenter``, ``language``, ``auto_run``, ``width``, ``height`` of `MiddleMaskEditor`.

    Raises
    ------
    InputError
        If nobody signs, or no open case has masks.
    RecordError, StorageError
        If a journal or the results cannot be read.

    Examples
    --------
    In a notebook::

        from ctai_sam2.cohort import Worklist

        ct.ReviewEditor(Worklist("results"), who="AB")
    """

    def __init__(self, worklist: ReviewsCases, *, who: str, what: str = "", **options: Any) -> None:
        if not who.strip():
            raise InputError("a review needs a reader's name or initials", hint='Give who="AB".')
        flags = {item.case_id: item.flags for item in worklist if "failed" not in item.flags}
        if not flags:
            raise InputError("no case is open", hint="All flagged cases were looked at, or have no masks.")
        self._worklist, self._who, self._what = worklist, who, what
        self._flags: dict[str, Mapping[str, str]] = flags
        super().__init__(_Slices(worklist, flags), folder=worklist.journal_folder, **options)

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Sign the case in view and put what was changed into the cohort's table.

        Parameters
        ----------
        folder : path-like, optional
            Write masks and a table of this case there too, as `MiddleMaskEditor.save` does.

        Returns
        -------
        list of Path
            Files written to ``folder``.

        Raises
        ------
        StorageError
            If something cannot be written; nothing is lost in memory.
        """
        files = [] if folder is None else super().save(folder)
        with self.controller.lock:
            drawn = {label: self.document.mask(label).copy() for label in self.document.labels}
            changed = self._opened.changes(drawn)
            merged = self._worklist.correct(self.name, changed, who=self._who, what=self._what)
            key = "view.reviewed" if merged else "view.reviewed_later"
            self.controller.say(Message(key, {"count": len(changed), "who": self._who}))
        return files

    def _open_case(self, index: int | None, masks: Mapping[str, ArrayLike] | None) -> Controller:
        case = self._worklist.load(self.name)
        controller = super()._open_case(
            index,
            {label.name: case.masks[label.name] for label in self.profile.labels if label.name in case.masks},
        )
        self._opened = case
        return controller

    def _describe(self) -> list[Message]:
        reasons = [
            Message("view.flag", {"flag": flag, "why": why}) for flag, why in self._flags[self.name].items()
        ]
        return [*reasons, *super()._describe()]


class _Slices(Mapping[str, CTSlice]):
    """Slices by case, read when they are opened: a cohort may have thousands."""

    def __init__(self, worklist: ReviewsCases, names: Mapping[str, object]) -> None:
        self._worklist, self._names = worklist, tuple(names)

    def __getitem__(self, case_id: str) -> CTSlice:
        ct_slice: CTSlice = self._worklist.load(case_id).ct_slice
        return ct_slice

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
