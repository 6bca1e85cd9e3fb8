"""What readers said of a case: masks they drew, and who, when and what."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ctai_sam2.cohort.store import RECORD_VERSION, Store, key_of
from ctai_sam2.errors import InputError, StorageError
from ctai_sam2.image.masks import as_mask
from ctai_sam2.io import write_bytes, write_json
from ctai_sam2.measure.body_composition import MASK_NAMES
from ctai_sam2.types import Mask

_LONGEST = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """The reading of a case that counts, and those before it.

    Parameters
    ----------
    slice_sha256 : str
        Fingerprint of the slice it was made on; it counts for no other.
    entries : tuple of mapping
        ``who``, ``when`` (UTC, ISO 8601), ``what`` (a note) and ``structures`` of every reading, oldest
        first.
    masks : mapping of str to ndarray of bool, shape (H, W)
        Masks drawn by readers; those of the model count for the others.
    """

    slice_sha256: str
    entries: tuple[Mapping[str, Any], ...]
    masks: Mapping[str, Mask] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Digest of all of it; part of a row's key."""
        drawn = {name: key_of([mask.shape, mask.tobytes().hex()]) for name, mask in self.masks.items()}
        return key_of([self.slice_sha256, [dict(one) for one in self.entries], drawn])

    def describe(self) -> dict[str, Any]:
        """Return what a row says of it: the last reading, and all structures that were drawn."""
        last = self.entries[-1]
        return {
            "who": last["who"],
            "when": last["when"],
            "what": last["what"],
            "structures": sorted(self.masks),
            "readings": len(self.entries),
        }


def add_reading(
    store: Store,
    case_id: str,
    *,
    slice_sha256: str,
    who: str,
    what: str = "",
    masks: Mapping[str, ArrayLike] | None = None,
    when: datetime.datetime | None = None,
) -> Correction:
    """Write down a reading of a case: masks that were drawn, or none where the model's are accepted.

    Earlier masks of other structures stay; of an earlier slice they are dropped.

    Raises
    ------
    InputError
        If nobody signs, a structure is not one that is measured, or a mask is none.
    StorageError
        If it cannot be written; nothing is changed then.
    """
    if not who.strip():
        raise InputError("a reading needs a reader", hint="Give a name or initials: who=…, --by.")
    unknown = sorted(set(masks or ()) - set(MASK_NAMES))
    if unknown:
        raise InputError("no such structure to correct", received=unknown, hint=f"{', '.join(MASK_NAMES)}.")
    drawn = {name: as_mask(mask, name=f"the mask {name!r}") for name, mask in (masks or {}).items()}
    old = read_correction(store, case_id)
    if old is not None and old.slice_sha256 != slice_sha256:
        old = None
    at = (when or datetime.datetime.now(datetime.timezone.utc)).isoformat(timespec="seconds")
    entry = {
        "who": who.strip()[:_LONGEST],
        "when": at,
        "what": what.strip()[:_LONGEST],
        "structures": sorted(drawn),
    }
    correction = Correction(
        slice_sha256=slice_sha256,
        entries=(*(old.entries if old else ()), entry),
        masks={**(old.masks if old else {}), **drawn},
    )
    name = _write_masks(store, case_id, correction)
    write_json(
        store.correction_path(case_id),
        {
            "version": RECORD_VERSION,
            "case_id": case_id,
            "slice_sha256": slice_sha256,
            "digest": correction.digest,
            "masks": name,
            "entries": [dict(one) for one in correction.entries],
        },
    )
    return correction


def read_correction(store: Store, case_id: str) -> Correction | None:
    """Read what readers said of a case; None where nobody looked.

    Raises
    ------
    StorageError
        If the masks that were drawn cannot be read back: they must not be lost silently.
    """
    told = store.read_correction(case_id)
    if told is None:
        return None
    masks: dict[str, Mask] = {}
    if told["masks"] is not None:
        path = store.correction_path(case_id).with_name(told["masks"])
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    content = io.BytesIO(archive.read(name))
                    array = np.lib.format.read_array(content, allow_pickle=False)
                    masks[name.removesuffix(".npy")] = np.asarray(array, dtype=np.bool_)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise StorageError(
                f"the corrected masks of case {case_id} cannot be read back",
                received=type(error).__name__,
                hint="Restore the corrections folder from a copy.",
            ) from error
    return Correction(slice_sha256=told["slice_sha256"], entries=tuple(told["entries"]), masks=masks)


def _write_masks(store: Store, case_id: str, correction: Correction) -> str | None:
    if not correction.masks:
        return None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mask in correction.masks.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(mask), allow_pickle=False)
            archive.writestr(f"{name}.npy", content.getvalue())
    # A name of its own for each state: the note that points to it is written last.
    name = f"{case_id}-{correction.digest[:12]}.zip"
    write_bytes(store.correction_path(case_id).with_name(name), buffer.getvalue())
    return name
