"""A real JupyterLab on loopback and a notebook in Chromium, for the journeys."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

PROJECT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)
PATIENCE_MS = 180_000

_START = "import tests.quick_imports; from jupyterlab.labapp import main; main()"
_EXECUTE = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code, store_history: false, silent: false });
  let printed = "";
  let failed = "";
  future.onIOPub = (message) => {
    if (message.header.msg_type === "stream") printed += message.content.text;
    if (message.header.msg_type === "error") failed = message.content.traceback.join("\\n");
  };
  await future.done;
  return { printed, failed };
}"""

_SHOW = """async (path) => {
  const { commands, shell } = window.jupyterapp;
  const before = shell.currentWidget;
  await commands.execute("docmanager:open", { path });
  before?.dispose();
}"""
# What one notebook leaves in a kernel, the next one shall not find.
_CLEAR = """
from ipywidgets.widgets.widget import _instances
from ctai_sam2.widgets import MaskEditor
for value in list(globals().values()):
    if isinstance(value, MaskEditor):
        value.close()
for widget in list(_instances.values()):
    # There is one manager for all canvases that will ever be.
    if type(widget).__name__ != "_CanvasManager":
        widget.close()
get_ipython().reset(new_session=False)
"""
_HAS_DRAWN = """([number, sent]) => {
  const editor = document.querySelectorAll(".ctai-sam2-editor")[number];
  return Number(editor.getAttribute("data-drawn")) >= sent;
}"""
_PIXELS = """(canvas) => canvas.toDataURL("image/png").split(",")[1]"""
# To see whether a picture changes, far quicker than to fetch it.
_DIGEST = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let digest = 0;
  for (const pixel of new Uint32Array(data.buffer)) digest = (Math.imul(digest, 31) + pixel) | 0;
  return [canvas.width, canvas.height, digest];
}"""


@dataclass(frozen=True)
class Lab:
    """A server: its address, token and the folder it serves."""

    url: str
    token: str
    folder: Path

    def start_kernel(self) -> str:
        """Start a kernel in the folder; its identity."""
        return str(self._post("kernels", {"name": "python3"})["id"])

    def attach(self, name: str, kernel: str) -> None:
        """Let a notebook run in a kernel that is there; whoever opens it gets this kernel."""
        session = {"path": f"{name}.ipynb", "name": name, "type": "notebook", "kernel": {"id": kernel}}
        self._post("sessions", session)

    def _post(self, what: str, body: dict[str, Any]) -> Any:
        response = requests.post(f"{self.url}/api/{what}?token={self.token}", json=body, timeout=60)
        response.raise_for_status()
        return response.json()


@contextmanager
def running_lab(folder: Path, prefix: str = "") -> Iterator[Lab]:
    """Start JupyterLab with fresh folders of its own, and end it; with a prefix as behind a hub."""
    home, served = folder / "home", folder / "notebooks"
    served.mkdir(parents=True)
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Else a pop-up asks whether to fetch news, over the cells.
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "SAM2_CACHE_DIR": str(home / "cache"),
        "PYTHONPATH": str(PROJECT),
    }
    command = [
        *(sys.executable, "-c", _START, "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={served}"),
        *(f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True"),
        f"--ServerApp.base_url={prefix}/",
    ]
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=served, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}{prefix}"
        try:
            until = time.monotonic() + 120
            while not _responds(url, token):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError((folder / "lab.log").read_text(errors="replace")[-2000:])
                time.sleep(0.2)
            yield Lab(url, token, served)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def _responds(url: str, token: str) -> bool:
    try:
        return requests.get(f"{url}/api/status?token={token}", timeout=5).ok
    except requests.RequestException:
        return False


@dataclass(frozen=True)
class Place:
    """A point: in pixels of the page, and on the canvas as the editor receives it."""

    page: tuple[int, int]
    screen: tuple[float, ...]


class Notebook:
    """A notebook opened in a page, whose first canvas is an editor's."""

    def __init__(self, page: Page, lab: Lab, name: str, path: str = "doc", kernel: str | None = None) -> None:
        self.page, self._lab, self._name, self._path, self._kernel = page, lab, name, path, kernel
        # What holds the screen's sharpness for as long as it is open.
        self._screen: CDPSession | None = None

    @classmethod
    def open(
        cls,
        browser: Browser,
        lab: Lab,
        name: str,
        cells: Sequence[str],
        *,
        path: str = "doc",
        size: tuple[int, int] = (1360, 1180),
        blank: bool = False,
        kernel: str | None = None,
        page: Page | None = None,
        pixel_ratio: int = 1,
        **context: Any,
    ) -> Notebook:
        """Write a notebook of these cells, show it and run it.

        ``path`` is ``doc`` for the notebook alone and ``lab`` for JupyterLab's default layout; ``blank`` says
        that the picture is black. Most of the time goes into loading JupyterLab and importing in a kernel:
        ``kernel`` names one that is there, and ``page`` is one where this notebook replaces the one shown.
        ``pixel_ratio`` is that of the screen while the notebook is open.
        """
        written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        written.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        nbformat.write(written, lab.folder / f"{name}.ipynb")
        if kernel:
            lab.attach(name, kernel)
        notebook = cls(page or cls._new_page(browser, size, context), lab, name, path, kernel)
        if pixel_ratio != 1:
            notebook._set_pixel_ratio(pixel_ratio)
        if page:
            page.evaluate(_SHOW, f"{name}.ipynb")
            notebook._wait_for_kernel()
        else:
            notebook.load()
        if kernel:
            # A page first asks a kernel for its widgets, and may meet one that is opened meanwhile twice.
            notebook.tell("pass")
            notebook.page.wait_for_timeout(300)
        notebook.run_all(blank=blank)
        return notebook

    @staticmethod
    def _new_page(browser: Browser, size: tuple[int, int], context: dict[str, Any]) -> Page:
        width, height = size
        if not browser.contexts:
            browser.new_context()
        if context:
            browser.new_context(**context)
        # One context as far as possible: another one would load all of JupyterLab anew.
        page = browser.contexts[-1 if context else 0].new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        return page

    def leave(self) -> None:
        """Close what was opened in the kernel; page and kernel are ready for the next notebook."""
        self.tell(_CLEAR)
        if self._screen is not None:
            self._screen.detach()

    def _set_pixel_ratio(self, ratio: int) -> None:
        """Make the screen so sharp, which loads nothing anew as another context of the browser would."""
        self._screen = self.page.context.new_cdp_session(self.page)
        metrics = {**(self.page.viewport_size or {}), "deviceScaleFactor": ratio, "mobile": False}
        self._screen.send("Emulation.setDeviceMetricsOverride", metrics)

    def close(self) -> None:
        """Close the page, and end the kernel if it is this notebook's own."""
        if self._kernel:
            self.leave()
        else:
            self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        context = self.page.context
        self.page.close()
        if context is not context.browser.contexts[0]:
            context.close()

    def load(self) -> None:
        """Load the page, and wait for the notebook and its kernel."""
        self.page.goto(f"{self._lab.url}/{self._path}/tree/{self._name}.ipynb?token={self._lab.token}&reset")
        self._wait_for_kernel()

    def _wait_for_kernel(self) -> None:
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def reload(self) -> None:
        """Save the notebook and load the page anew; the kernel continues."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.load()
        self.wait_for_picture()

    def run_all(self, *, blank: bool = False) -> None:
        """Run every cell and wait for the picture."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        if blank:
            self.canvas().wait_for()
            self.settle_size()
        else:
            self.wait_for_picture()

    def wait_for_picture(self, number: int = 0) -> None:
        """Wait until an editor's canvas shows something that is not black."""
        self.canvas(number).wait_for()
        self.page.wait_for_function(
            """(number) => {
              const canvas = document.querySelectorAll("canvas.ctai-sam2-canvas")[number];
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              let bright = 0;
              for (let i = 0; i < data.length; i += 4) bright += data[i] > 60;
              return bright > data.length / 100;
            }""",
            arg=number,
        )

    def canvas(self, number: int = 0) -> Any:
        """An editor's canvas element."""
        return self.page.locator("canvas.ctai-sam2-canvas").nth(number)

    def pixels(self, number: int = 0) -> NDArray[np.uint8]:
        """What a canvas shows, RGBA."""
        encoded = self.canvas(number).evaluate(_PIXELS)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))

    def settled_pixels(self, number: int = 0) -> NDArray[np.uint8]:
        """What a canvas shows once two looks in a row see the same."""
        before = self.canvas(number).evaluate(_DIGEST)
        for _ in range(100):
            self.page.wait_for_timeout(150)
            now = self.canvas(number).evaluate(_DIGEST)
            if before == now:
                return self.pixels(number)
            before = now
        raise AssertionError("the picture does not come to rest")

    def drawn_pixels(self, number: int = 0, editor: str = "editor") -> NDArray[np.uint8]:
        """What a canvas shows once Python has drawn all that it was told, and the page shows that."""
        self.wait_until_drawn(number, editor)
        return self.settled_pixels(number)

    def wait_until_drawn(self, number: int = 0, editor: str = "editor") -> None:
        """Wait until Python has nothing left to draw, and the page has drawn what Python sent.

        Python draws in a thread of its own, which may come late on a busy machine.
        """
        display = f"{editor}._display"
        events = f"{display}.events"
        rests = (
            f"{display}.pacer._timer is None and {events}.bundles._thread is None"
            f" and {events}.companion.taken == {events}._taken and {events}.companion.bundles"
        )
        before, sent = -1, self.until(rests)
        while sent != before:
            self.page.wait_for_function(_HAS_DRAWN, arg=[number, sent])
            before, sent = sent, self.until(rests)

    def restored_pixels(self, expected: NDArray[np.uint8], number: int = 0) -> NDArray[np.uint8]:
        """What a canvas of a page that was loaded anew shows; on a busy machine it comes in several steps."""
        shown = self.settled_pixels(number)
        for _ in range(50):
            if np.array_equal(shown, expected):
                break
            self.page.wait_for_timeout(150)
            shown = self.pixels(number)
        return shown

    def ask(self, expression: str) -> Any:
        """Value of a Python expression in the kernel, through JSON."""
        outcome = self.page.evaluate(_EXECUTE, f"import json; print(json.dumps({expression}))")
        assert not outcome["failed"], outcome["failed"]
        return json.loads(outcome["printed"].strip().splitlines()[-1])

    def tell(self, code: str) -> None:
        """Run Python in the kernel."""
        outcome = self.page.evaluate(_EXECUTE, code)
        assert not outcome["failed"], outcome["failed"]

    def until(self, expression: str, seconds: float = 120) -> Any:
        """Evaluate until the result is true."""
        deadline = time.monotonic() + seconds
        while True:
            result = self.ask(expression)
            if result:
                return result
            assert time.monotonic() < deadline, f"never true: {expression}"
            self.page.wait_for_timeout(100)

    def place(self, x: float, y: float, number: int = 0, editor: str = "editor") -> Place:
        """Find the whole page pixel nearest to an image point, and the same place on the canvas."""
        return self.places([(x, y)], number, editor)[0]

    def places(
        self, points: Sequence[tuple[float, float]], number: int = 0, editor: str = "editor"
    ) -> list[Place]:
        """Find the places of many points: the kernel is asked once."""
        size = self.settle_size(number, editor)
        to_screen = f"{editor}.document.view.viewport.to_screen"
        on_canvas = self.ask(f"[{to_screen}(x, y) for x, y in {[tuple(point) for point in points]}]")
        box = self.canvas(number).evaluate(
            "(canvas) => { const box = canvas.getBoundingClientRect();"
            " return [box.left, box.top, box.width, box.height]; }"
        )
        found = []
        for x, y in on_canvas:
            page = round(box[0] + x), round(box[1] + y)
            screen = tuple((page[i] - box[i]) / box[2 + i] * size[i] for i in range(2))
            found.append(Place(page=page, screen=screen))
        return found

    def settle_size(self, number: int = 0, editor: str = "editor") -> list[int]:
        """Wait until Python and the page agree how large the picture is; its width and height."""
        for _ in range(100):
            size: list[int] = self.ask(f"[{editor}._display.canvas.width, {editor}._display.canvas.height]")
            shown = self.canvas(number).evaluate(
                "(canvas) => { const fills = canvas.closest('.ctai-sam2-editor').style.getPropertyValue("
                "'--ctai-sam2-height') !== '';"
                " const box = (fills ? canvas.closest('.ctai-sam2-stage') : canvas).getBoundingClientRect();"
                " return [Math.floor(box.width), Math.floor(box.height)]; }"
            )
            if size == shown:
                return size
            self.page.wait_for_timeout(100)
        raise AssertionError(f"the page shows {shown}, Python draws {size}")

    def click(self, x: float, y: float, button: str = "left", **where: Any) -> Place:
        """Click at an image point."""
        place = self.place(x, y, **where)
        self.page.mouse.click(*place.page, button=button)
        return place

    def drag(self, *points: tuple[float, float], button: str = "left", **where: Any) -> list[Place]:
        """Drag through image points."""
        places = self.places(points, **where)
        self.page.mouse.move(*places[0].page)
        self.page.mouse.down(button=button)
        for place in places[1:]:
            self.page.mouse.move(*place.page)
            # Chromium joins moves of one frame.
            self.page.wait_for_timeout(60)
        self.page.mouse.up(button=button)
        return places

    def choose(self, tool: str) -> None:
        """Choose a tool by the words on it, and wait until a press on the picture is that tool's.

        A press that meets a button on its way to another place is lost; a reader presses again, and so does
        this, once, and from another tool: a button that is down already would say nothing.
        """
        chosen = self.page.locator(f".ctai-sam2-editor[data-tool='{tool.lower()}']").first
        self.press(tool)
        try:
            chosen.wait_for(timeout=30_000)
        except Exception:  # of the browser's driver: imported only where it is installed
            told = self.ask("editor.document.view.tool")
            down = self.page.locator(".ctai-sam2-tools button.mod-active").first.inner_text()
            print(f"{tool} was pressed, Python has {told}, the page {down}: pressed again")
            self.press("Pan")
            self.press(tool)
            chosen.wait_for()
        # Its options may take another line, and room from the picture.
        self.settle_size()

    def press(self, name: str) -> None:
        """Press a button or choose a tool by the words on it."""
        words = re.compile(rf"^\s*{re.escape(name)}\s*$")
        # By its text: an icon's glyph would be part of the accessible name.
        self.page.locator(".ctai-sam2-editor button:visible").filter(has_text=words).first.click()


def traffic_of(notebook: Notebook, act: Callable[[], object]) -> dict[str, float]:
    """Bytes that go over the page's websockets while something is done, both ways."""
    seen = {"sent_kB": 0.0, "received_kB": 0.0, "messages": 0.0}
    session = notebook.page.context.new_cdp_session(notebook.page)
    session.send("Network.enable")

    def count(name: str, event: Any) -> None:
        payload, is_text = event["response"]["payloadData"], event["response"]["opcode"] == 1
        seen[name] += len(payload) / 1000 * (1.0 if is_text else 0.75)
        seen["messages"] += 1

    session.on("Network.webSocketFrameSent", lambda event: count("sent_kB", event))
    session.on("Network.webSocketFrameReceived", lambda event: count("received_kB", event))
    act()
    # The page is looked at, not the kernel: a request to it would be counted too.
    notebook.settled_pixels()
    notebook.page.wait_for_timeout(1000)
    session.detach()
    return seen
