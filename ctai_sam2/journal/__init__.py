"""Annotation journals: every step on disk before it counts as saved, and back again after a crash.

`AnnotationJournal` keeps events that other rooms give a meaning to: the editor writes
its edits, undos and redos there and replays them when a slice is opened again.
"""

from ctai_sam2.image.fingerprint import fingerprint
from ctai_sam2.journal.annotation_journal import AnnotationJournal

Record = AnnotationJournal
"""The name of `AnnotationJournal` before version 2."""

__all__ = ["AnnotationJournal", "Record", "fingerprint"]
