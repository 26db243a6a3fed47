"""Intervals, paired tests and corrections for three-class predictions.

The statistic is macro-F1 and the unit of resampling is the group of near-duplicate sentences. All
of it works on one small array: a 3 x 3 table of counts (label, prediction) for each group. A
resample of the groups is then a weighted sum of tables, and 10,000 of them are one matrix product.

A row is one prediction of one sentence. A variant that was run with several seeds has several rows
for a sentence; they carry the sentence's group, and so are drawn together. Nothing here knows of
methods, files or records. Values are fractions of 1 (0.012, not 1.2 points).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.multitest import multipletests

from headcount.errors import InputError

CLASSES = 3
DRAWS = 10_000
LEVEL = 0.95
POWER = 0.80
# 4 million 8-byte cells a chunk: three such arrays at once stay near 100 MB.
CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class Difference:
    """macro-F1 of one variant minus that of another, over the same sentences.

    `low` and `high` bound the 95 % paired bootstrap interval, `p` is from the paired permutation,
    where what made it does not say otherwise.
    `n` counts rows (sentences times seeds), `groups` their near-duplicate groups.
    """

    diff: float
    low: float
    high: float
    p: float
    n: int
    groups: int

    @property
    def detectable(self) -> float:
        """Smallest true difference whose 95 % interval excludes 0 in 80 % of such studies.

        Read off this study's own interval: (z_0.975 + z_0.80) standard errors, where the interval
        is 2 z_0.975 standard errors wide. `detectable_difference` simulates it instead.
        """
        z = norm.ppf((1 + LEVEL) / 2)
        return (self.high - self.low) / (2 * z) * (z + norm.ppf(POWER))


@dataclass(frozen=True)
class McNemar:
    """Rows that only one of two variants gets right, and the exact two-sided p."""

    only_first: int
    only_second: int
    p: float


def f1_from_counts(counts: np.ndarray) -> np.ndarray:
    """F1 of each class from tables of counts, (..., 3, 3) [label, prediction] -> (..., 3).

    F1 = 2 TP / (2 TP + FP + FN); a class with neither label nor prediction counts 0, as
    scikit-learn's `f1_score(labels=[0, 1, 2], zero_division=0)` has it.
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(-1) + counts.sum(-2)
    return np.divide(2 * hits, either, out=np.zeros(hits.shape), where=either > 0)


def f1_by_class(labels, predictions) -> np.ndarray:
    """F1 of negative, neutral, positive, shape (3,). Arguments as for `macro_f1`."""
    return f1_from_counts(group_counts(labels, predictions).sum(0))


def macro_f1(labels, predictions) -> float:
    """Unweighted mean of the three classes' F1; both arguments (n,), of class ids 0, 1, 2.

    Raises InputError for other shapes, for other ids, and when there is nothing to score.
    """
    return float(f1_by_class(labels, predictions).mean())


def group_counts(labels, predictions, groups=None) -> np.ndarray:
    """Tables of counts (label, prediction), one for each group in ascending order: (G, 3, 3).

    All arguments (n,). Without `groups` all rows are one group.
    """
    labels, predictions, codes = _checked(labels, predictions, groups)
    cells = (codes * CLASSES + labels) * CLASSES + predictions
    size = (codes.max() + 1) * CLASSES * CLASSES
    return np.bincount(cells, minlength=size).reshape(-1, CLASSES, CLASSES)


