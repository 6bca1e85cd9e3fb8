"""What would go to the browser, decoded, instead of a browser."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ipycanvas import Canvas
from ipycanvas.canvas import _CMD_LIST
from numpy.typing import NDArray
from PIL import Image


class Recorder:
    """Messages of the canvas manager: a list of lists of (canvas, command, arguments, buffers)."""

    def __init__(self) -> None:
        self.messages: list[list[tuple[str, str, list[Any], list[bytes]]]] = []

    def send(self, metadata: Any, buffers: list[Any]) -> None:
        content = json.loads(bytes(buffers[0]))
        commands = content if isinstance(content[0], list) else [content]
        rest, current, message = list(buffers[1:]), "", []
        for number, *arguments in commands:
            name = _CMD_LIST[number]
            if name == "switchCanvas":
                [[current]] = arguments
                continue
            values = arguments[0] if arguments else []
            count = arguments[1] if len(arguments) > 1 else 0
            taken, rest = rest[:count], rest[count:]
            message.append((current, name, values, [bytes(b) for b in taken]))
        self.messages.append(message)

    @property
    def commands(self) -> list[tuple[str, str, list[Any], list[bytes]]]:
        return [command for message in self.messages for command in message]

    def names(self) -> list[str]:
        return [name for _, name, _, _ in self.commands]

    def images(self) -> list[tuple[str, int, int, NDArray[np.uint8]]]:
        """Every image sent: (canvas, x, y, pixels)."""
        found = []
        for canvas, name, (x, y, *_), buffers in (c for c in self.commands if c[1] == "putImageData"):
            found.append((canvas, x, y, np.asarray(Image.open(io.BytesIO(buffers[0])))))
            assert name == "putImageData"
        return found

    def clear(self) -> None:
        self.messages = []


@contextmanager
def recorded() -> Iterator[Recorder]:
    manager = Canvas()._canvas_manager
    recorder = Recorder()
    manager.send = recorder.send
    try:
        yield recorder
    finally:
        del manager.send


def model(canvas: Any) -> str:
    return f"IPY_MODEL_{canvas.model_id}"
