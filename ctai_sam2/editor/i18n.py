"""Every word of the interface, in English and 简体中文, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ctai_sam2.errors import InputError

LANGUAGES = ("en", "zh")

TABLE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        # key: (English, 简体中文)
        "title.l3": ("L3 editor (sagittal)", "L3 编辑器（矢状位）"),
        "title.middle": ("Mid-L3 editor (axial)", "L3 中间层编辑器（轴位）"),
        "label.l3": ("L3 vertebra", "第三腰椎"),
        "label.psoas": ("Psoas", "腰大肌"),
        "label.psoas_left": ("Left psoas", "左腰大肌"),
        "label.psoas_right": ("Right psoas", "右腰大肌"),
        "label.muscle": ("All muscle (combo)", "全部骨骼肌"),
        "label.quadratus_left": ("Left quadratus", "左腰方肌"),
        "label.quadratus_right": ("Right quadratus", "右腰方肌"),
        "label.paraspinal_left": ("Left paraspinal", "左椎旁肌"),
        "label.paraspinal_right": ("Right paraspinal", "右椎旁肌"),
        "label.wall_left": ("Left wall", "左腹壁肌"),
        "label.wall_right": ("Right wall", "右腹壁肌"),
        "label.groups": ("Muscle groups", "肌群"),
        "label.fat": ("Fat", "脂肪"),
        "label.all": ("Psoas and muscle", "腰大肌与全部骨骼肌"),
        "label.imat": ("Intermuscular fat (IMAT)", "肌间脂肪（IMAT）"),
        "label.vat": ("Visceral fat (VAT)", "内脏脂肪（VAT）"),
        "label.sat": ("Subcutaneous fat (SAT)", "皮下脂肪（SAT）"),
        "tool.click": ("Click", "点选"),
        "tool.box": ("Box", "框选"),
        "tool.brush": ("Brush", "画笔"),
        "tool.eraser": ("Eraser", "橡皮擦"),
        "tool.polygon": ("Polygon", "多边形"),
        "tool.lasso": ("Lasso", "套索"),
        "tool.rectangle": ("Rectangle", "矩形"),
        "tool.flood": ("Fill", "填充"),
        "tool.take": ("Take over", "采用差异"),
        "tool.ruler": ("Ruler", "测距"),
        "tool.roi": ("Region HU", "区域 HU"),
        "tool.pan": ("Pan", "平移"),
        "tool.window": ("Window", "窗宽窗位"),
        "help.start": (
            "Start with {action} ({shortcut}), or draw.",
            "先点击“{action}”（{shortcut}），或直接绘制。",
        ),
        "help.click": (
            "Left click: part of it (green). Right or Shift click: not part of it (red).",
            "左键：属于目标（绿色）。右键或 Shift+单击：不属于目标（红色）。",
        ),
        "help.box": ("Drag a box around it, then run.", "拖动画框包住目标，然后运行。"),
        "help.brush": ("Drag to paint; right button or Shift erases.", "拖动绘制；右键或 Shift 擦除。"),
        "help.eraser": ("Drag to erase; right button or Shift paints.", "拖动擦除；右键或 Shift 绘制。"),
        "help.polygon": (
            "Click corners; click the first one, double-click or press Enter to close. "
            "Esc cancels, Backspace steps back.",
            "单击添加顶点；点击起点、双击或按 Enter 闭合。Esc 取消，Backspace 撤回一个顶点。",
        ),
        "help.lasso": ("Drag around the region; Shift erases.", "拖动圈出区域；按 Shift 擦除。"),
        "help.rectangle": ("Drag a rectangle; Shift erases.", "拖动绘制矩形；按 Shift 擦除。"),
        "help.flood": (
            "Click: connected pixels of similar density are added; Shift takes away.",
            "单击：加入密度相近的连通像素；按 Shift 去除。",
        ),
        "help.take": (
            "Click a region where another reader's mask differs: yours becomes the same there.",
            "单击与另一阅片者掩膜不同的区域：您的掩膜在该处改为与其一致。",
        ),
        "help.ruler": ("Drag to measure a distance.", "拖动测量距离。"),
        "help.roi": ("Drag an ellipse to measure mean HU.", "拖动椭圆测量平均 HU。"),
        "help.pan": ("Drag to move; the wheel zooms.", "拖动平移；滚轮缩放。"),
        "help.window": (
            "Drag sideways for width, up and down for level.",
            "左右拖动调窗宽，上下拖动调窗位。",
        ),
        "action.run": ("One click", "一键分割"),
        "action.run_all": ("One click for all", "一键分割全部"),
        "action.confirm": ("Continue", "继续"),
        "action.save": ("Save", "保存"),
        "action.accept": ("Accept and next", "接受并转到下一例"),
        "action.next_case": ("Next case", "下一例"),
        "action.previous_case": ("Previous case", "上一例"),
        "action.open_partner": ("Open the other plane: L3, mid-L3", "打开另一平面：L3、L3 中间层"),
        "action.help": ("Keys and help", "快捷键与帮助"),
        "action.panel": ("Show or hide the panel", "显示或隐藏面板"),
        "action.toggle_smooth": ("Smooth greys", "平滑灰度"),
        "action.toggle_groups": ("Muscle groups", "肌群"),
        "action.toggle_wheel": ("Wheel scrolls slices", "滚轮切换层面"),
        "action.run_points": ("Run ({count} points)", "运行（{count} 个点）"),
        "action.refine": ("Refine mask", "细化掩膜"),
        "action.retry": ("Retry", "重试"),
        "action.cancel": ("Cancel", "取消"),
        "action.finish": ("Close shape, or accept the case", "闭合图形，或接受此例"),
        "action.step_back": ("Remove last corner", "撤回顶点"),
        "action.undo": ("Undo", "撤销"),
        "action.redo": ("Redo", "重做"),
        "action.clear": ("Clear", "清空"),
        "action.clear_prompts": ("Clear points", "清除点"),
        "action.next_candidate": ("Next candidate", "下一个候选"),
        "action.previous_candidate": ("Previous candidate", "上一个候选"),
        "action.toggle_sign": ("Switch + / −", "切换正负点"),
        "action.brush_smaller": ("Smaller brush", "缩小画笔"),
        "action.brush_larger": ("Larger brush", "放大画笔"),
        "action.fill_holes": ("Fill holes", "填补空洞"),
        "action.keep_largest": ("Keep largest part", "保留最大区域"),
        "action.remove_islands": ("Remove islands", "去除孤岛"),
        "action.grow": ("Grow 1 mm", "外扩 1 mm"),
        "action.shrink": ("Shrink 1 mm", "内缩 1 mm"),
        "action.smooth": ("Smooth", "平滑"),
        "action.apply_limit": ("Cut to tissue HU", "按组织 HU 裁剪"),
        "action.toggle_limit": ("Paint tissue HU only", "仅绘制组织 HU"),
        "action.take_over": ("Take over the other reader's mask", "采用另一阅片者的掩膜"),
        "action.toggle_differences": ("Show differences", "显示差异"),
        "action.from_here_up": ("From here up", "由此向上"),
        "action.from_here_down": ("From here down", "由此向下"),
        "action.from_here_both": ("From here both ways", "由此向两侧"),
        "action.segment_range": ("Segment all levels", "分割全部节段"),
        "action.end_here": ("Stop here, or pass again", "到此为止，或恢复通过"),
        "action.absent_here": ("Absent here", "此层不存在"),
        "action.lock_here": ("Lock or unlock this slice", "锁定或解锁此层"),
        "action.interpolate": ("Interpolate between drawn slices", "在手绘层面之间插值"),
        "action.next_red": ("Next red slice", "下一个红色层面"),
        "action.undo_slice": ("Undo on this slice", "撤销此层的操作"),
        "action.copy_below": ("Copy from slice below", "复制下方层面"),
        "action.copy_above": ("Copy from slice above", "复制上方层面"),
        "action.zoom_in": ("Zoom in", "放大"),
        "action.zoom_out": ("Zoom out", "缩小"),
        "action.fit": ("Fit", "适合窗口"),
        "action.hold_pan": ("Hold to pan", "按住平移"),
        "action.next_slice": ("Next slice", "下一层"),
        "action.previous_slice": ("Previous slice", "上一层"),
        "action.next_label": ("Next label", "下一个标签"),
        "action.toggle_visible": ("Show or hide", "显示或隐藏"),
        "action.toggle_lock": ("Lock or unlock", "锁定或解锁"),
        "action.toggle_outline": ("Outline only", "仅显示轮廓"),
        "action.more_opaque": ("More opaque", "更不透明"),
        "action.less_opaque": ("More transparent", "更透明"),
        "window.soft_tissue": ("Soft tissue window", "软组织窗"),
        "window.muscle": ("Muscle window", "肌肉窗"),
        "window.fat": ("Fat window", "脂肪窗"),
        "window.bone": ("Bone window", "骨窗"),
        "window.lung": ("Lung window", "肺窗"),
        "edit.paint": ("Stroke", "笔画"),
        "edit.fill_polygon": ("Polygon", "多边形"),
        "edit.lasso": ("Lasso", "套索"),
        "edit.fill_rectangle": ("Rectangle", "矩形"),
        "edit.flood_fill": ("Fill", "填充"),
        "edit.fill_holes": ("Holes filled", "填补空洞"),
        "edit.keep_largest": ("Largest part kept", "保留最大区域"),
        "edit.remove_islands": ("Islands removed", "去除孤岛"),
        "edit.grow": ("Grown", "外扩"),
        "edit.shrink": ("Shrunk", "内缩"),
        "edit.smooth": ("Smoothed", "平滑"),
        "edit.limit_to_hu": ("Cut to HU range", "按 HU 裁剪"),
        "edit.set_mask_ai": ("Model's mask", "模型掩膜"),
        "edit.set_mask_redrawn": ("Drawn meanwhile", "期间的绘制"),
        "edit.set_mask_copy": ("Copied mask", "复制掩膜"),
        "edit.set_mask_import": ("Imported mask", "导入掩膜"),
        "edit.set_mask_reference": ("Taken over from another reader", "采用另一阅片者的掩膜"),
        "edit.set_mask_interpolated": ("Interpolated", "插值"),
        "edit.set_state": ("Slice decided", "层面标记"),
        "edit.absent_here": ("Absent here", "此层不存在"),
        "edit.clear": ("Cleared", "清空"),
        "edit.add_point": ("Point", "点"),
        "edit.add_box": ("Box", "框"),
        "edit.clear_prompts": ("Points cleared", "清除点"),
        "edit.compound": ("Several steps", "多个步骤"),
        "ai.running": ("Processing… this may take up to 30 seconds", "处理中……最长可能需要 30 秒"),
        "ai.slices": ("Slice {done} of {total}", "第 {done} / {total} 层"),
        "ai.propagated": (
            "Slices changed: {count}; red: {red}.",
            "已更改 {count} 层；其中 {red} 层为红色。",
        ),
        "ai.propagated_stale": (
            "Slices changed: {count}; red: {red}. Left as you edited them meanwhile: {stale}.",
            "已更改 {count} 层；其中 {red} 层为红色。期间编辑过的 {stale} 层保持不变。",
        ),
        "ai.done": (
            "Done: confidence {confidence}, {seconds} s ({backend})",
            "完成：置信度 {confidence}，{seconds} 秒（{backend}）",
        ),
        "ai.done_cached": (
            "Done: confidence {confidence}, {seconds} s (cached, {backend})",
            "完成：置信度 {confidence}，{seconds} 秒（缓存，{backend}）",
        ),
        "ai.failed": (
            "No mask was made; your annotation is unchanged. {why} Retry, or continue by hand.",
            "未能生成掩膜，现有标注保持不变。{why} 可重试，或继续手动编辑。",
        ),
        "ai.stale": (
            "You edited meanwhile: the result was discarded. Run again to use it.",
            "期间有新的编辑，结果已丢弃。如需使用请重新运行。",
        ),
        "ai.cancelled": ("Cancelled; nothing was changed.", "已取消，未作更改。"),
        "ai.confirm_replace": (
            "This will replace current annotations. Continue?",
            "这将替换当前标注，是否继续？",
        ),
        "ai.no_segmenter": (
            "No segmenter is available; editing by hand works.",
            "没有可用的分割模型；仍可手动编辑。",
        ),
        "ai.unavailable": (
            "Not available now: {why} Editing by hand works.",
            "目前不可用：{why} 仍可手动编辑。",
        ),
        "ai.no_candidates": ("There is no other candidate.", "没有其他候选。"),
        "ai.candidate": ("Candidate {number} of {count}", "候选 {number} / {count}"),
        "status.locked": ("{label} is locked.", "{label} 已锁定。"),
        "status.nothing_to_undo": ("Nothing to undo.", "没有可撤销的操作。"),
        "status.nothing_to_redo": ("Nothing to redo.", "没有可重做的操作。"),
        "status.nothing_to_take": (
            "There is nothing to take over: no other reader's mask differs here.",
            "没有可采用的内容：此处没有不同的参考掩膜。",
        ),
        "status.nothing_to_interpolate": (
            "Nothing to interpolate: draw this label on two slices with empty ones between.",
            "没有可插值的内容：请先在两个层面上勾画此标签，其间须有空层。",
        ),
        "status.interpolated": ("Slices interpolated: {count}.", "已插值 {count} 层。"),
        "status.no_red": ("{label}: no slice is red.", "{label}：没有红色层面。"),
        "change.first": ("first", "第一次"),
        "change.second": ("second", "第二次"),
        "change.change": ("change", "变化"),
        "change.least": ("least significant", "最小显著变化"),
        "status.slice_by_slice": (
            "{label}: muscle groups are found slice by slice; run one click on each.",
            "{label}：肌群只能逐层分割，请在每一层运行一键分割。",
        ),
        "status.nothing_to_propagate": (
            "Nothing to propagate from: outline {label} here first, or unlock a slice next to it.",
            "无法由此继续：请先在此层勾画{label}，或解锁相邻层面。",
        ),
        "status.range": (
            "Range: slices {first} to {last} ({count})",
            "范围：第 {first} 至 {last} 层（共 {count} 层）",
        ),
        "status.undone": ("Undone: {edit}", "已撤销：{edit}"),
        "status.redone": ("Redone: {edit}", "已重做：{edit}"),
        "status.forgotten": (
            "Memory for undo is full: {count} old steps can no longer be undone.",
            "撤销内存已满：{count} 个较早的步骤无法再撤销。",
        ),
        "status.unsaved": (
            "Not saved: {why} Everything is kept in memory; the next edit tries again.",
            "未保存：{why} 内容仍在内存中，下一次编辑会再次尝试。",
        ),
        "status.saved": ("Saved.", "已保存。"),
        "status.refused": ("Not done: {why}", "未执行：{why}"),
        "status.readout": (
            "x {x}, y {y} · {hu} HU · {x_mm}, {y_mm} mm",
            "x {x}，y {y} · {hu} HU · {x_mm}，{y_mm} mm",
        ),
        "status.ruler": (
            "{length} mm · mean {mean} HU ({low} to {high})",
            "{length} mm · 平均 {mean} HU（{low} 至 {high}）",
        ),
        "status.roi": (
            "{area} mm² · mean {mean} ± {sd} HU ({low} to {high})",
            "{area} mm² · 平均 {mean} ± {sd} HU（{low} 至 {high}）",
        ),
        "view.save": ("Save", "保存"),
        "view.saved": ("Saved: {count} files in {folder}", "已保存：{count} 个文件，位于 {folder}"),
        "view.more": ("Mask operations", "掩膜操作"),
        "view.waiting": ("Waiting for Python…", "正在等待 Python……"),
        "view.look": ("Display", "显示"),
        "view.tolerance": ("± HU", "容差（± HU）"),
        "view.reach": ("Radius, mm (0: any)", "半径（mm，0 为不限）"),
        "view.no_limit": ("Any HU", "不限 HU"),
        "view.limit_low": ("HU from", "HU 下限"),
        "view.limit_high": ("to", "上限"),
        "view.height": ("Height, cm (0: unknown)", "身高（cm，0 为未知）"),
        "view.smi": ("SMI {smi} cm²/m²", "SMI {smi} cm²/m²"),
        "view.colour": ("Colour of {label}", "{label}的颜色"),
        "view.instance": ("image {number} of the series", "序列第 {number} 幅"),
        "view.slice_of": ("{number} of {count} slices", "第 {number} / {count} 层"),
        "view.done_cases": ("{done} of {count} done", "已完成 {done} / {count}"),
        "view.all_done": ("All {count} cases are done.", "全部 {count} 例均已完成。"),
        "view.row_unwritten": (
            "{name}: drawn, but not accepted yet; its row is not up to date.",
            "{name}：已绘制但尚未接受，其数据行不是最新的。",
        ),
        "view.confirm_empty": (
            "Nothing is outlined. Write the case as empty?",
            "没有任何标注。仍要将此例写为空吗？",
        ),
        "view.confirm_emptied": (
            "{labels}: had a mask and is empty now. Sign anyway?",
            "{labels}：原有掩膜，现在为空。仍要签署吗？",
        ),
        "limit.muscle": ("Muscle HU", "肌肉 HU"),
        "limit.sat": ("SAT HU", "皮下脂肪 HU"),
        "limit.vat": ("VAT HU", "内脏脂肪 HU"),
        "limit.imat": ("IMAT HU", "肌间脂肪 HU"),
        "limit.skeleton": ("Bone HU", "骨 HU"),
        "view.brush": ("Brush, mm", "画笔（mm）"),
        "view.window": ("Window: level {level}, width {width} HU", "窗位 {level}，窗宽 {width} HU"),
        "view.custom": ("Custom", "自定义"),
        "view.custom_window": ("L {level}, W {width} HU", "窗位 {level}，窗宽 {width}"),
        "view.language": ("Language", "语言"),
        "view.opacity": ("Opacity", "不透明度"),
        "view.slice": ("Slice index", "层面索引"),
        "view.continue": ("Continue", "继续"),
        "view.positive": ("Click adds: + this", "点击添加：+ 属于目标"),
        "view.negative": ("Click adds: − not this", "点击添加：− 不属于目标"),
        "view.show": ("Show {label}", "显示{label}"),
        "view.lock": ("Lock {label}", "锁定{label}"),
        "view.kept": ("Every change is on disk", "所有更改均已写入磁盘"),
        "view.unsaved": ("Not on disk: kept in memory", "未写入磁盘：保留在内存中"),
        "view.no_journal": ("No journal: save before you close", "无日志：关闭前请保存"),
        "view.reopened": (
            "Reopened. Steps that can be undone: {count}.",
            "已重新打开，可撤销 {count} 个步骤。",
        ),
        "view.closed": (
            "This editor is closed; what was drawn is on disk. Run the cell again to continue.",
            "此编辑器已关闭，标注已保存。重新运行单元格即可继续。",
        ),
        "view.closed_unsaved": (
            "This editor is closed; the last changes could not be written.",
            "此编辑器已关闭，最后的更改未能写入。",
        ),
        "view.closed_no_journal": (
            "This editor is closed. It had no journal: unsaved changes exist only in memory.",
            "此编辑器已关闭。未启用日志，未保存的内容仅在内存中。",
        ),
        "view.error": ("Something went wrong here: {why}", "发生内部错误：{why}"),
        "view.case": ("Case {number} of {count}: {name}", "第 {number} / {count} 例：{name}"),
        "view.agreement": (
            "Other reader (white outline): Dice {dice}",
            "另一阅片者（白色轮廓）：Dice {dice}",
        ),
        "view.agreement_stack": (
            "Other reader, all slices: Dice {dice}",
            "另一阅片者（全部层面）：Dice {dice}",
        ),
        "view.differences": (
            "Orange: only yours; green: only the other reader's",
            "橙色：仅您的；绿色：仅另一阅片者的",
        ),
        "view.strip": (
            "{label}: {outlined} of {count} slices outlined, {anchors} by you, {amber} amber, {red} red",
            "{label}：{outlined} / {count} 层已勾画，您确定 {anchors} 层，黄色 {amber} 层，红色 {red} 层",
        ),
        "view.strip_here": (
            "This slice: {level} {source}, {gate}",
            "此层：{level} {source}，{gate}",
        ),
        "view.volume": (
            "{label}: {volume} cm³ in {slices} slices, {mean} HU",
            "{label}：{volume} cm³（{slices} 层），{mean} HU",
        ),
        "view.volume_level": (
            "{level}: {volume} cm³",
            "{level}：{volume} cm³",
        ),
        "source.none": ("not decided", "未确定"),
        "source.anchor": ("drawn or locked", "已勾画或锁定"),
        "source.automatic": ("by the model", "由模型得出"),
        "source.propagated": ("propagated", "由相邻层传播"),
        "source.interpolated": ("interpolated", "插值"),
        "source.absent": ("absent", "不存在"),
        "gate.none": ("not judged", "未评估"),
        "gate.green": ("plausible", "合理"),
        "gate.amber": ("doubtful", "存疑"),
        "gate.red": ("implausible", "不合理"),
        "view.left_out": (
            "Compared. Left out, since this editor has no such label: {names}",
            "已比较。以下名称在此编辑器中没有对应标签，已略过：{names}",
        ),
        "view.mid_l3": ("Middle of L3: row {row}", "L3 中点：第 {row} 行"),
        "view.mid_l3_axial": (
            "Middle of L3: row {row}, axial slice {index}",
            "L3 中点：第 {row} 行，轴位第 {index} 层",
        ),
        "view.l3_middle": ("mid-L3", "L3 中点"),
        "view.l3_here": ("L3: most likely body ({chance})", "L3：可能性最大的椎体（{chance}）"),
        "view.l3_higher": ("L3: {steps} higher ({chance})", "L3：上方第 {steps} 个椎体（{chance}）"),
        "view.l3_lower": ("L3: {steps} lower ({chance})", "L3：下方第 {steps} 个椎体（{chance}）"),
        "view.reviewed": ("Signed by {who}; masks changed: {count}", "{who} 已签署：更改了 {count} 个掩膜"),
        "view.reviewed_later": (
            "Signed by {who}; masks changed: {count}. A run is at work and will use them",
            "{who} 已签署：更改了 {count} 个掩膜；任务正在运行，稍后会采纳",
        ),
        "view.outside_levels": (
            "{signed}. Not kept, since outside of the range of levels or its structures: {labels}",
            "{signed}。以下标签位于节段范围或其结构之外，未保存：{labels}",
        ),
        "view.flag": ("⚑ {flag}: {why}", "⚑ {flag}：{why}"),
        "flag.failed": ("Failed", "失败"),
        "flag.implausible": ("Implausible", "不合理"),
        "flag.duplicate": ("Duplicate", "重复"),
        "flag.same_patient": ("Same patient", "同一患者"),
        "flag.manifest": ("Manifest", "清单不符"),
        "flag.missing": ("Missing", "缺失"),
        "flag.low_confidence": ("Low confidence", "置信度低"),
        "flag.level": ("Level", "节段"),
        "flag.asymmetry": ("Asymmetry", "不对称"),
        "flag.outlier": ("Outlier", "离群值"),
        "flag.holes": ("Holes", "空洞"),
        "flag.truncated": ("Truncated", "视野截断"),
        "flag.volume": ("Volume", "容积"),
        "flag.unstable": ("Unstable", "不稳定"),
        "flag.acquisition": ("Acquisition", "采集"),
        "flag.correction": ("Correction", "修正"),
        "view.rectangle": (
            "Rectangle {number}: x {x0}–{x1}, y {y0}–{y1}",
            "矩形 {number}：x {x0}–{x1}，y {y0}–{y1}",
        ),
        "view.keys_change": (
            "To change a key click it and press another; Backspace restores it, Esc leaves it. "
            "Esc closes this list.",
            "单击按键可更改：按下新键；Backspace 恢复默认，Esc 放弃。按 Esc 关闭此列表。",
        ),
        "view.too_early": (
            "That was done before this case was shown: it changed nothing here.",
            "该操作在显示此病例之前执行，未对此病例作任何更改。",
        ),
        "view.key_changed": ("{action}: {keys}", "{action}：{keys}"),
        "view.keys_hint": (
            "Keys work while the editor has the focus. Wheel: slices of a volume, else zoom; Shift+wheel: "
            "slices; Ctrl+wheel: zoom; middle button or space: pan.",
            "编辑器获得焦点后快捷键生效。滚轮：切换容积层面，单张图像则缩放；Shift+滚轮：切换层面；"
            "Ctrl+滚轮：缩放；中键或空格：平移。",
        ),
        "status.area": ("{label}: {area} cm², mean {mean} HU", "{label}：{area} cm²，平均 {mean} HU"),
    }
)
"""Text by key, in the order of `LANGUAGES`; ``{names}`` are filled in."""


@dataclass(frozen=True, kw_only=False)
class Message:
    """A text to be shown, in whatever language is set when it is shown.

    Parameters
    ----------
    key : str
        A key of `TABLE`.
    values : mapping of str to object
        For its placeholders.
    """

    key: str
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text(self.key, "en", **self.values)

    def text(self, language: str) -> str:
        """In a language."""
        return text(self.key, language, **self.values)


def text(key: str, language: str, **values: Any) -> str:
    """Look a text up and fill it in; a value that is itself a `Message` is put into the same language.

    Raises
    ------
    InputError
        If the key, the language or a placeholder's value is missing.

    Examples
    --------
    >>> text("action.run_points", "zh", count=3)
    '运行（3 个点）'
    """
    if key not in TABLE or language not in LANGUAGES:
        raise InputError("no such text or language", received=(key, language))
    filled = {
        name: value.text(language) if isinstance(value, Message) else value for name, value in values.items()
    }
    try:
        return TABLE[key][LANGUAGES.index(language)].format(**filled)
    except (KeyError, IndexError) as error:
        raise InputError(f"the text {key} lacks a value", received=str(error)) from error
