// Keys of one editor: which reach it, and which belong to JupyterLab or to a field.
// @ts-check

import { isTyping, keyCombination, modifiersOf } from "./input.mjs";
import { CANVAS } from "./picture.mjs";

// On a button or a slider these keep their usual meaning.
const NATIVE = /^(tab|enter| |escape|backspace|delete|home|end|arrow.*|page.*)$/;
const TYPED = "input[type=number], input[type=text], [contenteditable]";
const ONCE = [" ", "enter", "ctrl+enter", "ctrl+s"];

/** The keyboard of one editor. */
export class Keys {
  /**
   * @param {any} model
   * @param {import("./session.mjs").Session} session
   * @param {import("./pointer.mjs").Pointers} pointers
   * @param {() => HTMLElement | null} editor
   */
  constructor(model, session, pointers, editor) {
    this.model = model;
    this.session = session;
    this.pointers = pointers;
    this.editor = editor;
    /** @type {EventTarget | null} */
    this.last = null;
    /** @type {HTMLElement | null} The key in the list that is being chosen anew. */
    this.choosing = null;
    /** @type {Record<string, (event: any) => void>} */
    this.listeners = {
      focusin: (event) => {
        this.last = this.holds(event.target) ? event.target : null;
      },
      mousedown: (event) => {
        if (!this.holds(event.target)) this.last = null;
      },
      click: (event) => this.click(event),
      keydown: (event) => this.down(event),
      keyup: (event) => this.up(event),
    };
  }

  /** @param {EventTarget | null} node */
  holds(node) {
    return node instanceof Node && this.editor()?.contains(node) === true;
  }

  /** @returns {HTMLElement | null} */
  get canvas() {
    return this.editor()?.querySelector(CANVAS) ?? null;
  }

  /**
   * A button that was pressed with the mouse gives the keys back to the picture; one that was reached by
   * keyboard keeps them, and so does a field.
   * @param {MouseEvent} event
   */
  click(event) {
    const target = /** @type {Element} */ (event.target);
    if (!this.holds(target)) return;
    this.choose(/** @type {HTMLElement | null} */ (target.closest(".ctai-sam2-help [data-action]")));
    if (this.choosing !== null || event.detail === 0 || target.closest("button") === null) return;
    this.canvas?.focus({ preventScroll: true });
  }

  /** Wait for another key of an action in the list; the one that waited before keeps its own. @param {HTMLElement | null} button */
  choose(button) {
    this.choosing?.classList.remove("ctai-sam2-choosing");
    this.choosing = button;
    button?.classList.add("ctai-sam2-choosing");
  }

  /** Take the key that was pressed for the action that waits for one. @param {KeyboardEvent} event */
  bind(event) {
    const action = this.choosing?.dataset.action;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    this.choose(null);
    if (event.key === "Escape") return;
    const key = event.key === "Backspace" ? null : keyCombination(event);
    this.session.send({ event: "bind", action, key });
  }

  /** @param {KeyboardEvent} event */
  down(event) {
    if (event.isComposing) return;
    if (this.choosing?.isConnected) {
      this.bind(event);
      return;
    }
    let target = /** @type {HTMLElement} */ (event.target);
    if (target === document.body && this.last !== null) {
      // The button pressed last was disabled or has gone, and the focus with it: it belongs to the picture.
      target = this.canvas ?? target;
      target.focus({ preventScroll: true });
    }
    if (!this.holds(target) || event.altKey) return;
    const onCanvas = target.closest(CANVAS) !== null;
    const combination = keyCombination(event);
    if (onCanvas && combination === " ") this.pointers.space = true;
    if (combination === "escape" && this.pointers.escape()) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    // What was typed is finished: the keys are the picture's again.
    if (target.matches(TYPED) && /^(enter|escape)$/.test(combination)) {
      requestAnimationFrame(() => this.canvas?.focus({ preventScroll: true }));
    }
    const isOfField = isTyping(target) || NATIVE.test(event.key.toLowerCase());
    if (!onCanvas && combination !== "ctrl+s" && isOfField) return;
    // Ipycanvas would swallow every key, Tab too.
    if (onCanvas) event.stopImmediatePropagation();
    if (!this.model.get("shortcuts").includes(combination)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.repeat && ONCE.includes(combination)) return;
    this.pointers.endRest();
    this.session.send({ event: "key", key: event.key, modifiers: modifiersOf(event), pressed: true });
  }

  /** @param {KeyboardEvent} event */
  up(event) {
    if (event.key !== " ") return;
    this.pointers.space = false;
    if (/** @type {Element} */ (event.target).closest?.(CANVAS) == null || !this.holds(event.target)) return;
    this.session.send({ event: "key", key: " ", modifiers: modifiersOf(event), pressed: false });
  }
}
