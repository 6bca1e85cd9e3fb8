"""The editor of a cohort's worklist: the flagged cases one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from numpy.typing import ArrayLike

from ctai_sam2.editor import MIDDLE, Controller, Message, Profile
from ctai_sam2.editor.i18n import TABLE
from ctai_sam2.editor.sheet import Author
from ctai_sam2.errors import InputError
from ctai_sam2.measure.columns import SIDED_GROUPS
from ctai_sam2.types import CTVolume, Mask
from ctai_sam2.widgets.case_bar import CaseState
from ctai_sam2.widgets.cases import Source
from ctai_sam2.widgets.files import CaseFiles
from ctai_sam2.widgets.middle import MiddleMaskEditor
from ctai_sam2.widgets.volume_steps import open_result, worst_slice

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
        """Open cases, the most serious first: each with ``case_id`` and ``flags``."""
        ...

    def load(self, case_id: str) -> Any:
        """Slice and masks of a case, and which of a reader's masks differ: see `ReviewCase`."""
        ...

    def has_levels(self, case_id: str) -> bool:
        """Whether a case has a range of levels to look at."""
        ...

    def correct(
        self,
        case_id: str,
        masks: Mapping[str, ArrayLike],
        *,
        who: str,
        what: str = "",
        volume_masks: Mapping[str, Mapping[int, ArrayLike]] | None = None,
    ) -> bool:
        """Take a reader's masks in place of the model's."""
        ...


class ReviewEditor(MiddleMaskEditor):
    """Flagged cases of a cohort in `MiddleMaskEditor`, opened with the model's masks.

    *Accept and next* (Enter) signs the case and opens the next one: masks that were changed go into the
    cohort's table with who and when; where none was, the model's stand and the case counts as looked at.
    Undo stops at the masks a case was opened with. What is drawn and not signed stays in the journal.

    With ``Worklist(folder, manifest=...)`` a case whose range of levels was segmented is opened as a volume,
    at its first implausible slice; the slice that the table's row is of is one of them. Signing it writes
    changed slices to the masks and tables of the range as well.

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
    # The height of a cohort's row is that of its manifest: one typed here would change nothing.
    _takes_height: ClassVar[bool] = False

    def __init__(self, worklist: ReviewsCases, *, who: str, what: str = "", **options: Any) -> None:
        if not who.strip():
            raise InputError("a review needs a reader's name or initials", hint='Give who="AB".')
        if not callable(getattr(worklist, "load", None)):
            raise InputError(
                "a review needs the worklist of a cohort",
                received=type(worklist).__name__,
                hint='Give ctai_sam2.cohort.Worklist("results"), with the folder that run_cohort wrote.',
            )
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
            document, loaded = self.document, self._loaded
            changed = loaded.changes(self._drawn)
            of_volume = loaded.volume_changes(
                lambda label, index: document.mask(label, index).copy(),
                lambda label, index: document.state(label, index).is_fixed,
            )
            merged = self._worklist.correct(
                self.name, changed, who=self._who, what=self._what, volume_masks=of_volume
            )
            key = "view.reviewed" if merged else "view.reviewed_later"
            self._progress.mark_written(self.name, self.controller)
            count = len(changed) + sum(len(slices) for slices in of_volume.values())
            signed = Message(key, {"count": count, "who": self._who})
            outside = self._drawn_outside()
            if outside:
                labels = ", ".join(Message(f"label.{one}").text(document.view.language) for one in outside)
                signed = Message("view.outside_levels", {"signed": signed, "labels": labels})
            self.controller.say(signed)
        return files

    @property
    def _drawn(self) -> dict[str, Mask]:
        """Masks on the slice that the table's row is of."""
        index = self._measured_index
        return {label: self.document.mask(label, index).copy() for label in self.document.labels}

    def _drawn_outside(self) -> list[str]:
        """Labels drawn on slices of the volume that neither the row nor the range of levels holds."""
        case, document = self._loaded, self.document
        if case.levels is None:
            return []
        masks = case.levels.structure_slices
        return [
            label
            for label in document.labels
            if any(
                document.mask(label, index).any()
                for index in document.touched - {self._measured_index}
                if label not in masks or index not in case.levels.indices
            )
        ]

    @property
    def _measured_index(self) -> int:
        case = self._loaded
        return 0 if case.levels is None or case.axial_index is None else int(case.axial_index)

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
        author: Author = "model" if case.item.reviewed_by is None else "reader"
        if case.levels is not None:
            open_result(controller, case.levels, case.shown_masks, author, more=(case.axial_index,))
            worst = worst_slice(case.levels)
            if worst is not None:
                controller.go_to(worst[1])
            return
        labels = [label.name for label in self.profile.labels if label.name in case.masks]
        controller.open_with({label: case.masks[label] for label in labels}, author)

    def _show_case(self) -> None:
        levels = self._loaded.levels
        worst = None if levels is None else worst_slice(levels)
        if worst is not None and not self.document.history.done and worst[0] in self.document.labels:
            self.controller.adjust(active=worst[0])
        super()._show_case()

    def _first_index(self, source: Source) -> int | None:
        return self._slices.last.axial_index if isinstance(source, CTVolume) else None

    def _files(self, name: str) -> CaseFiles | None:
        files = super()._files(name)
        # A journal is of the slice or of its volume.
        is_volume = files is not None and self._worklist.has_levels(name)
        return replace(files, name=f"{name}.volume") if files is not None and is_volume else files

    def _state_on_disk(self, name: str) -> CaseState:
        files = self._files(name)
        return "drawn" if files is not None and files.journal.exists() else "open"

    def _flags(self) -> Mapping[str, str]:
        return {name: next(iter(flags), "") for name, flags in self._flagged.items()}

    def _describe(self) -> list[Message]:
        reasons = [
            Message("view.flag", {"flag": _name_of_flag(flag), "why": why})
            for flag, why in self._flagged[self.name].items()
        ]
        return [*reasons, *super()._describe()]


def _name_of_flag(flag: str) -> Message | str:
    """Name of a flag in the interface's language; one of another worklist as it is."""
    key = f"flag.{flag}"
    return Message(key) if key in TABLE else flag


class _Slices(Mapping[str, Source]):
    """Slices and volumes by case, read when they are opened: a cohort may have thousands."""

    def __init__(self, worklist: ReviewsCases, names: Mapping[str, object]) -> None:
        self._worklist, self._names = worklist, tuple(names)
        self._loaded: dict[str, Any] = {}

    def case(self, case_id: str) -> Any:
        """Slice and masks of a case as they counted when it was opened; the last two are kept in memory."""
        if case_id not in self._loaded:
            self._loaded = {**dict(list(self._loaded.items())[-1:]), case_id: self._worklist.load(case_id)}
        return self._loaded[case_id]

    @property
    def last(self) -> Any:
        """The case that was read last."""
        return list(self._loaded.values())[-1]

    def __getitem__(self, case_id: str) -> Source:
        case = self.case(case_id)
        source: Source = case.ct_slice if case.levels is None else case.levels.volume
        return source

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
