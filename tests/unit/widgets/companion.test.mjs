// Pure parts of the page side, by node's own test runner.
import assert from "node:assert/strict";
import test from "node:test";

import { editorHeight, gestureOf, keyCombination, wheelSteps, zoomed } from "./companion.mjs";

const key = (name, held = {}) =>
  keyCombination({ key: name, ctrlKey: false, metaKey: false, shiftKey: false, ...held });

test("the wheel counts sideways where the browser turns it so", () => {
  assert.equal(wheelSteps({ deltaX: 0, deltaY: 100, deltaMode: 0 }), -1);
  assert.equal(wheelSteps({ deltaX: -200, deltaY: 0, deltaMode: 0 }), 2);
  assert.equal(wheelSteps({ deltaX: 0, deltaY: -3, deltaMode: 1 }), 1);
});

test("keys are written as in the table of actions", () => {
  assert.equal(key("Z", { ctrlKey: true, shiftKey: true }), "ctrl+shift+z");
  assert.equal(key("s", { metaKey: true }), "ctrl+s");
  assert.equal(key("?", { shiftKey: true }), "?");
  assert.equal(key("ArrowLeft", { shiftKey: true }), "shift+arrowleft");
});

test("the editor is as high as what is visible, with its code where there is room for both", () => {
  assert.equal(editorHeight(700, 100), 586);
  assert.equal(editorHeight(700, 400), 686);
  assert.equal(editorHeight(200, 0), 380);
});

test("zoom keeps the point under the pointer and stays within its limits", () => {
  const view = { px_per_mm: 2, pan: [10, 20] };
  const at = [110, 70];
  const now = zoomed(view, 1.5, at, [0.05, 200]);
  assert.equal(now.px_per_mm, 3);
  for (const i of [0, 1]) {
    assert.ok(Math.abs((at[i] - view.pan[i]) / 2 - (at[i] - now.pan[i]) / 3) < 1e-9);
  }
  assert.equal(zoomed(view, 1e9, at, [0.05, 200]).px_per_mm, 200);
});

test("the page draws what it can, and nothing on a locked label", () => {
  const view = (tool, locked = false) => ({ tool, locked });
  assert.equal(gestureOf(view("brush"), "left", false), "stroke");
  assert.equal(gestureOf(view("brush", true), "left", false), null);
  assert.equal(gestureOf(view("brush", true), "middle", false), "pan");
  assert.equal(gestureOf(view("click"), "left", true), "pan");
  assert.equal(gestureOf(view("polygon"), "left", false), null);
});
