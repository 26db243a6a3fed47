"""Contrasts of many models at once, what is read off a curve, and other paired bootstraps.

A sweep is many models' predictions of the same sentences: one model, say, with more and more of its
heads masked, by several criteria. Its points are resampled together, over groups of near-duplicates
as in `stats`, so that whatever is computed of them is paired: a difference of areas, of the places
at which two curves have fallen, of one curve from the mean of many. Nothing here knows of methods
or files. Scores are fractions of 1; sparsities come back in the unit that they are given in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid
from scipy.stats import rankdata

from headcount import stats
from headcount.errors import InputError

# Columns of a sweep's table that are no points.
KEYS = ("id", "group", "source", "fold", "seed", "label")

Functional = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class TwoSegments:
    """A curve as two straight lines that meet at `knee`, beside one straight line.

    `slopes` before and after the knee, in units of y per unit of x; `sse` and `straight_sse`, sums
    of squared residuals. `aicc_gain` is AICc (Hurvich & Tsai 1989) of the straight line minus that
    of the two: above 0 the knee is worth its two parameters. A smooth bend earns that as well as a
    cliff does: the slopes tell them apart.
    """

    knee: float
    slopes: tuple[float, float]
    sse: float
    straight_sse: float
    aicc_gain: float


def points_f1(
    labels, guesses, groups, *, draws: int = stats.DRAWS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """macro-F1 of every point, as observed (m,) and over resampled groups (draws, m).

    `labels` and `groups` (n,), `guesses` (n, m), of class ids. A draw is the same groups for all
    points. 150 points of 3,000 groups take 2 seconds and 0.4 GB on one core. Raises InputError as
    `stats.macro_f1` does.
    """
    guesses = np.asarray(guesses)
    if guesses.ndim != 2 or not guesses.shape[1]:
        raise InputError(f"a sweep's guesses have shape {guesses.shape}: pass (sentences, points)")
    counts = np.stack([stats.group_counts(labels, guess, groups) for guess in guesses.T], axis=1)
    observed = stats.f1_from_counts(counts.sum(0)).mean(-1)
    return observed, stats.f1_from_counts(stats.resampled(counts, draws, seed)).mean(-1)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """macro-F1 of every point of a sweep's table, on all its sentences together.

    Columns: series and percent, what stands before and after the @ of the point (a point without
    one is a series of its own, at 0), and score.
    """
    labels = table["label"].to_numpy()
    rows = [
        (*str(point).partition("@")[::2], stats.macro_f1(labels, table[point]))
        for point in table.columns
        if point not in KEYS
    ]
    found = pd.DataFrame(rows, columns=["series", "percent", "score"])
    return found.assign(percent=pd.to_numeric(found["percent"]).fillna(0.0))


def lines(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as curves that all start at the point `whole`, sorted by series and percent.

    The series random0, random1, ... become one, `random`, with the number in a column draw.
    """
    origin = scores[scores["series"] == "whole"]
    curve = scores[scores["series"] != "whole"]
    starts = [origin.assign(series=name) for name in curve["series"].unique()]
    curve = pd.concat([*starts, curve]).sort_values(["series", "percent"], ignore_index=True)
    draw = curve["series"].str.extract(r"^random(\d+)$")[0]
    return curve.assign(series=curve["series"].where(draw.isna(), "random"), draw=draw)


def contrast(
    table: pd.DataFrame, functional: Functional, *, draws: int = stats.DRAWS, seed: int = 0
) -> stats.Difference:
    """What `functional` makes of the points' macro-F1, with its 95 % percentile interval.

    table: a sweep's, with the columns `KEYS` (only group and label are read) and the predicted
        class at each point. Every column that is no key is resampled: drop what is not compared.
    functional: takes {point: macro-F1}, numbers for what was observed and arrays (draws,) for what
        was resampled, and returns a number and (draws,) from them.

    `p` is two-sided from the bootstrap: twice the smaller share of draws on one side of 0, at least
    1 / (draws + 1). It is no permutation, because the points are not exchangeable: a criterion's
    curve and the mean of many random draws' are not two things that could be swapped.

    Raises InputError if the table has no points, or if the functional does not go by draws or makes
    a number that is not finite.
    """
    points = [column for column in table.columns if column not in KEYS]
    labels, groups = table["label"].to_numpy(), table["group"].to_numpy()
    observed, sampled = points_f1(labels, table[points], groups, draws=draws, seed=seed)
    diff = np.asarray(functional(dict(zip(points, observed, strict=True))))
    sample = np.asarray(functional(dict(zip(points, sampled.T, strict=True))))
    if diff.shape != () or sample.shape != (draws,):
        raise InputError(
            f"a contrast of shape {diff.shape}, resampled {sample.shape}: its functional must make"
            f" one number of numbers, and ({draws},) of arrays ({draws},)"
        )
    return _difference(diff, sample, len(table), len(np.unique(groups)))


