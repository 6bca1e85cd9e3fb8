"""Measure what a hand in the editor waits for: ``python -m benchmarks.editor``.

Without a browser: from an event to the message that would be sent, and that message's
size. With ``--browser`` also in JupyterLab in Chromium, from the mouse moving to the
picture changing, which includes kernel, websocket and painting.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import Ratio, add_json_option, report, time_ms
from ctai_sam2.editor import MIDDLE, Controller, Document
from ctai_sam2.journal import AnnotationJournal
from ctai_sam2.phantom import make_axial_slice, reference_parameters
from ctai_sam2.types import CTSlice, Window
from ctai_sam2.widgets.canvas import SliceCanvas

CELL = """
import numpy as np
import ctai_sam2 as ct
from ctai_sam2.phantom import make_axial_slice, reference_parameters
phantom = make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0))
source = ct.CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm)
editor = ct.MiddleMaskEditor(source, segmenter=None, folder="annotations")
editor
"""

# Resolves with the time from the mouse moving to the first frame in which the canvas differs there.
WATCH = """async ([x, y]) => {
  const canvas = document.querySelector("canvas.ctai-sam2-canvas");
  const context = canvas.getContext("2d");
  const ring = () => document.querySelector(".ctai-sam2-ring")?.style.transform ?? "";
  const look = () => ring() + context.getImageData(x - 12, y - 12, 24, 24).data.join();
  const before = look();
  const box = canvas.getBoundingClientRect();
  const started = performance.now();
  const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
  canvas.dispatchEvent(new MouseEvent("mousemove", at));
  while (performance.now() - started < 5000) {
    await new Promise(requestAnimationFrame);
    if (look() !== before) return performance.now() - started;
  }
  return null;
}"""


# A drag along a line, a move per frame: how many frames showed the picture changed, and how late its end is.
DRAG = """async ([y, frames]) => {
  const canvas = document.querySelector("canvas.ctai-sam2-canvas");
  const context = canvas.getContext("2d");
  const box = canvas.getBoundingClientRect();
  const look = () => context.getImageData(80, y - 3, 440, 6).data.join();
  const send = (name, x) => canvas.dispatchEvent(
    new MouseEvent(name, { clientX: box.left + x, clientY: box.top + y, bubbles: true }));
  let seen = "";
  let changed = 0;
  const started = performance.now();
  send("mousedown", 100);
  for (let frame = 0; frame < frames; frame += 1) {
    const x = 100 + (400 * frame) / frames;
    send("mousemove", x);
    await new Promise(requestAnimationFrame);
    const now = look();
    changed += now !== seen;
    seen = now;
  }
  const seconds = (performance.now() - started) / 1000;
  return { offered_fps: frames / seconds, painted_fps: changed / seconds };
}"""


# A click of the point tool, until the model's mask shows 10 pixels next to it.
CLICK = """async ([x, y]) => {
  const canvas = document.querySelector("canvas.ctai-sam2-canvas");
  const context = canvas.getContext("2d");
  const ratio = canvas.width / canvas.getBoundingClientRect().width;
  const look = () => context.getImageData((x + 10) * ratio - 2, y * ratio - 2, 4, 4).data.join();
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
  const before = look();
  const started = performance.now();
  for (const name of ["mousedown", "mouseup"]) canvas.dispatchEvent(new MouseEvent(name, at));
  while (performance.now() - started < 20000) {
    await new Promise(requestAnimationFrame);
    if (look() !== before) return performance.now() - started;
  }
  return null;
}"""


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    return {"p50_ms": statistics.median(times), "p95_ms": float(np.percentile(times, 95))}


def measure_sending(repeats: int) -> dict[str, dict[str, float]]:
    """Time events to the message they cause, with the manager's `send` replaced by a counter."""
    phantom = make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0))
    source = CTSlice(hu=phantom.hu, spacing_mm=phantom.spacing_mm)
    sent: list[int] = []
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        record = AnnotationJournal.open(Path(folder) / "bench.jsonl", source)
        controller = Controller(Document(source, MIDDLE), record=record)
        canvas = SliceCanvas(controller)
        manager = canvas.widget._canvas_manager
        manager.send = lambda content, buffers: sent.append(sum(len(bytes(b)) for b in buffers))
        controller.subscribe(canvas.require)
        try:

            def measure(
                name: str, act: Callable[[int], object], prepare: Callable[[], object] | None = None
            ) -> None:
                times = []
                for number in range(repeats):
                    if prepare is not None:
                        prepare()
                        canvas.paint()
                    sent.clear()
                    times.append(time_ms(lambda n=number: (act(n), canvas.paint())))
                figures[name] = {**quantiles(times), "kB": sum(sent) / 1000}

            def full(_: int) -> None:
                canvas.require_all()

            measure("full redraw", full)
            controller.do("tool.brush")
            measure("hover with the brush", lambda n: controller.move(100 + n, 200))
            controller.press(200, 200)
            measure("stroke under way", lambda n: controller.move(200 + 3 * n, 200 + n % 7))
            controller.release(260, 210)
            measure(
                "stroke finished, on disk",
                lambda n: controller.release(290, 250 + n),
                prepare=lambda: controller.press(250, 250),
            )
            measure("undo", lambda n: controller.undo())
            measure("wheel zoom", lambda n: controller.wheel(1 if n % 2 else -1, 300, 300))
            measure("window", lambda n: controller.adjust(window=Window(level=40 + n, width=400)))
        finally:
            del manager.send
            record.close()
    return figures


