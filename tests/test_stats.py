"""The statistics against scikit-learn, scipy, explicit resampling and full enumeration."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from headcount import stats
from headcount.errors import InputError

SHARES = [0.19, 0.44, 0.37]


def simulate(n, groups, *, seed, accuracy=0.8, disagreement=0.1):
    """Labels, two variants' predictions and group names (not 0..G-1, not in order)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=SHARES)
    first = np.where(rng.random(n) < accuracy, labels, rng.integers(0, 3, n))
    second = np.where(rng.random(n) < disagreement, rng.integers(0, 3, n), first)
    return labels, first, second, rng.integers(0, groups, n) * 7 + 100


def reference(labels, predictions):
    return f1_score(labels, predictions, labels=[0, 1, 2], average=None, zero_division=0)


@pytest.mark.parametrize("seed", range(5))
def test_f1_equals_scikit_learn(seed):
    labels, first, _, _ = simulate(200, 50, seed=seed)
    assert stats.f1_by_class(labels, first) == pytest.approx(reference(labels, first))
    assert stats.macro_f1(labels, first) == pytest.approx(reference(labels, first).mean())


@pytest.mark.parametrize(
    ("labels", "predictions"), [([1, 1], [1, 1]), ([0, 1], [2, 2]), ([0, 0, 1], [0, 1, 1])]
)
def test_absent_classes_count_zero_as_in_scikit_learn(labels, predictions):
    assert stats.f1_by_class(labels, predictions) == pytest.approx(reference(labels, predictions))


def test_paired_bootstrap_equals_explicit_resampling():
    labels, first, second, groups = simulate(120, 40, seed=1)
    names, draws, seed = np.unique(groups), 60, 5
    rng = np.random.default_rng(seed)
    singles, differences = [], []
    for picks in rng.integers(len(names), size=(draws, len(names))):
        rows = np.concatenate([np.flatnonzero(groups == names[pick]) for pick in picks])
        scores = [reference(labels[rows], side[rows]).mean() for side in (first, second)]
        singles.append(scores[0])
        differences.append(scores[0] - scores[1])
    result = stats.paired_difference(labels, first, second, groups, draws=draws, seed=seed)
    assert (result.low, result.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    assert result.diff == pytest.approx(
        reference(labels, first).mean() - reference(labels, second).mean()
    )
    assert (result.n, result.groups) == (120, len(names))
    single = stats.bootstrap_macro_f1(labels, first, groups, draws=draws, seed=seed)
    assert single == pytest.approx(np.quantile(singles, [0.025, 0.975]))


def test_chunks_change_nothing(monkeypatch):
    labels, first, second, groups = simulate(300, 90, seed=2)
    whole = stats.paired_difference(labels, first, second, groups, draws=500)
    monkeypatch.setattr(stats, "CHUNK_CELLS", 1_000)
    parts = stats.paired_difference(labels, first, second, groups, draws=500)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.01)
    assert parts.p == pytest.approx(whole.p, abs=0.1)


def test_rows_of_one_group_are_drawn_together():
    labels, first, _, _ = simulate(200, 200, seed=3)
    alone = stats.bootstrap_macro_f1(labels, first, np.arange(200), draws=2_000)
    # Three seeds that agree add rows, not evidence.
    three = [np.tile(a, 3) for a in (labels, first, np.arange(200))]
    assert stats.bootstrap_macro_f1(*three, draws=2_000) == pytest.approx(alone)


def test_permutation_equals_enumeration():
    labels, first, second, groups = simulate(24, 7, seed=8, accuracy=0.6, disagreement=0.6)
    names = np.unique(groups)

    def difference(swapped):
        a, b = np.where(swapped, second, first), np.where(swapped, first, second)
        return reference(labels, a).mean() - reference(labels, b).mean()

    observed = abs(difference(np.zeros(len(labels), bool)))
    extreme = [
        abs(difference(np.isin(groups, names[np.array(choice, bool)]))) >= observed - 1e-12
        for choice in itertools.product([0, 1], repeat=len(names))
    ]
    exact = float(np.mean(extreme))
    assert 0.05 < exact < 0.95
    estimate = stats.permutation(labels, first, second, groups, draws=20_000)
    # Four standard errors of a share estimated from 20,000 draws.
    assert estimate == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_permutation_of_equal_predictions_is_one_and_never_zero():
    labels, first, _, groups = simulate(50, 20, seed=4)
    assert stats.permutation(labels, first, first, groups, draws=99) == 1
    wrong = (labels + 1) % 3
    assert stats.permutation(labels, labels, wrong, groups, draws=99) == pytest.approx(1 / 100)


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, max(0.03 * 2, ...), max(0.04 * 1, ...).
    adjusted = stats.holm([0.04, 0.01, np.nan, 0.03, 0.02])
    assert adjusted == pytest.approx([0.06, 0.04, np.nan, 0.06, 0.06], nan_ok=True)
    assert stats.holm([]).shape == (0,)


