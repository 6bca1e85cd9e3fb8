// Pure parts of the page side, by node's own test runner.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { deflateSync } from "node:zlib";
import test from "node:test";

import {
  Session,
  SliceStore,
  buttonOf,
  closesPolygon,
  editorHeight,
  gestureOf,
  greyPixels,
  isApart,
  keyCombination,
  nextWanted,
  packedNumbers,
  pinched,
  pressureScale,
  takeApart,
  toImage,
  toScreen,
  unpackBundle,
  unpackSlice,
  wheelSteps,
  wholeSteps,
  windowDragged,
  zoomed,
} from "./companion.mjs";

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
  assert.equal(gestureOf(view("window", true), "left", false), "window");
});

test("grey values are those of Python, bit for bit", async () => {
  for (const { packed, grey, ...content } of JSON.parse(readFileSync(new URL("greys.json", import.meta.url)))) {
    const bytes = new Uint8Array(Buffer.from(packed, "hex"));
    const slice = await unpackSlice(new DataView(bytes.buffer), content);
    const { pixels } = greyPixels(slice, content, 1);
    const wanted = Buffer.from(grey, "hex");
    assert.equal(pixels.length, wanted.length);
    const wrong = wanted.findIndex((value, i) => pixels[i] !== (0xff000000 | (value * 0x10101)) >>> 0);
    assert.equal(wrong, -1, `${content.dtype}, level ${content.level}, width ${content.width}`);
    const half = greyPixels(slice, content, 2);
    assert.equal(half.pixels[half.width], pixels[2 * slice.width]);
  }
});

test("the slice in view is asked for first, then its neighbours, as many as are kept", () => {
  const has = new Set([5, 6]);
  assert.equal(nextWanted((i) => has.has(i), 5, 9, 41), 4);
  assert.equal(nextWanted(() => false, 5, 9, 1), 5);
  assert.equal(nextWanted((i) => has.has(i), 5, 7, 3), 4);
  assert.equal(nextWanted(() => true, 0, 9, 41), null);
  const store = new SliceStore();
  store.follow(3);
  for (let index = 0; index < 9; index += 1) {
    store.put(index, { hu: new Int16Array(8e6), height: 1, width: 8e6 }, 8);
  }
  assert.deepEqual([...store.slices.keys()].sort(), [5, 6, 7, 8]);
  store.follow(4);
  assert.ok(!store.has(8));
});

test("two fingers zoom and pan, and what lies under them stays there", () => {
  const view = { px_per_mm: 2, pan: [10, 20] };
  const [from, to] = [[[100, 100], [200, 100]], [[90, 130], [290, 130]]];
  const now = pinched(view, from, to, [0.05, 200]);
  assert.equal(now.px_per_mm, 4);
  for (const finger of [0, 1]) {
    assert.deepEqual(toImage(from[finger], view, [1, 1]), toImage(to[finger], now, [1, 1]));
  }
  const [x, y] = toScreen(toImage([33, 44], view, [0.7, 5]), view, [0.7, 5]);
  assert.ok(Math.abs(x - 33) < 1e-9 && Math.abs(y - 44) < 1e-9);
});

test("a pen's eraser end does the opposite, and its pressure thins the brush", () => {
  const pen = { pointerType: "pen", button: 5, buttons: 32, pressure: 0.25 };
  assert.equal(buttonOf(pen, "brush"), "right");
  assert.equal(buttonOf(pen, "eraser"), "left");
  assert.equal(buttonOf({ ...pen, button: 0, buttons: 1 }, "brush"), "left");
  assert.equal(buttonOf({ pointerType: "mouse", button: 1, buttons: 4 }, "brush"), "middle");
  assert.equal(pressureScale(pen), 0.5);
  assert.equal(pressureScale({ ...pen, pressure: 0.9 }), 1);
  assert.equal(pressureScale({ ...pen, pressure: 0.01 }), 0.1875);
  assert.equal(pressureScale({ pointerType: "mouse", pressure: 0.5 }), 1);
});

test("window, wheel and polygon as Python's tools have them", () => {
  const start = { level: 40, width: 400 };
  assert.deepEqual(windowDragged(start, [10, 10], [30, 5]), { level: 35, width: 440 });
  assert.equal(windowDragged(start, [0, 0], [-900, 0]).width, 1);
  assert.deepEqual(wholeSteps(0.5, 0.75), { whole: 1, kept: 0.25 });
  assert.deepEqual(wholeSteps(0.5, -0.25), { whole: 0, kept: -0.25 });
  const corners = [[0, 0], [50, 0], [50, 50]];
  assert.ok(closesPolygon(corners, [6, 8], 10));
  assert.ok(!closesPolygon(corners.slice(0, 2), [0, 0], 10));
  assert.ok(!isApart([0, 0], [0.5, 0.5]) && isApart([0, 0], [0.75, 0]));
});

test("numbers go out at half the size where nothing is lost", () => {
  const whole = packedNumbers([1, 2.5, 300.015625], [0.25]);
  assert.equal(whole.dtype, "<f4");
  assert.deepEqual([...new Float32Array(whole.buffers[0])], [1, 2.5, 300.015625]);
  const parts = packedNumbers([1, 0.1], [0.25]);
  assert.equal(parts.dtype, "<f8");
  assert.deepEqual([...new Float64Array(parts.buffers[0])], [1, 0.1]);
  assert.deepEqual([...new Float64Array(parts.buffers[1])], [0.25]);
});

test("a bundle is taken apart in its order, each widget with its own buffers", async () => {
  const parts = [
    ["a", { method: "custom", content: 1 }, 2],
    ["gone", { method: "update", state: {} }, 1],
    ["b", { method: "update", state: { x: 1 } }, 0],
    ["a", { method: "custom", content: 2 }, 1],
  ];
  const pieces = [Buffer.from(JSON.stringify(parts)), ...["one", "second", "-", "last"].map((each) => Buffer.from(each))];
  const sizes = pieces.map((piece) => piece.length);
  for (const deflated of [true, false]) {
    const whole = Buffer.concat(pieces);
    const packed = new Uint8Array(deflated ? deflateSync(whole) : whole);
    // As a part of a larger message.
    const around = new Uint8Array(packed.length + 6);
    around.set(packed, 3);
    const bundle = await unpackBundle({ sizes, deflated }, new DataView(around.buffer, 3, packed.length));
    const taken = [];
    await takeApart(bundle.parts, bundle.pieces, async (id) => {
      if (id === "gone") throw new Error("no such widget");
      return {
        _handle_comm_msg: (message) =>
          taken.push([id, message.content.data, message.buffers.map((each) => Buffer.from(each.buffer).toString())]),
      };
    });
    assert.deepEqual(taken, [
      ["a", parts[0][1], ["one", "second"]],
      ["b", parts[2][1], []],
      ["a", parts[3][1], ["last"]],
    ]);
  }
});

test("what is sent names the case that is seen, and a case is told once", () => {
  const sent = [];
  const state = { view: { series: 4 }, taken: 0, index: 0 };
  const session = new Session({ get: (name) => state[name], send: (content) => sent.push(content) }, () => {});
  session.see(4);
  session.see(4);
  state.view = { series: 5 };
  session.send({ event: "key", key: "Enter" });
  session.see(5);
  session.send({ event: "key", key: "Enter" });
  assert.deepEqual(
    sent.map(({ event, series }) => [event, series]),
    [["shows", 4], ["key", 4], ["shows", 5], ["key", 5]],
  );
});
