"""Going through cases: opening, keeping on disk, writing and accepting them, closing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import ipywidgets as ipw
from numpy.typing import ArrayLike

from ctai_sam2.editor import Change, Controller, Document, Message, Profile
from ctai_sam2.editor import commands as editing
from ctai_sam2.errors import InputError
from ctai_sam2.image.masks import as_mask
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.models import Segmenter
from ctai_sam2.study.row import TableRow
from ctai_sam2.types import CTSlice, CTVolume
from ctai_sam2.widgets.case_bar import CaseList, CaseState
from ctai_sam2.widgets.cases import CaseProgress, Cases, Source, named_cases, state_on_disk
from ctai_sam2.widgets.display import Display
from ctai_sam2.widgets.files import CaseFiles, identity_row, write_results
from ctai_sam2.widgets.open_case import OpenCase, carry_look, write_view
from ctai_sam2.widgets.panel import PanelSource
from ctai_sam2.widgets.segmentation import OneClick, load_ahead, segmenter_or_reason

DEFAULT_FOLDER = Path("annotations")


class CaseEditor(ABC):
    """An editor in a notebook cell that goes through cases, of which it shows one and keeps all on disk.

    Parameters
    ----------
    source : CTSlice, CTVolume, or a sequence or mapping of them
        What to outline; several are cases, gone through with *Accept and next*.
    segmenter : Segmenter, "auto" or None
        Asked for one click. ``"auto"``: what the settings name, shared by all editors of the process.
        None: by hand alone. A segmenter given here is not closed by the editor.
    folder : path-like or None
        Where the journals are kept and `save` writes. Each step is in the journal before the screen says so,
        and running the cell again continues where it was left, with undo. None: no journal.
    name : str, optional
        Names the journal and the files of a single case; made from the pixels when omitted.
    index : int, optional
        Of a volume, the slice shown first; when omitted, the one outlined last, else the one of L3 where that
        is known, else the middle one.
    masks : mapping of str to array_like of bool, optional
        To start from, by label, on the first slice shown; not used where the journal holds something.
    language : {"en", "zh"}
        Of the interface.
    auto_run : bool
        Whether each point runs the model at once; the point and the mask it gives are one step to undo.
    height_m : float, optional
        Body height in metres, for the indices of `measurements`.
    reader : str
        Name or initials of the reader, for the table.
    width, height : int, optional
        Of the picture, in CSS pixels; it fills what is visible when omitted.

    Raises
    ------
    InputError
        If the source cannot be outlined in this editor, or a mask or label does not fit.
    RecordError
        If the journal is open in another process, or belongs to something else.
    """

    profile: ClassVar[Profile]

    def __init__(
        self,
        source: Cases,
        *,
        segmenter: Segmenter | Literal["auto"] | None = "auto",
        folder: str | Path | None = DEFAULT_FOLDER,
        name: str | None = None,
        index: int | None = None,
        masks: Mapping[str, ArrayLike] | None = None,
        language: str = "en",
        auto_run: bool = True,
        height_m: float | None = None,
        reader: str = "",
        width: int | None = None,
        height: int | None = None,
    ) -> None:
        self._cases = named_cases(source, name)
        self.folder = None if folder is None else Path(folder)
        self.reader = reader
        self._language, self._auto_run, self._height_m = language, auto_run, height_m
        self._segmenter, self._unavailable = segmenter_or_reason(segmenter)
        self._watchers: list[Callable[[Change], object]] = []
        self._closed = False
        self._progress = CaseProgress({case: self._state_on_disk(case) for case in self._cases})
        self._open_now = self._open_case(next(iter(self._cases)), index, masks)
        try:
            self._display = Display(self.controller, self._panel_source(), width=width, height=height)
            self._widget = self._compose()
            self._show_case()
        except BaseException:
            self._open_now.close()
            raise
        # Not earlier: it would delay what is shown first.
        load_ahead(self._segmenter, self._one_click, self.document.slice)

    # Reading ---------------------------------------------------------------------------------

    @property
    def controller(self) -> Controller:
        """What edits the case in view."""
        return self._open_now.controller

    @property
    def journal(self) -> AnnotationJournal | None:
        """Journal of the case in view; None where none is kept."""
        return self._open_now.journal

    @property
    def record(self) -> AnnotationJournal | None:
        """The name of `journal` in earlier versions."""
        return self.journal

    @property
    def widget(self) -> Any:
        """The ipywidgets box, to be placed in a layout of one's own; the partner is shown under it."""
        return self._widget

    @property
    def document(self) -> Document:
        """What is edited."""
        return self.controller.document

    @property
    def name(self) -> str:
        """The case's name, which its files carry."""
        return self._open_now.name

    @property
    def _one_click(self) -> OneClick | None:
        return self._open_now.one_click

    # Doing -----------------------------------------------------------------------------------

    def on_change(self, callback: Callable[[Change], object]) -> Callable[[], None]:
        """Subscribe to changes of masks and prompts; call what is returned to unsubscribe.

        The callback may be called from the thread the model runs in, and must not wait for another thread.
        """
        self._watchers.append(callback)

        def unsubscribe() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return unsubscribe

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Write the masks (NIfTI, PNG) and the table of all slices outlined, each file atomically.

        Parameters
        ----------
        folder : path-like, optional
            The editor's, with a folder of the case's name in it, when omitted.

        Returns
        -------
        list of Path
            Every file written, the table last.

        Raises
        ------
        StorageError
            If something cannot be written; nothing is lost in memory.
        """
        home = Path(folder) if folder is not None else (self.folder or DEFAULT_FOLDER) / self.name
        with self.controller.lock:
            rows = [self._row(index) for index in self.document.indices]
            files = write_results(self.document, rows, home)
            if self.controller.unsaved:
                self.controller.compact_record()
            self._progress.mark_written(self.name, self.controller)
            self.controller.say(Message("view.saved", {"count": len(files), "folder": str(home)}))
        return files

    def accept(self) -> None:
        """Write the case's row and open the next case that is not done; a question comes first where needed.

        Raises
        ------
        StorageError
            If something cannot be written; the case stays in view.
        """
        self._ask_before_writing(self._accept)

    def step_case(self, by: int) -> None:
        """Open the next (1) or previous (-1) case; at either end nothing happens.

        Raises
        ------
        RecordError
            If its journal cannot be opened; the case in view then stays.
        """
        self.open_case(self._progress.neighbour(self.name, by))

    def open_case(self, name: str) -> None:
        """Open another case by its name; tool, label, brush, window and zoom stay.

        Raises
        ------
        InputError
            If there is no such case.
        RecordError
            If its journal cannot be opened; the case in view then stays.
        """
        if name not in self._cases:
            raise InputError("no such case", received=name)
        if name == self.name or self._closed:
            return
        earlier = self._open_now
        self._language = earlier.controller.document.view.language
        unwritten = self._progress.is_unwritten(earlier.name, earlier.controller)
        opened = self._open_case(name, None, None)
        carry_look(opened.controller.document, earlier.controller.document)
        # From here on nothing fails: the case is closed and the other one shown as a whole.
        with earlier.controller.lock, opened.controller.lock:
            self._keep_view()
            self._leave_case()
            earlier.close()
            self._open_now = opened
            self._show_case()
            if unwritten:
                self._progress.mark_drawn(earlier.name)
                self.controller.say(Message("view.row_unwritten", {"name": earlier.name}))

    def close(self) -> None:
        """Release journal, background thread and page; what was drawn stays on disk. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._display.close()
        self._leave_case()
        self._keep_view()
        kept = self._open_now.close()
        lost = "view.closed_no_journal" if self.journal is None else "view.closed_unsaved"
        self.controller.say(Message("view.closed" if kept else lost))
        self._display.freeze()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self._widget._repr_mimebundle_(**options)

    # For the editors -------------------------------------------------------------------------

    @abstractmethod
    def _measure(self, index: int) -> TableRow:
        """Numbers of a slice, for its row of the table."""

    @abstractmethod
    def _panel_source(self) -> PanelSource:
        """Return what the panel shows and does."""

    @abstractmethod
    def check_segmenter(self) -> None:
        """Look in the background whether the segmenter is available, and enable or disable one click."""

    @abstractmethod
    def _compose(self) -> ipw.Box:
        """Put together what is shown in the cell."""

    @abstractmethod
    def _leave_case(self) -> None:
        """Release what belongs to the case in view: another one follows, or none."""

    def _first_index(self, source: Source) -> int | None:
        """Slice of a volume shown first, where the editor knows better than its middle."""
        return None

    def _flags(self) -> Mapping[str, str]:
        """Why to look at a case, by its name."""
        return {}

    def _doubts_before_writing(self) -> Message | None:
        """Return the confirmation needed before the case's row is written."""
        if not any(self.document.masks(index) for index in self.document.indices):
            return Message("view.confirm_empty")
        return None

    def _start(
        self, controller: Controller, name: str, masks: Mapping[str, ArrayLike] | None, *, is_new: bool
    ) -> None:
        """Put masks to start from in place; ``is_new`` says that the journal holds nothing yet."""
        if is_new:
            for label, mask in (masks or {}).items():
                controller.apply(editing.SetMask(label=label, mask=as_mask(mask), origin="import"))

    def _state_on_disk(self, name: str) -> CaseState:
        """Find out what became of a case before this editor was opened."""
        files = self._files(name)
        return "open" if files is None else state_on_disk(files.journal, files.table)

    # Inside ----------------------------------------------------------------------------------

    def _files(self, name: str) -> CaseFiles | None:
        if self.folder is None:
            return None
        return CaseFiles(folder=self.folder, name=name, profile_name=self.profile.name)

    def _open_case(self, name: str, index: int | None, masks: Mapping[str, ArrayLike] | None) -> OpenCase:
        source = self._cases[name]
        if not isinstance(source, CTSlice | CTVolume):
            raise InputError("a case is a CTSlice or a CTVolume", received=type(source).__name__)
        if index is None:
            index = self._first_index(source)
        return OpenCase.open(
            name,
            Document(source, self.profile, index=index, language=self._language),
            files=self._files(name),
            holder=self,
            segmenter=self._segmenter,
            auto_run=self._auto_run,
            start=lambda controller, is_new: self._start(controller, name, masks, is_new=is_new),
        )

    def _show_case(self) -> None:
        controller = self.controller
        controller.handlers |= {
            "save": lambda: self._ask_before_writing(self._write),
            "accept": self.accept,
            "next_case": lambda: self.step_case(1),
            "previous_case": lambda: self.step_case(-1),
        }
        self._display.show(controller)
        controller.subscribe(lambda change: self._notice(change) if controller is self.controller else None)
        self.check_segmenter()
        self._display.request()

    def _list_cases(self) -> CaseList:
        states = self._progress.states(self.name, self.controller)
        return CaseList(name=self.name, states=states, flags=self._flags())

    def _ask_before_writing(self, write: Callable[[], object]) -> None:
        doubt = self._doubts_before_writing()
        if doubt is None:
            write()
        else:
            self.controller.confirm(doubt, write)

    def _write(self) -> object:
        """Write the case's row; confirmations come before."""
        return self.save()

    def _accept(self) -> None:
        self._write()
        following = self._progress.next_to_do(self.name)
        if following is not None:
            self.open_case(following)
        elif len(self._cases) > 1:
            self.controller.say(Message("view.all_done", {"count": len(self._cases)}))

    def _row(self, index: int) -> TableRow:
        """Row of the table for a slice: what it is of, who made it, and its numbers."""
        identity = identity_row(self.document, index, case=self.name, reader=self.reader)
        return {**identity, **self._measure(index)}

    def _keep_view(self) -> None:
        files = self._files(self.name)
        if files is not None and files.folder.exists():
            write_view(files.view, self.document)

    def _notice(self, change: Change) -> None:
        """Take a change, under the lock, perhaps from the background thread."""
        self._display.take(change)
        if change.aspects & {"mask", "prompts"}:
            for watcher in tuple(self._watchers):
                watcher(change)
