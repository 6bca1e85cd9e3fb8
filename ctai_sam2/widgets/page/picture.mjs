// What the page draws itself: the slice in another window, place or zoom, and gestures over it.
// The canvases that Python fills are read and, but for the grey one on request, never written.
// @ts-check

import { SliceStore, greyPixels, unpackSlice } from "./greys.mjs";
import { toScreen } from "./session.mjs";

/**
 * @typedef {import("./input.mjs").Point} Point
 * @typedef {import("./session.mjs").Gesture} Gesture
 * @typedef {import("./session.mjs").Look} Look
 * @typedef {import("./session.mjs").Session} Session
 */

export const CANVAS = "canvas.ctai-sam2-canvas";
export const ERASES = "#D55E00";
const HINT = "#56B4E9";
const FURNITURE = 2;
const CORNER_PX = 3.5;
const ASKS_EVERY_MS = 30;

/** The picture of one editor on this page. */
export class Picture {
  /**
   * @param {any} model
   * @param {Session} session
   * @param {() => HTMLCanvasElement | null} element the canvas that is seen
   */
  constructor(model, session, element) {
    this.model = model;
    this.session = session;
    this.element = element;
    this.store = new SliceStore();
    /** @type {any} Models of the canvases; null where they cannot be reached, and Python draws everything. */
    this.parts = null;
    this.frame = 0;
    this.isOwn = false;
    this.isAsking = false;
    this.timer = 0;
    /** @type {Point | null} */
    this.hover = null;
    this.grey = { canvas: document.createElement("canvas"), key: "", stride: 1 };
    this.request = () => {
      if (this.frame === 0) this.frame = requestAnimationFrame(() => this.paint());
    };
    this.onMessage = (/** @type {any} */ content, /** @type {DataView[]} */ buffers) => this.take(content, buffers);
    this.onFrame = () => {
      // Python drew below what the page shows ahead of it: over it again, before anybody sees it.
      if (this.isOwn) this.request();
    };
  }

  /** Find the models of the canvases that Python fills. */
  async find() {
    const ids = this.model.get("layers");
    const models = await Promise.all(ids.map((/** @type {string} */ id) => this.model.widget_manager.get_model(id)));
    const [grey, masks, others, shown] = models;
    const stream = grey.get("_canvas_manager");
    const layers = shown.get("_canvases");
    const canvases = [grey, masks, others, shown, ...layers].map((each) => each.canvas);
    if (!canvases.every((each) => each instanceof HTMLCanvasElement)) return;
    if (!(stream.currentProcessing instanceof Promise)) return;
    this.parts = { grey, masks, others, shown, stream, layers };
    for (const layer of layers) layer.on("new-frame", this.onFrame);
    this.model.on("msg:custom", this.onMessage);
    this.session.send({ event: "draws" });
    this.ask();
  }

  close() {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.model.off("msg:custom", this.onMessage);
    for (const layer of this.parts?.layers ?? []) layer.off("new-frame", this.onFrame);
  }

  /** Whether the page draws gestures by itself. */
  get isReady() {
    return this.parts !== null;
  }

  // Slices that the page holds ------------------------------------------------------------------

  /** Ask for the next slice; `isNews` says which are held even where nothing is wanted. */
  ask(isNews = false) {
    const { view } = this.session;
    if (!this.isReady || typeof DecompressionStream === "undefined") return;
    if (this.store.series !== view.series) {
      this.store.follow(view.series);
      this.isAsking = false;
    }
    if (this.isAsking) return;
    const next = this.store.wanted(this.session.look.index, view.count);
    if (next === null && !isNews) return;
    this.isAsking = next !== null;
    this.session.send({ event: "holds", series: view.series, indices: [...this.store.slices.keys()], next });
  }

  /** @param {any} content @param {DataView[]} buffers */
  async take(content, buffers) {
    if (content.event === "pixels" && content.series === this.store.series) {
      const slice = await unpackSlice(buffers[0], content);
      this.isAsking = false;
      if (content.series !== this.store.series) return;
      this.store.put(content.index, slice, this.session.look.index);
      this.timer = window.setTimeout(() => this.ask(true), ASKS_EVERY_MS);
    } else if (content.event === "grey") {
      // In its turn among the drawings that are under way already.
      const { stream } = this.parts;
      stream.currentProcessing = stream.currentProcessing.then(() => this.fillGrey(content));
    }
  }

