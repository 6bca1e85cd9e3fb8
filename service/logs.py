"""Logs a machine can read: one JSON object a line, of nothing but what is named here.

Paths, queries, bodies and messages of foreign errors are never logged: a file
name or a form field can name a patient.
"""

from __future__ import annotations

import json
import logging
import sys
import time

logger = logging.getLogger("ctai_sam2.service")

FIELDS = ("request_id", "method", "route", "status", "ms", "bytes_in", "error", "where")


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Write time, level, logger, message, and the fields that were given."""
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry.update({name: getattr(record, name) for name in FIELDS if hasattr(record, name)})
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = type(record.exc_info[1]).__name__
            entry["where"] = place_of(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=False)


def place_of(error: BaseException) -> str:
    """Name the module and line an error comes from: much to a developer, and nothing of a patient."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


def set_up_logging() -> None:
    """Send everything this process logs to stderr in JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
