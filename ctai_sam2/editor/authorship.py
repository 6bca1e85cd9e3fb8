"""Who made a slice's masks: the model alone, or a reader who drew or changed them."""

from __future__ import annotations

import numpy as np

from ctai_sam2.editor.document import Document
from ctai_sam2.editor.history import MODEL_EDIT
from ctai_sam2.editor.sheet import Author
from ctai_sam2.types import Mask


def author_of(document: Document, label: str, index: int | None = None) -> Author | None:
    """Who made the mask on a slice; None where it is empty.

    A mask that can no longer be traced, because its steps were dropped, counts as a reader's.
    """
    index = document.index if index is None else index
    mask, model = document.mask(label, index), model_mask(document, label, index)
    if not mask.any():
        return None
    return "model" if model is not None and np.array_equal(model, mask) else "reader"


def model_mask(document: Document, label: str, index: int | None = None) -> Mask | None:
    """Return the model's last mask on a slice, before later edits by a reader; None where there is none."""
    index = document.index if index is None else index
    mask = document.mask(label, index)
    for edit in reversed(document.history.done):
        patch = next((p for p in edit.masks if p.label == label), None)
        if edit.index != index or patch is None:
            continue
        if edit.name == MODEL_EDIT:
            return mask
        mask = patch.apply(mask)
    sheet = document.sheets.get(index)
    return mask if sheet is not None and sheet.opening.get(label) == "model" else None


def model_of(document: Document, index: int | None = None) -> str:
    """Name of the model that last made a mask on a slice; empty where none did."""
    index = document.index if index is None else index
    edits = (edit.made_by for edit in reversed(document.history.done) if edit.index == index and edit.made_by)
    return next(edits, "")


def hand_share(document: Document, index: int | None = None) -> float | None:
    """Share of a slice's outlined pixels that a reader drew or erased after the model.

    Of all pixels in the model's masks or the present ones: 1 where the model had no part in them, 0 where
    they are as the model made them; None where nothing was ever outlined.
    """
    changed = either = 0
    for label in document.labels:
        mask, model = document.mask(label, index), model_mask(document, label, index)
        before = np.zeros_like(mask) if model is None else model
        changed += int(np.count_nonzero(mask ^ before))
        either += int(np.count_nonzero(mask | before))
    return changed / either if either else None
