"""What both editors share: opening cases, painting, one click, the journal, saving and closing."""

from __future__ import annotations

import datetime
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from numpy.typing import ArrayLike

from ctai_sam2.editor import Change, Controller, Document, Message, Profile
from ctai_sam2.editor import commands as editing
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.image.contours import Polygon
from ctai_sam2.image.masks import as_mask
from ctai_sam2.journal import AnnotationJournal, fingerprint
from ctai_sam2.models import Segmenter
from ctai_sam2.study_outputs import TableRow
from ctai_sam2.types import CTSlice, CTVolume, Mask
from ctai_sam2.widgets.canvas import SliceCanvas
from ctai_sam2.widgets.canvas_manager import PAINT_EVERY_S, Pacer
from ctai_sam2.widgets.case_bar import CaseList, CaseState
from ctai_sam2.widgets.events import Events
from ctai_sam2.widgets.files import results_table, write_results
from ctai_sam2.widgets.label_panel import Proposal
from ctai_sam2.widgets.open_case import (
    OpenCase,
    carry_view,
    claim_journal,
    read_view,
    release_journal,
    require_names,
    write_view,
)
from ctai_sam2.widgets.panel import Panel, PanelSource
from ctai_sam2.widgets.segmentation import OneClick, shared_segmenter

_log = logging.getLogger(__name__)

Source: TypeAlias = CTSlice | CTVolume
Cases: TypeAlias = Source | Sequence[Source] | Mapping[str, Source]

DEFAULT_FOLDER = Path("annotations")


