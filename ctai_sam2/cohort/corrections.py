"""Readings of a case: the masks that readers drew, and who, when and what."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctai_sam2.cohort.case_record import CaseReview
from ctai_sam2.cohort.store import CohortStore, key_of
from ctai_sam2.errors import DamagedFile, InputError
from ctai_sam2.files.atomic import write_bytes, write_json
from ctai_sam2.image.masks import as_mask
from ctai_sam2.io.array_archive import pack_arrays, unpack_arrays
from ctai_sam2.measure.body_composition import MASK_NAMES
from ctai_sam2.segmentation import StructureResult
from ctai_sam2.structures import Structure
from ctai_sam2.types import Mask

_NOTE_VERSION = 1
_MAX_CHARACTERS = 500


class ReadingEntry(BaseModel):
    """One reading: who, when (UTC, ISO 8601), a note, and the structures that were drawn.

    ``volume_structures`` are those drawn on slices of the range of levels, where they are kept themselves.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    who: str
    when: str
    what: str = ""
    structures: tuple[str, ...] = ()
    volume_structures: tuple[str, ...] = ()


class CorrectionNote(BaseModel):
    """The note stored next to the corrected masks, as versioned JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    version: int = _NOTE_VERSION
    case_id: str
    slice_sha256: str
    digest: str
    masks: str | None
    entries: tuple[ReadingEntry, ...] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """The reading of a case that counts, and those before it.

    Parameters
    ----------
    slice_sha256 : str
        Fingerprint of the slice it was made on; it counts for no other.
    entries : tuple of ReadingEntry
        Every reading, oldest first.
    masks : mapping of str to ndarray of bool, shape (H, W)
        Masks drawn by readers; those of the model count for the others.
    """

    slice_sha256: str
    entries: tuple[ReadingEntry, ...]
    masks: Mapping[str, Mask] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of all of it; part of a row's key."""
        drawn = {name: key_of([mask.shape, mask.tobytes().hex()]) for name, mask in self.masks.items()}
        # A field that earlier versions did not write is left out where empty: their digests stay the same.
        entries = [
            one.model_dump(mode="json", exclude=set() if one.volume_structures else {"volume_structures"})
            for one in self.entries
        ]
        return key_of([self.slice_sha256, entries, drawn])

    def review(self, *, stale: bool) -> CaseReview:
        """Return what a record says of it: the last reading, and all structures that were drawn."""
        last = self.entries[-1]
        return CaseReview(
            who=last.who,
            when=last.when,
            what=last.what,
            structures=tuple(sorted(self.masks)),
            readings=len(self.entries),
            stale=stale,
        )


def add_reading(
    store: CohortStore,
    case_id: str,
    *,
    slice_sha256: str,
    who: str,
    what: str = "",
    masks: Mapping[str, ArrayLike] | None = None,
    volume_structures: tuple[str, ...] = (),
    when: datetime.datetime | None = None,
) -> Correction:
    """Store a reading of a case: masks that were drawn, or none where the model's are accepted.

    Earlier masks of other structures stay; of an earlier slice they are dropped.

    Raises
    ------
    InputError
        If the reviewer's name is missing, a structure is not one that is measured, or a mask is none.
    DamagedFile
        If an earlier reading cannot be read back; it is left as it is.
    StorageError
        If it cannot be written; nothing is changed then.
    """
    require_reader(who)
    unknown = sorted(set(masks or ()) - set(MASK_NAMES))
    if unknown:
        raise InputError("no such structure to correct", received=unknown, hint=f"{', '.join(MASK_NAMES)}.")
    drawn = {name: as_mask(mask, name=f"the mask {name!r}") for name, mask in (masks or {}).items()}
    old = read_correction(store, case_id)
    if old is not None and old.slice_sha256 != slice_sha256:
        old = None
    at = (when or datetime.datetime.now(datetime.timezone.utc)).isoformat(timespec="seconds")
    entry = ReadingEntry(
        who=who.strip()[:_MAX_CHARACTERS],
        when=at,
        what=what.strip()[:_MAX_CHARACTERS],
        structures=tuple(sorted(drawn)),
        volume_structures=volume_structures,
    )
    correction = Correction(
        slice_sha256=slice_sha256,
        entries=(*(old.entries if old else ()), entry),
        masks={**(old.masks if old else {}), **drawn},
    )
    name = _write_masks(store, case_id, correction)
    note = CorrectionNote(
        case_id=case_id,
        slice_sha256=slice_sha256,
        digest=correction.digest,
        masks=name,
        entries=correction.entries,
    )
    write_json(store.correction_path(case_id), note.model_dump(mode="json"))
    return correction


def require_reader(who: str) -> None:
    """Raise `InputError` unless a reader is named."""
    if not who.strip():
        raise InputError("a reading needs a reader", hint="Give a name or initials: who=…, --by.")


def read_note(store: CohortStore, case_id: str) -> CorrectionNote | None:
    """Read the note of a case's readings, without the masks; None where there are none.

    Raises
    ------
    DamagedFile
        If it is there and cannot be read.
    """
    path = store.correction_path(case_id)
    try:
        note = CorrectionNote.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise _damaged(case_id, error) from error
    if note.case_id != case_id or note.version != _NOTE_VERSION:
        raise _damaged(case_id, ValueError())
    return note


def correction_digest(store: CohortStore, case_id: str) -> str | None:
    """Digest of a case's readings; None where there are none, ``"damaged"`` where they cannot be read."""
    try:
        note = read_note(store, case_id)
    except DamagedFile:
        return "damaged"
    return None if note is None else note.digest


def read_correction(store: CohortStore, case_id: str) -> Correction | None:
    """Read the readings of a case; None where there are none.

    Raises
    ------
    DamagedFile
        If the note or the masks that were drawn cannot be read back: they must not be lost silently.
    """
    note = read_note(store, case_id)
    if note is None:
        return None
    masks: dict[str, Mask] = {}
    if note.masks is not None:
        path = store.correction_path(case_id).with_name(Path(note.masks).name)
        try:
            arrays, _ = unpack_arrays(path)
        except DamagedFile as error:
            raise _damaged(case_id, error.__cause__ or error) from error
        masks = {name: np.asarray(array, dtype=np.bool_) for name, array in arrays.items()}
    return Correction(slice_sha256=note.slice_sha256, entries=note.entries, masks=masks)


def corrected_masks(
    structures: Mapping[Structure, StructureResult], correction: Correction | None
) -> dict[str, Mask]:
    """Masks as they count: the reader's where there are any, the model's for the rest."""
    masks: dict[str, Mask] = {name: one.mask for name, one in structures.items()}
    if correction is None or not correction.masks:
        return masks
    masks.update(correction.masks)
    if any(name.startswith("psoas") for name in correction.masks):
        # Both sides together follow from the sides, or an erased part would come back.
        masks.pop("psoas", None)
        if "psoas_left" in masks and "psoas_right" in masks:
            masks["psoas"] = masks["psoas_left"] | masks["psoas_right"]
    return masks


def _damaged(case_id: str, error: BaseException) -> DamagedFile:
    return DamagedFile(
        f"the corrections of case {case_id} cannot be read back",
        received=type(error).__name__,
        hint="Restore the corrections folder from a copy.",
    )


def _write_masks(store: CohortStore, case_id: str, correction: Correction) -> str | None:
    if not correction.masks:
        return None
    # A name of its own for each state: the note that points to it is written last.
    name = f"{case_id}-{correction.digest[:12]}.zip"
    write_bytes(store.correction_path(case_id).with_name(name), pack_arrays(correction.masks))
    return name
