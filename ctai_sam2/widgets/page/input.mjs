// What keys, wheel and pointers mean; pure functions.
// @ts-check

const PIXELS_PER_STEP = 100;
const LINES_PER_STEP = 3;
const TYPING = "input, textarea, select, [contenteditable]";
const FULL_PRESSURE = 0.5;
const MIN_PRESSURE_SCALE = 0.2;
const THIN_PX = 0.75;
const BUTTONS = /** @type {const} */ (["left", "middle", "right"]);
const ERASER_BUTTON = 5;

/** @typedef {[number, number]} Point */
/** @typedef {{px_per_mm: number, pan: Point}} Viewport */

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
 * The names of the modifiers that are held.
 * @param {any} event
 */
export function modifiersOf(event) {
  return ["shift", "ctrl", "alt", "meta"].filter((name) => event[`${name}Key`]);
}

/**
 * Which button a pointer pressed: a pen's eraser end does the opposite of what draws, as the right button.
 * @param {{button: number, buttons: number, pointerType: string}} event
 * @param {string} tool
 */
export function buttonOf(event, tool) {
  const isEraser = event.pointerType === "pen" && (event.button === ERASER_BUTTON || (event.buttons & 32) !== 0);
  if (isEraser) return tool === "eraser" ? "left" : "right";
  return BUTTONS[event.button] ?? "left";
}

/**
 * How wide a pen draws, as a share of the brush: all of it from half pressure on.
 * @param {{pressure: number, pointerType: string}} event
 */
export function pressureScale(event) {
  if (event.pointerType !== "pen" || event.pressure === 0) return 1;
  const scale = Math.min(Math.max(event.pressure / FULL_PRESSURE, MIN_PRESSURE_SCALE), 1);
  return Math.round(scale * 32) / 32;
}

/**
 * Which gesture the page draws by itself; null for one that Python draws.
 * @param {{tool: string, locked: boolean}} view
 * @param {string} button
 * @param {boolean} space whether space is held
 */
export function gestureOf(view, button, space) {
  if (button === "middle" || space || view.tool === "pan") return "pan";
  if (view.tool === "window") return "window";
  if (view.locked) return null;
  /** @type {Record<string, string>} */
  const kinds = { brush: "stroke", eraser: "stroke", lasso: "lasso", rectangle: "rectangle", box: "rectangle" };
  return kinds[view.tool] ?? null;
}

/**
 * Whether a place is far enough from the one before to be kept; nearer ones cost messages and draw nothing.
 * @param {Point} before
 * @param {Point} at
 */
export function isApart(before, at) {
  return Math.hypot(at[0] - before[0], at[1] - before[1]) >= THIN_PX;
}

/**
 * Zoom about a point that stays in place.
 * @param {Viewport} view
 * @param {number} factor
 * @param {Point} at in canvas coordinates
 * @param {number[]} limits smallest and largest zoom
 * @returns {Viewport}
 */
export function zoomed(view, factor, at, limits) {
  const zoom = Math.min(Math.max(view.px_per_mm * factor, limits[0]), limits[1]);
  const ratio = zoom / view.px_per_mm;
  const along = (/** @type {0 | 1} */ i) => at[i] + (view.pan[i] - at[i]) * ratio;
  return { px_per_mm: zoom, pan: [along(0), along(1)] };
}

/**
 * Zoom and pan of two fingers: what lies under each of them stays there.
 * @param {Viewport} view where it began
 * @param {Point[]} from the fingers when it began
 * @param {Point[]} to where they are
 * @param {number[]} limits smallest and largest zoom
 * @returns {Viewport}
 */
export function pinched(view, from, to, limits) {
  const apart = (/** @type {Point[]} */ two) => Math.hypot(two[1][0] - two[0][0], two[1][1] - two[0][1]);
  const middle = (/** @type {Point[]} */ two) => [(two[0][0] + two[1][0]) / 2, (two[0][1] + two[1][1]) / 2];
  const [start, end] = [middle(from), middle(to)];
  const now = zoomed(view, apart(to) / Math.max(apart(from), 1), /** @type {Point} */ (start), limits);
  return { px_per_mm: now.px_per_mm, pan: [now.pan[0] + end[0] - start[0], now.pan[1] + end[1] - start[1]] };
}

/**
 * The window that a drag comes to: sideways for the width (2 HU a pixel), up and down for the level.
 * @param {{level: number, width: number}} start
 * @param {Point} from
 * @param {Point} to
 */
export function windowDragged(start, from, to) {
  return {
    width: Math.min(Math.max(start.width + 2 * (to[0] - from[0]), 1), 10000),
    level: Math.min(Math.max(start.level + (to[1] - from[1]), -5000), 5000),
  };
}

/**
 * Whole steps of a wheel that turns by parts; a turn back forgets the part before.
 * @param {number} kept part of a step that is left from before
 * @param {number} turned
 */
export function wholeSteps(kept, turned) {
  const sum = (kept * turned < 0 ? 0 : kept) + Math.min(Math.max(turned, -100), 100);
  const whole = Math.trunc(sum) + 0;
  return { whole, kept: sum - whole };
}

/**
 * Numbers for Python: of half the size where nothing is lost, as with places on whole parts of a pixel.
 * @param {number[][]} lists
 */
export function packedNumbers(...lists) {
  const isExact = lists.flat().every((value) => value === Math.fround(value));
  const buffers = lists.map((values) => (isExact ? new Float32Array(values) : new Float64Array(values)).buffer);
  return { dtype: isExact ? "<f4" : "<f8", buffers };
}
