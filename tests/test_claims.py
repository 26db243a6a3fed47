"""Claims that sweeps, losses and findings settle, against sklearn and loops."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from test_records import PROVENANCE, finding_of

from headcount import claims, records, stats

PERCENTS = range(10, 100, 10)
RANDOM = ["random0", "random1"]


def write_sweep(folder, name, wrong, fold=0, n=400):
    """A sweep whose points err on a share of the sentences each; returns its table."""
    rng = np.random.default_rng([fold, len(name)])
    table = pd.DataFrame(
        {"id": [f"{fold}-{i}" for i in range(n)], "group": 1000 * fold + np.arange(n)}
    )
    table = table.assign(source="phrasebank", label=rng.integers(0, 3, n))
    for point, share in wrong.items():
        table[point] = np.where(rng.random(n) < share, (table["label"] + 1) % 3, table["label"])
    fields = {"study": "t", "chapter": "05_pruning", "name": name, "fold": fold, "seed": 0, "n": n}
    fields |= {"points": list(wrong), "weights_sha256": "a", "teacher_saw_test": False}
    records.write_sweep(folder, records.Sweep(**fields, provenance=PROVENANCE), table)
    return table


def one_shot(slopes):
    """Shares of errors by point: 0.1 for the whole model, and more with each percent."""
    points = {f"{name}@{p}": 0.1 + slope * p for name, slope in slopes.items() for p in PERCENTS}
    return {"whole": 0.1} | points


SLOPES = {"entropy": 0.006, "combined": 0.001, "magnitude": 0.004, "gradient": 0.0005}
SLOPES |= dict.fromkeys(RANDOM, 0.003)


@pytest.fixture
def folder(tmp_path):
    """Sweeps of two folds, and nothing else."""
    for fold in (0, 1):
        write_sweep(tmp_path, "one-shot", one_shot(SLOPES), fold)
        layers = {f"off@{layer}": 0.1 + 0.05 * layer for layer in range(6)}
        write_sweep(tmp_path, "layers", {"whole": 0.1} | layers, fold)
    return tmp_path


def judged(folder):
    return claims.judge(folder, draws=500).set_index("id")


def by_sklearn(folder, name):
    table = records.sweep(folder, name)
    points = [point for point in table if point not in ("id", "group", "source", "fold", "seed")]
    return {p: f1_score(table["label"], table[p], average="macro") for p in points if p != "label"}


def height(scores, name):
    return np.trapezoid([scores["whole"], *(scores[f"{name}@{p}"] for p in PERCENTS)], dx=10) / 90


def test_curves_are_compared_by_their_pooled_areas_and_points(folder):
    scores, table = by_sklearn(folder, "one-shot"), judged(folder)
    chance = np.mean([height(scores, name) for name in RANDOM])
    assert table.loc["C2", "diff"] == pytest.approx(height(scores, "entropy") - chance)
    assert table.loc["C2", "n"] == 800
    assert table.loc["C2", "verdict"] == "refuted"  # the interval lies wholly below 0
    gain = scores["gradient@20"] - scores["whole"]
    assert table.loc["C15a", "diff"] == pytest.approx(gain)
    combined = np.mean([scores[f"combined@{p}"] for p in (30, 50)])
    by_lot = np.mean([scores[f"{name}@{p}"] for name in RANDOM for p in (30, 50)])
    by_size = np.mean([scores[f"magnitude@{p}"] for p in (30, 50)])
    assert table.loc["C16a", "diff"] == pytest.approx(combined - by_size)
    assert table.loc["C16b", "diff"] == pytest.approx(combined - by_lot)
    assert table.loc["C16b", "verdict"] == "supported"


def test_losses_of_early_layers_are_set_against_late_ones(folder):
    scores, table = by_sklearn(folder, "layers"), judged(folder)
    lost = [scores["whole"] - scores[f"off@{layer}"] for layer in range(6)]
    assert table.loc["C4", "diff"] == pytest.approx(np.mean(lost[:3]) - np.mean(lost[3:]))
    assert table.loc["C4", "verdict"] == "supported"  # below 0: early ones are missed less


def test_a_series_of_layers_is_asked_without_one_of_them():
    scores = [0.9, 0.8, 0.7, 0.6, 0.1]  # the middle one of five is in neither half
    points = {f"constant@{layer}": score for layer, score in enumerate(scores)} | {"off@0": 0.0}
    assert claims.early_minus_late(points, "constant") == pytest.approx(0.35 - 0.85)
    assert claims.early_minus_late(points, "constant", 4) == pytest.approx(0.6 - 0.85)


def test_the_cliff_is_where_two_points_are_lost_against_the_control(tmp_path):
    falls = {
        "steps": {20: 0.1, 40: 0.1, 60: 0.1, 80: 0.3},
        "once": {20: 0.1, 40: 0.3, 60: 0.4, 80: 0.5},
        "continued": {20: 0.1, 40: 0.08, 60: 0.06, 80: 0.05},
    }
    points = {f"{name}@{p}": share for name, fall in falls.items() for p, share in fall.items()}
    write_sweep(tmp_path, "cliff", {"whole": 0.1} | points, n=4000)
    scores = by_sklearn(tmp_path, "cliff")

    def crossing(name):
        last = (0, 0.0)
        for percent in falls[name]:
            lost = scores[f"continued@{percent}"] - scores[f"{name}@{percent}"]
            if lost >= 0.02:
                along = (0.02 - last[1]) / (lost - last[1])
                return last[0] + along * (percent - last[0])
            last = (percent, lost)
        return percent

    (row,) = judged(tmp_path).dropna(subset="diff").reset_index().to_dict("records")
    assert row["id"] == "C5"
    assert 0 < crossing("once") < crossing("steps") < 80
    assert row["diff"] == pytest.approx((crossing("steps") - crossing("once")) / 100)
    assert row["verdict"] == "supported"


def test_gaps_are_means_over_both_parts(tmp_path):
    rng = np.random.default_rng(0)
    for fold in (0, 1):
        table = pd.DataFrame({"id": range(300), "group": range(300)})
        table["part"] = np.where(np.arange(300) < 200, "train", "validation")
        table["heads-entropy-50"], table["teacher-continued-15"] = rng.random((2, 300))
        path = tmp_path / "tables" / f"fold{fold}" / "05_pruning-losses.csv"
        path.parent.mkdir(parents=True)
        table.to_csv(path, index=False)
    both = pd.concat(pd.read_csv(path) for path in tmp_path.glob("tables/*/*.csv"))
    path.with_name("03b_recipes-layer-losses.csv").write_text("objective,kd\nmean,0.5\n")
    means = both.groupby("part")[["heads-entropy-50", "teacher-continued-15"]].mean()
    gap = means.loc["validation"] - means.loc["train"]
    row = judged(tmp_path).loc["C3"]
    assert row["diff"] == pytest.approx(gap["heads-entropy-50"] - gap["teacher-continued-15"])
    assert row["unit"] == "nats"


def test_a_smaller_gap_without_a_better_score_supports_nothing(tmp_path):
    path = tmp_path / "tables" / "fold0" / "05_pruning-losses.csv"
    path.parent.mkdir(parents=True)
    table = pd.DataFrame({"id": range(90), "group": range(90)})
    table["part"] = np.where(np.arange(90) < 60, "train", "validation")
    table["teacher-continued-15"] = np.where(table["part"] == "train", 0.1, 0.9)
    table["heads-entropy-50"] = np.where(table["part"] == "train", 0.5, 0.9)
    table.to_csv(path, index=False)
    row = judged(tmp_path).loc["C3"]
    assert row["diff_high"] < 0
    assert row["verdict"] == f"undecided: C1 is {claims.NOT_RUN}"


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.01, "supported"), (0.8, "refuted"), (0.95, "undecided")]
)
def test_a_ratio_within_five_percent_is_about_the_same(tmp_path, ratio, verdict):
    around = {"diff": ratio - 1, "low": ratio - 1.02, "high": ratio - 0.98, "unit": "%"}
    records.write_finding(tmp_path, finding_of("C13", **around))
    row = judged(tmp_path).loc["C13"]
    assert row["verdict"] == verdict
    assert row["diff"] == pytest.approx(ratio - 1)


def test_a_count_that_misses_its_file_does_not_refute_sizes_that_are_explained(tmp_path):
    """C14a and C14b have a finding each: the seed study's sum, and what no part explains."""
    for claim, share in (("C14a", -0.13), ("C14b", 0.004)):
        same = {"diff": share, "low": share, "high": share, "unit": "%"}
        records.write_finding(tmp_path, finding_of(claim, chapter="04_quantization", **same))
    told = judged(tmp_path).dropna(subset="diff")
    assert told["verdict"].to_dict() == {"C14a": "refuted", "C14b": "supported"}
    assert told["diff"].tolist() == [-0.13, 0.004]


