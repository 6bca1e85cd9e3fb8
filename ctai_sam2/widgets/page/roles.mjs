// Roles and names for screen readers, where the widgets give none.
// @ts-check

const CONTROLS = "input, select, textarea, [contenteditable]";

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
  for (const control of editor.querySelectorAll(CONTROLS)) {
    const label = control.closest(".jupyter-widgets")?.querySelector("label");
    const words = label?.title || label?.textContent;
    if (!words) continue;
    control.setAttribute("aria-label", words);
    control.setAttribute("title", words);
  }
}
