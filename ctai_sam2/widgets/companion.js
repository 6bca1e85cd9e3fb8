// The page side of the editor. It keeps the picture as large as what is visible, reports buttons, modifiers,
// wheel and keys, and draws at the display's rate what must follow the pointer: brush, lasso, rectangle, pan
// and zoom. A finished gesture goes to Python as one message, and Python decides what it does.
// While this is on the page it alone reports the mouse, so no event arrives twice.
// @ts-check

const EDITOR = ".ctai-sam2-editor";
const CANVAS = "canvas.ctai-sam2-canvas";
const BUTTONS = ["left", "middle", "right"];
const PIXELS_PER_STEP = 100;
const LINES_PER_STEP = 3;
const TYPING = "input, textarea, select, [contenteditable]";
// On a button or a slider these keep their usual meaning.
const NATIVE = /^(tab|enter| |escape|backspace|delete|home|end|arrow.*|page.*)$/;
const MIN_HEIGHT_PX = 420;
const HOVER_EVERY_MS = 80;
const WHEEL_RESTS_MS = 120;
const WAITS_MS = 900;
const ERASES = "#D55E00";
const WHEEL_FACTOR = 1.15;

/**
 * How far the wheel turned, up positive: sideways where the browser turns it so while Shift is held.
 * @param {{deltaX: number, deltaY: number, deltaMode: number}} event
 */
export function wheelSteps(event) {
  const delta = event.deltaY !== 0 ? event.deltaY : event.deltaX;
  return -delta / (event.deltaMode === 0 ? PIXELS_PER_STEP : LINES_PER_STEP);
}

/**
 * Whether a key belongs to what has the focus, because somebody types there.
 * @param {Element} target
 */
export function isTyping(target) {
  return target.matches(TYPING) || /** @type {HTMLElement} */ (target).isContentEditable === true;
}

/**
 * How the table of actions writes a key.
 * @param {{key: string, ctrlKey: boolean, metaKey: boolean, shiftKey: boolean}} event
 */
export function keyCombination(event) {
  const key = event.key.toLowerCase();
  const isWord = key.length > 1 || /[a-z]/.test(key);
  return (event.ctrlKey || event.metaKey ? "ctrl+" : "") + (event.shiftKey && isWord ? "shift+" : "") + key;
}

/**
 * Height for the editor: all of it is visible once its cell is scrolled to, with the code above where there
 * is room for both.
 * @param {number} visible height of what scrolls, in CSS pixels
 * @param {number} above how much of the cell lies above the editor
 */
export function editorHeight(visible, above) {
  const margin = 14;
  const withCode = visible - above - margin;
  return Math.max(withCode >= MIN_HEIGHT_PX ? withCode : visible - margin, 380);
}

/**
 * Zoom about a point that stays in place.
 * @param {{px_per_mm: number, pan: number[]}} view
 * @param {number} factor
 * @param {number[]} at in canvas coordinates
 * @param {number[]} limits smallest and largest zoom
 */
export function zoomed(view, factor, at, limits) {
  const zoom = Math.min(Math.max(view.px_per_mm * factor, limits[0]), limits[1]);
  const ratio = zoom / view.px_per_mm;
  return { px_per_mm: zoom, pan: [0, 1].map((i) => at[i] + (view.pan[i] - at[i]) * ratio) };
}

/**
 * Which gesture the page draws by itself; null for one that Python draws.
 * @param {{tool: string, locked: boolean}} view
 * @param {string} button
 * @param {boolean} space whether space is held
 */
export function gestureOf(view, button, space) {
  if (button === "middle" || space || view.tool === "pan") return "pan";
  if (view.locked) return null;
  const kinds = { brush: "stroke", eraser: "stroke", lasso: "lasso", rectangle: "rectangle", box: "rectangle" };
  return kinds[view.tool] ?? null;
}

/** @param {Element} node */
function scrollerOf(node) {
  for (let each = node.parentElement; each !== null; each = each.parentElement) {
    const { overflowY } = getComputedStyle(each);
    if (/auto|scroll/.test(overflowY) && each.clientHeight > 0 && each.matches(".jp-WindowedPanel-outer, .jp-Notebook, .jp-mod-outputsScrolled .jp-OutputArea-output, .jp-OutputArea.jp-mod-scrolled, .jp-LinkedOutputView")) return each;
  }
  return document.scrollingElement ?? document.documentElement;
}