def test_the_luck_of_the_draws_is_in_the_interval(tmp_path):
    """Two draws that lie far apart, and the same two as one."""
    slopes = {"entropy": 0.003, "random0": 0.001, "random1": 0.005}
    write_sweep(tmp_path, "one-shot", one_shot(slopes), n=4000)
    width = np.subtract(*judged(tmp_path).loc["C2", ["diff_high", "diff_low"]])
    heights = [height(by_sklearn(tmp_path, "one-shot"), f"random{i}") for i in (0, 1)]
    # The mean of two draws from these two is one of them half of the time.
    assert width > 0.9 * abs(heights[0] - heights[1])


def test_two_claims_about_the_same_variants_do_not_double_their_row():
    pair = {"variant": "heads-entropy-50", "baseline": "teacher-continued-15"}
    judged = pd.DataFrame([pair | {"diff": 0.01, "seeds": 3, "p_holm": 0.5}, pair | {"diff": -0.1}])
    pooled = pd.DataFrame([pair | {"macro_f1": 0.8, "p_holm": np.nan}])
    (row,) = claims.with_holm(pooled, judged).to_dict("records")
    assert row["p_holm"] == 0.5


def test_elsewhere_is_judged_by_its_own_sweep_over_all_folds_and_trainings(tmp_path):
    wrong = {"teacher": 0.3, "student-hard-init": 0.4, "student-kd-init": 0.2}
    for fold in (0, 1):
        write_sweep(tmp_path, "elsewhere-students", wrong, fold)
    scores, table = by_sklearn(tmp_path, "elsewhere-students"), judged(tmp_path)
    row = table.loc["C18a"]
    assert row["diff"] == pytest.approx(scores["student-kd-init"] - scores["student-hard-init"])
    assert (row["n"], row["verdict"], row["unit"]) == (800, "supported", "points")
    assert (table.drop(index="C18a")["verdict"] == claims.NOT_RUN).all()