class MaskEditor(ABC):
    """An editor in a notebook cell; `MiddleMaskEditor` and `L3MaskEditor` are the two there are.

    Parameters
    ----------
    source : CTSlice, CTVolume, or a sequence or mapping of them
        What to outline; several are cases, gone through with *Accept and next*.
    segmenter : Segmenter, "auto" or None
        Asked for one click. ``"auto"``: what the settings name, shared by all editors of the process.
        None: by hand alone. A segmenter given here is not closed by the editor.
    folder : path-like or None
        Where the journals are kept and `save` writes. Each step is in the journal before the screen says so,
        and running the cell again goes on where it was left, with undo. None: no journal.
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
    _takes_height: ClassVar[bool] = False

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
        self._cases = _named_cases(source, name)
        self.folder = None if folder is None else Path(folder)
        self.reader = reader
        self._language, self._auto_run, self._height_m = language, auto_run, height_m
        self._segmenter, self._unavailable = _open(segmenter)
        self._watchers: list[Callable[[Change], object]] = []
        self._closed = False
        self._measure_again = True
        self._written: dict[str, int] = {}
        """Revision of the document when a case's row was written."""
        self._states: dict[str, CaseState] = {case: self._state_on_disk(case) for case in self._cases}
        self._open_now = self._open_case(next(iter(self._cases)), index, masks)
        try:
            self._pacer = Pacer(self._paint, PAINT_EVERY_S)
            self._canvas = SliceCanvas(
                self.controller, width=width or 600, height=height or 540, on_ready=self._request_painting
            )
            self._events = Events(self._canvas, self._guard, fills=width is None and height is None)
            self._panel = Panel(
                self.controller,
                self._canvas.widget,
                PanelSource(
                    guard=self._guard,
                    cases=self._list_cases,
                    choose_case=self.open_case,
                    check_segmenter=self.check_segmenter,
                    describe=self._describe,
                    propose=self._propose,
                    localiser=self._localise,
                    height_m=lambda: self._height_in_use(self.document.index),
                    set_height_m=self._set_height_m if self._takes_height else None,
                ),
            )
            self._panel.widget.children = (*self._panel.widget.children, self._events.companion)
            self._show_case()
        except BaseException:
            self._open_now.close()
            raise

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
        """The ipywidgets box, to be placed in a layout of one's own."""
        return self._panel.widget

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

    @property
    def masks(self) -> dict[str, Mask]:
        """Masks of the slice in view that are not empty, each bool (H, W), by label."""
        with self.controller.lock:
            return self.document.masks()

    def measurements(self) -> TableRow:
        """Measure the slice in view: the row of the table, with the case, reader, date and model it is of.

        Raises
        ------
        InputError
            If the body height cannot be used.
        """
        with self.controller.lock:
            return self._row(self.document.index)

    def to_polygons(self, *, tolerance_px: float = 0.0) -> dict[str, list[Polygon]]:
        """Outlines with holes of the slice in view, by label; exact at tolerance 0."""
        with self.controller.lock:
            return {
                label: self.document.polygons(label, tolerance_px=tolerance_px)
                for label in self.document.masks()
            }

    # Doing -----------------------------------------------------------------------------------

    def do(self, action: str) -> None:
        """Do what a button says, by the action's name; see `editor.ACTIONS`."""
        self.controller.do(action)

    def run(self, label: str | None = None, *, wait_s: float | None = 300.0) -> None:
        """Run the model, as the button does, and wait for its result; for scripts and notebooks.

        Parameters
        ----------
        label : str, optional
            A label, or a group such as ``psoas``; the active one's group when omitted.
        wait_s : float or None
            How long to wait at most.

        Raises
        ------
        InputError
            If there is no such label.
        """
        if self.controller.run(label):
            self.controller.inference.wait(wait_s)

    def set_mask(self, label: str, mask: ArrayLike) -> None:
        """Put a mask in place of a label's, as one undoable step.

        Raises
        ------
        InputError
            If the label or the mask does not fit.
        """
        self.controller.apply(editing.SetMask(label=label, mask=as_mask(mask), origin="import"))

    def compare(self, masks: Mapping[str, ArrayLike | None]) -> None:
        """Show another reader's masks of the slice in view as white outlines, with their Dice.

        They stay with their slice, and nothing edits them.

        Parameters
        ----------
        masks : mapping of str to array_like of bool or None
            By label, as another editor's `masks`; None takes one away.

        Raises
        ------
        InputError
            If a label or mask does not fit; nothing is changed then.
        """
        with self.controller.lock:
            self._notice(self.document.set_references(masks))

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
            self._mark_written()
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
        names = list(self._cases)
        self.open_case(names[min(max(names.index(self.name) + by, 0), len(names) - 1)])

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
        unwritten = self._is_unwritten
        opened = self._open_case(name, None, None)
        view = carry_view(opened.controller.document.view, earlier.controller.document.view)
        opened.controller.document.view = view
        # From here on nothing fails: the case is closed and the other one shown as a whole.
        with earlier.controller.lock, opened.controller.lock:
            self._keep_view()
            earlier.close()
            self._open_now = opened
            self._canvas.show(opened.controller)
            self._show_case()
            if unwritten:
                self._states[earlier.name] = "drawn"
                self.controller.say(Message("view.row_unwritten", {"name": earlier.name}))

    def check_segmenter(self) -> None:
        """Look in the background whether the segmenter is available, and enable or disable one click."""
        controller = self.controller
        if self._segmenter is None:
            controller.inference.set_available(self._unavailable)
            return

        def check(segmenter: Segmenter) -> None:
            health = segmenter.health()
            reason = None if health.available else Message("ai.unavailable", {"why": health.detail})
            controller.inference.set_available(reason)

        threading.Thread(target=check, args=(self._segmenter,), daemon=True).start()

    def close(self) -> None:
        """Release journal, background thread and page; what was drawn stays on disk. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._keep_view()
        kept = self._open_now.close()
        self._pacer.close()
        lost = "view.closed_no_journal" if self.journal is None else "view.closed_unsaved"
        self.controller.say(Message("view.closed" if kept else lost))
        self._panel.freeze()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self._panel.widget._repr_mimebundle_(**options)

    # For the editors -------------------------------------------------------------------------

    @abstractmethod
    def _measure(self, index: int) -> TableRow:
        """Numbers of a slice, for its row of the table."""

    def _describe(self) -> list[Message]:
        """Lines shown under the labels' numbers."""
        return []

    def _propose(self) -> list[Proposal]:
        """Other results to choose from, as buttons."""
        return []

    def _localise(self) -> str:
        """HTML that shows where the slice lies."""
        return ""

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
        if self.folder is None:
            return "open"
        journal, table = self._journal_path(name), results_table(self.folder / name, self.profile.name)
        try:
            drawn_at = journal.stat().st_mtime
        except OSError:
            return "open"
        try:
            return "done" if table.stat().st_mtime >= drawn_at else "drawn"
        except OSError:
            return "drawn"

    def _height_in_use(self, index: int) -> float | None:
        return self._height_m or self.document.slice_at(index).acquisition.patient_height_m

    # Inside ----------------------------------------------------------------------------------

    def _journal_path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.{self.profile.name}.record.jsonl"

    def _view_path(self) -> Path | None:
        return None if self.folder is None else self.folder / f".{self.profile.name}.view.json"

    def _open_case(self, name: str, index: int | None, masks: Mapping[str, ArrayLike] | None) -> OpenCase:
        source = self._cases[name]
        if not isinstance(source, CTSlice | CTVolume):
            raise InputError("a case is a CTSlice or a CTVolume", received=type(source).__name__)
        if index is None:
            index = self._first_index(source)
        document = Document(source, self.profile, index=index, language=self._language)
        view_path = self._view_path()
        if view_path is not None:
            document.view = read_view(view_path, document.view, self.profile)
        journal = None if self.folder is None else claim_journal(self._journal_path(name), source, self)
        try:
            volume = source if isinstance(source, CTVolume) else None
            one_click = None if self._segmenter is None else OneClick(self._segmenter, volume)
            controller = Controller(document, mask_source=one_click, record=journal, auto_run=self._auto_run)
            history = document.history
            is_new = not (history.done or history.undone or document.indices)
            self._start(controller, name, masks, is_new=is_new)
            if history.done and not is_new:
                controller.message = Message("view.reopened", {"count": len(history.done)})
                controller.go_to(history.done[-1].index)
            elif history.undone:
                controller.go_to(history.undone[-1].index)
        except BaseException:
            if journal is not None:
                release_journal(journal)
            raise
        return OpenCase(name=name, controller=controller, journal=journal, one_click=one_click)

    def _show_case(self) -> None:
        controller = self.controller
        controller.handlers |= {
            "save": lambda: self._ask_before_writing(self._write),
            "accept": self.accept,
            "next_case": lambda: self.step_case(1),
            "previous_case": lambda: self.step_case(-1),
        }
        self._events.attach(controller)
        controller.subscribe(lambda change: self._notice(change) if controller is self.controller else None)
        self._panel.show(controller)
        self.check_segmenter()
        self._request_painting()

    def _list_cases(self) -> CaseList:
        states = self._states
        if self._is_unwritten:
            states[self.name] = "drawn"
        return CaseList(name=self.name, states=states, flags=self._flags())

    @property
    def _is_unwritten(self) -> bool:
        """Whether something was edited since the row was written."""
        document = self.document
        is_done = self._states[self.name] == "done"
        since = self._written.get(self.name, self.controller.opened_revision if is_done else None)
        return bool(document.history.done) and since != document.revision

    def _mark_written(self) -> None:
        self._written[self.name] = self.document.revision
        self._states[self.name] = "done"

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
        names = list(self._cases)
        place = names.index(self.name)
        later = [*names[place + 1 :], *names[:place]]
        following = next((name for name in later if self._states[name] != "done"), None)
        if following is not None:
            self.open_case(following)
        elif len(names) > 1:
            self.controller.say(Message("view.all_done", {"count": len(names)}))

    def _row(self, index: int) -> TableRow:
        """Row of the table for a slice: what it is of, who made it, and its numbers."""
        document = self.document
        ct_slice = document.slice_at(index)
        identity: TableRow = {
            "case": self.name,
            "series": fingerprint(document.source)[:16],
            "slice": index if ct_slice.index is None else ct_slice.index,
            "reader": self.reader,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "editor_model": document.model_of(index),
            "hand_share": document.hand_share(index),
        }
        return {**identity, **self._measure(index)}

    def _set_height_m(self, height_m: float | None) -> None:
        before, self._height_m = self._height_m, height_m
        try:
            self._measure(self.document.index)
        except CtaiError:
            self._height_m = before
            raise
        self._measure_again = True
        self._request_painting()

    def _keep_view(self) -> None:
        path = self._view_path()
        if path is not None and path.parent.exists():
            write_view(path, self.document.view)

    def _notice(self, change: Change) -> None:
        """Take a change, under the lock, perhaps from the background thread."""
        self._canvas.require(change)
        self._measure_again |= bool(change.aspects & {"mask", "slice", "labels"})
        self._request_painting()
        if change.aspects & {"mask", "prompts"}:
            for watcher in tuple(self._watchers):
                watcher(change)

    def _request_painting(self) -> None:
        self._pacer.request()

    def _paint(self) -> None:
        def paint() -> None:
            with self.controller.lock:
                measure, self._measure_again = self._measure_again, False
                self._canvas.paint()
                self._panel.refresh(measure=measure)
                self._events.show()

        try:
            paint()
        except Exception as error:
            # Nothing above would show it: ipywidgets drops what a callback raises.
            _log.exception("painting the editor failed")
            self.controller.message = Message("view.error", {"why": type(error).__name__})

    def _guard(self, act: Callable[[], object]) -> None:
        """Run what a page requested; what it raises is shown in the status line."""
        try:
            if not self._closed:
                act()
        except CtaiError as error:
            self.controller.refuse(error)
        except Exception as error:
            _log.exception("an event of the editor failed")
            self.controller.say(Message("view.error", {"why": type(error).__name__}))


def _open(
    segmenter: Segmenter | Literal["auto"] | None,
) -> tuple[Segmenter | None, Message | None]:
    """Open the segmenter that was chosen, or say why there is none."""
    if segmenter is None:
        return None, None
    if not isinstance(segmenter, str):
        return segmenter, None
    if segmenter != "auto":
        raise InputError(
            "no such segmenter", received=segmenter, hint='Give "auto", None, or what open_segmenter returns.'
        )
    try:
        return shared_segmenter(), None
    except CtaiError as error:
        return None, Message("ai.unavailable", {"why": str(error)})


def _named_cases(source: Cases, name: str | None) -> Mapping[str, Source]:
    if isinstance(source, CTSlice | CTVolume):
        return {name or _name_of(source): source}
    cases = source if isinstance(source, Mapping) else {_name_of(each): each for each in source}
    if not cases:
        raise InputError("there is no case to outline")
    require_names(cases)
    return cases


def _name_of(source: Source) -> str:
    if not isinstance(source, CTSlice | CTVolume):
        raise InputError("an editor takes a CTSlice or a CTVolume", received=type(source).__name__)
    return fingerprint(source)[:12]