  /**
   * Fill the canvas of grey values, as Python would have by sending them; black where the slice is not here.
   * @param {{series: number, index: number, level: number, width: number}} content
   */
  fillGrey(content) {
    const { canvas } = this.parts.grey;
    const slice = content.series === this.store.series ? this.store.slices.get(content.index) : undefined;
    if (slice === undefined || slice.width !== canvas.width || slice.height !== canvas.height) {
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      this.session.send({ event: "lost", series: content.series });
      return;
    }
    putPixels(canvas, greyPixels(slice, content, 1));
  }

  /** The slice of a look in its window, where the page must make it; null where Python's is the same. @param {Look} look */
  ownGrey(look) {
    const { committed } = this.session;
    if (look.index === committed.index && look.level === committed.level && look.width === committed.width) return null;
    const slice = this.store.slices.get(look.index);
    if (slice === undefined) return null;
    const [sx, sy] = this.session.view.spacing;
    const ratio = this.parts.shown.canvas.width / this.model.get("width");
    const scale = Math.max(sx, sy) * look.px_per_mm * ratio;
    const stride = Math.max(Math.floor(1 / scale), 1);
    const key = [this.store.series, look.index, look.level, look.width, stride].join();
    if (this.grey.key !== key) {
      const made = greyPixels(slice, look, stride);
      [this.grey.canvas.width, this.grey.canvas.height] = [made.width, made.height];
      putPixels(this.grey.canvas, made);
      this.grey = { canvas: this.grey.canvas, key, stride };
    }
    return this.grey;
  }

  // Painting ------------------------------------------------------------------------------------

