"""How the editor looks on the page; colours from JupyterLab's theme where it has them."""

STYLE = """<style>
.ctai-sam2-editor { max-width: 1010px; }
.ctai-sam2-editor canvas { background: #000; cursor: crosshair; }
.ctai-sam2-editor canvas:focus-visible, .ctai-sam2-editor button:focus-visible,
.ctai-sam2-editor select:focus-visible, .ctai-sam2-editor input:focus-visible
{ outline: 3px solid #0072B2; outline-offset: 1px; }
.ctai-sam2-editor .widget-toggle-buttons .widget-toggle-button,
.ctai-sam2-editor .jupyter-widget-toggle-buttons .jupyter-button { margin: 1px; }
.ctai-sam2-editor button.ctai-sam2-icon { padding: 0; text-overflow: clip; }
.ctai-sam2-editor button.ctai-sam2-icon i { margin: 0; }
.ctai-sam2-editor .widget-html, .ctai-sam2-editor .widget-html-content { height: auto; margin: 0 2px; }
.ctai-sam2-editor kbd { border: 1px solid currentColor; border-radius: 3px; padding: 0 4px; }
.ctai-sam2-editor .ctai-sam2-good { color: var(--jp-ui-font-color1, #111); }
.ctai-sam2-editor .ctai-sam2-good, .ctai-sam2-editor .ctai-sam2-bad,
.ctai-sam2-editor .ctai-sam2-off, .ctai-sam2-editor .ctai-sam2-busy,
.ctai-sam2-editor .ctai-sam2-plain, .ctai-sam2-editor .ctai-sam2-readout
{ line-height: 1.4; white-space: normal; padding: 0 6px; }
.ctai-sam2-editor .ctai-sam2-bad { border-left: 4px solid #D55E00; font-weight: 600; }
.ctai-sam2-editor .ctai-sam2-off { border-left: 4px solid #999999; }
.ctai-sam2-editor .ctai-sam2-readout { font-variant-numeric: tabular-nums; font-family: monospace; }
.ctai-sam2-editor .ctai-sam2-confirm
{ border: 2px solid #E69F00; padding: 4px 8px; align-items: center; flex-flow: row wrap; }
.ctai-sam2-help { line-height: 1.35; max-height: 330px; overflow-y: auto; }
.ctai-sam2-help td { padding: 1px 6px 1px 0; vertical-align: top; }
.ctai-sam2-help td:first-child { width: 26%; }
.ctai-sam2-editor .ctai-sam2-numbers { white-space: nowrap; font-variant-numeric: tabular-nums; }
.ctai-sam2-swatch
{ vertical-align: middle; display: inline-block; width: 14px; height: 14px; border: 1px solid #000;
margin: 0 4px; }
.ctai-sam2-spinner
{ width: 16px; height: 16px; border: 3px solid #BBB; border-top-color: #0072B2; border-radius: 50%;
animation: ctai-sam2-turn 1s linear infinite; margin: 0 8px; }
@keyframes ctai-sam2-turn { to { transform: rotate(360deg); } }
@media (prefers-reduced-motion: reduce) { .ctai-sam2-spinner { animation: none; } }
</style>"""

SPINNER = '<div class="ctai-sam2-spinner" aria-hidden="true"></div>'
