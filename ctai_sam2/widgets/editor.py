"""What both editors share: reading and changing masks, one click, comparing, the other plane."""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import Any, ClassVar

import ipywidgets as ipw
from numpy.typing import ArrayLike

from ctai_sam2.editor import Change, Message
from ctai_sam2.editor import commands as editing
from ctai_sam2.errors import CtaiError, InputError
from ctai_sam2.image.contours import Polygon
from ctai_sam2.image.masks import as_mask
from ctai_sam2.models import Segmenter
from ctai_sam2.study.row import TableRow
from ctai_sam2.types import CTVolume, Mask
from ctai_sam2.widgets.canvas import Guide
from ctai_sam2.widgets.case_editor import CaseEditor
from ctai_sam2.widgets.cases import Cases
from ctai_sam2.widgets.compared import ComparedMasks, read_compared
from ctai_sam2.widgets.label_panel import Proposal
from ctai_sam2.widgets.panel import PanelSource
from ctai_sam2.widgets.partner import PartnerPlace


class MaskEditor(CaseEditor):
    """Masks of a case, seen and corrected; `MiddleMaskEditor` and `L3MaskEditor` are the two there are.

    See `CaseEditor` for the parameters, and for going through cases.
    """

    _takes_height: ClassVar[bool] = False

    # Reading ---------------------------------------------------------------------------------

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

    @property
    def partner(self) -> MaskEditor | None:
        """The editor of the other plane that was opened for the case in view."""
        return self._place.partner

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
        if self.partner is not None:
            return self.partner
        source = self.document.source
        if not isinstance(source, CTVolume):
            raise InputError("a single slice has no other plane", hint="Open the editor with the volume.")
        partner = self._make_partner(
            {self.name: source},
            segmenter=self._segmenter,
            folder=self.folder,
            language=self.document.view.language,
            auto_run=self._auto_run,
            height_m=self._height_m,
            reader=self.reader,
        )
        self._place.put(partner._place)
        return partner

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

    # For the editors -------------------------------------------------------------------------

    def _describe(self) -> list[Message]:
        """Lines shown under the labels' numbers."""
        return []

    def _propose(self) -> list[Proposal]:
        """Other results to choose from, as buttons."""
        return []

    def _localise(self) -> str:
        """HTML that shows where the slice lies."""
        return ""

    @abstractmethod
    def _make_partner(self, source: Cases, **options: Any) -> MaskEditor:
        """Make the editor of the other plane."""

    @abstractmethod
    def _line_of(self, partner: MaskEditor) -> Guide | None:
        """Where another editor's slice cuts the slices of this one."""

    def _height_in_use(self, index: int) -> float | None:
        return self._height_m or self.document.slice_at(index).acquisition.patient_height_m

    # Inside ----------------------------------------------------------------------------------

    def _panel_source(self) -> PanelSource:
        return PanelSource(
            cases=self._list_cases,
            choose_case=self.open_case,
            check_segmenter=self.check_segmenter,
            describe=self._describe,
            propose=self._propose,
            localiser=self._localise,
            height_m=lambda: self._height_in_use(self.document.index),
            set_height_m=self._set_height_m if self._takes_height else None,
        )

    def _compose(self) -> ipw.Box:
        self._place = PartnerPlace(self, self._display, self._line_of)
        return ipw.VBox([self._display.widget, self._place.widget])

    def _leave_case(self) -> None:
        self._place.leave()

    def _show_case(self) -> None:
        self.controller.handlers["open_partner"] = self.open_partner
        super()._show_case()

    def _set_height_m(self, height_m: float | None) -> None:
        before, self._height_m = self._height_m, height_m
        try:
            self._measure(self.document.index)
        except CtaiError:
            self._height_m = before
            raise
        self._display.measure_again()

    def _notice(self, change: Change) -> None:
        if "slice" in change.aspects:
            self._place.show_lines()
        super()._notice(change)
