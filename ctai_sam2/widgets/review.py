"""The editor of a cohort's worklist: the flagged cases one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from numpy.typing import ArrayLike

from ctai_sam2.editor import MIDDLE, Controller, Message, Profile
from ctai_sam2.editor.sheet import Author
from ctai_sam2.errors import InputError
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.types import CTSlice, Mask
from ctai_sam2.widgets.case_bar import CaseState
from ctai_sam2.widgets.middle import MiddleMaskEditor

_COHORT = replace(
    MIDDLE,
    labels=tuple(label for label in MIDDLE.labels if label.name not in SIDED_GROUPS),
    groups=MappingProxyType({name: each for name, each in MIDDLE.groups.items() if name != "groups"}),
)
"""What a cohort's mask files hold: its muscle groups are made anew from the model."""


class ReviewsCases(Protocol):
    """What this editor needs of a worklist; `ctai_sam2.cohort.Worklist` is one."""

    @property
    def journal_folder(self) -> Path:
        """Folder of the editor's journals."""
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

    *Accept and next* (Enter) signs the case and opens the next one: masks that were changed go into the
    cohort's table with who and when; where none was, the model's stand and the case counts as looked at.
    Undo stops at the masks a case was opened with. What is drawn and not signed stays in the journal.

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
        If the reviewer's name is missing, or no open case has masks.
    RecordError, StorageError
        If a journal or the results cannot be read.

    Examples
    --------
    In a notebook::

        from ctai_sam2.cohort import Worklist

        ct.ReviewEditor(Worklist("results"), who="AB")
    """

    profile: ClassVar[Profile] = _COHORT

    def __init__(self, worklist: ReviewsCases, *, who: str, what: str = "", **options: Any) -> None:
        if not who.strip():
            raise InputError("a review needs a reader's name or initials", hint='Give who="AB".')
        flags = {item.case_id: item.flags for item in worklist if "failed" not in item.flags}
        if not flags:
            raise InputError("no case is open", hint="All flagged cases were looked at, or have no masks.")
        self._worklist, self._who, self._what = worklist, who, what
        self._flagged: dict[str, Mapping[str, str]] = flags
        self._slices = _Slices(worklist, flags)
        super().__init__(self._slices, folder=worklist.journal_folder, reader=who, **options)

    def save(self, folder: str | Path | None = None, *, allow_empty: bool = False) -> list[Path]:
        """Sign the case in view and put what was changed into the cohort's table.

        Parameters
        ----------
        folder : path-like, optional
            Write masks and a table of this case there too, as `MiddleMaskEditor.save` does.
        allow_empty : bool
            Whether a structure that had a mask may be signed without one.

        Returns
        -------
        list of Path
            Files written to ``folder``.

        Raises
        ------
        InputError
            If a structure was emptied and ``allow_empty`` does not say that it shall be.
        StorageError
            If something cannot be written; nothing is lost in memory.
        """
        with self.controller.lock:
            emptied = self._emptied
            if emptied and not allow_empty:
                raise InputError(
                    "a structure that had a mask is empty now",
                    received=", ".join(emptied),
                    hint="Undo, or sign it with save(allow_empty=True).",
                )
            files = [] if folder is None else super().save(folder)
            changed = self._loaded.changes(self._drawn)
            merged = self._worklist.correct(self.name, changed, who=self._who, what=self._what)
            key = "view.reviewed" if merged else "view.reviewed_later"
            self._progress.mark_written(self.name, self.controller)
            self.controller.say(Message(key, {"count": len(changed), "who": self._who}))
        return files

    @property
    def _drawn(self) -> dict[str, Mask]:
        return {label: self.document.mask(label).copy() for label in self.document.labels}

    @property
    def _loaded(self) -> Any:
        return self._slices.case(self.name)

    @property
    def _emptied(self) -> list[str]:
        """Structures that had a mask when the case was opened and have none now."""
        opened = self._loaded.masks
        return [
            name
            for name, mask in self._drawn.items()
            if name in opened and opened[name].any() and not mask.any()
        ]

    def _doubts_before_writing(self) -> Message | None:
        emptied = self._emptied
        if not emptied:
            return None
        names = ", ".join(Message(f"label.{name}").text(self.document.view.language) for name in emptied)
        return Message("view.confirm_emptied", {"labels": names})

    def _write(self) -> object:
        # The reader confirmed, or no confirmation was needed.
        return self.save(allow_empty=True)

    def _start(
        self, controller: Controller, name: str, masks: Mapping[str, ArrayLike] | None, *, is_new: bool
    ) -> None:
        case, history = self._slices.case(name), controller.document.history
        controller.keep_opening()
        if history.done or history.undone:
            return
        # Nothing was drawn yet: the masks as they count today, which a run may have changed meanwhile.
        labels = [label.name for label in self.profile.labels if label.name in case.masks]
        author: Author = "model" if case.item.reviewed_by is None else "reader"
        controller.open_with({label: case.masks[label] for label in labels}, author)

    def _state_on_disk(self, name: str) -> CaseState:
        files = self._files(name)
        return "drawn" if files is not None and files.journal.exists() else "open"

    def _flags(self) -> Mapping[str, str]:
        return {name: next(iter(flags), "") for name, flags in self._flagged.items()}

    def _describe(self) -> list[Message]:
        reasons = [
            Message("view.flag", {"flag": flag, "why": why}) for flag, why in self._flagged[self.name].items()
        ]
        return [*reasons, *super()._describe()]


class _Slices(Mapping[str, CTSlice]):
    """Slices by case, read when they are opened: a cohort may have thousands."""

    def __init__(self, worklist: ReviewsCases, names: Mapping[str, object]) -> None:
        self._worklist, self._names = worklist, tuple(names)
        self._loaded: dict[str, Any] = {}

    def case(self, case_id: str) -> Any:
        """Slice and masks of a case as they counted when it was opened; the last two are kept in memory."""
        if case_id not in self._loaded:
            self._loaded = {**dict(list(self._loaded.items())[-1:]), case_id: self._worklist.load(case_id)}
        return self._loaded[case_id]

    def __getitem__(self, case_id: str) -> CTSlice:
        ct_slice: CTSlice = self.case(case_id).ct_slice
        return ct_slice

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
