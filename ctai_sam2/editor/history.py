"""Edits that can be undone, redone and written down.

A patch holds the *flipped* pixels of a box, so the same patch undoes and redoes:
half of what old and new pixels would take, and no drift. Flips are packed eight to
a byte and deflated; a psoas-sized stroke takes some 100 bytes.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctai_sam2.editor.changes import Box
from ctai_sam2.editor.slice_state import StatePatch
from ctai_sam2.errors import InputError, RecordError
from ctai_sam2.image.masks import changed_box
from ctai_sam2.types import Mask, Prompt

_OVERHEAD_BYTES = 512
DEFAULT_HISTORY_BYTES = 64 * 2**20
MODEL_EDIT = "edit.set_mask_ai"
"""Name of the edits that put a model's mask in place."""
IMPORT_EDIT = "edit.set_mask_import"
"""Name of the edits that put a mask from elsewhere in place."""


@dataclass(frozen=True, kw_only=True)
class PointMark:
    """A click: ``positive`` where it says "this", else "not this"; pixels of the slice."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What was pointed at for one label: points in order, and at most one box."""

    points: tuple[PointMark, ...] = ()
    box_xyxy: tuple[float, float, float, float] | None = None

    def __bool__(self) -> bool:
        """Whether anything was pointed at."""
        return bool(self.points) or self.box_xyxy is not None

    def to_prompt(self, *, mask: Mask | None = None) -> Prompt | None:
        """Make the prompt a segmenter takes, with a mask to refine; None where there is nothing to say."""
        if not self and mask is None:
            return None
        return Prompt(
            points_xy=np.array([(p.x, p.y) for p in self.points], np.float32).reshape(-1, 2),
            labels=np.array([int(p.positive) for p in self.points], np.int32),
            box_xyxy=self.box_xyxy,
            mask=mask,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "points": [[p.x, p.y, int(p.positive)] for p in self.points],
            "box": None if self.box_xyxy is None else list(self.box_xyxy),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Marks:
        """Read what `to_json` wrote."""
        points = tuple(PointMark(x=float(x), y=float(y), positive=bool(s)) for x, y, s in value["points"])
        box = value["box"]
        if box is None:
            return cls(points=points)
        x0, y0, x1, y1 = (float(v) for v in box)
        return cls(points=points, box_xyxy=(x0, y0, x1, y1))


@dataclass(frozen=True, kw_only=True)
class MaskPatch:
    """Pixels of one label that flip.

    Parameters
    ----------
    label : str
        Whose mask.
    box_xyxy : Box
        Where, inclusive.
    flips : bytes
        Deflated packed bits of the box, row by row; 1 where the pixel flips.
    """

    label: str
    box_xyxy: Box
    flips: bytes

    @classmethod
    def between(cls, label: str, before: Mask, after: Mask) -> MaskPatch | None:
        """Make the patch that turns one mask into another; None where they are equal."""
        box = changed_box(before, after)
        if box is None:
            return None
        x0, y0, x1, y1 = box
        flips = before[y0 : y1 + 1, x0 : x1 + 1] ^ after[y0 : y1 + 1, x0 : x1 + 1]
        return cls(label=label, box_xyxy=box, flips=pack_mask(flips))

    def apply(self, mask: Mask) -> Mask:
        """Return a new, read-only mask with the pixels flipped; applying twice gives the first one back."""
        x0, y0, x1, y1 = self.box_xyxy
        changed = mask.copy()
        changed[y0 : y1 + 1, x0 : x1 + 1] ^= unpack_mask(self.flips, (y1 - y0 + 1, x1 - x0 + 1))
        changed.setflags(write=False)
        return changed

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "label": self.label,
            "box": list(self.box_xyxy),
            "flips": base64.b64encode(self.flips).decode(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], shape_hw: tuple[int, int]) -> MaskPatch:
        """Read what `to_json` wrote, for a slice of this shape."""
        x0, y0, x1, y1 = (int(v) for v in value["box"])
        if not (0 <= x0 <= x1 < shape_hw[1] and 0 <= y0 <= y1 < shape_hw[0]):
            raise ValueError("a patch leaves the slice")
        flips = base64.b64decode(value["flips"], validate=True)
        unpack_mask(flips, (y1 - y0 + 1, x1 - x0 + 1))
        return cls(label=str(value["label"]), box_xyxy=(x0, y0, x1, y1), flips=flips)


