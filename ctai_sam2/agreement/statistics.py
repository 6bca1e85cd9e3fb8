"""Agreement of numbers: intraclass correlation, within-subject variation, Bland and Altman's limits.

Functions that estimate something return it with a confidence interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ctai_sam2.errors import InputError


@dataclass(frozen=True, kw_only=True)
class IntraclassCorrelation:
    """An intraclass correlation with its confidence interval.

    Parameters
    ----------
    value : float
        At most 1; negative where subjects differ less than chance would have them.
        NaN, as the interval, where all ratings are equal.
    low, high : float
        The interval's bounds.
    confidence : float
        Its level, such as 0.95.
    n_subjects, n_raters : int
        Size of the table.
    """

    value: float
    low: float
    high: float
    confidence: float
    n_subjects: int
    n_raters: int


def icc_2_1(ratings_subject_by_rater: ArrayLike, *, confidence: float = 0.95) -> IntraclassCorrelation:
    """Intraclass correlation ICC(2,1): two-way random effects, absolute agreement, single rating.

    Every rater rates every subject; raters stand for all readers one might have asked,
    and a reader who measures systematically more lowers the value.

    Parameters
    ----------
    ratings_subject_by_rater : array_like, shape (n subjects, k raters)
        Finite; at least two of each.
    confidence : float
        Between 0 and 1.

    Raises
    ------
    InputError
        If the table is too small, not finite, or the confidence is not within 0 … 1.

    Notes
    -----
    Value: Shrout and Fleiss, Psychol Bull 86 (1979) 420-428. Interval: McGraw and
    Wong, Psychol Methods 1 (1996) 30-46, ICC(A,1).

    Examples
    --------
    >>> table = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    >>> round(icc_2_1(table).value, 2)
    0.29
    """
    ratings = _table(ratings_subject_by_rater)
    _check_confidence(confidence)
    n, k = ratings.shape

    def result(value: float, low: float, high: float) -> IntraclassCorrelation:
        return IntraclassCorrelation(
            value=value, low=low, high=high, confidence=confidence, n_subjects=n, n_raters=k
        )

    grand = ratings.mean()
    of_subjects, of_raters = ratings.mean(axis=1), ratings.mean(axis=0)
    residual = ratings - of_subjects[:, None] - of_raters[None, :] + grand
    ms_subjects = k * float(((of_subjects - grand) ** 2).sum()) / (n - 1)
    ms_raters = n * float(((of_raters - grand) ** 2).sum()) / (k - 1)
    ms_error = float((residual**2).sum()) / ((n - 1) * (k - 1))
    # What rounding alone leaves of sums of squares; below it there is no variation.
    noise = (np.finfo(np.float64).eps * max(float(np.abs(ratings).max()), 1e-300)) ** 2 * n * k * 16
    if max(ms_subjects, ms_raters, ms_error) <= noise:
        return result(float("nan"), float("nan"), float("nan"))
    if max(ms_raters, ms_error) <= noise:
        return result(1.0, 1.0, 1.0)

    between_raters = k * (ms_raters - ms_error) / n
    icc = (ms_subjects - ms_error) / (ms_subjects + (k - 1) * ms_error + between_raters)
    weight_raters = k * icc / (n * (1 - icc))
    weight_error = 1 + k * icc * (n - 1) / (n * (1 - icc))
    mixed, error_part = weight_raters * ms_raters, weight_error * ms_error
    spread = mixed**2 / (k - 1) + error_part**2 / ((n - 1) * (k - 1))
    # Satterthwaite's degrees of freedom; a negative ICC can push them below what F knows.
    freedom = max((mixed + error_part) ** 2 / spread, 1.0) if spread > 0 else 1.0
    tail = (1 + confidence) / 2
    f_low, f_high = float(stats.f.ppf(tail, n - 1, freedom)), float(stats.f.ppf(tail, freedom, n - 1))
    rest = k * ms_raters + (k * n - k - n) * ms_error
    low = n * (ms_subjects - f_low * ms_error) / (f_low * rest + n * ms_subjects)
    high = n * (f_high * ms_subjects - ms_error) / (rest + n * f_high * ms_subjects)
    return result(icc, low, high)


def within_subject_cv(ratings_subject_by_rater: ArrayLike) -> float:
    """Within-subject coefficient of variation, in per cent, by the root-mean-square method.

    Each subject's standard deviation over its ratings is divided by its mean; the
    result is the root of the mean of these ratios' squares, times 100.

    Parameters
    ----------
    ratings_subject_by_rater : array_like, shape (n subjects, k ratings)
        Positive (areas, indices; not HU, whose zero is arbitrary); k at least 2.

    Raises
    ------
    InputError
        If the table is too small, not finite or not positive.

    Notes
    -----
    Bland and Altman, BMJ 313 (1996) 106; Hyslop and White, Am Stat 63 (2009) 270-275.

    Examples
    --------
    >>> round(within_subject_cv([[100, 110], [50, 50]]), 3)
    4.762
    """
    ratings = _table(ratings_subject_by_rater, least_subjects=1)
    if (ratings <= 0).any():
        raise InputError(
            "a coefficient of variation needs positive ratings",
            received=f"the smallest is {ratings.min():g}",
            hint="For HU report the standard deviation or Bland and Altman's limits.",
        )
    ratios = ratings.std(axis=1, ddof=1) / ratings.mean(axis=1)
    return 100.0 * float(np.sqrt((ratios**2).mean()))


@dataclass(frozen=True, kw_only=True)
class MeasurementError:
    """Errors of a measurement, in its own unit.

    Parameters
    ----------
    tem : float
        Technical error of measurement: the within-subject standard deviation, systematic differences
        between raters included.
    tem_percent : float or None
        In per cent of the mean; None for HU and where a value is not positive.
    sem : float
        Standard error of measurement: the same without systematic differences between raters.
    repeatability : float
        Repeatability coefficient: two ratings of one subject differ by less than this 95 % of the time.
    """

    tem: float
    tem_percent: float | None
    sem: float
    repeatability: float


def measurement_error(ratings_subject_by_rater: ArrayLike, *, relative: bool = True) -> MeasurementError:
    """Technical error, standard error and repeatability coefficient of a measurement.

    Parameters
    ----------
    ratings_subject_by_rater : array_like, shape (n subjects, k raters)
        Finite; at least two of each.
    relative : bool
        Whether zero means nothing (areas, indices; not HU), so that a share of the mean has a meaning.

    Raises
    ------
    InputError
        If the table is too small or not finite.

    Notes
    -----
    TEM: root of the mean within-subject variance; for two ratings Dahlberg's sqrt(sum d² / 2n). SEM: root of
    the residual mean square of the two-way table (Weir, J Strength Cond Res 19 (2005) 231-240).
    Repeatability: 1.96 sqrt(2) TEM (Bland and Altman, BMJ 313 (1996) 744).

    Examples
    --------
    >>> found = measurement_error([[100.0, 102.0], [50.0, 52.0]])
    >>> round(found.tem, 3), round(found.sem, 3), round(found.repeatability, 2)
    (1.414, 0.0, 3.92)
    """
    ratings = _table(ratings_subject_by_rater)
    n, k = ratings.shape
    tem = float(np.sqrt(ratings.var(axis=1, ddof=1).mean()))
    residual = ratings - ratings.mean(axis=1)[:, None] - ratings.mean(axis=0)[None, :] + ratings.mean()
    sem = float(np.sqrt((residual**2).sum() / ((n - 1) * (k - 1))))
    return MeasurementError(
        tem=tem,
        tem_percent=100 * tem / float(ratings.mean()) if relative and (ratings > 0).all() else None,
        sem=sem,
        repeatability=float(stats.norm.ppf(0.975) * np.sqrt(2) * tem),
    )


@dataclass(frozen=True, kw_only=True)
class BlandAltman:
    """Bias and limits of agreement between two methods, in the measurement's own unit.

    Parameters
    ----------
    bias : float
        Mean of first minus second.
    sd : float
        Standard deviation of the differences (n - 1).
    low, high : float
        Limits of agreement, bias -/+ 1.96 sd: 95 % of differences are expected between them.
    bias_ci, low_ci, high_ci : (float, float)
        Confidence intervals of the three.
    confidence : float
        Level of these intervals.
    n : int
        Pairs.
    """

    bias: float
    sd: float
    low: float
    high: float
    bias_ci: tuple[float, float]
    low_ci: tuple[float, float]
    high_ci: tuple[float, float]
    confidence: float
    n: int


def bland_altman(first: ArrayLike, second: ArrayLike, *, confidence: float = 0.95) -> BlandAltman:
    """Bland and Altman's limits of agreement of paired measurements.

    Parameters
    ----------
    first, second : array_like, shape (n,)
        One value per subject from each method or reader, finite, n at least 3.
    confidence : float
        Level of the confidence intervals; the limits themselves are always 95 % limits.

    Raises
    ------
    InputError
        If the lengths differ, there are fewer than three pairs, a value is not finite,
        or the confidence is not within 0 … 1.

    Notes
    -----
    Bland and Altman, Lancet 327 (1986) 307-310; standard error of the limits from Stat
    Methods Med Res 8 (1999) 135-160, section 2.1.

    Examples
    --------
    >>> agreement = bland_altman([10.0, 12.0, 14.0], [11.0, 12.0, 13.0])
    >>> agreement.bias, agreement.sd, round(agreement.high, 2)
    (0.0, 1.0, 1.96)
    """
    a, b = _numbers(first), _numbers(second)
    _check_confidence(confidence)
    if a.ndim != 1 or a.shape != b.shape or a.size < 3:
        raise InputError(
            "two equally long lists of at least three values are needed", received=f"{a.shape}, {b.shape}"
        )
    differences = a - b
    n = differences.size
    bias, sd = float(differences.mean()), float(differences.std(ddof=1))
    z = float(stats.norm.ppf(0.975))
    t = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    bias_half = t * sd / np.sqrt(n)
    limit_half = t * sd * np.sqrt(1 / n + z**2 / (2 * (n - 1)))

    def interval(centre: float, half: float) -> tuple[float, float]:
        return float(centre - half), float(centre + half)

    low, high = bias - z * sd, bias + z * sd
    return BlandAltman(
        bias=bias,
        sd=sd,
        low=low,
        high=high,
        bias_ci=interval(bias, bias_half),
        low_ci=interval(low, limit_half),
        high_ci=interval(high, limit_half),
        confidence=confidence,
        n=n,
    )


def _numbers(values: Any) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("ratings must be numbers, equally many for each subject") from error
    if not np.isfinite(numbers).all():
        raise InputError("ratings must be finite", hint="Leave out subjects with a missing rating.")
    return numbers


def _table(ratings: Any, *, least_subjects: int = 2) -> NDArray[np.float64]:
    table = _numbers(ratings)
    if table.ndim != 2 or table.shape[0] < least_subjects or table.shape[1] < 2:
        raise InputError(
            f"ratings need at least {least_subjects} subjects (rows) and 2 raters (columns)",
            received=f"shape {table.shape}",
        )
    return table


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError("a confidence lies between 0 and 1", received=confidence, hint="Give 0.95 for 95 %.")