def measure_in_browser(repeats: int) -> dict[str, dict[str, float]]:
    """Time the mouse moving to the picture changing, in a real JupyterLab."""
    from playwright.sync_api import sync_playwright

    from tests.browser.lab import CHROMIUM, FLAGS, Notebook, running_lab, traffic_of

    with (
        tempfile.TemporaryDirectory() as folder,
        running_lab(Path(folder) / "lab") as lab,
        sync_playwright() as engine,
    ):
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        notebook = Notebook.open(browser, lab, "benchmark", [CELL])
        notebook.press("Brush")
        notebook.page.mouse.move(*notebook.place(200, 200).page)
        notebook.settled_pixels()
        times: list[float] = []
        for number in range(repeats):
            waited: Any = notebook.page.evaluate(
                WATCH, [150 + (number * 37) % 300, 150 + (number * 53) % 250]
            )
            if waited is not None:
                times.append(waited)
            notebook.page.wait_for_timeout(120)
        drag: Any = notebook.page.evaluate(DRAG, [250, 180])
        notebook.settled_pixels()
        traffic = traffic_of(notebook, lambda: notebook.page.evaluate(DRAG, [300, 60]))
        notebook.press("Pan")
        notebook.until("editor.document.view.tool == 'pan'")
        pan: Any = notebook.page.evaluate(DRAG, [250, 120])
        browser.close()
    return {
        "isolated move, on the page": {**quantiles(times), "answered": len(times) / repeats},
        "drag of the brush, on the page": drag,
        "stroke of 60 moves, over the wire": traffic,
        "drag of the picture, on the page": pan,
    }


def measure_first_mask(clicks: int) -> dict[str, dict[str, float]]:
    """Time `jupyter lab` to its first mask, then clicks to their overlay, with the embedded model."""
    from playwright.sync_api import sync_playwright

    from tests.browser.lab import CHROMIUM, FLAGS, Notebook, running_lab

    cell = CELL.replace("segmenter=None", 'segmenter="auto", auto_run=True')
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        started = time.perf_counter()
        with running_lab(Path(folder) / "lab") as lab:
            notebook = Notebook.open(browser, lab, "first", [CELL.split("editor =")[0], cell])
            notebook.until("editor.controller.inference.status.state != 'disabled'")
            notebook.press("One click")
            notebook.until("'psoas_left' in editor.masks")
            first_s = time.perf_counter() - started
            notebook.press("Click")
            middle = notebook.ask(
                "[float(v.mean()) for v in editor.document.mask('psoas_left').nonzero()][::-1]"
            )
            times: list[float] = []
            for number in range(clicks):
                notebook.tell("editor.do('clear'); editor.do('clear_prompts')")
                notebook.settled_pixels()
                # Never the same point, which would come from the cache.
                x, y = notebook.place(middle[0] + number % 3, middle[1] + number // 3).screen
                waited: Any = notebook.page.evaluate(CLICK, [x, y])
                if waited is not None:
                    times.append(waited)
        browser.close()
    return {
        "jupyter lab to the first mask": {"s": first_s},
        "click to overlay": {**quantiles(times), "answered": len(times) / clicks},
    }


def ratios_of(figures: dict[str, dict[str, float]]) -> dict[str, Ratio]:
    """Pick what is compared from run to run: what a movement costs compared with drawing everything anew."""
    whole = figures["full redraw"]["p50_ms"]
    return {
        f"editor: {name}, to a full redraw": Ratio(figures[name]["p50_ms"] / whole, "lower")
        for name in ("hover with the brush", "stroke under way", "stroke finished, on disk")
    }


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.editor", description=__doc__)
    parser.add_argument("--repeats", type=int, default=40, help="events of each kind (default 40)")
    parser.add_argument("--browser", action="store_true", help="also in JupyterLab in Chromium")
    add_json_option(parser)
    arguments = parser.parse_args()
    figures = measure_sending(arguments.repeats)
    if arguments.browser:
        figures |= measure_in_browser(arguments.repeats)
        figures |= measure_first_mask(9)
    report(figures, ratios_of(figures), arguments.json)


if __name__ == "__main__":
    main()
