// Tells Python what ipycanvas does not: button, modifiers, where the wheel turned, key releases, and the
// screen's pixel ratio. While it is on the page it alone reports the mouse, so no event arrives twice.
const EDITOR = ".ctai-sam2-editor";
const CANVAS = "canvas.ctai-sam2-canvas";
const BUTTONS = ["left", "middle", "right"];
const PIXELS_PER_STEP = 100;
const LINES_PER_STEP = 3;
// On a button or a slider these keep their usual meaning.
const NATIVE = /^(tab|enter| |escape|backspace|delete|home|end|arrow.*|page.*)$/;

function render({ model, el }) {
  el.style.display = "none";
  let held = null;
  let hovering = false;
  let last = null;
  let points = [];
  let steps = 0;
  let wheelAt = null;
  let frame = 0;

  const editorOf = (node) => {
    const editor = node instanceof Element ? node.closest(EDITOR) : null;
    return editor !== null && editor.contains(el) ? editor : null;
  };
  const canvasOf = (node) => (editorOf(node) === null ? null : node.closest(CANVAS));
  const modifiers = (event) =>
    ["shift", "ctrl", "alt", "meta"].filter((name) => event[`${name}Key`]);
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
      steps -= event.deltaY / (event.deltaMode === 0 ? PIXELS_PER_STEP : LINES_PER_STEP);
      wheelAt = { at: place(event, canvas), modifiers: modifiers(event) };
      soon();
    },
    focusin(event) {
      last = editorOf(event.target) === null ? null : event.target;
    },
    keydown(event) {
      let target = event.target;
      if (target === document.body && last !== null && (last.disabled || last.offsetParent === null)) {
        // The button pressed last has gone, and the focus with it: it belongs to the picture now.
        target = last.closest(EDITOR)?.querySelector(CANVAS) ?? target;
        target.focus({ preventScroll: true });
      }
      if (editorOf(target) === null || event.altKey) return;
      const onCanvas = canvasOf(target) !== null;
      const key = event.key.toLowerCase();
      if (!onCanvas && (target.matches("input, textarea, select") || NATIVE.test(key))) return;
      const isWord = key.length > 1 || /[a-z]/.test(key);
      const combination =
        (event.ctrlKey || event.metaKey ? "ctrl+" : "") + (event.shiftKey && isWord ? "shift+" : "") + key;
      // Ipycanvas would swallow every key, Tab too.
      if (onCanvas) stop(event);
      if (!model.get("shortcuts").includes(combination)) return;
      event.preventDefault();
      stop(event);
      if (event.repeat && key === " ") return;
      model.send({ event: "key", key: event.key, modifiers: modifiers(event), pressed: true });
    },
    keyup(event) {
      if (event.key !== " " || canvasOf(event.target) === null) return;
      model.send({ event: "key", key: " ", modifiers: modifiers(event), pressed: false });
    },
  };
  const onResize = () => model.send({ event: "screen", pixel_ratio: window.devicePixelRatio });

  for (const [name, listener] of Object.entries(on)) {
    document.addEventListener(name, listener, { capture: true, passive: false });
  }
  window.addEventListener("resize", onResize);
  onResize();

  // JupyterLab's own one-letter keys (x cuts the cell) must not act inside of the editor.
  let waiting = 0;
  const claimKeys = () => {
    const editor = el.closest(EDITOR);
    if (editor === null) waiting = requestAnimationFrame(claimKeys);
    else editor.setAttribute("data-lm-suppress-shortcuts", "true");
  };
  claimKeys();

  return () => {
    cancelAnimationFrame(frame);
    cancelAnimationFrame(waiting);
    window.removeEventListener("resize", onResize);
    for (const [name, listener] of Object.entries(on)) {
      document.removeEventListener(name, listener, { capture: true });
    }
  };
}

export default { render };
