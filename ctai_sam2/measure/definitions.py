"""What "muscle" and "fat" mean in HU: declared, versioned, written in every row.

Numbers of two studies compare only if their definitions agree, and published
definitions differ. A `TissueDefinitions` is therefore a value with a name, a
version and a hash of everything that changes a number; `identifier` goes into
each row of a table, and the object itself, as JSON, next to it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from ctai_sam2.errors import InputError
from ctai_sam2.files.atomic import write_text
from ctai_sam2.files.folders import require_file
from ctai_sam2.files.json_text import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DensityRule: TypeAlias = Literal["original", "fixed"]
Tissue: TypeAlias = Literal["muscle", "imat", "sat", "vat"]

_TISSUES: tuple[Tissue, ...] = get_args(Tissue)
_PART_OF_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH_LENGTH = 10


# Checks stand above the classes: defaults are made, and checked, while this module loads.


def _as_number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number", received=value)
    return float(value)


def require_identity(name: Any, version: Any, source: Any) -> None:
    """Raise `InputError` unless name and version can form an identifier and a source is stated."""
    for value in (name, version):
        if not isinstance(value, str) or not _PART_OF_IDENTIFIER.fullmatch(value):
            raise InputError(
                "a name and a version are letters, digits, dots, dashes and underscores", received=value
            )
    if not isinstance(source, str) or not source.strip():
        raise InputError("a source must say where the numbers come from")


@dataclass(frozen=True, kw_only=True)
class HuRange:
    """A range of Hounsfield units, both bounds included.

    Raises
    ------
    InputError
        If a bound is not finite or the lower one is not below the upper one.

    Examples
    --------
    >>> 150 in HuRange(low_hu=-29, high_hu=150), 151 in HuRange(low_hu=-29, high_hu=150)
    (True, False)
    """

    low_hu: float
    high_hu: float

    def __post_init__(self) -> None:
        low, high = _as_number(self.low_hu, "low_hu"), _as_number(self.high_hu, "high_hu")
        if not low < high:
            raise InputError("a HU range needs its lower bound below its upper one", received=(low, high))
        # Floats throughout, so that -29 and -29.0 are one definition with one hash.
        object.__setattr__(self, "low_hu", low)
        object.__setattr__(self, "high_hu", high)

    def __contains__(self, hu: float) -> bool:
        return self.low_hu <= hu <= self.high_hu

    def where(self, hu: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which values are in the range; bool of the same shape."""
        within: NDArray[np.bool_] = (hu >= self.low_hu) & (hu <= self.high_hu)
        return within