def bootstrap_macro_f1(
    labels, predictions, groups, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of macro-F1 over resampled groups (Efron 1979): (low, high).

    G groups are drawn with replacement `draws` times. Conditional on the trained model: it does
    not contain the spread over seeds or folds. Arguments as for `macro_f1`, `groups` (n,).
    """
    counts = group_counts(labels, predictions, groups)
    return interval(f1_from_counts(resampled(counts, draws, seed)).mean(-1))


def with_interval(
    labels, predictions, groups, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """n, macro_f1, and its bounds ci_low and ci_high; see `bootstrap_macro_f1`."""
    low, high = bootstrap_macro_f1(labels, predictions, groups, draws=draws, seed=seed)
    score = macro_f1(labels, predictions)
    return {"n": len(labels), "macro_f1": score, "ci_low": low, "ci_high": high}


def paired_difference(
    labels, first, second, groups, *, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """macro-F1 of `first` minus `second`, with paired bootstrap interval and permutation p.

    Both sides of the bootstrap see the same resampled groups. All arguments (n,).
    """
    one, two = group_counts(labels, first, groups), group_counts(labels, second, groups)
    sides = f1_from_counts(resampled(np.stack([one, two], axis=1), draws, seed)).mean(-1)
    low, high = interval(sides[:, 0] - sides[:, 1])
    diff = macro_f1(labels, first) - macro_f1(labels, second)
    return Difference(diff, low, high, _permutation_p(one, two, draws, seed), len(labels), len(one))


def permutation(labels, first, second, groups, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p of the paired permutation of macro-F1: (1 + count) / (1 + draws).

    In each draw every group swaps its two variants' predictions with probability 1/2 (Yeh 2000,
    with the correction of Phipson & Smyth 2010); `count` are draws at least as far from 0.
    """
    one, two = group_counts(labels, first, groups), group_counts(labels, second, groups)
    return _permutation_p(one, two, draws, seed)


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjusted p (Holm 1979), in the order given. nan stays nan, uncounted."""
    p = np.asarray(p_values, dtype=float)
    adjusted, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


def mcnemar(labels, first, second) -> McNemar:
    """Exact McNemar test on right and wrong rows; all arguments (n,).

    A description beside the permutation test: it takes rows as independent.
    """
    labels, first, _ = _checked(labels, first, None)
    second = _checked(labels, second, None)[1]
    one, two = first == labels, second == labels
    only_first, only_second = int((one & ~two).sum()), int((~one & two).sum())
    table = [[int((one & two).sum()), only_first], [only_second, int((~one & ~two).sum())]]
    return McNemar(only_first, only_second, float(exact_mcnemar(table, exact=True).pvalue))


def reliability(labels, probabilities, *, bins: int = 15) -> pd.DataFrame:
    """Confidence against accuracy in equal-width bins of the top label's probability.

    `probabilities` (n, 3). Columns: low, high (edges, right-closed), n, confidence, accuracy
    (means in the bin; nan where it is empty).
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    if probabilities.shape != (len(labels), CLASSES) or not np.isfinite(probabilities).all():
        raise InputError(
            f"calibration: probabilities of shape {probabilities.shape} for {len(labels)} labels;"
            f" pass finite values of shape ({len(labels)}, {CLASSES})"
        )
    top = probabilities.max(1)
    index = np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)
    right = probabilities.argmax(1) == labels
    n = np.bincount(index, minlength=bins)
    share = np.where(n > 0, n, np.nan)
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "n": n,
            "confidence": np.bincount(index, top, bins) / share,
            "accuracy": np.bincount(index, right, bins) / share,
        }
    )


def ece(labels, probabilities, *, bins: int = 15) -> float:
    """Expected calibration error of the top label (Guo 2017, eq. 3): sum n_b/n |acc_b - conf_b|."""
    table = reliability(labels, probabilities, bins=bins).query("n > 0")
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((table["n"] * gaps).sum() / table["n"].sum())


def detectable_difference(
    n: int,
    class_shares,
    accuracy: float,
    disagreement: float,
    *,
    power: float = POWER,
    studies: int = 400,
    draws: int = 500,
    seed: int = 0,
) -> float:
    """Smallest macro-F1 loss whose paired 95 % interval excludes 0 in `power` of the studies.

    The simulated study: `n` independent sentences (a group each) with labels from `class_shares`
    (3,); the first model is right with probability `accuracy` in every class and spreads its
    errors evenly over the two other classes; the second model differs from it on `disagreement`
    of the sentences, where exactly one of the two is right. What is searched for is how unevenly
    these disagreements fall. Returns the true (population) difference as a fraction, or inf where
    even disagreements that all fall one way would not be seen.

    A sentence has one of 27 outcomes (label, first, second), so that a study is one multinomial
    draw and its bootstrap is multinomial over the same cells: exactly the bootstrap above.
    """
    shares = np.asarray(class_shares, dtype=float)
    if shares.shape != (CLASSES,) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise InputError(f"class_shares are {shares.tolist()}: pass three shares that sum to 1")
    if not 0 < disagreement <= 2 * min(accuracy, 1 - accuracy):
        raise InputError(
            f"a disagreement of {disagreement} cannot be split evenly between models that are right"
            f" on {accuracy}: pass one above 0, at most {2 * min(accuracy, 1 - accuracy):.3f}"
        )

    def true_difference(lean: float) -> float:
        return float(_cell_difference(_cells(shares, accuracy, disagreement, lean)))

    def detected(lean: float) -> float:
        rng = np.random.default_rng(seed)
        observed = rng.multinomial(n, _cells(shares, accuracy, disagreement, lean), size=studies)
        hits = 0
        for study in observed:
            sample = _cell_difference(rng.multinomial(n, study / n, size=draws))
            low, high = interval(sample)
            hits += low > 0 or high < 0
        return hits / studies

    # The lean may not ask the second model to be right more rarely than the first one allows.
    low, high = 0.0, min(1.0, 2 * accuracy / disagreement - 1)
    if detected(high) < power:
        return float("inf")
    while true_difference(high) - true_difference(low) > 0.0005:
        middle = (low + high) / 2
        low, high = (low, middle) if detected(middle) >= power else (middle, high)
    return true_difference(high)


