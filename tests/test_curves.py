"""Curves against scikit-learn, scipy, polyfit, hand computation and explicit resampling."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from headcount import curves, stats
from headcount.errors import InputError


def sweep(n=120, groups=40, seed=0, wrong=(0.1, 0.2, 0.3)):
    """A table as a sweep has it: points p0, p1, ..., wrong on about these shares of sentences."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"id": np.arange(n).astype(str), "source": "fiqa", "fold": 0, "seed": 0})
    table["group"] = rng.integers(0, groups, n) * 7 + 100  # not 0..G-1, not in order
    table["label"] = rng.choice(3, n, p=[0.2, 0.4, 0.4])
    for number, share in enumerate(wrong):
        missed = rng.random(n) < share
        table[f"p{number}"] = np.where(missed, rng.integers(0, 3, n), table["label"])
    return table


def reference(labels, guesses):
    return f1_score(labels, guesses, labels=[0, 1, 2], average="macro", zero_division=0)


def explicit(table, points, draws, seed):
    """macro-F1 of the points in each draw of groups, by rows and scikit-learn: (draws, m)."""
    names = np.unique(table["group"])
    rows = [np.flatnonzero(table["group"] == name) for name in names]
    scores = []
    for picks in np.random.default_rng(seed).integers(len(names), size=(draws, len(names))):
        drawn = table.iloc[np.concatenate([rows[pick] for pick in picks])]
        scores.append([reference(drawn["label"], drawn[point]) for point in points])
    return np.array(scores)


def test_points_f1_equals_explicit_resampling():
    table, points = sweep(), ["p0", "p1", "p2"]
    observed, sampled = curves.points_f1(
        table["label"], table[points], table["group"], draws=40, seed=5
    )
    assert observed == pytest.approx([reference(table["label"], table[p]) for p in points])
    assert sampled == pytest.approx(explicit(table, points, 40, 5))


def test_a_contrast_of_two_points_is_their_paired_difference():
    table = sweep(n=400, groups=150)
    result = curves.contrast(table, lambda f1: f1["p0"] - f1["p2"], draws=500, seed=3)
    expected = stats.paired_difference(
        *(table[name] for name in ("label", "p0", "p2", "group")), draws=500, seed=3
    )
    assert (result.diff, result.low, result.high) == pytest.approx(
        (expected.diff, expected.low, expected.high)
    )
    assert (result.n, result.groups) == (400, expected.groups)
    assert result.detectable == pytest.approx(expected.detectable)


def test_a_contrast_of_curves_equals_explicit_resampling():
    points = ["p0", "p1", "p2", "p3", "p4"]
    table = sweep(wrong=(0.1, 0.2, 0.3, 0.25, 0.4))
    x = [0, 20, 50]

    def against_random(f1):
        one, two, other = (
            curves.area(x, np.stack([f1[point] for point in ("p0", *rest)], axis=-1))
            for rest in (("p1", "p2"), ("p3", "p4"), ("p4", "p3"))
        )
        return one - (two + other) / 2

    result = curves.contrast(table, against_random, draws=60, seed=1)
    # Widths 20 and 30 of 50, each under the mean of its ends; p0 alike on both sides cancels.
    weights = np.array([0, 0.5, 0.3, -0.4, -0.4])
    sample = explicit(table, points, 60, 1) @ weights
    assert (result.low, result.high) == pytest.approx(np.quantile(sample, [0.025, 0.975]))
    observed = [reference(table["label"], table[point]) for point in points]
    assert result.diff == pytest.approx(observed @ weights)
    assert result.p == pytest.approx(2 * min((sample <= 0).mean(), (sample >= 0).mean()))


