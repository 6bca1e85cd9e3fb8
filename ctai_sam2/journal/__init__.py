"""Annotation records: every step on disk before it counts as saved, and back again after a crash.

`Record` is a journal of events that other rooms give a meaning to: the editor writes
its edits, undos and redos there and replays them when a slice is opened again.
"""

from ctai_sam2.journal.annotation_journal import Record
from ctai_sam2.journal.fingerprint import fingerprint

__all__ = ["Record", "fingerprint"]