def gap(
    differences, validation, groups, *, draws: int = stats.DRAWS, seed: int = 0
) -> stats.Difference:
    """Mean of `differences` over validation rows minus that over training rows.

    Where they are one variant's cross-entropies minus another's, in nats, this is by how much the
    first one's gap between training and validation is the wider one. All arguments (n,),
    `validation` booleans. Groups are drawn from both parts together: pooled over folds, a group is
    in the one here and in the other there. `p` as for `contrast`.
    """
    differences, validation = np.asarray(differences, dtype=float), np.asarray(validation, bool)
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if differences.ndim != 1 or not differences.shape == validation.shape == codes.shape:
        raise InputError(
            f"a gap: differences {differences.shape}, parts {validation.shape} and groups "
            f"{codes.shape} do not fit; pass the same number of each"
        )
    if not np.isfinite(differences).all() or len(np.unique(validation)) < 2:
        raise InputError(
            "a gap: a value is not finite, or a part is empty; pass rows of both parts"
        )
    parts = np.stack([validation, ~validation], axis=1)
    sums = np.zeros((len(names), 2, 2))
    np.add.at(sums, codes, np.stack([parts * differences[:, None], parts], axis=1))

    def widening(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            means = sums[..., 0, :] / sums[..., 1, :]
        return means[..., 0] - means[..., 1]

    sample = widening(stats.resampled(sums, draws, seed))
    return _difference(widening(sums.sum(0)), sample, len(differences), len(names))


def area(sparsities, scores) -> np.ndarray:
    """Mean height of curves over their range, by the trapezoid rule: (..., m) -> (...).

    Divided by the range, the area under a macro-F1 curve is a macro-F1. `sparsities` (m,),
    ascending, the same for all curves.
    """
    x, y = _curve(sparsities, scores)
    return trapezoid(y, x, axis=-1) / (x[-1] - x[0])


def sparsity_at_loss(sparsities, scores, loss: float = 0.02) -> np.ndarray:
    """Where curves first fall `loss` below their first score, interpolated: (..., m) -> (...).

    The last of `sparsities` (m,), ascending, where a curve never does: such values are bounds.
    """
    x, y = _curve(sparsities, scores)
    if not loss > 0:
        raise InputError(f"a loss of {loss} is none: pass one above 0")
    floor = y[..., :1] - loss
    fallen = y <= floor
    ever, first = fallen.any(-1), np.maximum(fallen.argmax(-1), 1)
    above, below = (
        np.take_along_axis(y, index[..., None], -1)[..., 0] for index in (first - 1, first)
    )
    share = (above - floor[..., 0]) / np.where(ever, above - below, 1)
    return np.where(ever, x[first - 1] + share * (x[first] - x[first - 1]), x[-1])


def two_segments(x, y) -> TwoSegments:
    """Least squares of two lines that meet at one of the interior points, and of one line.

    Both (n,), `x` ascending; at least 7 points, below which AICc is not defined. All interior
    points are tried as the knee, which counts as a parameter.
    """
    x, y = _curve(x, y)
    if y.ndim != 1 or len(x) < 7:
        raise InputError(f"a knee in {y.shape}: pass one curve of at least 7 points")
    line = np.column_stack([np.ones_like(x), x])
    _, straight_sse = _least_squares(line, y)
    fits = [
        (knee, *_least_squares(np.column_stack([line, np.maximum(x - knee, 0)]), y))
        for knee in x[1:-1]
    ]
    knee, (_, before, bend), sse = min(fits, key=lambda fit: fit[-1])
    # What rounding leaves of an exact fit is no evidence.
    least = len(x) * (1e-9 * (1 + np.abs(y).max())) ** 2

    def aicc(squares: float, parameters: int) -> float:
        k = parameters + 1  # the residuals' variance
        likelihood = len(x) * np.log(max(squares, least) / len(x))
        return likelihood + 2 * k + 2 * k * (k + 1) / (len(x) - k - 1)

    return TwoSegments(
        knee=float(knee),
        slopes=(float(before), float(before + bend)),
        sse=sse,
        straight_sse=straight_sse,
        aicc_gain=float(aicc(straight_sse, 2) - aicc(sse, 4)),
    )


def rank_correlation(
    a, b, *, draws: int = stats.DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Spearman's rho of two scores of the same heads, with its 95 % interval: (rho, low, high).

    Both of one shape; pairs with a nan are left out, ties have their mean rank. The bootstrap draws
    pairs and ranks anew in each draw; it takes heads as independent. Raises InputError for fewer
    than 3 pairs and where all scores on one side are equal.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise InputError(f"ranks: scores {a.shape} and {b.shape} do not fit; pass pairs")
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        raise InputError(
            f"ranks: {len(a)} pairs of {len(np.unique(a))} and {len(np.unique(b))} different "
            "scores; pass at least 3 pairs, and scores that are not all equal"
        )
    picks = np.random.default_rng(seed).integers(len(a), size=(draws, len(a)))
    rho = _spearman(a[picks], b[picks])
    # A draw of one head alone, over and over, has no order.
    low, high = stats.interval(rho[~np.isnan(rho)])
    return float(_spearman(a, b)), low, high


def ratio_of_medians(
    first, second, *, draws: int = stats.DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """Median of `first` over median of `second`, with its 95 % interval: (ratio, low, high).

    Both (n,), readings above 0 of the same n sentences, latencies for instance. A draw is the same
    sentences for both.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise InputError(
            f"medians: readings {first.shape} and {second.shape} do not fit; pass the same number "
            "of each, at least one"
        )
    if not all(np.isfinite(side).all() and (side > 0).all() for side in (first, second)):
        raise InputError("medians: a reading is not finite or not above 0; read it again")
    rng, ratios = np.random.default_rng(seed), []
    for size in stats.chunks(draws, len(first)):
        picks = rng.integers(len(first), size=(size, len(first)))
        ratios.append(np.median(first[picks], axis=1) / np.median(second[picks], axis=1))
    return (float(np.median(first) / np.median(second)), *stats.interval(np.concatenate(ratios)))


def _difference(diff, sample: np.ndarray, n: int, groups: int) -> stats.Difference:
    """Interval and p of a bootstrap sample (draws,) of what was observed as `diff`."""
    if not np.isfinite(sample).all():
        raise InputError("a contrast is not finite in some draws: take one that is always defined")
    # Equal curves whose areas were summed in another order must count as equal.
    sides = (sample <= 1e-12).mean(), (sample >= -1e-12).mean()
    p = max(min(1.0, 2 * float(min(sides))), 1 / (len(sample) + 1))
    return stats.Difference(float(diff), *stats.interval(sample), p, n, groups)


def _curve(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or len(x) < 2 or y.shape[-1:] != x.shape or not (np.diff(x) > 0).all():
        raise InputError(
            f"a curve: values {y.shape} at {x.tolist()} do not fit; pass at least two places, "
            "ascending, and a value for each"
        )
    if not np.isfinite(y).all():
        raise InputError("a curve: a value is not finite; leave its curve out")
    return x, y


def _least_squares(columns: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients, and the sum of squared residuals."""
    coefficients = np.linalg.lstsq(columns, y)[0]
    return coefficients, float(((y - columns @ coefficients) ** 2).sum())


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks, (..., n) -> (...); nan where one side is all equal."""
    one, two = (rankdata(side, axis=-1) - (a.shape[-1] + 1) / 2 for side in (a, b))
    scale = np.sqrt((one**2).sum(-1) * (two**2).sum(-1))
    products = (one * two).sum(-1)
    return np.divide(products, scale, out=np.full(scale.shape, np.nan), where=scale > 0)
