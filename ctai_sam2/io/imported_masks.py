"""Masks read from a file, and what a user should know of how they were read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ctai_sam2.types import Mask


class ImportedMasks(dict[str, Mask]):
    """Masks by structure, with a note on each entry that was left out, joined, cut or renamed.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool, shape (H, W) or (D, H, W)
        By structure.
    warnings : iterable of str
        Notes, in order; repeated ones are dropped.
    description : str, optional
        What the file's header says of how the masks were made.

    Examples
    --------
    >>> ImportedMasks({}, warnings=["one polygon was left out"]).warnings
    ('one polygon was left out',)
    """

    def __init__(
        self,
        masks: Mapping[str, Mask],
        *,
        warnings: Iterable[str] = (),
        description: str | None = None,
    ) -> None:
        super().__init__(masks)
        self.warnings = tuple(dict.fromkeys(warnings))
        self.description = description
