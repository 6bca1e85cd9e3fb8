"""Measure what a hand in the editor waits for: ``python -m benchmarks.editor``.

Without a browser: from an event to the message that would be sent, and that message's
size. With ``--browser`` also in JupyterLab in Chromium without a GPU: pictures painted
a second while events come at the display's rate, the time from a movement to its
picture, and bytes over the wire; near, 100 ms away (``far``), with slices of 2048
pixels (``large``), and the way to the first mask (``mask``). Each of these is a
minute or so on an idle machine, and can be run alone: ``--browser near``. With
``--opening`` what of that way is the kernel's, each time in a fresh process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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

# A volume of slices of one size that differ everywhere.
VOLUME_CELL = """
import numpy as np
import ctai_sam2 as ct
from ctai_sam2.phantom import make_axial_slice, reference_parameters
phantom = make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0))
hu = np.repeat(np.repeat(phantom.hu, {times}, axis=0), {times}, axis=1)
spacing = [s / {times} for s in phantom.spacing_mm]
volume = ct.CTVolume(hu_zyx=np.stack([np.roll(hu, 5 * i, axis=0) for i in range({count})]),
                     affine=np.diag([spacing[1], spacing[0], 5.0, 1.0]))
editor = ct.MiddleMaskEditor(volume, segmenter=None, folder=None)
editor
"""

# What a kernel does from the cell to the mask, with what a kernel has imported anyway imported before.
OPENING = """
import json, sys, time
import ipykernel.ipkernel
started, processor = time.perf_counter(), time.process_time()
times = {{}}
def note(name):
    times[name + "_s"] = time.perf_counter() - started
    times[name + "_processor_s"] = time.process_time() - processor
import numpy as np
import ctai_sam2 as ct
saved = np.load({slice!r})
editor = ct.MiddleMaskEditor(ct.CTSlice(hu=saved["hu"], spacing_mm=tuple(saved["spacing"])), folder=None)
note("to_the_editor")
time.sleep({pause_s})
asked = time.perf_counter()
editor.do("run")
editor.controller.inference.wait(120)
assert "psoas_left" in editor.masks
times["from_the_click_s"] = time.perf_counter() - asked
note("to_the_mask")
print(json.dumps(times))
"""

# An event of the pointer on the canvas, and what the picture shows around a place.
PAGE = """
const canvas = document.querySelector("canvas.ctai-sam2-canvas");
const context = canvas.getContext("2d");
const box = canvas.getBoundingClientRect();
const point = (name, x, y, buttons) => canvas.dispatchEvent(new PointerEvent(name, {
  clientX: box.left + x, clientY: box.top + y, button: name === "pointermove" ? -1 : 0, buttons,
  pointerType: "mouse", pointerId: 1, pressure: buttons ? 0.5 : 0, bubbles: true, cancelable: true }));
