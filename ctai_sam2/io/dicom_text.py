"""What of a DICOM header may be shown, and in which form.

An element whose length is damaged holds whatever stood behind it, a patient's name as well. So messages
never repeat content: a code stands in them only if it is on a list, a UID only if it is one, a number only if
it could be parsed.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
# As vendors write them: B30f, Br40d 3 (Siemens), FC18-H (Canon), B_SOFT_C (United), UB (Philips).
_KERNEL_PART = re.compile(r"[A-Za-z]{1,4}\d{1,3}[a-z]{0,2}|[A-Z]{1,2}|\d{1,2}")
_KERNEL_WORDS = """
ABDOMEN BODY BONE BONEPLUS BRAIN CHEST CHST DETAIL EDGE HEAD LUNG MEDIUM PLUS SHARP SMOOTH SOFT STANDARD
STND ULTRA
"""

_MAKERS = """
CANON ELECTRON GE HITACHI HEALTHCARE HEALTHINEERS IMAGING MEDICAL NEUSOFT NMS PHILIPS SAMSUNG SIEMENS SYSTEMS
TOSHIBA UIH UNITED
"""
_MODELS = """
ACCESS ALPHA AQUILION ASTEION BIGBORE BIOGRAPH BRIGHTSPEED BRILLIANCE CARDIOGRAPHE CREATOR DEFINITION
DISCOVERY DRIVE EDGE EMOTION EVO EXPERT FLASH FORCE FREEDOM FRONTIER GEMINI GO GO.ALL GO.NOW GO.OPEN
GO.SIM GO.TOP GO.UP HISPEED ICT INCISIVE INGENUITY IQON LIGHTNING LIGHTSPEED MAXIMA MCT NAEOTOM NEUVIZ ONE
OPEN OPTIMA PERSPECTIVE PRECISION PRIME PRIMA PRO PULSAR QXI RENDITION REVOLUTION RXL SCENARIA SCOPE
SENSATION SERVE SOMATOM SPECTRAL SPIRIT START SUPRIA TRUE ULTRA UCT VCT VIDA VISION VOLUME X.CITE XTE
"""
_MODEL_PART = re.compile(r"(?=.*\d)[A-Za-z0-9]{1,6}|[A-Za-z]{1,2}")

# Digests are for comparing within one process and mean nothing outside of it.
_SALT = os.urandom(16)

# Modalities of PS3.3 C.7.3.1.1.1 that lie in folders of CT.
_MODALITIES = """
CR CT CTPROTOCOL DX IO KO MG MR NM OT PDF PR PT PX REG RF RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SC
SEG SM SR US XA
"""
# Units of PS3.3 C.11.1.1.2, and those of spectral CT.
_UNITS = "HU HU_MOD OD US Z_EFF ED EDW PCT MGML HECT"
_SHOWN_CODES = frozenset(f"{_MODALITIES} {_UNITS}".split())


def shown_code(text: str) -> str:
    """Give a modality or a unit if it is a known one, else ``unknown``.

    Examples
    --------
    >>> shown_code("MR"), shown_code("DOE^JANE")
    ('MR', 'unknown')
    """
    word = text.strip().upper()
    return word if word in _SHOWN_CODES else "unknown"


def valid_uid(value: Any) -> str:
    r"""Give a UID without the zero byte that pads it to an even length, or nothing where the value is none.

    Examples
    --------
    >>> valid_uid("1.2.840.10008.1.20\0"), valid_uid("Doe^Jane 1.2")
    ('1.2.840.10008.1.20', '')
    """
    text = str(value or "").strip().rstrip("\0")
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def shown_kernel(text: str | None) -> str | None:
    """Give a reconstruction kernel's name where it is one as vendors write them.

    Examples
    --------
    >>> shown_kernel("Br40d 3"), shown_kernel("FC18-H"), shown_kernel("SOFT+"), shown_kernel("Doe Jane")
    ('Br40d 3', 'FC18-H', 'SOFT+', None)
    """
    name = (text or "").strip()
    parts = re.split(r"[ _./+-]+", name.rstrip("+"))
    is_name = len(parts) <= 4 and all(
        part.upper() in _KERNEL_WORDS.split() or _KERNEL_PART.fullmatch(part) for part in parts
    )
    return name if is_name else None


def shown_maker(maker: str | None) -> str | None:
    """Give the maker of a scanner where it is a known one; None where a word is not.

    Examples
    --------
    >>> shown_maker("GE MEDICAL SYSTEMS"), shown_maker("Doe^Jane"), shown_maker("")
    ('GE MEDICAL SYSTEMS', None, None)
    """
    words = _words(maker)
    return (maker or "").strip() if words and all(word in _MAKERS.split() for word in words) else None


def shown_scanner(maker: str | None, model: str | None) -> str | None:
    """Give maker and model of a scanner where both are known ones; None where a word is not.

    Examples
    --------
    >>> shown_scanner("SIEMENS", "SOMATOM Definition AS+"), shown_scanner("GE MEDICAL SYSTEMS", "Doe^Jane")
    ('SIEMENS SOMATOM Definition AS+', None)
    """
    makers, models = _MAKERS.split(), _MODELS.split()
    of_maker, of_model = _words(maker), _words(model)
    is_known = all(word in makers for word in of_maker) and all(
        word in models or word in makers or _MODEL_PART.fullmatch(word) for word in of_model
    )
    return " ".join(text.strip() for text in (maker, model) if text) if of_model and is_known else None


def _words(text: str | None) -> list[str]:
    return [word.strip("+.,()").upper() for word in re.split(r"[ _/-]+", text or "") if word]


_LONGEST_LINE = 64


def one_line(value: Any) -> str | None:
    r"""Give a text as one printable line; None where nothing is left of it.

    Examples
    --------
    >>> one_line("Abdomen  5.0\n(venous)")
    'Abdomen 5.0 (venous)'
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else " ".join(str(item) for item in _items(value))
    words = "".join(c if c.isprintable() else " " for c in text.encode("utf-8", "replace").decode()).split()
    return " ".join(words)[:_LONGEST_LINE] or None


def digest_of(value: bytes | str | None) -> str:
    """Turn what identifies a patient into a word that only tells same from different; empty for nothing."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value or b"")
    plain = raw.strip(b" \0^=").lower()
    return hashlib.blake2b(plain, key=_SALT, digest_size=8).hexdigest() if plain else ""


def _items(value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        return [value]
