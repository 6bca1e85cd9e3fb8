"""Which cases of a cohort are of one patient, by digests that are compared in memory and never written."""

from __future__ import annotations

from collections.abc import Sequence

from ctai_sam2.cohort.case import Case
from ctai_sam2.io.study import first_header

_FEWEST_CONSTANT = 3
"""If this many cases share one identifier and none has another, an export put it in for all of them."""

ONE_IDENTIFIER = (
    "all DICOM cases state one patient identifier: which of them are of one patient could not be compared"
)


def find_same_patients(cases: Sequence[Case]) -> tuple[dict[str, list[str]], str | None]:
    """Compare the patients of cases by the headers of their DICOM images.

    Two cases are of one patient if the identifiers are equal and neither birth date nor sex contradicts.

    Parameters
    ----------
    cases : sequence of Case
        Those that are no DICOM, cannot be read or state no identifier are left out.

    Returns
    -------
    dict of str to list of str
        By case the others of the same patient, where there are any.
    str or None
        Why that is not known, if every case states the same identifier.
    """
    by_identifier: dict[str, list[tuple[str, str, str]]] = {}
    for case in cases:
        header = first_header(case.path, series_uid=case.series_uid)
        if header is not None and header.keys.patient and header.keys.patient[0]:
            identifier, _, born, sex, *_ = header.keys.patient
            by_identifier.setdefault(identifier, []).append((case.case_id, born, sex))
    if len(by_identifier) == 1 and sum(map(len, by_identifier.values())) >= _FEWEST_CONSTANT:
        return {}, ONE_IDENTIFIER
    same: dict[str, list[str]] = {}
    for members in by_identifier.values():
        for case_id, born, sex in members:
            others = [
                other
                for other, its_born, its_sex in members
                if other != case_id and _agree(born, its_born) and _agree(sex, its_sex)
            ]
            if others:
                same[case_id] = others
    return same, None


def _agree(one: str, other: str) -> bool:
    return not one or not other or one == other
