"""Differences of two readers divided into the choice of the slice and the contour.

Let f_R(s) be what reader R measures on slice s; reader A chose slice a, reader B
slice b. Their difference D = f_A(a) - f_B(b) has two causes. Where both chose the
same slice, D is the contours' alone. Where they did not, one more measurement
divides it, the same outliner's on both slices:

    by A's contours:  D = [f_A(a) - f_A(b)]  +  [f_A(b) - f_B(b)]
    by B's contours:  D = [f_B(a) - f_B(b)]  +  [f_A(a) - f_B(a)]
                          slice                  contour

With both crossed measurements the two ways are averaged (Shapley's value), so no
reader is favoured; with one, its way is taken; with none, D stays undivided and is
counted as such. Slice and contour add up to D in each case, and their shares of
D's variance, cov(part, D) / var(D), add up to one. A share can be negative where one
part makes up for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctai_sam2.agreement.readings import Reading

FEWEST_CASES = 3


@dataclass(frozen=True, kw_only=True)
class Division:
    """How much of the differences in one measure the slice makes and how much the contour.

    Parameters
    ----------
    n : int
        Cases divided: same slice, or with a crossed measurement.
    undivided : int
        Cases on different slices without one; left out.
    slice_mean, contour_mean : float
        Mean difference, first minus second, from either cause.
    slice_sd, contour_sd : float
        Standard deviation of either part (n - 1).
    slice_share, contour_share : float
        Shares of the variance of the differences; they add up to 1. NaN where differences do not vary.
    """

    n: int
    undivided: int
    slice_mean: float
    contour_mean: float
    slice_sd: float
    contour_sd: float
    slice_share: float
    contour_share: float


def divide_difference(
    first: float, second: float, *, first_crossed: float | None = None, second_crossed: float | None = None
) -> tuple[float, float] | None:
    """Divide first minus second into what the slice makes and what the contour makes.

    Parameters
    ----------
    first, second : float
        What each reader measured on the slice of their own choice.
    first_crossed : float, optional
        What the first measures on the second's slice.
    second_crossed : float, optional
        What the second measures on the first's slice.

    Returns
    -------
    tuple of (slice part, contour part), or None
        They add up to the difference; None without a crossed measurement.

    Examples
    --------
    The first took a slice with 10 cm² more and outlines 2 cm² more generously.

    >>> divide_difference(112.0, 100.0, first_crossed=102.0, second_crossed=110.0)
    (10.0, 2.0)
    """
    slice_parts = []
    if first_crossed is not None:
        slice_parts.append(first - first_crossed)
    if second_crossed is not None:
        slice_parts.append(second_crossed - second)
    if not slice_parts:
        return None
    slice_part = sum(slice_parts) / len(slice_parts)
    return slice_part, first - second - slice_part


def divide_cases(
    measure: str,
    cases: Sequence[str],
    a: Mapping[str, Reading],
    b: Mapping[str, Reading],
    over_a: Mapping[str, Reading],
    over_b: Mapping[str, Reading],
    same: Mapping[str, bool | None],
) -> Division | None:
    """Divide the differences of all cases that can be divided; None where fewer than three can.

    Parameters
    ----------
    measure : str
        The column.
    cases : sequence of str
        Those with a value of both readers.
    a, b, over_a, over_b : mapping of str to Reading
        By case: either reader's own, and on the other's slice.
    same : mapping of str to bool or None
        Whether both chose one slice.
    """
    parts: list[tuple[float, float]] = []
    for case in cases:
        first, second = a[case].values[measure], b[case].values[measure]
        if same[case]:
            parts.append((0.0, first - second))
            continue
        divided = divide_difference(
            first,
            second,
            first_crossed=over_a[case].values.get(measure) if case in over_a else None,
            second_crossed=over_b[case].values.get(measure) if case in over_b else None,
        )
        if divided is not None:
            parts.append(divided)
    if len(parts) < FEWEST_CASES:
        return None
    by_slice, by_contour = np.array(parts).T
    covariance = np.cov(np.stack([by_slice, by_contour, by_slice + by_contour]))
    total = float(covariance[2, 2])
    varies = total > 0
    return Division(
        n=len(parts),
        undivided=len(cases) - len(parts),
        slice_mean=float(by_slice.mean()),
        contour_mean=float(by_contour.mean()),
        slice_sd=float(by_slice.std(ddof=1)),
        contour_sd=float(by_contour.std(ddof=1)),
        slice_share=float(covariance[0, 2]) / total if varies else float("nan"),
        contour_share=float(covariance[1, 2]) / total if varies else float("nan"),
    )
