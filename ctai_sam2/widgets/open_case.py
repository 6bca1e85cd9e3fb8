"""One case while it is open: its controller, its journal, and how it was looked at the last time."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctai_sam2.editor import Controller, Document, Message, View
from ctai_sam2.errors import CtaiError, InputError, StorageError
from ctai_sam2.files.atomic import write_json
from ctai_sam2.files.json_text import parse_json
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.models import Segmenter
from ctai_sam2.types import CTSlice, CTVolume, Window
from ctai_sam2.widgets.files import CaseFiles
from ctai_sam2.widgets.segmentation import OneClick

_KEPT = ("tool", "active", "opacity", "outline_only", "brush_radius_mm", "smooth", "wheel_scrolls", "groups")

_holders: weakref.WeakValueDictionary[Path, Any] = weakref.WeakValueDictionary()
"""The editor of this process that holds a journal: the next one with the same journal takes its place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenCase:
    """A case that an editor shows; complete when it is made, and closed as a whole.

    Parameters
    ----------
    name : str
        The case's.
    controller : Controller
        What edits it.
    journal : AnnotationJournal or None
        Where its steps are written.
    one_click : OneClick or None
        What segments it.
    """

    name: str
    controller: Controller
    journal: AnnotationJournal | None
    one_click: OneClick | None

    @classmethod
    def open(
        cls,
        name: str,
        document: Document,
        *,
        files: CaseFiles | None,
        holder: Any,
        segmenter: Segmenter | None,
        auto_run: bool,
        start: Callable[[Controller, bool], None],
    ) -> OpenCase:
        """Open a case where it was left: its journal replayed, the slice edited last in view.

        Parameters
        ----------
        name : str
            The case's.
        document : Document
            Untouched.
        files : CaseFiles or None
            Where its journal and the reader's settings are; None where nothing is kept.
        holder : object
            The editor, which another one with the same journal closes.
        segmenter : Segmenter or None
            For one click.
        auto_run : bool
            Whether each point runs the model.
        start : callable
            Puts masks to start from in place, given the controller and whether nothing was done yet.

        Raises
        ------
        RecordError, StorageError
            If the journal cannot be opened.
        """
        source = document.source
        journal = None
        if files is not None:
            read_view(files.view, document)
            journal = claim_journal(files.journal, source, holder)
        try:
            volume = source if isinstance(source, CTVolume) else None
            one_click = None if segmenter is None else OneClick(segmenter, volume)
            controller = Controller(document, mask_source=one_click, record=journal, auto_run=auto_run)
            history = document.history
            is_new = not (history.done or history.undone or document.indices)
            start(controller, is_new)
            if history.done and not is_new:
                controller.message = Message("view.reopened", {"count": len(history.done)})
                controller.go_to(history.done[-1].index)
            elif history.undone:
                controller.go_to(history.undone[-1].index)
        except BaseException:
            if journal is not None:
                release_journal(journal)
            raise
        return cls(name=name, controller=controller, journal=journal, one_click=one_click)

    def close(self) -> bool:
        """Release journal and background thread; whether everything is on disk."""
        self.controller.close()
        if self.journal is None:
            return False
        kept = True
        if self.controller.unsaved:
            kept = self.controller.compact_record()
        self.journal.close()
        _holders.pop(self.journal.path, None)
        return kept


def claim_journal(path: Path, source: CTSlice | CTVolume, holder: Any) -> AnnotationJournal:
    """Open a journal for an editor; another editor of this process that holds it is closed first.

    Raises
    ------
    RecordError, StorageError
        If it cannot be opened.
    """
    path = path.resolve()
    earlier = _holders.get(path)
    if earlier is not None and earlier is not holder:
        earlier.close()
    journal = AnnotationJournal.open(path, source)
    _holders[journal.path] = holder
    return journal


def release_journal(journal: AnnotationJournal) -> None:
    """Close a journal whose case could not be opened."""
    journal.close()
    _holders.pop(journal.path, None)


def carry_view(view: View, earlier: View) -> View:
    """Look at another slice as at the one before: tool, label, brush, window; zoom where the grids agree."""
    viewport = view.viewport
    same = (viewport.shape_hw, viewport.spacing_mm) == (
        earlier.viewport.shape_hw,
        earlier.viewport.spacing_mm,
    )
    return replace(
        earlier, viewport=earlier.viewport if same else viewport, positive=True, language=view.language
    )


def carry_look(document: Document, earlier: Document) -> None:
    """Look at another case as at the one before: its view (see `carry_view`) and the labels' colours."""
    document.view = carry_view(document.view, earlier.view)
    for name, label in earlier.labels.items():
        document.adjust_label(name, colour=label.colour)


def write_view(path: Path, document: Document) -> None:
    """Keep how a reader looks at cases, for the next time; a disk that refuses costs nothing else."""
    view = document.view
    kept: dict[str, Any] = {name: getattr(view, name) for name in _KEPT}
    kept["colours"] = {name: label.colour for name, label in document.labels.items()}
    kept |= {"window": [view.window.level, view.window.width], "viewport": _zoom_of(view)}
    # These are settings of the view: no work is lost with them.
    with suppress(StorageError):
        write_json(path, kept)


def read_view(path: Path, document: Document) -> None:
    """Take up how the reader looked at cases the last time; what is not there or unusable stays as it is."""
    view, profile = document.view, document.profile
    try:
        kept = parse_json(path.read_text(encoding="utf-8"))
        changes = {name: kept[name] for name in _KEPT}
        changes["window"] = Window(level=float(kept["window"][0]), width=float(kept["window"][1]))
        if changes["tool"] not in profile.tools or changes["active"] not in document.labels:
            return
        document.view = replace(view, viewport=_zoomed(view, kept["viewport"]), **changes)
        for name, colour in kept.get("colours", {}).items():
            if name in document.labels and re.fullmatch("#[0-9A-Fa-f]{6}", colour):
                document.adjust_label(name, colour=colour.upper())
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, CtaiError):
        # A setting that cannot be read is set anew; nothing of a patient depends on it.
        return


def _zoom_of(view: View) -> dict[str, Any]:
    viewport = view.viewport
    if viewport == viewport.fitted():
        return {}
    middle = viewport.to_image(viewport.canvas_hw[1] / 2, viewport.canvas_hw[0] / 2)
    return {"shape_hw": list(viewport.shape_hw), "px_per_mm": viewport.px_per_mm, "middle_xy": list(middle)}


def _zoomed(view: View, kept: Mapping[str, Any]) -> Any:
    viewport = view.viewport
    if not kept or tuple(kept["shape_hw"]) != viewport.shape_hw:
        return viewport
    zoomed = replace(viewport, px_per_mm=float(kept["px_per_mm"]))
    x, y = zoomed.to_screen(*(float(value) for value in kept["middle_xy"]))
    return zoomed.panned(viewport.canvas_hw[1] / 2 - x, viewport.canvas_hw[0] / 2 - y)


def require_names(cases: Mapping[str, object]) -> None:
    """Raise `InputError` unless every case's name can be a file's name."""
    for case in cases:
        if not case or any(character in case for character in '/\\:*?"<>|') or case.startswith("."):
            raise InputError(
                "a case's name becomes a file's name", received=case, hint="Use letters, digits, - and _."
            )