def verdict(
    difference: Difference,
    margin: float = 0.0,
    *,
    side: str = "above",
    claim_effect: float | None = None,
) -> str:
    """The rule of the study: "supported", "refuted" or "undecided".

    Supported: the interval lies wholly on the claim's `side` ("above" or "below") of `margin`, or,
    where the claim is that nothing changes ("within"), wholly in [-margin, margin].
    Refuted: it lies wholly on the other side, or the effect that was claimed lies outside it.
    Else undecided, to be read with `difference.detectable`. All values are in the unit of the
    difference, fractions for macro-F1; a ratio is passed as its distance from 1.
    """
    low, high = difference.low, difference.high
    supported = {
        "above": low > margin,
        "below": high < margin,
        "within": -margin <= low and high <= margin,
    }
    other_side = {
        "above": high < margin,
        "below": low > margin,
        "within": low > margin or high < -margin,
    }
    if side not in supported:
        raise InputError(f'side is {side!r}: pass "above", "below" or "within"')
    if supported[side]:
        return "supported"
    outside = claim_effect is not None and not low <= claim_effect <= high
    return "refuted" if other_side[side] or outside else "undecided"


def resampled(counts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums of `counts` (G, ...) over groups drawn with replacement: (draws, ...)."""
    flat = counts.reshape(len(counts), -1)
    sums = [weights @ flat for weights in _weights(len(counts), draws, seed)]
    return np.concatenate(sums).reshape(draws, *counts.shape[1:])


def interval(sample: np.ndarray) -> tuple[float, float]:
    """Bounds of the middle 95 % of a bootstrap sample (draws,): (low, high)."""
    low, high = np.quantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def chunks(draws: int, width: int) -> Iterator[int]:
    """Numbers of draws, adding up to `draws`, whose rows of `width` cells fit in memory."""
    step = max(1, CHUNK_CELLS // width)
    return (min(step, draws - start) for start in range(0, draws, step))


def _weights(groups: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group was drawn: chunks (c, G) that add up to `draws` rows."""
    rng = np.random.default_rng(seed)
    for size in chunks(draws, groups):
        picks = rng.integers(groups, size=(size, groups)) + np.arange(size)[:, None] * groups
        times = np.bincount(picks.ravel(), minlength=size * groups)
        yield times.reshape(size, groups).astype(float)


def _permutation_p(one: np.ndarray, two: np.ndarray, draws: int, seed: int) -> float:
    total = one.sum(0) + two.sum(0)
    swaps = (two - one)[np.any(one != two, axis=(1, 2))].reshape(-1, CLASSES * CLASSES)
    observed = abs(_difference_of_sums(one.sum(0), total))
    rng, extreme = np.random.default_rng(seed), 0
    for size in chunks(draws, max(len(swaps), 1)):
        swapped = rng.integers(2, size=(size, len(swaps)), dtype=np.int8).astype(float)
        first = one.sum(0) + (swapped @ swaps).reshape(-1, CLASSES, CLASSES)
        # Equal tables reached by another order of summation must count as equal.
        extreme += int((np.abs(_difference_of_sums(first, total)) >= observed - 1e-12).sum())
    return (1 + extreme) / (1 + draws)


def _difference_of_sums(first: np.ndarray, total: np.ndarray) -> np.ndarray:
    return f1_from_counts(first).mean(-1) - f1_from_counts(total - first).mean(-1)


def _cells(shares: np.ndarray, accuracy: float, disagreement: float, lean: float) -> np.ndarray:
    """Probabilities (27,) of (label, first, second); at `lean` 1 only the first is right."""
    first_only = disagreement * (1 + lean) / 2
    second_only = disagreement - first_only
    cells = np.zeros((CLASSES, CLASSES, CLASSES))
    for label in range(CLASSES):
        cells[label, label, label] = accuracy - first_only
        for wrong in set(range(CLASSES)) - {label}:
            cells[label, label, wrong] = first_only / 2
            cells[label, wrong, label] = second_only / 2
            cells[label, wrong, wrong] = (1 - accuracy - second_only) / 2
    return (cells * shares[:, None, None]).ravel().clip(0)


def _cell_difference(cells: np.ndarray) -> np.ndarray:
    """macro-F1 of the first minus the second model from counts over the 27 cells, (..., 27)."""
    cube = cells.reshape(*cells.shape[:-1], CLASSES, CLASSES, CLASSES)
    return f1_from_counts(cube.sum(-1)).mean(-1) - f1_from_counts(cube.sum(-2)).mean(-1)


def _checked(labels, predictions, groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    codes = np.zeros(labels.shape, dtype=int)
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels.ndim != 1 or len(labels) == 0 or not labels.shape == predictions.shape == codes.shape:
        raise InputError(
            f"scores: labels {labels.shape}, predictions {predictions.shape} and groups "
            f"{codes.shape} do not fit; pass the same number of each, at least one"
        )
    for name, ids in (("labels", labels), ("predictions", predictions)):
        if not np.isin(ids, range(CLASSES)).all():
            raise InputError(f"scores: {name} hold {_strangers(ids)}; pass class ids 0, 1 or 2")
    return labels.astype(int), predictions.astype(int), codes


def _strangers(ids: np.ndarray) -> list:
    return sorted(set(ids.tolist()) - set(range(CLASSES)), key=str)[:3]
