"""Closing what holds a file, a process or a connection."""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self


class ClosedByWith:
    """What is closed at the end of a ``with`` block."""

    def close(self) -> None:
        """Release what is held; may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
