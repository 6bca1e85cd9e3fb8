"""Measures as readers see them: short and full name in each language, the unit shown, and digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ctai_sam2.measure.columns import COLUMN_TABLE, Column


@dataclass(frozen=True, kw_only=True)
class ShownMeasure:
    """A column of numbers as it is shown; tables on disk keep the column's own name and unit.

    Parameters
    ----------
    column : str
        Name in the table.
    short, en, zh : str
        As in a narrow column, and in full, in English and in Chinese.
    unit : str
        Areas are shown in cm².
    factor : float
        What a cell is multiplied with to have that unit.
    digits : int
        After the point.
    """

    column: str
    short: str
    en: str
    zh: str
    unit: str
    factor: float = 1.0
    digits: int = 1

    @property
    def label(self) -> str:
        """Short name and unit, as for an axis.

        Examples
        --------
        >>> SHOWN["smi_cm2_m2"].label, SHOWN["vat_sat_ratio"].label
        ('SMI, cm²/m²', 'VAT/SAT')
        """
        return f"{self.short}, {self.unit}" if self.unit else self.short

    def name(self, language: str) -> str:
        """Full name in a language: ``en`` or ``zh``."""
        return self.zh if language == "zh" else self.en


def show(column: Column, short: str, en: str, zh: str, *, digits: int = 1) -> ShownMeasure:
    """Say how a column is shown; areas of a table in mm² are shown in cm².

    Examples
    --------
    >>> shown = show(Column("fat_area_mm2", "mm²", "Area of fat."), "Fat", "Fat", "脂肪")
    >>> shown.unit, 5000 * shown.factor
    ('cm²', 50.0)
    """
    unit, factor = ("cm²", 0.01) if column.unit == "mm²" else (column.unit, 1.0)
    return ShownMeasure(
        column=column.name, short=short, en=en, zh=zh, unit=unit, factor=factor, digits=digits
    )


_COLUMNS = {column.name: column for column in COLUMN_TABLE}

SHOWN: Mapping[str, ShownMeasure] = MappingProxyType(
    {
        name: show(_COLUMNS[name], short, en, zh, digits=digits)
        for name, short, en, zh, digits in (
            ("sma_cm2", "SMA", "Skeletal muscle area (SMA)", "骨骼肌面积（SMA）", 1),
            ("smi_cm2_m2", "SMI", "Skeletal muscle index (SMI)", "骨骼肌指数（SMI）", 1),
            ("smd_hu", "SMD", "Skeletal muscle density (SMD)", "骨骼肌密度（SMD）", 1),
            ("smg", "SMG", "Skeletal muscle gauge (SMG)", "骨骼肌综合指标（SMG）", 0),
            ("nama_percent", "NAMA", "Muscle of normal attenuation (NAMA)", "正常密度肌肉（NAMA）", 1),
            ("lama_percent", "LAMA", "Muscle of low attenuation (LAMA)", "低密度肌肉（LAMA）", 1),
            (
                "imat_percent",
                "IMAT of the compartment",
                "Fat in the muscle compartment (IMAT)",
                "肌间脂肪占比（IMAT）",
                1,
            ),
            ("imat_area_mm2", "IMAT", "Intermuscular fat (IMAT)", "肌间脂肪（IMAT）", 1),
            ("psoas_area_mm2", "Psoas area", "Psoas area, both sides", "双侧腰大肌面积", 1),
            ("psoas_left_area_mm2", "Psoas L", "Area of the left psoas", "左侧腰大肌面积", 1),
            ("psoas_right_area_mm2", "Psoas R", "Area of the right psoas", "右侧腰大肌面积", 1),
            ("psoas_hu_mean", "Psoas density", "Psoas density, both sides", "双侧腰大肌密度", 1),
            ("psoas_asymmetry", "Psoas asymmetry", "Psoas, (left - right) / mean", "腰大肌不对称性", 2),
            ("pmi_cm2_m2", "PMI", "Psoas muscle index (PMI)", "腰大肌指数（PMI）", 1),
            ("sat_area_mm2", "SAT", "Subcutaneous fat (SAT)", "皮下脂肪（SAT）", 1),
            ("vat_area_mm2", "VAT", "Visceral fat (VAT)", "内脏脂肪（VAT）", 1),
            ("vat_sat_ratio", "VAT/SAT", "VAT / SAT", "VAT / SAT", 2),
            ("circumference_cm", "Circumference", "Circumference", "腹围", 1),
            ("middle_slice", "Slice", "Index of the slice measured", "测量层面的序号", 0),
        )
    }
)
"""By column."""
