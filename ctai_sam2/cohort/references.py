"""The works that a methods paragraph cites; their BibTeX entries are in ``references.bib``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.resources import files

CITED_TABLES: Mapping[str, str] = {
    "prado-2008": "prado2008",
    "martin-2013": "martin2013",
    "derstine-2018": "derstine2018",
    "van-der-werf-2018": "vanderwerf2018",
    "yoon-2021": "yoon2021",
    "korea-2021": "korea2021",
    "framingham-2024": "framingham2024",
    "akamatsu-2026": "akamatsu2026",
}
"""Key of the work by the name of a table of cut-offs, reference values or published effects."""


@functools.cache
def _entries() -> Mapping[str, str]:
    text = files("ctai_sam2.cohort").joinpath("references.bib").read_text(encoding="utf-8")
    return {re.split(r"[{,]", entry, maxsplit=2)[1]: entry for entry in text.strip().split("\n\n")}


def bibtex_of(key: str, *, version: str) -> str:
    """Return the BibTeX entry of a key.

    Parameters
    ----------
    key : str
        As cited.
    version : str
        Of this package, for its own entry.

    Raises
    ------
    KeyError
        If no work has this key.

    Examples
    --------
    >>> print(bibtex_of("ctai_sam2", version="1.0").splitlines()[0])
    @software{ctai_sam2,
    """
    return _entries()[key].replace("VERSION", version)