def test_mcnemar_equals_the_binomial_test():
    labels, first, second, _ = simulate(300, 300, seed=6, disagreement=0.2)
    result = stats.mcnemar(labels, first, second)
    wins = [
        int(((a == labels) & (b != labels)).sum()) for a, b in ((first, second), (second, first))
    ]
    assert [result.only_first, result.only_second] == wins
    assert result.p == pytest.approx(binomtest(wins[0], sum(wins), 0.5).pvalue)


def test_ece_by_hand():
    probabilities = np.array([[0.90, 0.05, 0.05], [0.92, 0.04, 0.04], [0.3, 0.5, 0.2], [0, 0, 1]])
    labels = [0, 1, 1, 2]
    # Bins of 1/15, right-closed: 0.90 and 0.92 in (13/15, 14/15], 0.5 in (7/15, 8/15], 1.0 last.
    expected = 2 / 4 * abs(0.5 - 0.91) + 1 / 4 * abs(1 - 0.5) + 1 / 4 * 0
    assert stats.ece(labels, probabilities) == pytest.approx(expected)
    table = stats.reliability(labels, probabilities)
    assert table["n"].sum() == 4
    assert table["n"].iloc[[7, 13, 14]].tolist() == [1, 2, 1]
    assert table.dropna()["accuracy"].tolist() == [1, 0.5, 1]


def test_a_calibrated_model_has_a_small_ece():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 20_000)
    labels = (rng.random(20_000)[:, None] > probabilities.cumsum(1)).sum(1)
    assert stats.ece(labels, probabilities) < 0.02
    assert stats.ece((labels + 1) % 3, probabilities) > 0.2


def test_intervals_cover_the_true_difference():
    """200 simulated studies with clustered rows: about 95 % of the intervals hold the truth."""
    shares, accuracy = np.array(SHARES), 0.8
    cells = stats._cells(shares, accuracy, 0.15, 0.4)
    truth = stats._cell_difference(cells)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        outcome = rng.choice(27, size=150, p=cells)
        # Each outcome appears twice: intervals that took rows as independent would be too short.
        labels, first, second = np.unravel_index(np.tile(outcome, 2), (3, 3, 3))
        groups = np.tile(np.arange(150), 2)
        counts = [stats.group_counts(labels, side, groups) for side in (first, second)]
        sums = stats.f1_from_counts(stats.resampled(np.stack(counts, 1), 400, 0)).mean(-1)
        low, high = np.quantile(sums[:, 0] - sums[:, 1], [0.025, 0.975])
        covered += low <= truth <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_detectable_difference_is_detected_by_the_real_interval():
    """Studies made row by row, analysed by `paired_difference`, find it about 80 % of the time."""
    n, accuracy, disagreement = 400, 0.85, 0.1
    smallest = stats.detectable_difference(n, SHARES, accuracy, disagreement, studies=200)
    leans = np.linspace(0, 1, 2_001)
    cells = [stats._cells(np.array(SHARES), accuracy, disagreement, lean) for lean in leans]
    differences = np.array([stats._cell_difference(c) for c in cells])
    p = cells[int(np.searchsorted(differences, smallest))]
    rng, found, guessed = np.random.default_rng(1), 0, []
    for study in range(150):
        labels, first, second = np.unravel_index(rng.choice(27, size=n, p=p), (3, 3, 3))
        result = stats.paired_difference(labels, first, second, np.arange(n), draws=300, seed=study)
        found += result.low > 0
        guessed.append(result.detectable)
    assert 0.68 <= found / 150 <= 0.92
    # Read off one study's interval it is nearly the same number.
    assert np.mean(guessed) == pytest.approx(smallest, rel=0.2)


