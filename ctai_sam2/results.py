"""From a segmented study to what stays: one table row, masks and a picture on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