@dataclass(frozen=True, kw_only=True)
class MarksPatch:
    """One label's prompts, before and after."""

    label: str
    before: Marks
    after: Marks

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"label": self.label, "before": self.before.to_json(), "after": self.after.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MarksPatch:
        """Read what `to_json` wrote."""
        return cls(
            label=str(value["label"]),
            before=Marks.from_json(value["before"]),
            after=Marks.from_json(value["after"]),
        )


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One undoable step on one slice.

    Parameters
    ----------
    name : str
        What was done, a key of `strings`.
    index : int
        The slice it was done on.
    masks : tuple of MaskPatch
        One per label whose pixels changed.
    marks : tuple of MarksPatch
        One per label whose prompts changed.
    states : tuple of StatePatch
        One per label of a volume whose source or gate on the slice changed.
    joined : bool
        Whether it is undone and redone together with the edit before it: the model's mask with the click
        that asked for it.
    made_by : str
        The model that made the mask; empty where a reader did.
    """

    name: str
    index: int
    masks: tuple[MaskPatch, ...] = ()
    marks: tuple[MarksPatch, ...] = ()
    states: tuple[StatePatch, ...] = ()
    joined: bool = False
    made_by: str = ""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        points = sum(len(m.before.points) + len(m.after.points) for m in self.marks)
        return _OVERHEAD_BYTES + sum(len(patch.flips) for patch in self.masks) + 100 * points

    @property
    def labels(self) -> frozenset[str]:
        """Labels it changed."""
        return frozenset(
            [
                *(patch.label for patch in self.masks),
                *(marks.label for marks in self.marks),
                *(state.label for state in self.states),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, for a journal."""
        value: dict[str, Any] = {
            "name": self.name,
            "index": self.index,
            "masks": [patch.to_json() for patch in self.masks],
            "marks": [patch.to_json() for patch in self.marks],
        }
        if self.states:
            value["states"] = [patch.to_json() for patch in self.states]
        if self.joined:
            value["joined"] = True
        if self.made_by:
            value["made_by"] = self.made_by
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], shape_hw: tuple[int, int]) -> Edit:
        """Read what `to_json` wrote.

        Raises
        ------
        RecordError
            If it is no edit of a slice of this shape.
        """
        try:
            return cls(
                name=str(value["name"]),
                index=int(value["index"]),
                masks=tuple(MaskPatch.from_json(patch, shape_hw) for patch in value["masks"]),
                marks=tuple(MarksPatch.from_json(patch) for patch in value["marks"]),
                states=tuple(StatePatch.from_json(patch) for patch in value.get("states", ())),
                joined=bool(value.get("joined", False)),
                made_by=str(value.get("made_by", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
            raise RecordError("a recorded edit cannot be read", hint="The record is damaged.") from error


class History:
    """What can be undone and redone, within a bound of memory.

    Parameters
    ----------
    max_bytes : int
        Beyond it the oldest edits are dropped; the newest one is always kept.

    Raises
    ------
    InputError
        If the bound is negative.
    """

    def __init__(self, max_bytes: int = DEFAULT_HISTORY_BYTES) -> None:
        if max_bytes < 0:
            raise InputError("a history's bound must not be negative", received=max_bytes)
        self.max_bytes = max_bytes
        self.undone: list[Edit] = []
        """Edits to redo, the next one last."""
        self.done: list[Edit] = []
        """Edits to undo, the next one last."""
        self.dropped = 0
        """How many edits can no longer be undone for want of memory."""

    @property
    def nbytes(self) -> int:
        """Memory taken by everything kept."""
        return sum(edit.nbytes for edit in (*self.done, *self.undone))

    def push(self, edit: Edit, *, drop: int | None = None) -> int:
        """Add an edit just done; what was undone before cannot be redone any more.

        Parameters
        ----------
        edit : Edit
            The step.
        drop : int, optional
            How many old edits to drop; what the memory bound asks for when omitted. A replay passes what was
            dropped at the time.

        Returns
        -------
        int
            How many old edits were dropped.
        """
        self.undone.clear()
        self.done.append(edit)
        if drop is None:
            drop, excess = 0, self.nbytes - self.max_bytes
            while excess > 0 and drop < len(self.done) - 1:
                excess -= self.done[drop].nbytes
                drop += 1
        del self.done[:drop]
        self.dropped += drop
        return drop

    def forget_start(self, name: str) -> int:
        """Drop the first edits as long as they carry this name, so that they cannot be undone; count them."""
        count = 0
        while count < len(self.done) and self.done[count].name == name:
            count += 1
        del self.done[:count]
        self.dropped += count
        return count

    def take_back(self) -> Edit | None:
        """Move the newest edit to what can be redone, and return it; None where there is none."""
        if not self.done:
            return None
        self.undone.append(self.done.pop())
        return self.undone[-1]

    def take_back_on(self, index: int) -> Edit | None:
        """Move the newest edit of one slice to what can be redone, and return it; None where there is none.

        Steps on other slices stay done: patches of different slices do not depend on each other.
        """
        place = next((n for n in reversed(range(len(self.done))) if self.done[n].index == index), None)
        if place is None:
            return None
        edit = self.done.pop(place)
        if edit.joined and (place == 0 or self.done[place - 1].index != index):
            # Taken out of a step on many slices: it is redone alone.
            edit = replace(edit, joined=False)
        elif not edit.joined and place < len(self.done) and self.done[place].joined:
            # What was joined to it is a step of its own now, not one with the step before.
            self.done[place] = replace(self.done[place], joined=False)
        self.undone.append(edit)
        return edit

    def take_again(self) -> Edit | None:
        """Move the last undone edit back, and return it; None where there is none."""
        if not self.undone:
            return None
        self.done.append(self.undone.pop())
        return self.done[-1]


def pack_mask(mask: Mask) -> bytes:
    """Pack a mask's bits, row by row, and deflate them.

    Examples
    --------
    >>> unpack_mask(pack_mask(np.eye(2, dtype=bool)), (2, 2)).astype(int)
    array([[1, 0],
           [0, 1]])
    """
    return zlib.compress(np.packbits(mask).tobytes(), 6)


def unpack_mask(packed: bytes, shape_hw: tuple[int, int]) -> Mask:
    """Unpack what `pack_mask` made of a mask of this shape.

    Raises
    ------
    ValueError
        If the number of bits differs.
    """
    count = shape_hw[0] * shape_hw[1]
    # Never inflate more than the mask can hold: a damaged record must not fill the memory.
    inflater = zlib.decompressobj()
    raw = inflater.decompress(packed, (count + 7) // 8 + 1)
    if len(raw) != (count + 7) // 8 or not inflater.eof:
        raise ValueError("packed bits do not fill the mask")
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype(np.bool_).reshape(shape_hw)
