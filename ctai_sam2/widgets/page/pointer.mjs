// Mouse, pen, fingers and wheel: gestures that the page draws by itself, and events for Python.
// @ts-check

import {
  buttonOf,
  gestureOf,
  isApart,
  modifiersOf,
  packedNumbers,
  pinched,
  pressureScale,
  wheelSteps,
  wholeSteps,
  windowDragged,
  zoomed,
} from "./input.mjs";
import { CANVAS, ERASES } from "./picture.mjs";
import { toImage } from "./session.mjs";

/**
 * @typedef {import("./input.mjs").Point} Point
 * @typedef {import("./picture.mjs").Picture} Picture
 * @typedef {import("./session.mjs").Session} Session
 * @typedef {import("./session.mjs").Look} Look
 */

const HOVER_EVERY_MS = 80;
const WHEEL_RESTS_MS = 120;
const WHEEL_FACTOR = 1.15;
const TAP_PX = 8;

/** Pointers of one editor. While this listens, ipycanvas hears of none, so that no event arrives twice. */
export class Pointers {
  /**
   * @param {any} model
   * @param {Session} session
   * @param {Picture} picture
   * @param {(node: EventTarget | null) => boolean} isMine whether a node is a part of this editor
   * @param {(name: string) => HTMLElement | null} part a part of the page over the picture
   */
  constructor(model, session, picture, isMine, part) {
    this.model = model;
    this.session = session;
    this.picture = picture;
    this.isMine = isMine;
    this.part = part;
    this.space = false;
    /** @type {any} The drag under way: its pointer, button, kind, places on the canvas, and where it began. */
    this.drag = null;
    /** @type {Map<number, Point>} */
    this.fingers = new Map();
    /** @type {any} */
    this.pinch = null;
    /** @type {Point[]} */
    this.moves = [];
    this.frame = 0;
    this.isHovering = false;
    /** @type {Point | null} */
    this.hoverAt = null;
    this.hoverTimer = 0;
    this.restTimer = 0;
    this.wheelKept = 0;
    /** @type {(() => void) | null} */
    this.rest = null;
    this.restKind = "";
    const stop = (/** @type {Event} */ event) => {
      if (this.canvasOf(event.target) !== null) event.stopImmediatePropagation();
    };
    const stopTouch = (/** @type {Event} */ event) => {
      if (this.canvasOf(event.target) === null) return;
      event.stopImmediatePropagation();
      if (event.cancelable) event.preventDefault();
    };
    /** @type {Record<string, (event: any) => void>} */
    this.listeners = {
      pointerdown: (event) => this.down(event),
      pointermove: (event) => this.move(event),
      pointerup: (event) => this.up(event),
      pointercancel: (event) => this.cancel(event),
      pointerout: (event) => this.out(event),
      wheel: (event) => this.wheel(event),
      dblclick: (event) => this.double(event),
      contextmenu: (event) => {
        if (this.canvasOf(event.target) !== null) event.preventDefault();
        stop(event);
      },
      ...Object.fromEntries(["mousedown", "mouseup", "mousemove", "mouseout"].map((name) => [name, stop])),
      ...Object.fromEntries(["touchstart", "touchmove", "touchend", "touchcancel"].map((name) => [name, stopTouch])),
    };
  }

