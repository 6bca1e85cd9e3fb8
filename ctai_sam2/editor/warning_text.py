"""Warnings of a result as the editors show them: a label's name for the structure's, in the user's language.

Results and tables hold warnings in English, since programs count them. Here each has its Chinese, and the
name of the gate that a table needs is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from ctai_sam2.editor.i18n import TABLE, text

WARNINGS: Mapping[str, str] = {
    "the model is not sure of its mask (confidence {})": "模型对其掩膜没有把握（置信度 {}）",
    "nothing is left after the HU limits; place points or a box yourself": (
        "按 HU 范围裁剪后没有剩余像素，请自行放置点或框"
    ),
    "the mask lies elsewhere than anatomy suggests": "掩膜位置与解剖结构不符",
    "found by the model alone, with no outline to check it by": "仅由模型得出，没有可核对的轮廓",
    "found by the division of the slice alone": "仅由整层划分得出",
    "the slice runs through a disc, not through a vertebral body": "该层面经过椎间盘，而非椎体",
    "no such fat was found": "未找到该脂肪",
    "no such tissue was found": "未找到该组织",
    "the muscle ring is open over {} cm between skin and cavity": "肌肉环在皮肤与腹腔之间有 {} cm 的缺口",
    "the abdominal wall is much thicker on one side": "一侧腹壁明显更厚",
    "{} cm² of what looked like muscle touch neither wall nor back": (
        "有 {} cm² 形似肌肉的区域既不与腹壁也不与背部相连"
    ),
    "{} cm² of fat were in no class": "有 {} cm² 脂肪未能归类",
    "the abdominal wall is as thick as an organ": "腹壁厚如脏器",
    "one psoas is much larger than the other": "两侧腰大肌大小相差很大",
    "there is hardly any muscle": "几乎没有肌肉",
    "the scan is noisy ({} HU in fat)": "图像噪声大（脂肪中 {} HU）",
    "two ways of finding it disagree (overlap {})": "两种分割方法的结果不一致（重叠 {}）",
    "the area differs by {} % from the slices next to it": "面积与相邻层面相差 {}%",
    "the prompt lies on the patient's left; is {} meant?": "提示位于患者左侧，是否应为 {}？",
    "the prompt lies on the patient's right; is {} meant?": "提示位于患者右侧，是否应为 {}？",
    "parts on the other side of the body were left out": "已略去身体另一侧的部分",
    "the model found nothing; place a box yourself": "模型未找到任何内容，请自行画框",
    "L3 may be one level off: its probability is {}; check the level": (
        "L3 可能偏差一个节段：其概率为 {}，请核对节段"
    ),
    "the vertebra above could be L3 as well (probability {}): the border of lumbar spine and sacrum is cut "
    "off, unclear or transitional": "上方椎体也可能是 L3（概率 {}）：腰骶交界被截断、不清楚或为移行椎",
    "the vertebra below could be L3 as well (probability {}): the border of lumbar spine and sacrum is cut "
    "off, unclear or transitional": "下方椎体也可能是 L3（概率 {}）：腰骶交界被截断、不清楚或为移行椎",
    "L3 cannot be distinguished from its neighbours: the likeliest body has a probability of {}; choose "
    "among the proposals, click on L3 or give the axial slice": (
        "无法将 L3 与相邻椎体区分：可能性最大的椎体概率为 {}；请从候选中选择、点击 L3 或指定轴位层面"
    ),
    "the slice passes next to the middle of the spine: no spinal canal is seen behind the likeliest L3; a "
    "slice nearer to the midline shows the level and the body better": (
        "该层面偏离脊柱中线：在最可能的 L3 后方看不到椎管；更靠近中线的层面能更好地显示节段和椎体"
    ),
    "whether the slice shows an abdomen was not checked, as requested": "按要求未检查该层面是否为腹部",
    "a field of view of {} x {} mm shows no whole trunk: whether it is an abdomen was not checked": (
        "{} x {} mm 的视野未包含完整躯干：未检查是否为腹部"
    ),
}
"""Chinese by English; ``{}`` is a number or a name."""

_LOOK = "; look at it"
_GATE = re.compile(r" \[\w+\]$")


def show_warning(warning: str, language: str) -> str:
    """Write a warning of a result for a person; one that is not in the table stays in English.

    Examples
    --------
    >>> show_warning("psoas_left: there is hardly any muscle; look at it [little_muscle]", "en")
    'Left psoas: there is hardly any muscle; look at it'
    >>> show_warning("muscle: there is hardly any muscle; look at it [little_muscle]", "zh")
    '全部骨骼肌：几乎没有肌肉，请检查'
    """
    warning = _GATE.sub("", warning)
    structure, colon, rest = warning.partition(": ")
    is_named = bool(colon) and f"label.{structure}" in TABLE
    name, sentence = (text(f"label.{structure}", language), rest) if is_named else ("", warning)
    if language == "zh":
        sentence = _in_chinese(sentence)
    separator = "：" if language == "zh" else ": "
    return f"{name}{separator}{sentence}" if is_named else sentence


def _in_chinese(sentence: str) -> str:
    stem, look = sentence.removesuffix(_LOOK), "，请检查" if sentence.endswith(_LOOK) else ""
    for pattern, chinese in _patterns():
        found = pattern.fullmatch(stem)
        if found:
            return chinese.format(*found.groups()) + look
    return sentence


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(re.escape(english).replace(r"\{\}", "(.+?)")), zh) for english, zh in WARNINGS.items()
    ]