def test_equal_curves_do_not_differ_at_all():
    table = sweep().assign(q0=lambda t: t["p0"], q1=lambda t: t["p1"], q2=lambda t: t["p2"])

    def areas(f1):
        # In another order, so that rounding differs.
        one = (f1["p0"] + f1["p1"] + f1["p2"]) / 3
        return one - (f1["q2"] / 3 + f1["q1"] / 3 + f1["q0"] / 3)

    result = curves.contrast(table, areas, draws=200)
    assert (result.diff, result.low, result.high) == pytest.approx((0, 0, 0), abs=1e-15)
    assert result.p == 1
    same = curves.contrast(table, lambda f1: f1["p0"] - f1["q0"], draws=200)
    assert (same.diff, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert stats.verdict(same) == "undecided"


def test_p_is_never_zero_and_has_no_direction():
    table = sweep(wrong=(0.0, 0.9))
    for sign in (1, -1):
        result = curves.contrast(table, lambda f1, s=sign: s * (f1["p0"] - f1["p1"]), draws=99)
        assert result.p == pytest.approx(1 / 100)


def test_p_of_contrasts_without_effect_is_about_uniform():
    small = 0
    for seed in range(200):
        table = sweep(n=150, groups=150, seed=seed, wrong=(0.3, 0.3, 0.3))
        result = curves.contrast(table, lambda f1: f1["p0"] - (f1["p1"] + f1["p2"]) / 2, draws=300)
        small += result.p <= 0.05
        assert (result.p < 0.03) <= (result.low > 0 or result.high < 0) <= (result.p < 0.07)
    assert 2 <= small <= 22


def test_gap_equals_explicit_resampling():
    rng = np.random.default_rng(0)
    groups, validation = rng.integers(0, 30, 150) * 3 + 5, rng.random(150) < 0.2
    differences = rng.normal(0.1 * validation, 0.2)
    result = curves.gap(differences, validation, groups, draws=80, seed=3)
    names, sample = np.unique(groups), []
    for picks in np.random.default_rng(3).integers(len(names), size=(80, len(names))):
        rows = np.concatenate([np.flatnonzero(groups == names[pick]) for pick in picks])
        drawn, part = differences[rows], validation[rows]
        sample.append(drawn[part].mean() - drawn[~part].mean())
    assert (result.low, result.high) == pytest.approx(np.quantile(sample, [0.025, 0.975]))
    observed = differences[validation].mean() - differences[~validation].mean()
    assert result.diff == pytest.approx(observed)
    smaller = min((np.array(sample) <= 0).mean(), (np.array(sample) >= 0).mean())
    assert result.p == pytest.approx(max(2 * smaller, 1 / 81))
    assert (result.n, result.groups) == (150, len(names))
    none = curves.gap(np.zeros(150), validation, groups, draws=80)
    assert (none.diff, none.low, none.high, none.p) == (0, 0, 0, 1)


def test_area_by_hand():
    # (1 + 0.5) / 2 * 20 + 0.5 * 60, over 80.
    assert curves.area([0, 20, 80], [1, 0.5, 0.5]) == pytest.approx(45 / 80)
    flat = np.full((4, 2, 3), 0.7)
    assert curves.area([0, 0.2, 0.8], flat) == pytest.approx(np.full((4, 2), 0.7))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.90, 0.89, 0.85, 0.50], 12.5),  # 0.88 is a quarter of the way from 0.89 to 0.85
        ([0.90, 0.80, 0.95, 0.95], 2.0),  # the first time, although it recovers
        ([0.90, 0.89, 0.89, 0.885], 30.0),  # never
        ([0.50, 0.60, 0.49, 0.47], 25.0),  # below the first score, not below the best
        ([0.90, 0.90, 0.90, 0.90], 30.0),
    ],
)
def test_sparsity_at_loss_by_hand(scores, expected):
    assert curves.sparsity_at_loss([0, 10, 20, 30], scores) == pytest.approx(expected)


def test_sparsity_at_loss_of_many_curves_is_that_of_each():
    rng = np.random.default_rng(0)
    scores, x = 0.9 - rng.normal(0, 0.02, (5, 6, 8)).cumsum(-1), np.arange(8) * 10
    fine = np.linspace(0, 70, 70_001)
    expected = np.empty((5, 6))
    for index in np.ndindex(5, 6):
        curve = np.interp(fine, x, scores[index])
        fallen = np.flatnonzero(curve <= curve[0] - 0.03)
        expected[index] = fine[fallen[0]] if len(fallen) else 70
    assert 0 < (expected == 70).sum() < 30
    found = curves.sparsity_at_loss(x, scores, loss=0.03)
    assert found == pytest.approx(expected, abs=0.001)


def test_a_cliff_is_found_and_a_line_has_none():
    x, noise = np.arange(10) * 10.0, np.random.default_rng(0).normal(0, 0.001, 10)
    cliff = 0.9 - 0.0002 * x - 0.01 * np.maximum(x - 60, 0)
    result = curves.two_segments(x, cliff + noise)
    assert result.knee == 60
    assert result.slopes == pytest.approx((-0.0002, -0.0102), abs=0.0002)
    assert result.aicc_gain > 10
    _, residuals, *_ = np.polyfit(x, cliff + noise, 1, full=True)
    assert result.straight_sse == pytest.approx(residuals[0])
    exact = curves.two_segments(x, cliff)
    assert (exact.knee, exact.sse) == (60, pytest.approx(0, abs=1e-20))
    line = curves.two_segments(x, 0.9 - 0.002 * x)
    assert line.aicc_gain < 0
    assert line.slopes == pytest.approx((-0.002, -0.002))
    assert curves.two_segments(x, 0 * x).aicc_gain < 0


def test_aicc_of_two_segments_by_hand():
    x = np.arange(8.0)
    y = np.array([3, 1, 4, 1, 5, 9, 2, 6.0])
    result = curves.two_segments(x, y)
    # 3 and 5 parameters with the variance, 8 values: 2k + 2k(k + 1) / (8 - k - 1).
    penalties = (6 + 24 / 4) - (10 + 60 / 2)
    gain = 8 * np.log(result.straight_sse / result.sse) + penalties
    assert result.aicc_gain == pytest.approx(gain)
    best = min(
        np.linalg.lstsq(np.stack([x**0, x, np.clip(x - knee, 0, None)], 1), y)[1][0]
        for knee in x[1:-1]
    )
    assert result.sse == pytest.approx(best)


