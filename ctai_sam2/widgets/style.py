"""How the editor looks on the page; colours from JupyterLab's theme where it has them.

The picture fills what is visible: the page side writes that height to
``--ctai-sam2-height``; 640 px stand where it cannot run.
"""

STYLE = """<style>
.ctai-sam2-editor, .ctai-sam2-editor .widget-box, .ctai-sam2-editor .jupyter-widget-box { overflow:
visible; }
.ctai-sam2-editor { display: flex; flex-flow: column; box-sizing: border-box; width: 100%;
height: var(--ctai-sam2-height, 640px); min-height: 380px; margin: 0; font-size: 13px;
overflow: hidden; container-type: inline-size; }
.jp-CodeCell.jp-mod-outputsScrolled .jp-Cell-outputArea:has(.ctai-sam2-editor) { max-height: none; }
.ctai-sam2-editor > .widget-box, .ctai-sam2-editor > .jupyter-widget-box { flex: 0 0 auto; }
.ctai-sam2-editor button { height: 26px; line-height: 24px; padding: 0 8px; margin: 1px;
flex: 0 0 auto; }
.ctai-sam2-editor .widget-html, .ctai-sam2-editor .widget-html-content
{ height: auto; margin: 0 2px; line-height: 1.35; min-height: 0; }
.ctai-sam2-editor select { height: 24px; }
.ctai-sam2-editor canvas { background: #000; cursor: crosshair; touch-action: none; }
.ctai-sam2-editor canvas:focus-visible, .ctai-sam2-editor button:focus-visible,
.ctai-sam2-editor select:focus-visible, .ctai-sam2-editor input:focus-visible
{ outline: 2px solid #56B4E9; outline-offset: -2px; }
.ctai-sam2-editor .ctai-sam2-head, .ctai-sam2-editor .ctai-sam2-options
{ flex-flow: row wrap; align-items: center; }
.ctai-sam2-editor .ctai-sam2-options { min-height: 34px; }
.ctai-sam2-editor .ctai-sam2-options > * { max-height: 30px; }
.ctai-sam2-editor .ctai-sam2-space { flex: 1 1 0; }
.ctai-sam2-editor .ctai-sam2-cases { width: 62px; }
.ctai-sam2-editor .ctai-sam2-head { flex-wrap: nowrap; }
.ctai-sam2-editor .ctai-sam2-head > * { flex-shrink: 0; }
.ctai-sam2-editor .ctai-sam2-head > .ctai-sam2-space { flex-shrink: 1; }
.ctai-sam2-editor .ctai-sam2-head > .ctai-sam2-count { flex: 0 1 auto; min-width: 0; overflow: hidden; }
.ctai-sam2-editor .ctai-sam2-count .widget-html-content { overflow: hidden; white-space: nowrap;
text-overflow: ellipsis; }
.ctai-sam2-editor .ctai-sam2-options .widget-dropdown { width: 132px; }
.ctai-sam2-editor .ctai-sam2-options .widget-dropdown:last-child { width: 148px; }
.ctai-sam2-editor .ctai-sam2-field { width: auto; }
.ctai-sam2-editor .ctai-sam2-field label { width: auto; min-width: 0; }
.ctai-sam2-editor .ctai-sam2-field input { width: 62px; flex: 0 0 auto; }

.ctai-sam2-editor > .ctai-sam2-body { position: relative; display: flex; flex: 1 1 0; flex-flow: row nowrap;
min-height: 0; }
.ctai-sam2-editor .ctai-sam2-rail { flex: 0 0 66px; flex-flow: column nowrap; overflow-y: auto;
overflow-x: hidden; }
.ctai-sam2-editor .ctai-sam2-tools, .ctai-sam2-editor .ctai-sam2-steps
{ display: flex; flex-flow: row wrap; width: 66px; margin: 0 0 6px 0; height: auto; }
.ctai-sam2-editor .ctai-sam2-tools > div:last-child { display: grid; grid-template-columns: 32px 32px;
width:
66px;
margin: 0; }
.ctai-sam2-editor .ctai-sam2-tools label { display: none; }
.ctai-sam2-editor .ctai-sam2-tools button, .ctai-sam2-editor button.ctai-sam2-icon
{ width: 30px; min-width: 30px; max-width: 30px; padding: 0; font-size: 0; text-overflow: clip;
display: inline-flex; align-items: center; justify-content: center; }
.ctai-sam2-editor .ctai-sam2-tools button i, .ctai-sam2-editor button.ctai-sam2-icon i
{ font-size: 14px; margin: 0; line-height: 1; }
.ctai-sam2-editor .ctai-sam2-head button.ctai-sam2-icon:not(:has(i)),
.ctai-sam2-editor .ctai-sam2-options button.ctai-sam2-icon:not(:has(i)) { font-size: 15px; }

.ctai-sam2-editor .ctai-sam2-stage { position: relative; flex: 1 1 0; min-width: 0; min-height: 0;
background: #000; overflow: hidden; }
.ctai-sam2-editor .ctai-sam2-stage > canvas { position: absolute; left: 0; top: 0; }
.ctai-sam2-editor .ctai-sam2-ring { position: absolute; left: 0; top: 0; display: none; box-sizing:
border-box;
border: 1px solid #FFF; outline: 1px solid rgba(0, 0, 0, 0.7); border-radius: 50%; pointer-events: none;
z-index: 1; }
.ctai-sam2-editor .ctai-sam2-waiting { position: absolute; right: 8px; bottom: 6px; display: none; padding:
2px 8px;
background: #E69F00; color: #111; border-radius: 3px; pointer-events: none; z-index: 4; }
.ctai-sam2-editor .ctai-sam2-place { position: absolute; left: 50%; bottom: 24px; transform:
translateX(-50%);
display: none; padding: 2px 8px; background: rgba(20, 20, 20, 0.72); color: #EEE; border-radius: 3px;
pointer-events: none; font-variant-numeric: tabular-nums; z-index: 4; }
.ctai-sam2-editor .ctai-sam2-notices { position: absolute; left: 4px; top: 4px; max-width: 46%;
flex-flow: column; pointer-events: none; z-index: 2; }
.ctai-sam2-editor .ctai-sam2-notices > * { background: rgba(20, 20, 20, 0.72); color: #EEE;
border-radius: 3px; width: auto; align-self: flex-start; }
.ctai-sam2-editor .ctai-sam2-stage > .ctai-sam2-readout-line { position: absolute; left: 150px; right:
262px;
bottom: 24px; width: auto;
pointer-events: none; color: #EEE; text-shadow: 0 0 3px #000, 0 0 3px #000;
font-variant-numeric: tabular-nums; z-index: 2; }
.ctai-sam2-editor .ctai-sam2-stage > .ctai-sam2-readout-line .widget-html-content { color: #EEE;
white-space: normal; }
.ctai-sam2-editor .ctai-sam2-stage > .ctai-sam2-confirm { position: absolute; left: 8px; right: 266px;
top: 30%;
margin: 0 auto; width: fit-content; max-width: 360px; background: #FFF; color: #111; border: 3px solid
#E69F00;
border-radius: 4px; padding: 8px 10px; align-items: center; flex-flow: row wrap; z-index: 5; }
.ctai-sam2-editor .ctai-sam2-confirm .widget-html-content { color: #111; white-space: normal; }
.ctai-sam2-editor .ctai-sam2-stage > .ctai-sam2-help { position: absolute; inset: 8px; overflow: auto;
background: #FFF; padding: 8px; z-index: 6; width: auto; }
.ctai-sam2-editor .ctai-sam2-help .widget-html-content { color: #111; white-space: normal; }
.ctai-sam2-editor .ctai-sam2-help td { padding: 1px 8px 1px 0; vertical-align: top; }
.ctai-sam2-editor .ctai-sam2-key { border: 1px solid #888; border-radius: 3px; background: none; color:
#111;
cursor: pointer; height: auto; line-height: 1.3; padding: 0 4px; }
.ctai-sam2-editor .ctai-sam2-choosing { background: #E69F00; }
.ctai-sam2-editor kbd { border: 1px solid currentColor; border-radius: 3px; padding: 0 4px; }

.ctai-sam2-editor .ctai-sam2-panel { position: absolute; right: 4px; top: 4px; width: 254px;
max-height: calc(100% - 8px); overflow-y: auto; overflow-x: hidden; flex-flow: column; z-index: 3; padding:
3px;
background: rgba(24, 24, 24, 0.84); color: #EEE; border-radius: 4px; font-size: 12px; box-sizing:
border-box;
--jp-ui-font-color1: #EEE; --jp-widgets-label-color: #EEE; --jp-widgets-color: #EEE; --jp-layout-color0:
#222;
--jp-layout-color1: #2A2A2A; --jp-layout-color2: #3A3A3A; --jp-border-color1: #555;
--jp-widgets-input-color: #EEE; --jp-widgets-input-background-color: #2A2A2A;
--jp-widgets-input-border-color: #666; --jp-content-font-color1: #EEE; }
.ctai-sam2-editor .ctai-sam2-panel > * { flex: 0 0 auto; }
.ctai-sam2-editor .ctai-sam2-panel .widget-html-content { color: #EEE; font-size: 12px; }
.ctai-sam2-editor .ctai-sam2-rows { flex-flow: row wrap; }
.ctai-sam2-editor .ctai-sam2-rows > .ctai-sam2-row { flex: 0 0 100%; box-sizing: border-box; }
.ctai-sam2-editor .ctai-sam2-rows > .ctai-sam2-half { flex: 0 0 50%; min-width: 0; overflow: hidden; }
.ctai-sam2-editor .ctai-sam2-row.ctai-sam2-half button.ctai-sam2-label { flex: 1 1 50px; min-width: 0;
max-width: 88px; font-size: 11px; padding: 0 2px; }
.ctai-sam2-editor .ctai-sam2-half .ctai-sam2-outline { display: none; }
.ctai-sam2-editor .ctai-sam2-half button.ctai-sam2-icon { display: none; }
.ctai-sam2-editor .ctai-sam2-row { flex-flow: row wrap; align-items: center; margin: 0 0 1px 0; }
.ctai-sam2-editor .ctai-sam2-row .widget-colorpicker { width: 22px; flex: 0 0 22px; margin: 0 2px;
height: 20px;
min-height: 0; align-items: center; }
.ctai-sam2-editor .ctai-sam2-row .widget-colorpicker > div, .ctai-sam2-editor .ctai-sam2-row
input[type="color"]
{ width: 20px; height: 16px; padding: 0; min-width: 0; }
.ctai-sam2-editor .ctai-sam2-row button { height: 20px; line-height: 18px; margin: 0 1px; }
.ctai-sam2-editor .ctai-sam2-row button.ctai-sam2-label { width: auto; flex: 1 1 auto; text-align: left;
overflow: hidden; text-overflow: ellipsis; padding: 0 4px; max-width: 168px; }
.ctai-sam2-editor .ctai-sam2-row button.ctai-sam2-icon { width: 22px; min-width: 22px; }
.ctai-sam2-editor .ctai-sam2-row > .widget-html, .ctai-sam2-editor .ctai-sam2-row > .jupyter-widget-html
{ flex: 1 0 calc(100% - 28px); margin: 0 0 0 28px; height: 15px; line-height: 15px; }
.ctai-sam2-editor .ctai-sam2-row .widget-html-content { line-height: 15px; }
.ctai-sam2-editor .ctai-sam2-row.ctai-sam2-half > .widget-html { flex: 0 1 auto; margin: 0 2px; }
.ctai-sam2-editor .ctai-sam2-panel .jupyter-widget-Collapse-header, .ctai-sam2-editor .ctai-sam2-panel
.jupyter-widget-Collapse-contents { background: #2A2A2A; color: #EEE; padding: 3px 6px; border-color:
#555; }
.ctai-sam2-editor .ctai-sam2-numbers { white-space: nowrap; font-variant-numeric: tabular-nums; }
.ctai-sam2-editor .ctai-sam2-outline { color: #999; }
.ctai-sam2-editor .ctai-sam2-wrap { flex-flow: row wrap; align-items: center; }
.ctai-sam2-editor .ctai-sam2-wrap button { max-width: 100%; overflow: hidden; text-overflow: ellipsis; }
.ctai-sam2-editor .ctai-sam2-panel button.mod-active:not(.mod-info) { background: #0072B2; color: #FFF; }
.ctai-sam2-editor .ctai-sam2-panel .ctai-sam2-row button.ctai-sam2-icon.mod-active { background: #4A4A4A; }
.ctai-sam2-editor .ctai-sam2-panel .widget-slider { width: 98%; }
.ctai-sam2-editor .ctai-sam2-panel .widget-slider label { width: auto; min-width: 60px; }

.ctai-sam2-editor .ctai-sam2-strip { flex: 0 0 66px; flex-flow: column nowrap; overflow: hidden; }
.ctai-sam2-editor .ctai-sam2-strip > canvas { flex: 0 0 auto; cursor: pointer; }
.ctai-sam2-editor .ctai-sam2-unseen { position: absolute; width: 1px; height: 1px; margin: -1px; overflow:
hidden; clip-path: inset(50%); }
.ctai-sam2-editor .ctai-sam2-slices { flex-flow: row nowrap; align-items: center; height: 30px; }
.ctai-sam2-editor .ctai-sam2-track { position: relative; flex: 1 1 auto; min-width: 0; }
.ctai-sam2-editor .ctai-sam2-track .widget-slider { width: 100%; margin: 0; }
.ctai-sam2-editor .ctai-sam2-track .widget-slider label { width: 74px; min-width: 0; }
.ctai-sam2-editor .ctai-sam2-track .widget-readout { min-width: 36px; }
.ctai-sam2-editor .ctai-sam2-marks { position: absolute; left: 86px; right: 45px; bottom: -1px; height: 5px;
pointer-events: none; margin: 0; width: auto; }
.ctai-sam2-editor .ctai-sam2-marks .widget-html-content { position: relative; height: 5px; display: block; }
.ctai-sam2-editor .ctai-sam2-marks span { position: absolute; width: 3px; height: 5px; background:
#E69F00; }

.ctai-sam2-editor .ctai-sam2-good, .ctai-sam2-editor .ctai-sam2-bad, .ctai-sam2-editor .ctai-sam2-off,
.ctai-sam2-editor .ctai-sam2-busy, .ctai-sam2-editor .ctai-sam2-plain
{ line-height: 1.35; white-space: normal; padding: 1px 6px; }
.ctai-sam2-editor .ctai-sam2-bad { border-left: 4px solid #D55E00; font-weight: 600; }
.ctai-sam2-editor .ctai-sam2-off { border-left: 4px solid #999999; }
.ctai-sam2-editor .ctai-sam2-notices .widget-html-content { color: #EEE; }
.ctai-sam2-spinner
{ width: 16px; height: 16px; border: 3px solid #BBB; border-top-color: #0072B2; border-radius: 50%;
animation: ctai-sam2-turn 1s linear infinite; margin: 0 8px; }
@keyframes ctai-sam2-turn { to { transform: rotate(360deg); } }
@media (prefers-reduced-motion: reduce) { .ctai-sam2-spinner { animation: none; } }
@container (max-width: 980px) {
.ctai-sam2-editor .ctai-sam2-title.ctai-sam2-spare { display: none; }
}
@container (max-width: 700px) {
.ctai-sam2-editor .ctai-sam2-head { flex-wrap: wrap; }
.ctai-sam2-editor .ctai-sam2-head > .ctai-sam2-count { flex: 1 1 120px; }
.ctai-sam2-editor > .ctai-sam2-body { flex-flow: row wrap; align-content: stretch; }
.ctai-sam2-editor .ctai-sam2-panel { position: static; order: -1; flex: 0 0 100%; width: 100%;
max-height: 132px; margin: 0 0 2px 0; }
.ctai-sam2-editor .ctai-sam2-rows { flex-flow: row wrap; }
.ctai-sam2-editor .ctai-sam2-rows > .ctai-sam2-row { flex: 0 0 50%; flex-flow: row nowrap; min-width: 0; }
.ctai-sam2-editor .ctai-sam2-row button.ctai-sam2-label { flex: 1 1 40px; min-width: 40px; }
.ctai-sam2-editor .ctai-sam2-row .ctai-sam2-outline { display: none; }
.ctai-sam2-editor .ctai-sam2-row button.ctai-sam2-icon { display: none; }
.ctai-sam2-editor .ctai-sam2-row > .widget-html { flex: 0 0 auto; margin: 0 2px; }
.ctai-sam2-editor .ctai-sam2-stage > .ctai-sam2-readout-line, .ctai-sam2-editor .ctai-sam2-stage >
.ctai-sam2-confirm { right: 8px; }
.ctai-sam2-editor .ctai-sam2-stage > .ctai-sam2-readout-line { left: 8px; bottom: 40px; }
.ctai-sam2-editor .ctai-sam2-rail, .ctai-sam2-editor .ctai-sam2-strip
{ align-self: stretch; height: calc(100% - 136px); }
.ctai-sam2-editor .ctai-sam2-stage { height: calc(100% - 136px); }
.ctai-sam2-editor .ctai-sam2-notices { max-width: 75%; }
.ctai-sam2-editor .ctai-sam2-saved { display: block; }
}
</style>"""

SPINNER = '<div class="ctai-sam2-spinner" aria-hidden="true"></div>'
