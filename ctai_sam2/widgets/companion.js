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

  const on = {
    mousedown(event) {
      if (editorOf(event.target) === null) last = null;
      const canvas = canvasOf(event.target);
      if (canvas === null) return;
      stop(event);
      if (event.button !== 0) event.preventDefault();
      canvas.focus({ preventScroll: true });
      flush();
      held = canvas;
      const button = BUTTONS[event.button] ?? "left";
      model.send({ event: "press", at: place(event, canvas), button, modifiers: modifiers(event) });
    },
    mousemove(event) {
      const canvas = held ?? canvasOf(event.target);
      if (canvas === null) return;
      stop(event);
      hovering = true;
      points.push(place(event, canvas));
      soon();
    },
    mouseup(event) {
      if (held === null) return;
      stop(event);
      flush();
      model.send({ event: "release", at: place(event, held) });
      held = null;
    },
    mouseout(event) {
      if (canvasOf(event.target) === null) return;
      stop(event);
      if (held !== null || !hovering) return;
      flush();
      hovering = false;
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
      steps += wheelSteps(event);
      wheelAt = { at: place(event, canvas), modifiers: modifiers(event) };
      soon();
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
    observer?.disconnect();
    window.removeEventListener("resize", reportScreen);
    for (const [name, listener] of Object.entries(on)) {
      document.removeEventListener(name, listener, { capture: true });
    }
  };
}

export default { render };