@dataclass(frozen=True, kw_only=True)
class TissueDefinitions:
    """The HU ranges and the density rule a measurement uses.

    Parameters
    ----------
    name, version : str
        Letters, digits, dot, dash and underscore; change the version with any number.
    source : str
        Where the numbers come from.
    muscle, imat, sat, vat : HuRange
        Skeletal muscle; intermuscular, subcutaneous and visceral adipose tissue.
        Defaults: the Alberta protocol (TomoVision).
    density_rule : {"original", "fixed"}
        How volume becomes mass. ``"original"``: 1 + 0.001 x mean HU, in g/cm³, as the
        system this toolkit follows did. ``"fixed"``: ``fixed_density_g_cm3``.
    fixed_density_g_cm3 : float
        Default 1.06: mammalian muscle is 1.0597 g/cm³ (Mendez and Keys, Metabolism 9
        (1960) 184-188).

    Raises
    ------
    InputError
        If a name, a version, a range, the rule or the density cannot be used.

    Examples
    --------
    >>> TISSUE_DEFINITIONS["alberta"].identifier
    'alberta@1#f12b4bcdb5'
    """

    name: str
    version: str
    source: str
    muscle: HuRange = HuRange(low_hu=-29, high_hu=150)
    imat: HuRange = HuRange(low_hu=-190, high_hu=-30)
    sat: HuRange = HuRange(low_hu=-190, high_hu=-30)
    vat: HuRange = HuRange(low_hu=-150, high_hu=-50)
    density_rule: DensityRule = "original"
    fixed_density_g_cm3: float = 1.06

    def __post_init__(self) -> None:
        require_identity(self.name, self.version, self.source)
        for tissue in _TISSUES:
            if not isinstance(getattr(self, tissue), HuRange):
                raise InputError(f"{tissue} must be a HuRange", received=type(getattr(self, tissue)).__name__)
        if self.density_rule not in get_args(DensityRule):
            raise InputError(
                "no such density rule", received=self.density_rule, hint="'original' or 'fixed'."
            )
        density = _as_number(self.fixed_density_g_cm3, "fixed_density_g_cm3")
        if not 0.5 <= density <= 2.0:
            raise InputError(
                "a density of muscle lies between 0.5 and 2 g/cm³", received=density, hint="Give it in g/cm³."
            )
        object.__setattr__(self, "fixed_density_g_cm3", density)

    def limits_of(self, structure: str) -> HuRange | None:
        """Return the range that a structure is cut to; None for one that is not, such as a vertebra.

        Examples
        --------
        >>> DEFAULT_DEFINITIONS.limits_of("psoas_left") == DEFAULT_DEFINITIONS.muscle
        True
        """
        tissue = "muscle" if structure.startswith("psoas") else structure
        return getattr(self, tissue) if tissue in _TISSUES else None

    @property
    def identifier(self) -> str:
        """``name@version#hash``, as written into each row."""
        return f"{self.name}@{self.version}#{self.content_hash}"

    @property
    def content_hash(self) -> str:
        """Ten hex digits (SHA-256) over all that changes a number: not name, version or source."""
        content = {
            key: value for key, value in asdict(self).items() if key not in ("name", "version", "source")
        }
        if self.density_rule != "fixed":
            del content["fixed_density_g_cm3"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]

    def muscle_density_g_cm3(self, hu_mean: float) -> float:
        """Density of muscle with this mean HU, in g/cm³; NaN for NaN.

        Examples
        --------
        >>> TISSUE_DEFINITIONS["alberta"].muscle_density_g_cm3(50.0)
        1.05
        """
        if math.isnan(hu_mean):
            return math.nan
        return 1.0 + 0.001 * hu_mean if self.density_rule == "original" else self.fixed_density_g_cm3

    def to_json(self) -> str:
        """Write as JSON text, with its hash; `from_json` reads it back equal."""
        return json.dumps({**asdict(self), "content_hash": self.content_hash}, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> TissueDefinitions:
        """Read JSON text as `to_json` writes it.

        ``content_hash`` may be left out; where it is given it must match, so that a
        number edited by hand does not pass under the old identifier. Ranges left out
        take their defaults.

        Raises
        ------
        InputError
            If the text is not JSON, a key is unknown or missing, a value cannot be
            used, or the hash does not match.
        """
        try:
            content = parse_json(text, unique_keys=True)
        except ValueError as error:
            raise InputError("tissue definitions must be JSON text") from error
        if not isinstance(content, dict):
            raise InputError("tissue definitions must be a JSON object", received=type(content).__name__)
        stated_hash = content.pop("content_hash", None)
        known = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(content) - known), sorted({"name", "version", "source"} - set(content))
        if unknown or missing:
            raise InputError(
                "tissue definitions have unknown or missing keys",
                received=f"unknown: {unknown}, missing: {missing}",
                hint=f"The keys are {', '.join(sorted(known))}.",
            )
        for tissue in _TISSUES:
            if tissue in content:
                content[tissue] = _range_from_json(content[tissue], tissue)
        definitions = cls(**content)
        if stated_hash is not None and stated_hash != definitions.content_hash:
            raise InputError(
                "the hash of the tissue definitions does not match their numbers",
                received=f"{stated_hash} for {definitions.content_hash}",
                hint="If you changed a number, change the version and delete content_hash.",
            )
        return definitions


_ALBERTA = (
    "Alberta protocol, TomoVision sliceOmatic (muscle -29..150, IMAT and SAT -190..-30, VAT -150..-50 HU)"
)

TISSUE_DEFINITIONS: Mapping[str, TissueDefinitions] = {
    each.name: each
    for each in (
        TissueDefinitions(name="alberta", version="1", source=_ALBERTA + "; density 1 + 0.001 HU"),
        TissueDefinitions(
            name="alberta-fixed-density",
            version="1",
            source=_ALBERTA + "; density 1.06 g/cm³: Mendez and Keys 1960",
            density_rule="fixed",
        ),
        TissueDefinitions(
            name="one-fat-range",
            version="1",
            source="as alberta, with -190..-30 HU for visceral fat as well, as many automatic tools use",
            vat=HuRange(low_hu=-190, high_hu=-30),
        ),
    )
}
"""Named definitions; ``"alberta"`` is the default."""

DEFAULT_DEFINITIONS = TISSUE_DEFINITIONS["alberta"]


def load_definitions(name_or_path: str | os.PathLike[str]) -> TissueDefinitions:
    """Return definitions by name (see ``TISSUE_DEFINITIONS``) or from a JSON file.

    Raises
    ------
    InputError
        If there is neither such a name nor such a file, or its content cannot be used.

    Examples
    --------
    >>> load_definitions("one-fat-range").vat.low_hu
    -190.0
    """
    if isinstance(name_or_path, str) and name_or_path in TISSUE_DEFINITIONS:
        return TISSUE_DEFINITIONS[name_or_path]
    path = Path(name_or_path)
    try:
        require_file(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError, InputError) as error:
        raise InputError(
            "no tissue definitions of this name, and no readable file either",
            received=path.name,
            hint=f"Known names: {', '.join(TISSUE_DEFINITIONS)}.",
        ) from error
    return TissueDefinitions.from_json(text)


def save_definitions(definitions: TissueDefinitions, path: str | os.PathLike[str]) -> None:
    """Write definitions to a JSON file, whole or not at all; an existing file is replaced.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    write_text(path, definitions.to_json() + "\n")


def _range_from_json(value: Any, tissue: str) -> HuRange:
    if not isinstance(value, dict) or set(value) != {"low_hu", "high_hu"}:
        raise InputError(f"{tissue} must hold low_hu and high_hu", received=str(value))
    return HuRange(**value)
