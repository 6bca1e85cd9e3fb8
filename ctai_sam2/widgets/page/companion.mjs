// The page side of the editor: it keeps the picture as large as what is visible, draws at the display's rate
// what must follow the pointer, and reports the rest. A finished gesture is one message; Python decides.
// @ts-check

import { Keys } from "./keys.mjs";
import { followSize } from "./layout.mjs";
import { CANVAS, Picture } from "./picture.mjs";
import { Pointers } from "./pointer.mjs";
import { Session } from "./session.mjs";

const EDITOR = ".ctai-sam2-editor";
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

  const onView = () => {
    session.take();
    picture.ask();
    const { taken } = session;
    editor()?.style.setProperty("--ctai-sam2-line", `${model.get("line")}%`);
    // What Python has taken is on the picture once its drawings are done.
    const settle = () => {
      session.settle(taken);
      const place = editor()?.querySelector(".ctai-sam2-place");
      if (session.ahead === null && place instanceof HTMLElement) place.style.display = "none";
      picture.paint();
    };
    const { stream } = picture.parts ?? {};
    if (stream === undefined) settle();
    else stream.currentProcessing.then(settle);
  };
  const reportScreen = () => session.send({ event: "screen", pixel_ratio: window.devicePixelRatio });

  const listeners = [...Object.entries(keys.listeners), ...Object.entries(pointers.listeners)];
  for (const [name, listener] of listeners) {
    document.addEventListener(name, listener, { capture: true, passive: false });
  }
  window.addEventListener("resize", reportScreen);
  reportScreen();
  model.on(VIEW_CHANGES, onView);
  onView();
  // Where the canvases cannot be reached Python draws everything.
  picture.find().catch(() => {});
  const endSize = followSize({ model, find: editor });

  return () => {
    endSize();
    picture.close();
    pointers.close();
    session.close();
    model.off(VIEW_CHANGES, onView);
    window.removeEventListener("resize", reportScreen);
    for (const [name, listener] of listeners) {
      document.removeEventListener(name, listener, { capture: true });
    }
  };
}

export default { render };