def test_detectable_difference_shrinks_with_the_root_of_n():
    few, many = (
        stats.detectable_difference(n, SHARES, 0.86, 0.08, studies=100) for n in (506, 3036)
    )
    assert few / many == pytest.approx(np.sqrt(6), rel=0.2)
    assert stats.detectable_difference(30, SHARES, 0.86, 0.02, studies=50) == float("inf")


def test_cells_have_the_rates_they_are_asked_for():
    cube = stats._cells(np.array(SHARES), 0.8, 0.2, 0.5).reshape(3, 3, 3)
    label, first, second = np.indices((3, 3, 3))
    assert cube.sum((1, 2)) == pytest.approx(SHARES)
    assert cube[first == label].sum() == pytest.approx(0.8)
    assert cube[first != second].sum() == pytest.approx(0.2)
    assert cube[second == label].sum() == pytest.approx(0.8 - 0.2 * 0.5)


def difference(low, high):
    return stats.Difference((low + high) / 2, low, high, 0.5, 100, 100)


@pytest.mark.parametrize(
    ("interval", "options", "expected"),
    [
        ((0.001, 0.02), {}, "supported"),
        ((-0.02, -0.001), {}, "refuted"),
        ((-0.01, 0.01), {}, "undecided"),
        # The effect that was claimed lies outside, although the sign is open: C1.
        ((-0.01, 0.008), {"claim_effect": 0.009}, "refuted"),
        ((-0.01, 0.010), {"claim_effect": 0.009}, "undecided"),
        # Better than claimed is still on the claim's side.
        ((0.02, 0.04), {"claim_effect": 0.009}, "supported"),
        # "Nearly free" with a margin of -0.5 points: C10.
        ((-0.004, 0.002), {"margin": -0.005}, "supported"),
        ((-0.006, 0.002), {"margin": -0.005}, "undecided"),
        ((-0.020, -0.006), {"margin": -0.005}, "refuted"),
        ((-0.02, -0.001), {"side": "below"}, "supported"),
        ((0.001, 0.020), {"side": "below"}, "refuted"),
        # Touching the margin is not lying on one side of it.
        ((0.0, 0.02), {}, "undecided"),
        # "About the same", as a ratio's distance from 1: C13.
        ((-0.03, 0.05), {"side": "within", "margin": 0.05}, "supported"),
        ((-0.03, 0.06), {"side": "within", "margin": 0.05}, "undecided"),
        ((-0.30, 0.30), {"side": "within", "margin": 0.05}, "undecided"),
        ((0.06, 0.20), {"side": "within", "margin": 0.05}, "refuted"),
        ((-0.40, -0.06), {"side": "within", "margin": 0.05}, "refuted"),
    ],
)
def test_verdicts_follow_the_rule(interval, options, expected):
    assert stats.verdict(difference(*interval), **options) == expected


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: stats.macro_f1([], []), "at least one"),
        (lambda: stats.macro_f1([0, 1], [0]), "do not fit"),
        (lambda: stats.macro_f1([0, 3], [0, 1]), "labels hold \\[3\\]"),
        (lambda: stats.macro_f1([0, 1], [0, -1]), "predictions hold"),
        (lambda: stats.bootstrap_macro_f1([0, 1], [0, 1], [1]), "do not fit"),
        (lambda: stats.mcnemar([0, 1], [0, 1], [0]), "do not fit"),
        (lambda: stats.ece([0], [[0.5, 0.5]]), "shape"),
        (lambda: stats.ece([0], [[np.nan, 0.5, 0.5]]), "finite"),
        (lambda: stats.detectable_difference(10, [0.5, 0.5, 0.5], 0.8, 0.1), "sum to 1"),
        (lambda: stats.detectable_difference(10, SHARES, 0.9, 0.5), "at most 0.200"),
        (lambda: stats.verdict(difference(0, 1), side="left"), "side is 'left'"),
    ],
)
def test_bad_input_is_one_line(call, word):
    with pytest.raises(InputError, match=word) as caught:
        call()
    assert "\n" not in str(caught.value)
