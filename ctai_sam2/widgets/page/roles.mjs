// Roles and names for screen readers, where the widgets give none.
// @ts-check

const CONTROLS = "input, select, textarea, [contenteditable], .noUi-handle";

const DRAWER = ".jupyter-widget-Collapse-header";

/**
 * Let a drawer's head be reached and opened by keyboard, as a button is.
 * @param {HTMLElement} header
 */
function openByKey(header) {
  const isOpen = () => header.parentElement?.classList.contains("jupyter-widget-Collapse-open") === true;
  header.setAttribute("aria-expanded", String(isOpen()));
  if (header.tabIndex === 0) return;
  header.tabIndex = 0;
  header.setAttribute("role", "button");
  header.addEventListener("click", () => {
    requestAnimationFrame(() => header.setAttribute("aria-expanded", String(isOpen())));
  });
  header.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    header.click();
  });
}

/**
 * Name the picture, and each field that has its words in a label which is not shown.
 * @param {HTMLElement} editor
 * @param {string} title what the picture is of
 */
export function nameParts(editor, title) {
  const canvas = editor.querySelector("canvas.ctai-sam2-canvas");
  // Its keys draw, scroll and choose tools: a reader passes them on.
  canvas?.setAttribute("role", "application");
  canvas?.setAttribute("aria-label", title);
  editor.querySelector(".ctai-sam2-rail")?.setAttribute("role", "toolbar");
  const question = editor.querySelector(".ctai-sam2-confirm");
  question?.setAttribute("role", "alertdialog");
  question?.setAttribute("aria-label", question.querySelector(".widget-html-content")?.textContent ?? "");
  for (const header of editor.querySelectorAll(DRAWER)) openByKey(/** @type {HTMLElement} */ (header));
  for (const control of editor.querySelectorAll(CONTROLS)) {
    const label = control.closest(".jupyter-widgets")?.querySelector("label");
    const words = label?.title || label?.textContent;
    if (!words) continue;
    control.setAttribute("aria-label", words);
    control.setAttribute("title", words);
  }
}