def test_rank_correlation_equals_scipy_and_explicit_resampling():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 9, (6, 12)).astype(float)  # with ties
    b = a + rng.normal(0, 3, a.shape)
    a[0, 0] = b[3, 4] = np.nan
    rho, low, high = curves.rank_correlation(a, b, draws=200, seed=2)
    known = ~np.isnan(a) & ~np.isnan(b)
    one, two = a[known], b[known]
    assert rho == pytest.approx(spearmanr(one, two).statistic)
    picks = np.random.default_rng(2).integers(70, size=(200, 70))
    sample = [spearmanr(one[pick], two[pick]).statistic for pick in picks]
    assert (low, high) == pytest.approx(np.quantile(sample, [0.025, 0.975]))
    assert curves.rank_correlation(one, -(one**3), draws=50) == pytest.approx((-1, -1, -1))


def test_rank_correlation_of_few_pairs_leaves_out_draws_without_an_order():
    with np.errstate(all="raise"):
        rho, low, high = curves.rank_correlation([1, 2, 3], [1, 3, 2], draws=500)
    assert rho == pytest.approx(0.5)
    assert -1 <= low <= high <= 1


def test_ratio_of_medians_equals_explicit_resampling(monkeypatch):
    rng = np.random.default_rng(0)
    second = rng.lognormal(1, 0.5, 80)
    first = 0.7 * second * rng.lognormal(0, 0.05, 80)
    ratio, low, high = curves.ratio_of_medians(first, second, draws=300, seed=4)
    assert ratio == pytest.approx(np.median(first) / np.median(second))
    picks = np.random.default_rng(4).integers(80, size=(300, 80))
    sample = [np.median(first[pick]) / np.median(second[pick]) for pick in picks]
    assert (low, high) == pytest.approx(np.quantile(sample, [0.025, 0.975]))
    assert low < 0.7 < high
    # Paired: sentences differ by much more than this interval is wide.
    assert high - low < 0.1
    monkeypatch.setattr(stats, "CHUNK_CELLS", 1_000)
    assert curves.ratio_of_medians(first, second, draws=300, seed=4) == (ratio, low, high)
    assert curves.ratio_of_medians(first, first, draws=50) == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: curves.points_f1([0, 1], [0, 1], [0, 1]), "pass \\(sentences, points\\)"),
        (lambda: curves.points_f1([0, 1], [[0], [3]], [0, 1]), "predictions hold \\[3\\]"),
        (lambda: curves.contrast(sweep(wrong=()), lambda f1: 0.0), "\\(sentences, points\\)"),
        (lambda: curves.contrast(sweep(), lambda f1: f1["p0"].mean(), draws=9), "one number"),
        (lambda: curves.contrast(sweep(), lambda f1: f1["p0"] * np.nan, draws=9), "not finite"),
        (lambda: curves.gap([0.1, 0.2], [True], [1, 2]), "do not fit"),
        (lambda: curves.gap([0.1, 0.2], [True, True], [1, 2]), "a part is empty"),
        (lambda: curves.gap([0.1, np.nan], [True, False], [1, 2]), "not finite, or"),
        (lambda: curves.gap([0.1, 0.2], [True, False], [1, 2], draws=50), "in some draws"),
        (lambda: curves.area([0, 20, 10], [1, 1, 1]), "ascending"),
        (lambda: curves.area([0, 10], [1, 1, 1]), "do not fit"),
        (lambda: curves.area([0, 10], [1, np.nan]), "not finite"),
        (lambda: curves.sparsity_at_loss([0, 10], [1, 0], loss=0), "above 0"),
        (lambda: curves.two_segments(np.arange(6), np.arange(6)), "at least 7"),
        (lambda: curves.rank_correlation([1, 2], [1, 2]), "2 pairs"),
        (lambda: curves.rank_correlation([1, 1, 1], [1, 2, 3]), "of 1 and 3 different"),
        (lambda: curves.rank_correlation([1, 2, 3], [1, 2]), "do not fit"),
        (lambda: curves.ratio_of_medians([1.0], [1.0, 2.0]), "do not fit"),
        (lambda: curves.ratio_of_medians([1.0, 0.0], [1.0, 2.0]), "not above 0"),
    ],
)
def test_bad_input_is_one_line(call, word):
    with pytest.raises(InputError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_sweep_s_scores_become_curves_from_the_whole_model_on():
    table = pd.DataFrame({"id": list("abc"), "group": range(3), "label": range(3)})
    table = table.assign(**{"whole": [0, 1, 2], "random1@30": [0, 1, 1], "entropy@5": [0, 1, 2]})
    scores = curves.scores(table)
    assert scores["series"].tolist() == ["whole", "random1", "entropy"]
    assert scores["percent"].tolist() == [0, 30, 5]
    expected = [f1_score(table["label"], table[p], average="macro") for p in table.columns[3:]]
    assert scores["score"].tolist() == pytest.approx(expected)
    lines = curves.lines(scores).set_index(["series", "percent"])
    assert lines.index.tolist() == [("entropy", 0), ("entropy", 5), ("random", 0), ("random", 30)]
    assert lines["score"].tolist() == pytest.approx([1, 1, 1, expected[1]])
    assert lines.loc["random", "draw"].tolist() == ["1", "1"]