def test_a_claim_whose_series_is_missing_has_not_run(tmp_path):
    write_sweep(tmp_path, "one-shot", one_shot({"entropy": 0.006, "gradient": 0.001}))
    table = judged(tmp_path)
    assert table.dropna(subset="diff").index.tolist() == ["C15a"]
    assert (table.drop(index="C15a")["verdict"] == claims.NOT_RUN).all()


def test_a_claim_whose_points_are_missing_has_not_run(tmp_path):
    names = ("combined", "magnitude", "gradient", "random0")
    write_sweep(tmp_path, "one-shot", {"whole": 0.1} | {f"{name}@10": 0.2 for name in names})
    assert (judged(tmp_path)["verdict"] == claims.NOT_RUN).all()


def test_a_teacher_that_saw_the_test_settles_no_finding(tmp_path):
    records.write_finding(tmp_path, finding_of("C13", unit="%", teacher_saw_test=True))
    assert judged(tmp_path).loc["C13", "verdict"] == claims.SAW_TEST


def test_a_fold_can_be_judged_alone(folder):
    evidence = claims.BY_ID["C2"].evidence
    alone, _ = evidence.settle(folder, fold=1, draws=200, seed=0)
    together, named = evidence.settle(folder, fold="*", draws=200, seed=0)
    assert (alone.n, together.n) == (400, 800)
    assert isinstance(alone, stats.Difference)
    assert named["unit"] in claims.SCALES


def test_the_ends_are_judged_against_the_mean_of_the_others():
    """Of 60 sentences the ends lose 6 and none, the others 1 and 5; other bits do not count."""
    labels = np.tile([0, 1, 2], 20)

    def wrong(n):
        return np.where(np.arange(60) < n, (labels + 1) % 3, labels)

    points = {"whole": wrong(0), "int4 embeddings": wrong(6), "int4 classifier": wrong(0)}
    points |= {"int4 layer 0 ffn": wrong(1), "int4 pooler": wrong(5), "int2 pooler": wrong(60)}
    f1 = {name: np.array(stats.macro_f1(labels, guesses)) for name, guesses in points.items()}
    by_hand = (f1["int4 layer 0 ffn"] + f1["int4 pooler"]) / 2
    by_hand -= (f1["int4 embeddings"] + f1["int4 classifier"]) / 2
    assert claims.ends_minus_rest(f1) == pytest.approx(by_hand)
    assert claims.ends_minus_rest(f1 | {"int4 embeddings": f1["int2 pooler"]}) > 0.1
