"""Whether a finished cohort still is finished: seen from its manifest's text and the states of files alone.

Planning reads each row, checks it, and makes a key of all that decides its case; where nothing has changed
since the last run, all of that leads to what it led to then. The note that says so is part of the index. It
never says more than that nothing is to be done: no number comes from it, and whatever disagrees with it leads
to planning.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctai_sam2._version import __version__
from ctai_sam2.cohort.case import Case
from ctai_sam2.cohort.config import CohortConfig
from ctai_sam2.cohort.corrections import correction_digest
from ctai_sam2.cohort.store import (
    PREDICTIONS_FOLDER,
    CohortStore,
    IndexEntry,
    key_of,
    names_in,
    stamp_of,
)
from ctai_sam2.files.safe_text import separator_of


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a manifest lists, by its text alone.

    Parameters
    ----------
    digest : str
        Of its text and of the folder that its paths start at.
    cases : tuple of (str, str)
        Identifier and path of each case, in order.
    """

    digest: str
    cases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class FinishedNote:
    """What the last run found when it had nothing left to do.

    Parameters
    ----------
    manifest : str
        See `Listing`.
    settings : str
        Digest of the model and of all settings that decide records.
    studies : str
        Digest of the cases and the stamps of their files, see `stamp_of`.
    corrections : str
        Digest of what readers corrected.
    key : str
        Key of the table; see `RunPlan`.
    """

    manifest: str
    settings: str
    studies: str
    corrections: str
    key: str

    @classmethod
    def of_plain(cls, value: Any) -> FinishedNote | None:
        """Read what stands in the index; None where there is none, or one of another form."""
        try:
            return cls(**value)
        except TypeError:
            return None


def list_cases(path: str | os.PathLike[str]) -> Listing | None:
    """List a manifest's cases without checking anything; None where that takes reading it properly.

    Only CSV is listed, and only where every path stands in its cell as it is on the disk.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    if path.suffix.lower() == ".parquet":
        return None
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator_of(text.split("\n", 1)[0]))
    base = os.path.abspath(path.parent)
    cases = []
    try:
        header = [name.strip() for name in next(rows)]
        case_at, path_at = header.index("case_id"), header.index("path")
        for row in rows:
            if not any(row):
                continue
            place = row[path_at]
            if place != place.strip() or place.startswith("'") or "\\" in place:
                return None
            cases.append((row[case_at].strip(), os.path.join(base, place)))
    except (csv.Error, IndexError, StopIteration, ValueError):
        return None
    return Listing(digest=_digest(os.fsencode(base), content), cases=tuple(cases))


def digest_settings(config: CohortConfig, token: str) -> str:
    """Digest of the model and of all settings that decide records."""
    nobody = Case(case_id="nobody", path=Path())
    return key_of([__version__, token, config.inference_part(nobody), config.row_part(nobody, None)])


def digest_pairs(pairs: Iterable[tuple[str, str]]) -> str:
    """Digest of cases, each with a word: the stamps of their files, or the digests of their corrections."""
    return _digest(*(f"{case_id} {word}".encode() for case_id, word in pairs))


def read_corrections(store: CohortStore, case_ids: Sequence[str]) -> dict[str, str]:
    """Return by case the digest of what readers corrected, in the order of the cases; notes are read."""
    corrected = store.corrected_ids()
    found = {case_id: correction_digest(store, case_id) for case_id in case_ids if case_id in corrected}
    return {case_id: digest for case_id, digest in found.items() if digest is not None}


def is_settled(
    case_id: str, entry: IndexEntry, predicted: Container[str], masked: Container[str], config: CohortConfig
) -> bool:
    """Whether a record with the right key leaves nothing to do.

    Parameters
    ----------
    case_id : str
        Name of the case.
    entry : IndexEntry
        What it says.
    predicted, masked : container of str
        Names of the files with predictions and masks.
    config : CohortConfig
        Whether failed cases are tried again.
    """
    if entry.is_done:
        return f"{case_id}.zip" in predicted and f"{case_id}.nii.gz" in masked
    return not (entry.retry or config.retry_failed)


def read_finished(listing: Listing, store: CohortStore, config: CohortConfig) -> FinishedNote | None:
    """Return the last run's note where nothing has changed since, else None; hold the lock."""
    index = store.read_index()
    note = FinishedNote.of_plain(index.finished)
    if note is None or note.manifest != listing.digest:
        return None
    states = store.record_states()
    predicted, masked = names_in(store.folder / PREDICTIONS_FOLDER), names_in(store.folder / "masks")
    for case_id, _ in listing.cases:
        entry = index.records.get(case_id)
        if entry is None or states.get(case_id) != entry.state:
            return None
        if not is_settled(case_id, entry, predicted, masked, config):
            return None
    if note.settings != digest_settings(config, config.model_token()):
        return None
    corrections = read_corrections(store, [case_id for case_id, _ in listing.cases])
    if note.corrections != digest_pairs(corrections.items()):
        return None
    stamps = digest_pairs((case_id, stamp_of(path)) for case_id, path in listing.cases)
    return note if note.studies == stamps else None


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]