// A number for the pixels around a place.
const look = (x, y, reach = 16) => {
  const { data } = context.getImageData(x - reach, y - reach, 2 * reach, 2 * reach);
  const pixels = new Uint32Array(data.buffer);
  let sum = 7;
  for (let i = 0; i < pixels.length; i += 3) sum = (Math.imul(sum, 31) + pixels[i]) | 0;
  return sum;
};
// The middle of the body: the panel covers the right edge.
const [cx, cy] = [Math.round(box.width / 2 - 118), Math.round(box.height / 2)];
const frame = () => new Promise(requestAnimationFrame);
"""

# Times from a movement of a drag to the first frame in which the picture is another one.
WATCH = f"""async (repeats) => {{
  {PAGE}
  const times = [];
  point("pointerdown", cx - 90, cy, 1);
  for (let i = 0; i < repeats; i += 1) {{
    await new Promise((done) => setTimeout(done, 60 + (i * 7) % 17));
    // Always on, so that each movement draws where nothing is drawn yet.
    const x = cx - 86 + 4 * i;
    const before = look(x, cy);
    const started = performance.now();
    point("pointermove", x, cy + (i % 9), 1);
    while (performance.now() - started < 3000) {{
      await frame();
      if (look(x, cy) === before) continue;
      times.push(performance.now() - started);
      break;
    }}
  }}
  point("pointerup", cx, cy, 0);
  return times;
}}"""

# An event a frame: how many frames showed another picture than the one before.
PAINTED = f"""async ([kind, frames]) => {{
  {PAGE}
  const at = (i) => [cx - 80 + (160 * i) / frames, cy + 20 * Math.sin(i / 5)];
  const turn = (deltaY) => canvas.dispatchEvent(new WheelEvent("wheel", {{ deltaY, clientX: box.left + cx,
    clientY: box.top + cy, bubbles: true, cancelable: true }}));
  let seen = "";
  let painted = 0;
  // What the page can do at most at this load: frames in which nothing happens.
  const idle = performance.now();
  for (let i = 0; i < 30; i += 1) await frame();
  const bare = 30000 / (performance.now() - idle);
  if (kind !== "slices") point("pointerdown", ...at(0), 1);
  const started = performance.now();
  for (let i = 0; i < frames; i += 1) {{
    if (kind === "slices") turn(Math.floor(i / 4) % 2 ? 100 : -100);
    else point("pointermove", ...at(i), 1);
    await frame();
    const [x, y] = kind === "brush" ? at(Math.max(i - 1, 0)).map(Math.round) : [cx, cy];
    // Around the spine, which is white in most windows.
    const now = look(x, y, kind === "brush" ? 16 : 90);
    painted += now !== seen;
    seen = now;
  }}
  const seconds = (performance.now() - started) / 1000;
  if (kind !== "slices") point("pointerup", ...at(frames), 0);
  return {{ bare_per_s: bare, offered_per_s: frames / seconds, painted_per_s: painted / seconds }};
}}"""


# A click of the point tool, until the model's mask shows 10 pixels next to it.
CLICK = f"""async ([x, y]) => {{
  {PAGE}
  const ratio = canvas.width / box.width;
  const near = () => look((x + 20) * ratio, y * ratio);
  const before = near();
  const started = performance.now();
  point("pointerdown", x, y, 1);
  point("pointerup", x, y, 0);
  while (performance.now() - started < 20000) {{
    await frame();
    if (near() !== before) return performance.now() - started;
  }}
  return null;
}}"""


PLACES = {"near": ("512", 1, 9), "far": ("512, 100 ms away", 1, 9), "large": ("2048", 4, 3)}
"""What is measured: its name, how many times a pixel is repeated, and how many slices there are."""


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


@contextmanager
def delayed(lab: Any, seconds: float) -> Iterator[Any]:
    """Give the same server behind a line that holds everything back for so long, in each direction."""
    target = urlsplit(lab.url)
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            loop.call_later(seconds, writer.write, data)
        loop.call_later(seconds, writer.close)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(connect, "127.0.0.1", 0), loop).result()
    port = server.sockets[0].getsockname()[1]
    try:
        yield replace(lab, url=f"http://127.0.0.1:{port}")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measure_in_browser(place: str, repeats: int) -> dict[str, dict[str, float]]:
    """Count painted pictures, time and bytes of gestures, in a real JupyterLab."""
    from playwright.sync_api import sync_playwright

    from tests.browser.lab import CHROMIUM, FLAGS, running_lab

    name, times, count = PLACES[place]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_lab(Path(folder) / "lab") as lab,
        sync_playwright() as engine,
        delayed(lab, 0.05) if place == "far" else nullcontext(lab) as server,
    ):
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        cell = VOLUME_CELL.format(times=times, count=count)
        figures = _measure_gestures(browser, server, name, cell, count, repeats)
        browser.close()
    return figures


def _measure_gestures(
    browser: Any, lab: Any, name: str, cell: str, count: int, repeats: int
) -> dict[str, dict[str, float]]:
    from tests.browser.lab import Notebook, traffic_of

    figures: dict[str, dict[str, float]] = {}
    notebook = Notebook.open(
        browser, lab, f"benchmark-{name.split(',')[0]}-{len(name)}", [cell], size=(1366, 768)
    )
    page = notebook.page
    notebook.settle_size()
    notebook.until(f"len(editor._display.events._held) == {count}")
    for kind in ("pan", "window", "brush", "slices"):
        if kind != "slices":
            notebook.press(kind.capitalize())
            notebook.until(f"editor.document.view.tool == {kind!r}")
        notebook.settled_pixels()
        figures[f"{name}: {kind}, on the page"] = page.evaluate(PAINTED, [kind, 180])
        notebook.settled_pixels()
    notebook.press("Brush")
    notebook.until("editor.document.view.tool == 'brush'")
    times = page.evaluate(WATCH, repeats)
    figures[f"{name}: a movement of the brush to the picture"] = {
        **quantiles(times),
        "answered": len(times) / repeats,
    }
    notebook.settled_pixels()
    stroke = traffic_of(notebook, lambda: page.evaluate(PAINTED, ["brush", 60]))
    figures[f"{name}: stroke of 60 moves, over the wire"] = stroke
    page.mouse.move(*notebook.place(100, 100).page)
    notebook.settled_pixels()
    up = notebook.ask("editor.document.index") < count - 1
    wheel = traffic_of(notebook, lambda: page.mouse.wheel(0, -100 if up else 100))
    figures[f"{name}: another slice, over the wire"] = wheel
    notebook.close()
    return figures


def measure_first_mask(clicks: int) -> dict[str, dict[str, float]]:
    """Time `jupyter lab` to its first mask, then clicks to their overlay, with the embedded model."""
    from playwright.sync_api import sync_playwright

    from tests.browser.lab import CHROMIUM, FLAGS, Notebook, running_lab

    cell = CELL.replace("segmenter=None", 'segmenter="auto", auto_run=True')
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        started = time.perf_counter()
        with running_lab(Path(folder) / "lab") as lab:
            server_s = time.perf_counter() - started
            notebook = Notebook.open(browser, lab, "first", [CELL.split("editor =")[0], cell])
            picture_s = time.perf_counter() - started
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
        "jupyter lab to the first mask": {
            "s": first_s,
            "to_the_server_s": server_s,
            "to_the_picture_s": picture_s,
            "from_the_click_s": first_s - picture_s,
        },
        "click to overlay": {**quantiles(times), "answered": len(times) / clicks},
    }


def measure_opening(rounds: int) -> dict[str, dict[str, float]]:
    """Time a cell that opens an editor, and one click at once or when the model was loaded meanwhile."""
    phantom = make_axial_slice(reference_parameters(), z_mm=0.0, rng=np.random.default_rng(0))
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.npz"
        np.savez(path, hu=phantom.hu, spacing=phantom.spacing_mm)
        for name, pause_s in (("a click at once", 0.0), ("a click after 6 s", 6.0)):
            code = OPENING.format(slice=str(path), pause_s=pause_s)
            runs = []
            for number in range(rounds):
                # Without predictions of an earlier run.
                environment = {**os.environ, "SAM2_CACHE_DIR": str(Path(folder) / f"{pause_s:g}-{number}")}
                command = [sys.executable, "-c", code]
                run = subprocess.run(command, check=True, capture_output=True, env=environment)
                runs.append(json.loads(run.stdout))
            figures[f"cell that opens an editor, {name}"] = {
                key: statistics.median(run[key] for run in runs) for key in runs[0]
            }
    return figures


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
    parser.add_argument(
        "--browser",
        nargs="*",
        choices=(*PLACES, "mask"),
        help="also in JupyterLab in Chromium; all, or these",
    )
    parser.add_argument(
        "--opening", type=int, metavar="TIMES", help="also the cell that opens an editor, so many times"
    )
    add_json_option(parser)
    arguments = parser.parse_args()
    figures = measure_sending(arguments.repeats)
    if arguments.opening:
        figures |= measure_opening(arguments.opening)
    if arguments.browser is not None:
        for piece in arguments.browser or (*PLACES, "mask"):
            figures |= (
                measure_first_mask(9) if piece == "mask" else measure_in_browser(piece, arguments.repeats)
            )
    report(figures, ratios_of(figures), arguments.json)


if __name__ == "__main__":
    main()
