"""Keep what other libraries say about a file away from terminals and logs: it may quote a header."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Warning filters are global to the process, so only one thread may exchange them.
_LOCK = threading.RLock()


@contextmanager
def quiet(logger_name: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings instead of showing them, and drop what one logger and its children would write.

    Parameters
    ----------
    logger_name : str
        The library's logger.

    Yields
    ------
    list of warnings.WarningMessage
        What was warned of so far; never show its text.
    """
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger = logging.getLogger(logger_name)

        # A filter of its own per call, so that nested calls take away only what they added.
        def drop(_: logging.LogRecord) -> bool:
            return False

        # A filter holds for the logger alone; its children's records are stopped on their way up.
        handler, propagated = logging.NullHandler(), logger.propagate
        logger.addFilter(drop)
        logger.addHandler(handler)
        logger.propagate = False
        try:
            yield caught
        finally:
            logger.propagate = propagated
            logger.removeHandler(handler)
            logger.removeFilter(drop)
