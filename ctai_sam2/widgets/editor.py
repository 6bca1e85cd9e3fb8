"""What both editors share: opening cases, painting, one click, the journal, saving and closing."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import ipywidgets as ipw
from numpy.typing import ArrayLike

from ctai_sam2.editor import Change, Controller, Document, Message, Profile
from ctai_sam2.editor import commands as editing
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.image.contours import Polygon
from ctai_sam2.image.masks import as_mask
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.models import Segmenter
from ctai_sam2.study.outputs import TableRow
from ctai_sam2.types import CTSlice, CTVolume, Mask
from ctai_sam2.widgets.canvas import Guide, SliceCanvas
from ctai_sam2.widgets.canvas_manager import PAINT_EVERY_S, Pacer
from ctai_sam2.widgets.case_bar import CaseList, CaseState
from ctai_sam2.widgets.cases import CaseProgress, Cases, Source, named_cases, state_on_disk
from ctai_sam2.widgets.compared import ComparedMasks, read_compared
from ctai_sam2.widgets.events import Events
from ctai_sam2.widgets.files import CaseFiles, identity_row, write_results
from ctai_sam2.widgets.label_panel import Proposal
from ctai_sam2.widgets.open_case import OpenCase, carry_look, write_view
from ctai_sam2.widgets.panel import Panel, PanelSource
from ctai_sam2.widgets.segmentation import OneClick, segmenter_or_reason

_log = logging.getLogger(__name__)

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
        self._cases = named_cases(source, name)
        self.folder = None if folder is None else Path(folder)
        self.reader = reader
        self._language, self._auto_run, self._height_m = language, auto_run, height_m
        self._segmenter, self._unavailable = segmenter_or_reason(segmenter)
        self._watchers: list[Callable[[Change], object]] = []
        self._closed = False
        self._partner: MaskEditor | None = None
        # One that stretches what is in it: an editor has no width of its own.
        self._partner_place = ipw.VBox()
        self._measure_again = True
        self._progress = CaseProgress({case: self._state_on_disk(case) for case in self._cases})
        self._open_now = self._open_case(next(iter(self._cases)), index, masks)
        try:
            self._pacer = Pacer(self._paint, PAINT_EVERY_S)
            self._canvas = SliceCanvas(
                self.controller, width=width or 600, height=height or 540, on_ready=self._request_painting
            )
            self._events = Events(
                self._canvas,
                self._guard,
                controls=lambda: (self._panel.widget,),
                fills=width is None and height is None,
            )
            self._panel = Panel(
                self.controller,
                self._canvas.widget,
                PanelSource(
                    guard=self._guard,
                    gathered=self._events.bundles.gathered,
                    cases=self._list_cases,
                    choose_case=self.open_case,
                    check_segmenter=self.check_segmenter,
                    describe=self._describe,
                    propose=self._propose,
                    localiser=self._localise,
                    pixel_ratio=lambda: self._canvas.pixel_ratio,
                    height_m=lambda: self._height_in_use(self.document.index),
                    set_height_m=self._set_height_m if self._takes_height else None,
                ),
            )
            self._panel.widget.children = (*self._panel.widget.children, self._events.companion)
            self._widget = ipw.VBox([self._panel.widget, self._partner_place])
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

    def compare(self, masks: ComparedMasks) -> None:
        """Show another reader's masks as white outlines, with their Dice and, where chosen, what differs.

        They stay with their slices, and nothing edits them; *Take over* changes the masks of this editor.

        Parameters
        ----------
        masks : path-like, or mapping of str to array_like, path-like or None
            What any ``.masks`` gives: by label, each (H, W) for the slice in view, or (D, H, W) for a volume.
            A file is one that `import_masks` reads, also as ``file#label``. None takes a mask away. Names
            that this editor has no label for are left out, and the status line names them.

        Raises
        ------
        InputError
            If there is no label for any of them, or a mask or file does not fit; nothing is changed then.
        GeometryError, DicomError
            If a file lies on another grid or cannot be read.
        """
        with self.controller.lock:
            found = read_compared(masks, self.document)
            unknown = self.document.reference_store.unknown(found)
            self._notice(self.document.set_references(found))
            if unknown:
                names = ", ".join(unknown[:8]) + (" …" if len(unknown) > 8 else "")
                self.controller.say(Message("view.left_out", {"names": names}))

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
            self._leave_partner()
            earlier.close()
            self._open_now = opened
            self._canvas.show(opened.controller)
            self._show_case()
            if unwritten:
                self._progress.mark_drawn(earlier.name)
                self.controller.say(Message("view.row_unwritten", {"name": earlier.name}))

    @property
    def partner(self) -> MaskEditor | None:
        """The editor of the other plane that was opened for the case in view."""
        return self._partner

    def open_partner(self) -> MaskEditor:
        """Open the editor of the other plane for the same volume under this one, or return the one open.

        Each shows a line where the other one's slice lies. It is closed with this editor, and when another
        case is opened.

        Raises
        ------
        InputError
            If the case is a single slice.
        RecordError, StorageError
            If its journal cannot be opened.
        """
        if self._partner is not None and not self._partner._closed:
            return self._partner
        source = self.document.source
        if not isinstance(source, CTVolume):
            raise InputError("a single slice has no other plane", hint="Open the editor with the volume.")
        self._partner = self._make_partner(
            {self.name: source},
            segmenter=self._segmenter,
            folder=self.folder,
            language=self.document.view.language,
            auto_run=self._auto_run,
            height_m=self._height_m,
            reader=self.reader,
        )
        self._partner._partner = self
        self._partner_place.children = (self._partner.widget,)
        self._show_lines()
        return self._partner

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
        self._leave_partner()
        self._keep_view()
        kept = self._open_now.close()
        self._pacer.close()
        lost = "view.closed_no_journal" if self.journal is None else "view.closed_unsaved"
        self.controller.say(Message("view.closed" if kept else lost))
        self._panel.freeze()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self._widget._repr_mimebundle_(**options)

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

    @abstractmethod
    def _make_partner(self, source: Cases, **options: Any) -> MaskEditor:
        """Make the editor of the other plane."""

    @abstractmethod
    def _line_of(self, partner: MaskEditor) -> Guide | None:
        """Where another editor's slice cuts the slices of this one."""

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

    def _height_in_use(self, index: int) -> float | None:
        return self._height_m or self.document.slice_at(index).acquisition.patient_height_m

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
            "open_partner": self.open_partner,
        }
        self._events.attach(controller)
        controller.subscribe(lambda change: self._notice(change) if controller is self.controller else None)
        self._panel.show(controller)
        self.check_segmenter()
        self._request_painting()

    def _leave_partner(self) -> None:
        """Close the partner that was opened from here; one that this was opened from stays open."""
        partner, self._partner = self._partner, None
        self._canvas.guide = None
        if partner is None:
            return
        partner._partner = None
        partner._canvas.guide = None
        if partner.widget in self._partner_place.children:
            self._partner_place.children = ()
            partner.close()
        else:
            partner._partner_place.children = ()
            partner._request_painting()

    def _show_lines(self) -> None:
        """Show in both editors where the other one's slice lies."""
        partner = self._partner
        if partner is None:
            return
        for editor, other in ((self, partner), (partner, self)):
            line = editor._line_of(other)
            if line != editor._canvas.guide:
                editor._canvas.guide = line
                editor._request_painting()

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
        files = self._files(self.name)
        if files is not None and files.folder.exists():
            write_view(files.view, self.document)

    def _notice(self, change: Change) -> None:
        """Take a change, under the lock, perhaps from the background thread."""
        self._canvas.require(change)
        if "slice" in change.aspects:
            self._show_lines()
        self._measure_again |= bool(change.aspects & {"mask", "slice", "labels"})
        self._request_painting()
        if change.aspects & {"mask", "prompts"}:
            for watcher in tuple(self._watchers):
                watcher(change)

    def _request_painting(self) -> None:
        self._pacer.request()

    def _paint(self) -> None:
        def paint() -> None:
            with self.controller.lock, self._events.bundles.gathered():
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
