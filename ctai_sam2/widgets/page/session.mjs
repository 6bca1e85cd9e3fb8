// What the page and Python owe each other: numbered messages, and what is shown until Python has taken them.
// @ts-check

const WAITS_MS = 900;

/**
 * @typedef {import("./input.mjs").Point} Point
 * @typedef {{kind: string, points: Point[], scales: number[], color: string, radius_mm: number, number: number}} Gesture
 *   A gesture in image coordinates, with the brush's size at each point; `number` is its message's, 0 before.
 * @typedef {{px_per_mm: number, pan: Point, index: number, level: number, width: number}} Look
 */

/** The view that Python sent, the one the page shows ahead of it, and the gestures that are on their way. */
export class Session {
  /**
   * @param {any} model
   * @param {(isShown: boolean) => void} showWaiting
   */
  constructor(model, showWaiting) {
    this.model = model;
    this.showWaiting = showWaiting;
    // A page that is loaded anew counts on from what Python has taken up.
    this.number = this.taken;
    /** @type {Gesture | null} */
    this.live = null;
    /** @type {Gesture[]} */
    this.echoes = [];
    /** @type {Look | null} */
    this.ahead = null;
    this.aheadNumber = 0;
    /** Number of the case that is seen: what is done on the page is meant for it. @type {number} */
    this.series = this.view.series;
    this.isSeriesTold = false;
    /** @type {number[]} */
    this.timers = [];
  }

  /** @returns {any} */
  get view() {
    return this.model.get("view");
  }

  /** Number of the last message that Python took. @returns {number} */
  get taken() {
    return this.model.get("taken");
  }

  /** How the slice is to be looked at now. @returns {Look} */
  get look() {
    return this.ahead ?? this.committed;
  }

  /** @returns {Look} */
  get committed() {
    const { px_per_mm, pan, level, width } = this.view;
    return { px_per_mm, pan, index: this.model.get("index"), level, width };
  }

  /** Show a view ahead of Python, until a message that says so is taken. @param {Partial<Look>} changes */
  lookAhead(changes) {
    this.ahead = { ...this.look, ...changes };
    this.aheadNumber = Infinity;
  }

  /** @param {object} content @param {ArrayBuffer[]} buffers */
  send(content, buffers = []) {
    this.model.send({ series: this.series, ...content }, undefined, buffers);
  }

  /** A case is seen from now on; Python is told. @param {number} series */
  see(series) {
    if (this.isSeriesTold && series === this.series) return;
    [this.series, this.isSeriesTold] = [series, true];
    this.send({ event: "shows" });
  }

  /**
   * Send what Python confirms; while it does not, say so.
   * @param {object} content @param {ArrayBuffer[]} buffers
   */
  sendNumbered(content, buffers = []) {
    this.number += 1;
    const mine = this.number;
    this.send({ ...content, number: mine }, buffers);
    this.timers.push(window.setTimeout(() => this.showWaiting(this.taken < mine), WAITS_MS));
    return mine;
  }

  /** Send a view that is shown ahead. @param {object} content @param {ArrayBuffer[]} buffers */
  sendAhead(content, buffers = []) {
    this.aheadNumber = this.sendNumbered(content, buffers);
  }

  /** Forget what Python has taken and drawn by now. @param {number} taken */
  settle(taken) {
    this.echoes = this.echoes.filter((gesture) => gesture.number > taken);
    if (this.aheadNumber <= taken) this.ahead = null;
  }

  /** Stop saying that Python is waited for, once everything is taken. */
  take() {
    if (this.taken < this.number) return;
    this.timers.forEach((timer) => clearTimeout(timer));
    this.timers = [];
    this.showWaiting(false);
  }

  close() {
    this.timers.forEach((timer) => clearTimeout(timer));
  }
}

/**
 * A canvas point in image coordinates (integer: a pixel's centre).
 * @param {Point} at @param {{px_per_mm: number, pan: number[]}} look @param {number[]} spacing
 * @returns {Point}
 */
export function toImage(at, look, spacing) {
  const along = (/** @type {0 | 1} */ i) => (at[i] - look.pan[i]) / (look.px_per_mm * spacing[i]) - 0.5;
  return [along(0), along(1)];
}

/**
 * An image point on the canvas.
 * @param {number[]} at @param {{px_per_mm: number, pan: number[]}} look @param {number[]} spacing
 * @returns {Point}
 */
export function toScreen(at, look, spacing) {
  const along = (/** @type {0 | 1} */ i) => (at[i] + 0.5) * look.px_per_mm * spacing[i] + look.pan[i];
  return [along(0), along(1)];
}