  /** Draw the picture of this moment: Python's, or what is ahead of it, and the gestures over it. */
  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const canvas = this.element();
    if (canvas === null || !this.isReady) return;
    const { session } = this;
    const gestures = [...session.echoes, ...(session.live === null ? [] : [session.live])];
    const { polygon } = session.view;
    const isAhead = session.ahead !== null && this.canShow(session.ahead);
    const isOwn = isAhead || gestures.length > 0 || polygon.points.length > 0;
    if (!isOwn && !this.isOwn) return;
    this.isOwn = isOwn;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    if (session.ahead === null || !isAhead) {
      // Every pixel replaced, transparent ones too: drawn over, the letters' soft edges would grow.
      context.globalCompositeOperation = "copy";
      context.drawImage(this.parts.shown.canvas, 0, 0);
      context.globalCompositeOperation = "source-over";
    } else {
      this.paintAhead(context, session.ahead);
    }
    const ratio = canvas.width / this.model.get("width");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.lineCap = context.lineJoin = "round";
    for (const gesture of gestures) this.paintGesture(context, gesture);
    this.paintPolygon(context, polygon, gestures);
    context.restore();
  }

  /** Whether the page holds what this look shows. @param {Look} look */
  canShow(look) {
    return look.index === this.session.committed.index || this.store.has(look.index);
  }

  /** @param {CanvasRenderingContext2D} context @param {Look} look */
  paintAhead(context, look) {
    const { shown, grey, masks, others, layers } = this.parts;
    const { committed, view } = this.session;
    const ratio = shown.canvas.width / this.model.get("width");
    context.clearRect(0, 0, shown.canvas.width, shown.canvas.height);
    const [sx, sy] = view.spacing.map((/** @type {number} */ mm) => mm * look.px_per_mm * ratio);
    const own = this.ownGrey(look);
    const stride = own?.stride ?? 1;
    context.setTransform(sx * stride, 0, 0, sy * stride, look.pan[0] * ratio, look.pan[1] * ratio);
    context.imageSmoothingEnabled = view.smooth;
    context.drawImage(own?.canvas ?? grey.canvas, 0, 0);
    context.setTransform(sx, 0, 0, sy, look.pan[0] * ratio, look.pan[1] * ratio);
    context.imageSmoothingEnabled = false;
    // Masks and marks of another slice would be wrong here: Python's come in a moment.
    if (look.index === committed.index) {
      context.drawImage(masks.canvas, 0, 0);
      context.drawImage(others.canvas, 0, 0);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    const isZoomed = look.px_per_mm !== committed.px_per_mm;
    const isMoved = isZoomed || look.pan[0] !== committed.pan[0] || look.pan[1] !== committed.pan[1];
    if (!isZoomed) context.drawImage(layers[FURNITURE].canvas, 0, 0);
    if (!isMoved && look.index === committed.index) {
      for (const layer of layers.slice(FURNITURE + 1)) context.drawImage(layer.canvas, 0, 0);
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {Gesture} gesture */
  paintGesture(context, gesture) {
    const { spacing } = this.session.view;
    const { look } = this.session;
    const points = gesture.points.map((at) => toScreen(at, look, spacing));
    if (gesture.kind === "stroke") {
      paintStroke(context, points, gesture, 2 * gesture.radius_mm * look.px_per_mm);
    } else if (gesture.kind === "rectangle" || gesture.kind === "box" || gesture.kind === "lasso") {
      context.beginPath();
      if (gesture.kind === "lasso") {
        points.forEach(([x, y], i) => (i === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
      } else {
        const [[x0, y0], [x1, y1]] = [points[0], points[points.length - 1]];
        context.rect(x0, y0, x1 - x0, y1 - y0);
      }
      strokeTwice(context, gesture.kind === "box" ? HINT : gesture.color, gesture.kind === "box");
    }
  }

  /**
   * The polygon under way: Python's corners and those on their way to it, with the edge to the pointer.
   * @param {CanvasRenderingContext2D} context
   * @param {{points: Point[], erase: boolean, close_px: number}} polygon
   * @param {Gesture[]} gestures
   */
  paintPolygon(context, polygon, gestures) {
    const { spacing, color } = this.session.view;
    const { look } = this.session;
    const coming = gestures.filter((each) => each.kind === "corner");
    const corners = [...polygon.points, ...coming.flatMap((each) => each.points)].map((at) => toScreen(at, look, spacing));
    if (corners.length === 0) return;
    context.beginPath();
    corners.forEach(([x, y], i) => (i === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
    if (this.hover !== null) context.lineTo(this.hover[0], this.hover[1]);
    strokeTwice(context, polygon.erase ? ERASES : coming[0]?.color ?? color, false);
    context.fillStyle = "#FFF";
    for (const [x, y] of corners) {
      context.beginPath();
      context.arc(x, y, CORNER_PX, 0, 2 * Math.PI);
      context.fill();
    }
    if (this.hover === null || !closesPolygon(corners, this.hover, polygon.close_px)) return;
    context.beginPath();
    context.arc(corners[0][0], corners[0][1], 2.5 * CORNER_PX, 0, 2 * Math.PI);
    [context.strokeStyle, context.lineWidth] = ["#FFF", 2];
    context.stroke();
  }
}

/**
 * Whether a click closes the polygon: near its first corner, once there are three.
 * @param {Point[]} corners in canvas coordinates
 * @param {Point} at
 * @param {number} close_px
 */
export function closesPolygon(corners, at, close_px) {
  return corners.length >= 3 && Math.hypot(at[0] - corners[0][0], at[1] - corners[0][1]) <= close_px;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {{pixels: Uint32Array, width: number, height: number}} made
 */
function putPixels(canvas, made) {
  const bytes = new Uint8ClampedArray(/** @type {ArrayBuffer} */ (made.pixels.buffer));
  canvas.getContext("2d")?.putImageData(new ImageData(bytes, made.width, made.height), 0, 0);
}

/** @param {CanvasRenderingContext2D} context @param {string} color @param {boolean} isDashed */
function strokeTwice(context, color, isDashed) {
  for (const [shade, width] of /** @type {[string, number][]} */ ([["#000", 3.5], [color, 1.5]])) {
    [context.strokeStyle, context.lineWidth] = [shade, width];
    context.setLineDash(isDashed && shade === color ? [6, 4] : []);
    context.stroke();
  }
  context.setLineDash([]);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Point[]} points
 * @param {Gesture} gesture
 * @param {number} width of the whole brush
 */
function paintStroke(context, points, gesture, width) {
  context.globalAlpha = 0.6;
  context.strokeStyle = gesture.color;
  // A line of no length is drawn as nothing; a dab needs one that is there.
  const ends = points.length > 1 ? points.slice(1) : [/** @type {Point} */ ([points[0][0] + 0.01, points[0][1]])];
  const scaleAt = (/** @type {number} */ i) => gesture.scales[Math.min(i + 1, gesture.scales.length - 1)];
  // A path for each run of one width: a single one for a mouse.
  let start = points[0];
  for (let i = 0; i < ends.length; ) {
    const scale = scaleAt(i);
    context.lineWidth = Math.max(width * scale, 1);
    context.beginPath();
    context.moveTo(start[0], start[1]);
    for (; i < ends.length && scaleAt(i) === scale; i += 1) {
      context.lineTo(ends[i][0], ends[i][1]);
      start = ends[i];
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}
