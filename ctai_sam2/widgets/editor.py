"""What both editors share: opening cases, painting, one click, the journal, saving and closing."""

from __future__ import annotations

import logging
import threading
import weakref
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
from ctai_sam2.journal import Record, fingerprint
from ctai_sam2.models import Segmenter
from ctai_sam2.study_outputs import TableRow
from ctai_sam2.types import CTSlice, CTVolume, Mask
from ctai_sam2.widgets.canvas import SliceCanvas
from ctai_sam2.widgets.canvas_manager import PAINT_EVERY_S, Pacer
from ctai_sam2.widgets.events import Events
from ctai_sam2.widgets.files import write_results
from ctai_sam2.widgets.panel import Panel, Proposal
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
        What to outline; several are cases, stepped through with buttons.
    segmenter : Segmenter, "auto" or None
        Asked for one click. ``"auto"``: what the settings name, shared by all editors of the process.
        None: by hand alone. A segmenter given here is not closed by the editor.
    folder : path-like or None
        Where the journals lie and `save` writes. Each step is in the journal before the screen says so,
        and running the cell again goes on where it was left, with undo. None: no journal.
    name : str, optional
        Names the journal and the files of a single case; made from the pixels when omitted.
    index : int, optional
        Of a volume, the slice shown first.
    masks : mapping of str to array_like of bool, optional
        To start from, by label, on the first slice shown; not used where the journal holds something.
    language : {"en", "zh"}
        Of the interface.
    auto_run : bool
        Whether each point asks the model at once.
    height_m : float, optional
        Body height in metres, for the indices of `measurements`.
    width, height : int
        Of the picture, in CSS pixels.

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
        auto_run: bool = False,
        height_m: float | None = None,
        width: int = 600,
        height: int = 540,
    ) -> None:
        self._cases = _named_cases(source, name)
        self._case = 0
        self.folder = None if folder is None else Path(folder)
        self._language, self._auto_run, self._height_m = language, auto_run, height_m
        self._segmenter, self._unavailable = _open(segmenter)
        self._watchers: list[Callable[[Change], object]] = []
        self._closed = False
        self.record: Record | None = None
        self.controller = self._open_case(index, masks)
        try:
            self._pacer = Pacer(self._paint, PAINT_EVERY_S)
            self._stale = True
            self._canvas = SliceCanvas(
                self.controller, width=width, height=height, on_ready=self._request_painting
            )
            self._events = Events(self._canvas, self._guard)
            self._panel = Panel(
                self.controller,
                self._canvas.widget,
                guard=self._guard,
                save=self.save,
                step_case=self.step_case if len(self._cases) > 1 else None,
                describe=self._describe,
                check=self.check_segmenter,
                propose=self._propose,
            )
            self._panel.widget.children = (*self._panel.widget.children, self._events.companion)
            self._show_case()
        except BaseException:
            _let_go(self.controller, self.record)
            raise

    # Reading ---------------------------------------------------------------------------------

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
        return list(self._cases)[self._case]

    @property
    def masks(self) -> dict[str, Mask]:
        """Masks of the slice in view that are not empty, each bool (H, W), by label."""
        with self.controller.lock:
            return self.document.masks()

    def measurements(self) -> TableRow:
        """Measure the slice in view.

        Raises
        ------
        InputError
            If the body height cannot be used.
        """
        with self.controller.lock:
            return self._measure(self.document.index)

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
        """Ask the model, as the button does, and wait for its answer; for scripts and notebooks.

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

        Parameters
        ----------
        masks : mapping of str to array_like of bool or None
            By label; None takes one away.

        Raises
        ------
        InputError
            If a label or mask does not fit.
        """
        with self.controller.lock:
            for label, mask in masks.items():
                self._notice(self.document.set_reference(label, mask))

    def on_change(self, callback: Callable[[Change], object]) -> Callable[[], None]:
        """Be told whenever a mask or prompt changed; call what is returned to be told no longer.

        It may be called from the thread the model runs in, and must not wait for another thread.
        """
        self._watchers.append(callback)

        def remove() -> None:
            if callback in self._watchers:
                self._watchers.remove(callback)

        return remove

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
            rows = [self._measure(index) for index in self.document.indices]
            files = write_results(self.document, rows, home)
            if self.controller.unsaved:
                self.controller.compact_record()
            self.controller.say(Message("view.saved", {"count": len(files), "folder": str(home)}))
        return files

    def step_case(self, by: int) -> None:
        """Open the next (1) or previous (-1) case; at either end nothing happens.

        Raises
        ------
        RecordError
            If its journal cannot be opened; the case in view then stays.
        """
        wanted = min(max(self._case + by, 0), len(self._cases) - 1)
        if wanted == self._case:
            return
        before, old_controller, old_record = self._case, self.controller, self.record
        self._case, self.record = wanted, None
        self._language = old_controller.document.view.language
        try:
            controller = self._open_case(None, None)
        except BaseException:
            self._case, self.record = before, old_record
            raise
        _let_go(old_controller, old_record)
        self.controller = controller
        with old_controller.lock, controller.lock:
            self._canvas.show(controller)
            self._show_case()

    def check_segmenter(self) -> None:
        """Ask the segmenter in the background whether it can answer, and enable or disable one click."""
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
        """Let go of journal, worker and page; what was drawn stays on disk. May be called twice."""
        if self._closed:
            return
        self._closed = True
        kept = _let_go(self.controller, self.record)
        self._pacer.close()
        lost = "view.closed_no_journal" if self.record is None else "view.closed_unsaved"
        self.controller.say(Message("view.closed" if kept else lost))
        self._panel.freeze()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self._panel.widget._repr_mimebundle_(**options)

    # For the editors -------------------------------------------------------------------------

    @abstractmethod
    def _measure(self, index: int) -> TableRow:
        """Row of the table for a slice."""

    def _describe(self) -> list[Message]:
        """Lines shown under the labels' numbers."""
        return []

    def _propose(self) -> list[Proposal]:
        """Other answers to choose from, as buttons."""
        return []

    def _first_index(self, source: Source) -> int | None:
        """Slice of a volume shown first, where the editor knows better than its middle."""
        return None

    # Inside ----------------------------------------------------------------------------------

    def _open_case(self, index: int | None, masks: Mapping[str, ArrayLike] | None) -> Controller:
        source = self._cases[self.name]
        if not isinstance(source, CTSlice | CTVolume):
            raise InputError("a case is a CTSlice or a CTVolume", received=type(source).__name__)
        if index is None:
            index = self._first_index(source)
        document = Document(source, self.profile, index=index, language=self._language)
        record = None
        if self.folder is not None:
            path = (self.folder / f"{self.name}.{self.profile.name}.record.jsonl").resolve()
            _close_editor_of(path)
            record = Record.open(path, source)
            _editors[path] = self
        try:
            volume = source if isinstance(source, CTVolume) else None
            self._one_click = None if self._segmenter is None else OneClick(self._segmenter, volume)
            controller = Controller(document, ask=self._one_click, record=record, auto_run=self._auto_run)
            steps = len(document.history.done)
            if steps:
                controller.message = Message("view.reopened", {"count": steps})
                if document.indices:
                    controller.go_to(document.history.done[-1].index)
            else:
                for label, mask in (masks or {}).items():
                    controller.apply(editing.SetMask(label=label, mask=as_mask(mask), origin="import"))
        except BaseException:
            if record is not None:
                record.close()
            raise
        self.record = record
        return controller

    def _show_case(self) -> None:
        self.controller.subscribe(self._notice)
        values = {"number": self._case + 1, "count": len(self._cases), "name": self.name}
        self._panel.show(self.controller, Message("view.case", values))
        self.check_segmenter()
        self._request_painting()

    def _notice(self, change: Change) -> None:
        """Take a change, under the lock, perhaps from the worker's thread."""
        if hasattr(self, "_panel"):
            self._canvas.require(change)
            self._stale |= bool(change.aspects & {"mask", "slice", "labels"})
            self._request_painting()
        self._language = (
            self.controller.document.view.language if hasattr(self, "controller") else self._language
        )
        if change.aspects & {"mask", "prompts"}:
            for watcher in tuple(self._watchers):
                watcher(change)

    def _request_painting(self) -> None:
        self._pacer.request()

    def _paint(self) -> None:
        def paint() -> None:
            with self.controller.lock:
                measure, self._stale = self._stale, False
                self._canvas.paint()
                self._panel.refresh(measure=measure)

        try:
            paint()
        except Exception as error:
            # Nobody above would show it: ipywidgets drops what a callback raises.
            _log.exception("painting the editor failed")
            self.controller.message = Message("view.error", {"why": type(error).__name__})

    def _guard(self, act: Callable[[], object]) -> None:
        """Run what a page asked for; what it raises is shown in the status line."""
        try:
            if not self._closed:
                act()
        except CtaiError as error:
            self.controller.refuse(error)
        except Exception as error:
            _log.exception("an event of the editor failed")
            self.controller.say(Message("view.error", {"why": type(error).__name__}))


_editors: weakref.WeakValueDictionary[Path, MaskEditor] = weakref.WeakValueDictionary()
"""The editor of this process that holds a journal: the next one with the same journal takes its place."""


def _close_editor_of(path: Path) -> None:
    earlier = _editors.pop(path, None)
    if earlier is not None:
        earlier.close()


def _let_go(controller: Controller, record: Record | None) -> bool:
    """End a case; whether everything is on disk."""
    controller.close()
    kept = record is not None
    if record is not None:
        if controller.unsaved:
            kept = controller.compact_record()
        record.close()
    return kept


def _open(
    segmenter: Segmenter | Literal["auto"] | None,
) -> tuple[Segmenter | None, Message | None]:
    """Open the segmenter asked for, or say why there is none."""
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
    for case in cases:
        if not case or any(character in case for character in '/\\:*?"<>|') or case.startswith("."):
            raise InputError(
                "a case's name becomes a file's name", received=case, hint="Use letters, digits, - and _."
            )
    return cases


def _name_of(source: Source) -> str:
    if not isinstance(source, CTSlice | CTVolume):
        raise InputError("an editor takes a CTSlice or a CTVolume", received=type(source).__name__)
    return fingerprint(source)[:12]
