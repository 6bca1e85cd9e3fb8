// The page side of the editor: it keeps the picture as large as what is visible, draws at the display's rate
// what must follow the pointer, and reports the rest. A finished gesture is one message; Python decides.
// @ts-check

import { takeBundles } from "./bundle.mjs";
import { Keys } from "./keys.mjs";
import { followSize } from "./layout.mjs";
import { CANVAS, Picture } from "./picture.mjs";
import { Pointers } from "./pointer.mjs";
import { nameParts } from "./roles.mjs";
import { Session } from "./session.mjs";

const EDITOR = ".ctai-sam2-editor";
const NAMES_REST_MS = 300;
const VIEW_CHANGES = "change:view change:index change:taken";

/** @param {{model: any, el: HTMLElement}} context */
function render({ model, el }) {
  el.style.display = "none";
  const editor = () => /** @type {HTMLElement | null} */ (el.closest(EDITOR));
  const part = (/** @type {string} */ name) => {
    const stage = editor()?.querySelector(".ctai-sam2-stage") ?? null;
    let found = stage?.querySelector(`.${name}`) ?? null;
    if (found === null && stage !== null) {
      found = document.createElement("div");
      found.className = name;
      stage.append(found);
    }
    return /** @type {HTMLElement | null} */ (found);
  };
  const showWaiting = (/** @type {boolean} */ isShown) => {
    const badge = isShown ? part("ctai-sam2-waiting") : editor()?.querySelector(".ctai-sam2-waiting");
    if (!(badge instanceof HTMLElement)) return;
    badge.textContent = model.get("view").waiting;
    badge.style.display = isShown ? "block" : "none";
  };
  const session = new Session(model, showWaiting);
  const picture = new Picture(model, session, () => editor()?.querySelector(CANVAS) ?? null);
  const isMine = (/** @type {EventTarget | null} */ node) => node instanceof Node && editor()?.contains(node) === true;
  const pointers = new Pointers(model, session, picture, isMine, part);
  const keys = new Keys(model, session, pointers, editor);

  let naming = 0;
  const nameSoon = () => {
    clearTimeout(naming);
    // The words of other widgets come with the view, and a moment later.
    naming = window.setTimeout(() => {
      const root = editor();
      if (root !== null) nameParts(root, session.view.title);
    }, NAMES_REST_MS);
  };
  const onView = () => {
    nameSoon();
    session.take();
    picture.ask();
    const { taken } = session;
    const { series } = session.view;
    // What a press on the picture will do, for styles and for tests.
    editor()?.setAttribute("data-tool", session.view.tool);
    editor()?.style.setProperty("--ctai-sam2-line", `${model.get("line")}%`);
    // What Python has taken is on the picture once its drawings are done.
    const settle = () => {
      session.settle(taken);
      const place = editor()?.querySelector(".ctai-sam2-place");
      if (session.ahead === null && place instanceof HTMLElement) place.style.display = "none";
      picture.paint();
      session.see(series);
    };
    const { stream } = picture.parts ?? {};
    if (stream === undefined) settle();
    else stream.currentProcessing.then(settle);
  };
  // Which of Python's pictures is seen, for tests.
  const onBundle = () => {
    const number = model.get("bundles");
    const drawn = picture.parts?.stream.currentProcessing ?? Promise.resolve();
    drawn.then(() => editor()?.setAttribute("data-drawn", `${number}`));
  };
  const reportScreen = () => session.send({ event: "screen", pixel_ratio: window.devicePixelRatio });

  const listeners = [...Object.entries(keys.listeners), ...Object.entries(pointers.listeners)];
  for (const [name, listener] of listeners) {
    document.addEventListener(name, listener, { capture: true, passive: false });
  }
  window.addEventListener("resize", reportScreen);
  reportScreen();
  model.on(VIEW_CHANGES, onView);
  model.on("change:bundles", onBundle);
  onView();
  // Where the canvases cannot be reached Python draws everything.
  picture.find().catch(() => {});
  const endSize = followSize({ model, find: editor });

  return () => {
    endSize();
    clearTimeout(naming);
    picture.close();
    pointers.close();
    session.close();
    model.off(VIEW_CHANGES, onView);
    model.off("change:bundles", onBundle);
    window.removeEventListener("resize", reportScreen);
    for (const [name, listener] of listeners) {
      document.removeEventListener(name, listener, { capture: true });
    }
  };
}

/** Once for each page, whether the editor is in view or not. @param {{model: any}} context */
function initialize({ model }) {
  return takeBundles(model);
}

export default { initialize, render };