/** @param {{model: any, el: HTMLElement}} context */
function render({ model, el }) {
  el.style.display = "none";
  /** @type {HTMLCanvasElement | null} */
  let held = null;
  let hovering = false;
  /** @type {HTMLElement | null} */
  let last = null;
  /** @type {number[][]} */
  let points = [];
  let steps = 0;
  /** @type {any} */
  let wheelAt = null;
  let frame = 0;
  /** @type {number[] | null} */
  let hoverAt = null;
  const sendHover = () => {
    hoverTimer = 0;
    if (hoverAt !== null && live === null) model.send({ event: "hover", at: hoverAt });
  };

  const editorOf = (node) => {
    const editor = node instanceof Element ? node.closest(EDITOR) : null;
    return editor !== null && editor.contains(el) ? editor : null;
  };
  const canvasOf = (node) => (editorOf(node) === null ? null : node.closest(CANVAS));
  const modifiers = (event) => ["shift", "ctrl", "alt", "meta"].filter((name) => event[`${name}Key`]);
  const place = (event, canvas) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * model.get("width"),
      ((event.clientY - box.top) / box.height) * model.get("height"),
    ];
  };
  const stop = (event) => event.stopImmediatePropagation();

  const flush = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    if (live !== null) drawLive();
    else if (zoom !== null) drawView(zoom.canvas, zoom.base, zoom.now, zoom.was);
    if (points.length > 0) {
      model.send({ event: "move", points: held === null ? points.slice(-1) : points });
      points = [];
    }
    if (steps !== 0) {
      model.send({ event: "wheel", steps, at: wheelAt.at, modifiers: wheelAt.modifiers });
      steps = 0;
    }
  };
  const soon = () => {
    if (frame === 0) frame = requestAnimationFrame(flush);
  };

  // Gestures that the page draws ---------------------------------------------------------------
  /** @type {any} The gesture under way: its kind, its way in canvas coordinates, the picture it began on. */
  let live = null;
  let space = false;
  /** @type {any} Zoom that was drawn and not sent yet. */
  let zoom = null;
  let zoomTimer = 0;
  let hoverTimer = 0;
  // A page that is loaded anew counts on from what Python has taken up.
  let number = model.get("view").taken ?? 0;
  /** @type {number[]} */
  let waitingFor = [];
  /** @type {HTMLCanvasElement[]} */
  let sources = [];
  const view = () => model.get("view");

  const stageOf = () => el.closest(EDITOR)?.querySelector(".ctai-sam2-stage") ?? null;
  const part = (name) => {
    const stage = stageOf();
    let found = stage?.querySelector(`.${name}`) ?? null;
    if (found === null && stage !== null) {
      found = document.createElement("div");
      found.className = name;
      stage.append(found);
    }
    return /** @type {HTMLElement | null} */ (found);
  };

  const ringAt = (at) => {
    const ring = part("ctai-sam2-ring");
    if (ring === null) return;
    const isBrush = at !== null && ["brush", "eraser"].includes(view().tool);
    ring.style.display = isBrush ? "block" : "none";
    if (!isBrush) return;
    const radius = Math.max(view().brush_mm * view().px_per_mm, 1);
    ring.style.width = ring.style.height = `${2 * radius}px`;
    ring.style.borderColor = view().tool === "eraser" ? ERASES : "#FFF";
    ring.style.transform = `translate(${at[0] - radius}px, ${at[1] - radius}px)`;
  };

  const copyOf = (canvas) => {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    copy.getContext("2d")?.drawImage(canvas, 0, 0);
    return copy;
  };

  /** Replace every pixel, transparent ones too: drawn over, the letters' soft edges would grow. */
  const putBack = (canvas, base) => {
    const context = canvas.getContext("2d");
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.globalCompositeOperation = "copy";
    context.drawImage(base, 0, 0);
    context.restore();
  };

  /** Draw the slice and its masks at another zoom and place, from the canvases that Python filled. */
  const drawView = (canvas, base, now, was) => {
    const context = canvas.getContext("2d");
    const ratio = canvas.width / model.get("width");
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (sources.length > 0) {
      const [sx, sy] = view().spacing.map((mm) => mm * now.px_per_mm * ratio);
      context.setTransform(sx, 0, 0, sy, now.pan[0] * ratio, now.pan[1] * ratio);
      sources.forEach((source, index) => {
        context.imageSmoothingEnabled = index === 0 && view().smooth;
        context.drawImage(source, 0, 0);
      });
    } else {
      const scale = now.px_per_mm / was.px_per_mm;
      const shift = [0, 1].map((i) => (now.pan[i] - was.pan[i] * scale) * ratio);
      context.setTransform(scale, 0, 0, scale, shift[0], shift[1]);
      context.drawImage(base, 0, 0);
    }
    context.restore();
  };

  const drawLive = () => {
    const { canvas, base, kind } = live;
    if (kind === "pan") {
      const [first, at] = [live.points[0], live.points[live.points.length - 1]];
      const pan = [0, 1].map((i) => live.was.pan[i] + at[i] - first[i]);
      live.now = { px_per_mm: live.was.px_per_mm, pan };
      drawView(canvas, base, live.now, live.was);
      return;
    }
    putBack(canvas, base);
    const context = canvas.getContext("2d");
    const ratio = canvas.width / model.get("width");
    context.save();
    context.globalAlpha = 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = live.color;
    context.beginPath();
    const points = live.points;
    if (kind === "rectangle") {
      const [[x0, y0], [x1, y1]] = [points[0], points[points.length - 1]];
      context.rect(x0, y0, x1 - x0, y1 - y0);
    } else {
      context.moveTo(points[0][0], points[0][1]);
      // A line of no length is drawn as nothing; a dab needs one that is there.
      for (const [x, y] of points.length > 1 ? points.slice(1) : [[points[0][0] + 0.01, points[0][1]]]) {
        context.lineTo(x, y);
      }
    }
    if (kind === "stroke") {
      context.globalAlpha = 0.6;
      context.lineWidth = Math.max(2 * view().brush_mm * view().px_per_mm, 1);
      context.stroke();
    } else {
      for (const [color, width] of [["#000", 3.5], [live.color, 1.5]]) {
        [context.strokeStyle, context.lineWidth] = [color, width];
        context.stroke();
      }
    }
    context.restore();
  };

  /** Send a finished gesture; while Python does not take it up, say so. */
  const sendGesture = (content, buffers = []) => {
    number += 1;
    model.send({ ...content, number }, undefined, buffers);
    const mine = number;
    waitingFor.push(
      window.setTimeout(() => {
        if (view().taken >= mine) return;
        const badge = part("ctai-sam2-waiting");
        if (badge === null) return;
        badge.textContent = view().waiting;
        badge.style.display = "block";
      }, WAITS_MS),
    );
  };
  const onView = () => {
    if (view().taken < number) return;
    waitingFor.forEach((timer) => clearTimeout(timer));
    waitingFor = [];
    const badge = stageOf()?.querySelector(".ctai-sam2-waiting");
    if (badge instanceof HTMLElement) badge.style.display = "none";
  };

  const sendZoom = () => {
    clearTimeout(zoomTimer);
    if (zoom === null) return;
    const { px_per_mm, pan } = zoom.now;
    zoom = null;
    sendGesture({ event: "viewport", px_per_mm, pan });
  };

  const beginLive = (event, canvas, button) => {
    const kind = gestureOf(view(), button, space);
    if (kind === null) return false;
    const opposite = button === "right" || event.shiftKey;
    const erases = (view().tool === "eraser") !== opposite;
    const was = { px_per_mm: view().px_per_mm, pan: view().pan };
    const color = erases && kind !== "pan" ? ERASES : view().color;
    const points = [place(event, canvas)];
    live = { kind, canvas, base: copyOf(canvas), was, now: was, color, points, button };
    live.modifiers = modifiers(event);
    live.fromPointer = false;
    drawLive();
    return true;
  };

  const endLive = (event) => {
    const at = place(event, live.canvas);
    live.points.push(at);
    drawLive();
    const { kind, points, button, now } = live;
    const held = live.modifiers;
    live = null;
    if (kind === "pan") {
      sendGesture({ event: "viewport", px_per_mm: now.px_per_mm, pan: now.pan });
    } else {
      const way = new Float64Array(points.flat());
      sendGesture({ event: "gesture", button, modifiers: held }, [way.buffer]);
    }
  };

  const on = {
    mousedown(event) {
      if (editorOf(event.target) === null) last = null;
      const canvas = canvasOf(event.target);
      if (canvas === null) return;
      stop(event);
      if (event.button !== 0) event.preventDefault();
      canvas.focus({ preventScroll: true });
      flush();
      sendZoom();
      held = canvas;
      const button = BUTTONS[event.button] ?? "left";
      if (live !== null) endLive(event);
      if (beginLive(event, canvas, button)) return;
      model.send({ event: "press", at: place(event, canvas), button, modifiers: modifiers(event) });
    },
    pointermove(event) {
      // All places between two frames, where the browser tells them.
      if (live === null || typeof event.getCoalescedEvents !== "function") return;
      live.fromPointer = true;
      const between = event.getCoalescedEvents();
      for (const each of between.length > 0 ? between : [event]) live.points.push(place(each, live.canvas));
      soon();
    },
    mousemove(event) {
      const canvas = held ?? canvasOf(event.target);
      if (canvas === null) return;
      stop(event);
      hovering = true;
      const at = place(event, canvas);
      ringAt(at);
      if (live !== null) {
        if (!live.fromPointer) live.points.push(at);
        soon();
        return;
      }
      const follows = held !== null || view().tool === "polygon";
      if (!follows) {
        hoverAt = at;
        if (hoverTimer === 0) hoverTimer = window.setTimeout(sendHover, HOVER_EVERY_MS);
        return;
      }
      points.push(at);
      soon();
    },
    mouseup(event) {
      if (held === null) return;
      stop(event);
      flush();
      if (live !== null) endLive(event);
      else model.send({ event: "release", at: place(event, held) });
      held = null;
    },
    mouseout(event) {
      if (canvasOf(event.target) === null) return;
      stop(event);
      if (held !== null || !hovering) return;
      flush();
      hovering = false;
      ringAt(null);
      clearTimeout(hoverTimer);
      hoverTimer = 0;
      hoverAt = null;
      model.send({ event: "leave" });
    },
    click(event) {
      // A button that was pressed with the mouse gives the keys back to the picture; one that was reached by
      // keyboard keeps them, and so does a field.
      const editor = editorOf(event.target);
      if (editor === null || event.detail === 0 || canvasOf(event.target) !== null) return;
      if (event.target.closest("button") === null) return;
      editor.querySelector(CANVAS)?.focus({ preventScroll: true });
    },
    dblclick(event) {
      const canvas = canvasOf(event.target);
      if (canvas === null) return;
      stop(event);
      model.send({ event: "double", at: place(event, canvas) });
    },
    contextmenu(event) {
      if (canvasOf(event.target) === null) return;
      event.preventDefault();
      stop(event);
    },
    wheel(event) {
      const canvas = canvasOf(event.target);
      if (canvas === null) return;
      event.preventDefault();
      stop(event);
      if (live !== null) return;
      const turned = wheelSteps(event);
      const at = place(event, canvas);
      const scrolls = event.shiftKey || (view().scrolls && !event.ctrlKey && !event.metaKey);
      if (scrolls) {
        sendZoom();
        steps += turned;
        wheelAt = { at, modifiers: modifiers(event) };
        soon();
        return;
      }
      if (zoom === null) {
        const was = { px_per_mm: view().px_per_mm, pan: view().pan };
        zoom = { was, now: was, canvas, base: sources.length > 0 ? null : copyOf(canvas) };
      }
      const factor = WHEEL_FACTOR ** Math.max(-20, Math.min(turned, 20));
      zoom.now = zoomed(zoom.now, factor, at, view().limits);
      soon();
      clearTimeout(zoomTimer);
      zoomTimer = window.setTimeout(sendZoom, WHEEL_RESTS_MS);
    },
    focusin(event) {
      last = editorOf(event.target) === null ? null : event.target;
    },
    keydown(event) {
      if (event.isComposing) return;
      let target = event.target;
      if (target === document.body && last !== null) {
        // The button pressed last was disabled or has gone, and the focus with it: it belongs to the picture.
        target = el.closest(EDITOR)?.querySelector(CANVAS) ?? target;
        target.focus({ preventScroll: true });
      }
      if (editorOf(target) === null || event.altKey) return;
      const onCanvas = canvasOf(target) !== null;
      const combination = keyCombination(event);
      const isSaving = combination === "ctrl+s";
      if (onCanvas && combination === " ") space = true;
      if (live !== null && combination === "escape") {
        // The picture as it was; Python never hears of the gesture.
        putBack(live.canvas, live.base);
        live = null;
        held = null;
      }
      if (!onCanvas && !isSaving && (isTyping(target) || NATIVE.test(event.key.toLowerCase()))) return;
      // Ipycanvas would swallow every key, Tab too.
      if (onCanvas) stop(event);
      if (!model.get("shortcuts").includes(combination)) return;
      event.preventDefault();
      stop(event);
      if (event.repeat && [" ", "enter", "ctrl+enter", "ctrl+s"].includes(combination)) return;
      model.send({ event: "key", key: event.key, modifiers: modifiers(event), pressed: true });
    },
    keyup(event) {
      if (event.key === " ") space = false;
      if (event.key !== " " || canvasOf(event.target) === null) return;
      model.send({ event: "key", key: " ", modifiers: modifiers(event), pressed: false });
    },
  };
  const reportScreen = () => model.send({ event: "screen", pixel_ratio: window.devicePixelRatio });

  for (const [name, listener] of Object.entries(on)) {
    document.addEventListener(name, listener, { capture: true, passive: false });
  }
  window.addEventListener("resize", reportScreen);
  reportScreen();
  model.on("change:view", onView);
  model.send({ event: "draws" });
  // The hidden canvases that Python fills with the slice and its masks; without them the picture itself is
  // moved and scaled until Python has drawn it.
  const findSources = async () => {
    const ids = model.get("layers");
    const models = await Promise.all(ids.map((id) => model.widget_manager.get_model(id)));
    const found = models.map((each) => each.canvas);
    if (found.every((each) => each instanceof HTMLCanvasElement)) sources = found;
  };
  findSources().catch(() => {
    sources = [];
  });

  // Once the widget is in its editor: JupyterLab's own one-letter keys (x cuts the cell) must not act inside,
  // and the editor follows the size of what is visible.
  let waiting = 0;
  /** @type {ResizeObserver | null} */
  let observer = null;
  let sent = "";
  const settle = () => {
    const editor = /** @type {HTMLElement | null} */ (el.closest(EDITOR));
    const stage = editor?.querySelector(".ctai-sam2-stage");
    if (editor === null || !stage || !editor.isConnected) {
      waiting = requestAnimationFrame(settle);
      return;
    }
    editor.setAttribute("data-lm-suppress-shortcuts", "true");
    if (!model.get("fills")) return;
    const scroller = scrollerOf(editor);
    let isFirst = true;
    const fit = () => {
      if (!editor.isConnected || editor.offsetParent === null) return;
      const isPage = scroller === document.scrollingElement || scroller === document.documentElement;
      const visible = isPage ? window.innerHeight : scroller.clientHeight;
      const cell = editor.closest(".jp-Cell");
      const above = cell === null ? 0 : editor.getBoundingClientRect().top - cell.getBoundingClientRect().top;
      const height = `${Math.round(editorHeight(visible, above))}px`;
      if (editor.style.getPropertyValue("--ctai-sam2-height") !== height) {
        editor.style.setProperty("--ctai-sam2-height", height);
      }
      const panel = editor.querySelector(".ctai-sam2-panel");
      const box = stage.getBoundingClientRect();
      const lies = panel === null ? null : panel.getBoundingClientRect();
      // A panel next to the picture, or none, covers nothing.
      const isOver = lies !== null && lies.width > 0 && lies.left > box.left + 40 && lies.top < box.bottom;
      const covered = isOver ? Math.round(box.right - lies.left) : 0;
      const size = { width: Math.floor(box.width), height: Math.floor(box.height), covered };
      if (size.width < 60 || size.height < 60 || sent === JSON.stringify(size)) return;
      sent = JSON.stringify(size);
      model.send({ event: "resize", ...size });
      if (isFirst) {
        isFirst = false;
        requestAnimationFrame(() => {
          const [mine, seen] = [editor.getBoundingClientRect(), scroller.getBoundingClientRect()];
          const top = isPage ? 0 : seen.top;
          if (mine.top >= top && mine.top < top + visible && mine.bottom > top + visible) {
            (cell ?? editor).scrollIntoView({ block: "end" });
          }
        });
      }
    };
    observer = new ResizeObserver(() => requestAnimationFrame(fit));
    for (const each of [editor, stage, scroller]) observer.observe(each);
    const panel = editor.querySelector(".ctai-sam2-panel");
    if (panel !== null) observer.observe(panel);
    fit();
  };
  settle();

  return () => {
    cancelAnimationFrame(frame);
    cancelAnimationFrame(waiting);
    clearTimeout(zoomTimer);
    clearTimeout(hoverTimer);
    waitingFor.forEach((timer) => clearTimeout(timer));
    model.off("change:view", onView);
    observer?.disconnect();
    window.removeEventListener("resize", reportScreen);
    for (const [name, listener] of Object.entries(on)) {
      document.removeEventListener(name, listener, { capture: true });
    }
  };
}

export default { render };