  close() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.hoverTimer);
    clearTimeout(this.restTimer);
  }

  /** @param {EventTarget | null} node @returns {HTMLCanvasElement | null} */
  canvasOf(node) {
    return node instanceof Element && this.isMine(node) ? node.closest(CANVAS) : null;
  }

  /** @param {{clientX: number, clientY: number}} event @param {HTMLCanvasElement} canvas @returns {Point} */
  place(event, canvas) {
    const box = canvas.getBoundingClientRect();
    // The ratio first: it is 1, and the place then as exact as the browser tells it.
    return [
      (event.clientX - box.left) * (this.model.get("width") / box.width),
      (event.clientY - box.top) * (this.model.get("height") / box.height),
    ];
  }

  /** Show the brush's ring around a place. @param {Point | null} at */
  ringAt(at) {
    const ring = this.part("ctai-sam2-ring");
    if (ring === null) return;
    const { view, look } = this.session;
    const isBrush = at !== null && ["brush", "eraser"].includes(view.tool);
    ring.style.display = isBrush ? "block" : "none";
    if (!isBrush) return;
    const radius = Math.max(view.brush_mm * look.px_per_mm, 1);
    ring.style.width = ring.style.height = `${2 * radius}px`;
    ring.style.borderColor = view.tool === "eraser" ? ERASES : "#FFF";
    ring.style.transform = `translate(${at[0] - radius}px, ${at[1] - radius}px)`;
  }

  // A drag ---------------------------------------------------------------------------------------

  /** @param {PointerEvent} event */
  down(event) {
    // Whatever is pressed acts on the slice and the place that are seen.
    if (this.isMine(event.target)) this.endRest();
    const canvas = this.canvasOf(event.target);
    if (canvas === null) return;
    event.stopImmediatePropagation();
    canvas.focus({ preventScroll: true });
    const at = this.place(event, canvas);
    if (event.pointerType === "touch") {
      // A palm next to a pen draws nothing; two fingers zoom and pan.
      if (this.drag !== null && this.drag.event.pointerType === "pen") return;
      this.fingers.set(event.pointerId, at);
      if (this.fingers.size > 1) {
        this.beginPinch(canvas);
        return;
      }
    }
    try {
      canvas.setPointerCapture(event.pointerId);
    } catch {
      // The pointer has gone, or a script made the event.
    }
    if (this.drag !== null) this.finish(this.drag.points[this.drag.points.length - 1]);
    const { view } = this.session;
    const button = buttonOf(event, view.tool);
    const kind = this.kindOf(button);
    this.drag = { event, canvas, button, kind, points: [at], modifiers: modifiersOf(event), isSent: false };
    this.drag.start = this.session.look;
    if (kind === null) {
      // The first finger may be half of a pinch.
      if (event.pointerType !== "touch") this.press();
      return;
    }
    const opposite = button === "right" || event.shiftKey;
    const erases = (view.tool === "eraser") !== opposite;
    if (kind === "pan" || kind === "window") return;
    const gesture = view.tool === "box" ? "box" : kind;
    const scale = kind === "stroke" ? pressureScale(event) : 1;
    this.session.live = {
      kind: gesture,
      points: [toImage(at, this.drag.start, view.spacing)],
      scales: [scale],
      color: erases ? ERASES : view.color,
      radius_mm: view.brush_mm,
      number: Infinity,
    };
    this.picture.paint();
  }

  /** @param {string} button */
  kindOf(button) {
    const { view, look } = this.session;
    const kind = this.picture.isReady ? gestureOf(view, button, this.space) : null;
    // Without its HU the page cannot show the slice in another window.
    return kind === "window" && !this.picture.store.has(look.index) ? null : kind;
  }

  /** Send the press of a drag that Python draws. */
  press() {
    const { drag, session } = this;
    drag.isSent = true;
    const [at] = drag.points;
    const content = { event: "press", at, button: drag.button, modifiers: drag.modifiers };
    const number = session.sendNumbered(content);
    const { view } = session;
    if (view.tool !== "polygon" || view.locked || !this.picture.isReady) return;
    const points = [toImage(at, session.look, view.spacing)];
    session.echoes.push({ kind: "corner", points, scales: [], color: view.color, radius_mm: 0, number });
    this.picture.request();
  }

  /** @param {PointerEvent} event */
  move(event) {
    const { drag } = this;
    const canvas = drag?.canvas ?? this.canvasOf(event.target);
    if (canvas === null) return;
    event.stopImmediatePropagation();
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, this.place(event, canvas));
    if (this.pinch !== null) {
      this.followPinch();
      return;
    }
    const at = this.place(event, canvas);
    if (event.pointerType !== "touch") this.ringAt(at);
    this.picture.hover = at;
    if (drag === null) {
      if (event.pointerType !== "touch") this.hover(at);
      return;
    }
    if (event.pointerId !== drag.event.pointerId) return;
    if (drag.kind === null) {
      if (!drag.isSent) {
        if (Math.hypot(at[0] - drag.points[0][0], at[1] - drag.points[0][1]) < TAP_PX) return;
        this.press();
      }
      this.moves.push(at);
      this.soon();
      return;
    }
    // All places between two frames, where the browser tells them.
    const between = typeof event.getCoalescedEvents === "function" ? event.getCoalescedEvents() : [];
    for (const each of between.length > 0 ? between : [event]) {
      this.addPlace(this.place(each, canvas), pressureScale(each));
    }
    this.picture.request();
  }

  /** @param {Point} at @param {number} scale */
  addPlace(at, scale) {
    const { drag, session } = this;
    const { live, view } = session;
    if (drag.kind === "pan") {
      const [first] = drag.points;
      const [x, y] = drag.start.pan;
      session.lookAhead({ pan: [x + at[0] - first[0], y + at[1] - first[1]] });
    } else if (drag.kind === "window") {
      drag.points = [drag.points[0], at];
      session.lookAhead(windowDragged(drag.start, drag.points[0], at));
    } else if (live !== null && (drag.kind === "rectangle" || isApart(drag.points[drag.points.length - 1], at))) {
      if (drag.kind === "rectangle") [drag.points.length, live.points.length] = [1, 1];
      drag.points.push(at);
      live.points.push(toImage(at, drag.start, view.spacing));
      live.scales.push(live.kind === "stroke" ? scale : 1);
    }
  }

  /** @param {PointerEvent} event */
  up(event) {
    this.fingers.delete(event.pointerId);
    if (this.pinch !== null) {
      if (this.fingers.size < 2) this.endPinch();
      return;
    }
    const { drag } = this;
    if (drag === null || event.pointerId !== drag.event.pointerId) return;
    event.stopImmediatePropagation();
    this.finish(this.place(event, drag.canvas));
  }

  /** End the drag where the pointer is. @param {Point} at */
  finish(at) {
    const { drag, session, picture } = this;
    if (drag.kind === null) {
      if (!drag.isSent) this.press();
      this.flush();
      this.drag = null;
      session.send({ event: "release", at });
      return;
    }
    const last = drag.points[drag.points.length - 1];
    this.drag = null;
    if (drag.kind === "pan") {
      if (session.ahead === null) return;
      const { px_per_mm, pan } = session.ahead;
      session.sendAhead({ event: "viewport", px_per_mm, pan });
      return;
    }
    const content = { event: "gesture", button: drag.button, modifiers: drag.modifiers };
    if (drag.kind === "window") {
      const places = packedNumbers([drag.points[0], last, last].flat());
      if (session.ahead !== null) session.sendAhead({ ...content, dtype: places.dtype }, places.buffers);
      return;
    }
    const { live } = session;
    session.live = null;
    if (live === null) return;
    const isMoved = at[0] !== last[0] || at[1] !== last[1];
    if (isMoved || drag.points.length === 1) drag.points.push(at);
    if (isMoved) {
      live.points.push(toImage(at, drag.start, session.view.spacing));
      live.scales.push(live.scales[live.scales.length - 1]);
    }
    const isPressed = live.scales.some((scale) => scale !== 1);
    const { dtype, buffers } = packedNumbers(drag.points.flat(), ...(isPressed ? [live.scales] : []));
    live.number = session.sendNumbered({ ...content, dtype }, buffers);
    session.echoes.push(live);
    picture.paint();
  }

  /** Give up the drag that the page draws; whether there was one. */
  escape() {
    return this.drag !== null && this.drag.kind !== null && this.abandon();
  }

  /** Forget the drag: nothing happened. */
  abandon() {
    const { drag, session, picture } = this;
    if (drag === null) return false;
    this.drag = null;
    session.live = null;
    if (drag.kind === "pan" || drag.kind === "window") session.ahead = null;
    if (drag.kind === null && drag.isSent) session.send({ event: "cancel" });
    this.moves = [];
    picture.paint();
    return true;
  }

  /** @param {PointerEvent} event */
  cancel(event) {
    this.fingers.delete(event.pointerId);
    if (this.pinch !== null) this.endPinch();
    else if (this.drag?.event.pointerId === event.pointerId) this.abandon();
  }

  // Hover ----------------------------------------------------------------------------------------

  /** @param {Point} at */
  hover(at) {
    this.isHovering = true;
    this.hoverAt = at;
    if (this.session.view.polygon.points.length > 0 || this.session.echoes.length > 0) this.picture.request();
    if (this.hoverTimer === 0) {
      this.hoverTimer = window.setTimeout(() => {
        this.hoverTimer = 0;
        if (this.hoverAt !== null && this.drag === null) this.session.send({ event: "hover", at: this.hoverAt });
      }, HOVER_EVERY_MS);
    }
  }

  /** @param {PointerEvent} event */
  out(event) {
    if (this.canvasOf(event.target) === null) return;
    event.stopImmediatePropagation();
    if (this.drag !== null || !this.isHovering) return;
    this.isHovering = false;
    this.ringAt(null);
    clearTimeout(this.hoverTimer);
    [this.hoverTimer, this.hoverAt, this.picture.hover] = [0, null, null];
    this.picture.request();
    this.session.send({ event: "leave" });
  }

  /** @param {MouseEvent} event */
  double(event) {
    const canvas = this.canvasOf(event.target);
    if (canvas === null) return;
    event.stopImmediatePropagation();
    this.session.sendNumbered({ event: "double", at: this.place(event, canvas) });
  }

  soon() {
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.flush());
  }

  /** Send the moves of a drag that Python draws. */
  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.moves.length > 0) this.session.send({ event: "move", points: this.moves });
    this.moves = [];
  }

  // Wheel and pinch ------------------------------------------------------------------------------

  /** @param {WheelEvent} event */
  wheel(event) {
    const canvas = this.canvasOf(event.target);
    if (canvas === null) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (this.drag !== null) return;
    const turned = wheelSteps(event);
    const { view } = this.session;
    if (view.count > 1 && (event.shiftKey || (view.scrolls && !event.ctrlKey && !event.metaKey))) {
      const { whole, kept } = wholeSteps(this.wheelKept, turned);
      this.wheelKept = kept;
      if (whole !== 0) this.scroll(whole);
      return;
    }
    const at = this.place(event, canvas);
    if (!this.picture.isReady) {
      this.session.send({ event: "wheel", steps: turned, at, modifiers: modifiersOf(event) });
      return;
    }
    const factor = WHEEL_FACTOR ** Math.max(-20, Math.min(turned, 20));
    this.session.lookAhead(zoomed(this.session.look, factor, at, view.limits));
    this.picture.request();
    this.restThen("zoom", () => this.sendViewport());
  }

  /** Show a slice so many further, at once where the page holds it. @param {number} steps */
  scroll(steps) {
    const { session, picture } = this;
    const { view, look } = session;
    const index = Math.min(Math.max(look.index + steps, 0), view.count - 1);
    if (index === look.index) return;
    session.lookAhead({ index });
    const send = () => session.sendAhead({ event: "slice", index });
    if (!picture.isReady || !picture.store.has(index)) {
      this.endRest();
      send();
      return;
    }
    const place = this.part("ctai-sam2-place");
    if (place !== null) {
      [place.textContent, place.style.display] = [`${index + 1} / ${view.count}`, "block"];
    }
    picture.request();
    this.restThen("slice", send);
  }

  /** Send what the wheel came to, once it rests. @param {string} kind @param {() => void} send */
  restThen(kind, send) {
    if (this.rest !== null && this.restKind !== kind) this.endRest();
    clearTimeout(this.restTimer);
    this.restKind = kind;
    this.rest = send;
    this.restTimer = window.setTimeout(() => this.endRest(), WHEEL_RESTS_MS);
  }

  /** Send now what the wheel came to. */
  endRest() {
    clearTimeout(this.restTimer);
    const send = this.rest;
    this.rest = null;
    send?.();
  }

  sendViewport() {
    const { px_per_mm, pan } = this.session.look;
    this.session.sendAhead({ event: "viewport", px_per_mm, pan });
  }

  /** @param {HTMLCanvasElement} canvas */
  beginPinch(canvas) {
    this.abandon();
    this.endRest();
    if (!this.picture.isReady) return;
    const ids = [...this.fingers.keys()].slice(0, 2);
    this.pinch = { canvas, ids, start: this.session.look, from: ids.map((id) => this.fingers.get(id)) };
  }

  followPinch() {
    const { ids, start, from } = this.pinch;
    const to = ids.map((/** @type {number} */ id) => this.fingers.get(id));
    this.session.lookAhead(pinched(start, from, to, this.session.view.limits));
    this.picture.request();
  }

  endPinch() {
    this.pinch = null;
    // The finger that is left draws nothing: the next gesture begins with a new one.
    this.fingers.clear();
    if (this.session.ahead !== null) this.sendViewport();
  }
}
