// What Python changes at one time comes as one message, and is handed to each widget as if it had come alone.
// @ts-check

import { inflated } from "./greys.mjs";

/** @typedef {[id: string, data: object, buffers: number]} Part A widget, its message, and how many buffers it has. */

/**
 * Take bundles apart, in the order in which they come.
 * @param {any} model
 * @returns {() => void} ends it
 */
export function takeBundles(model) {
  if (typeof DecompressionStream === "undefined") return () => {};
  let last = model.get("bundles");
  let taken = Promise.resolve();
  const report = () => model.send({ event: "unpacks", bundles: last });
  const onMessage = (/** @type {any} */ content, /** @type {DataView[]} */ buffers) => {
    if (content.event !== "bundle") return;
    taken = taken
      .then(() => unpackBundle(content, buffers[0]))
      .then(({ parts, pieces }) => takeApart(parts, pieces, (id) => model.widget_manager.get_model(id)))
      .catch((error) => console.error("ctai-sam2:", error));
  };
  const onNumber = () => {
    const number = model.get("bundles");
    // One was lost while this page was loaded: Python sends all states.
    if (number > last + 1) report();
    last = number;
  };
  model.on("msg:custom", onMessage);
  model.on("change:bundles", onNumber);
  report();
  return () => {
    model.off("msg:custom", onMessage);
    model.off("change:bundles", onNumber);
  };
}

/**
 * The parts of a bundle, and their buffers.
 * @param {{sizes: number[], deflated: boolean}} content
 * @param {DataView} packed
 * @returns {Promise<{parts: Part[], pieces: DataView[]}>}
 */
export async function unpackBundle(content, packed) {
  const stored = packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.byteLength);
  const whole = content.deflated ? await inflated(packed) : stored;
  let at = 0;
  const pieces = content.sizes.map((size) => {
    at += size;
    // A copy for each: its reader takes all of the memory under it.
    return new DataView(whole.slice(at - size, at));
  });
  return { parts: JSON.parse(new TextDecoder().decode(pieces[0])), pieces: pieces.slice(1) };
}

/**
 * Hand each widget its part. One that this page does not have gets none.
 * @param {Part[]} parts
 * @param {DataView[]} buffers
 * @param {(id: string) => Promise<any>} find
 */
export async function takeApart(parts, buffers, find) {
  let used = 0;
  for (const [id, data, count] of parts) {
    const mine = buffers.slice(used, used + count);
    used += count;
    const message = { content: { comm_id: id, data }, buffers: mine, header: {}, parent_header: {}, metadata: {} };
    try {
      const model = await find(id);
      // A state is taken in its turn among those before it; waiting here would hold up the drawings.
      model._handle_comm_msg(message);
    } catch {
      // A page that is being loaded reads the state itself.
    }
  }
}
