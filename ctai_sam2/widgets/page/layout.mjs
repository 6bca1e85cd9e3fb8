// The editor is as high as what is visible, and Python learns how large the picture is.
// @ts-check

const MIN_HEIGHT_PX = 420;
const MOST_REPEATS = 5;
const ANSWER_MS = 1000;
// What Python sends with nearly every picture is a chance to compare.
const SIZE_CHANGES = "change:width change:height change:view";
const SCROLLERS = ".jp-WindowedPanel-outer, .jp-Notebook";
// A view of the output alone is as high as its panel, whatever in it scrolls.
const PANEL = ".jp-LinkedOutputView";

/**
 * Height for the editor: all of it is visible once its cell is scrolled to, with the code above where there
 * is room for both.
 * @param {number} visible height of what scrolls, in CSS pixels
 * @param {number} above how much of the cell lies above the editor
 */
export function editorHeight(visible, above) {
  const margin = 14;
  const withCode = visible - above - margin;
  return Math.max(withCode >= MIN_HEIGHT_PX ? withCode : visible - margin, 380);
}

/** @param {Element} node */
function scrollerOf(node) {
  for (let each = node.parentElement; each !== null; each = each.parentElement) {
    if (each.matches(PANEL)) return each;
    const { overflowY } = getComputedStyle(each);
    if (/auto|scroll/.test(overflowY) && each.clientHeight > 0 && each.matches(SCROLLERS)) return each;
  }
  return document.scrollingElement ?? document.documentElement;
}

/**
 * Follow the size of what is visible, once the widget is in its editor.
 * @param {{model: any, find: () => HTMLElement | null}} context `find` gives the editor
 * @returns {() => void} ends it
 */
export function followSize({ model, find }) {
  let waiting = 0;
  /** @type {ResizeObserver | null} */
  let observer = null;
  /** @type {{width: number, height: number, covered: number} | null} */
  let told = null;
  let toldAt = 0;
  let repeats = 0;
  const tell = (/** @type {{width: number, height: number, covered: number}} */ size) => {
    [told, toldAt] = [size, performance.now()];
    model.send({ event: "resize", ...size });
  };
  // A page that is being restored may miss Python's answer, or be handed an older state after it: it says its
  // size again. Not for ever, since another view of the editor may have another size.
  const onSize = () => {
    if (told === null || repeats >= MOST_REPEATS || performance.now() - toldAt < ANSWER_MS) return;
    if (model.get("width") === told.width && model.get("height") === told.height) return;
    if (!find()?.offsetParent) return;
    repeats += 1;
    tell(told);
  };
  model.on(SIZE_CHANGES, onSize);
  const settle = () => {
    const editor = find();
    const stage = editor?.querySelector(".ctai-sam2-stage");
    if (editor === null || !stage || !editor.isConnected) {
      waiting = requestAnimationFrame(settle);
      return;
    }
    // JupyterLab's own one-letter keys (x cuts the cell) must not act inside.
    editor.setAttribute("data-lm-suppress-shortcuts", "true");
    if (!model.get("fills")) return;
    const scroller = scrollerOf(editor);
    let isFirst = true;
    const fit = () => {
      if (!editor.isConnected || editor.offsetParent === null) return;
      const isPage = scroller === document.scrollingElement || scroller === document.documentElement;
      const visible = isPage ? window.innerHeight : scroller.clientHeight;
      const cell = editor.closest(".jp-Cell");
      const above = cell === null ? 0 : editor.getBoundingClientRect().top - cell.getBoundingClientRect().top;
      const height = `${Math.round(editorHeight(visible, above))}px`;
      if (editor.style.getPropertyValue("--ctai-sam2-height") !== height) {
        editor.style.setProperty("--ctai-sam2-height", height);
      }
      const panel = editor.querySelector(".ctai-sam2-panel");
      const box = stage.getBoundingClientRect();
      const lies = panel === null ? null : panel.getBoundingClientRect();
      // A panel next to the picture, or none, covers nothing.
      const isOver = lies !== null && lies.width > 0 && lies.left > box.left + 40 && lies.top < box.bottom;
      const covered = isOver && lies !== null ? Math.round(box.right - lies.left) : 0;
      const size = { width: Math.floor(box.width), height: Math.floor(box.height), covered };
      if (size.width < 60 || size.height < 60 || JSON.stringify(told) === JSON.stringify(size)) return;
      repeats = 0;
      tell(size);
      if (!isFirst) return;
      isFirst = false;
      requestAnimationFrame(() => {
        const [mine, seen] = [editor.getBoundingClientRect(), scroller.getBoundingClientRect()];
        const top = isPage ? 0 : seen.top;
        if (mine.top >= top && mine.top < top + visible && mine.bottom > top + visible) {
          (cell ?? editor).scrollIntoView({ block: "end" });
        }
      });
    };
    observer = new ResizeObserver(() => requestAnimationFrame(fit));
    for (const each of [editor, stage, scroller]) observer.observe(each);
    const panel = editor.querySelector(".ctai-sam2-panel");
    if (panel !== null) observer.observe(panel);
    fit();
  };
  settle();
  return () => {
    cancelAnimationFrame(waiting);
    observer?.disconnect();
    model.off(SIZE_CHANGES, onSize);
  };
}
