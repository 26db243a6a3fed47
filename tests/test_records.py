import gzip
import json
import zlib

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from headcount import records, stats
from headcount.errors import InputError
from headcount.study.publish import complete

PROVENANCE = records.Provenance(
    config={}, data_sha256="d", commit="c", versions={"torch": "2"}, threads=1
)


def guesses(n=60, seed=0, right=0.8):
    """Test predictions of a made-up model: right on about that share of sentences."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    guess = np.where(generator.random(n) < right, labels, generator.integers(0, 3, n))
    probabilities = np.full((n, 3), 0.1)
    probabilities[np.arange(n), guess] = 0.8
    frame = pd.DataFrame({"id": [f"s{i}" for i in range(n)], "group": np.arange(n) // 2})
    frame = frame.assign(source="fiqa", label=labels)
    return frame.assign(**dict(zip(records.PROBABILITIES, probabilities.T, strict=True)))


def write(folder, variant, fold=0, seed=0, right=0.8, **fields):
    frame = guesses(seed=zlib.crc32(f"{variant}{fold}{seed}".encode()), right=right)
    frame["id"] = frame["id"] + f"-{fold}"
    frame["group"] += 1000 * fold
    probabilities = frame[records.PROBABILITIES].to_numpy()
    record = records.Record(
        study="t", chapter="02_teacher", variant=variant, fold=fold, seed=seed, split="test",
        n=len(frame), precision="fp32", runtime="torch", teacher_saw_test=False,
        **records.scores(frame["label"].to_numpy(), probabilities),
        **({"baseline": None, "device": "cpu", "provenance": PROVENANCE} | fields),
    )  # fmt: skip
    records.write(folder, record, frame)
    return record


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = write(tmp_path, "teacher", params=5)
    assert records.read(tmp_path) == [record]
    assert records.read(tmp_path, variant="teacher", fold=1) == []
    frame = records.predictions(tmp_path, "teacher")
    labels, guess = frame["label"], frame[records.PROBABILITIES].to_numpy().argmax(1)
    assert record.macro_f1 == pytest.approx(f1_score(labels, guess, average="macro"))
    assert record.accuracy == pytest.approx((labels == guess).mean())


def test_a_record_is_removed_with_its_predictions(tmp_path):
    record, other = write(tmp_path, "teacher"), write(tmp_path, "teacher-int8")
    records.remove(tmp_path, record)
    assert records.read(tmp_path) == [other]
    assert [p.name for p in (tmp_path / "predictions").iterdir()] == [f"{other.stem}.csv"]


def test_a_variant_is_not_taken_for_another_that_begins_like_it(tmp_path):
    write(tmp_path, "teacher")
    write(tmp_path, "teacher-int8")
    assert [r.variant for r in records.read(tmp_path, variant="teacher")] == ["teacher"]


@pytest.mark.parametrize("name", ["Teacher", "teacher_int8", "-teacher", "a b"])
def test_variant_names_are_lower_case_and_dash_separated(tmp_path, name):
    with pytest.raises(ValueError, match="variant"):
        write(tmp_path, name)


def test_an_unknown_field_and_a_spoilt_file_are_told(tmp_path):
    write(tmp_path, "teacher")
    path = tmp_path / "records" / "teacher.fold0.seed0.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"marco_f1": 1.0}))
    with pytest.raises(InputError, match=r"is no record \(marco_f1"):
        records.read(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match="delete it and run its chapter again"):
        records.read(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    records.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        records.write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_comparing_against_other_weights_is_refused(tmp_path):
    write(tmp_path, "teacher", weights_sha256="a" * 64)
    write(tmp_path, "student-kd", baseline="teacher", baseline_sha256="a" * 64)
    with pytest.raises(InputError, match="was made from teacher with weights bbbbbbbbbbbb"):
        write(tmp_path, "student-hard", baseline="teacher", baseline_sha256="b" * 64)
    records.pool(tmp_path, draws=20)
    write(tmp_path, "teacher", weights_sha256="c" * 64)  # trained again, the student was not
    with pytest.raises(InputError, match="run the chapter of student-kd again"):
        records.pool(tmp_path, draws=20)


def test_the_pool_scores_all_folds_together_and_is_no_mean_of_folds(tmp_path):
    for fold in range(3):
        write(tmp_path, "teacher", fold, right=0.5 + 0.2 * fold)
        write(tmp_path, "student-kd", fold, right=0.6, baseline="teacher")
    pooled = records.pool(tmp_path, draws=200).set_index("variant")
    frame = records.predictions(tmp_path, "teacher")
    guess = frame[records.PROBABILITIES].to_numpy().argmax(1)
    expected = f1_score(frame["label"], guess, average="macro")
    row = pooled.loc["teacher"]
    assert row["macro_f1"] == pytest.approx(expected)
    assert row["n"] == 180
    assert row["folds"] == 3
    assert row["ci_low"] < expected < row["ci_high"]
    student = pooled.loc["student-kd"]
    assert student["diff"] == pytest.approx(student["macro_f1"] - row["macro_f1"])
    assert student["diff_low"] < student["diff"] < student["diff_high"]


def test_seeds_are_paired_with_seeds_and_one_seed_with_all(tmp_path):
    for seed in range(3):
        write(tmp_path, "heads-random-50", seed=seed, baseline="teacher")
        write(tmp_path, "heads-entropy-50", seed=seed, baseline="teacher")
    write(tmp_path, "teacher")
    assert len(records.paired(tmp_path, "heads-random-50", "teacher")) == 3 * 60
    pairs = records.paired(tmp_path, "heads-entropy-50", "heads-random-50")
    assert len(pairs) == 3 * 60
    for seed, part in pairs.groupby("seed"):
        theirs = records.predictions(tmp_path, "heads-random-50").pipe(
            lambda frame, s=seed: frame[frame["seed"] == s]
        )
        guess = theirs[records.PROBABILITIES].to_numpy().argmax(1)
        assert part["baseline_guess"].tolist() == guess.tolist()


def test_a_single_training_is_paired_with_the_baseline_s_of_its_own_seed(tmp_path):
    for seed in range(3):
        write(tmp_path, "teacher-continued-9", seed=seed)
    write(tmp_path, "heads-random-30", baseline="teacher-continued-9")
    pairs = records.paired(tmp_path, "heads-random-30", "teacher-continued-9")
    theirs = records.predictions(tmp_path, "teacher-continued-9").query("seed == 0")
    guess = theirs[records.PROBABILITIES].to_numpy().argmax(1)
    assert pairs["baseline_guess"].tolist() == guess.tolist()


def test_one_fold_can_be_looked_at_alone(tmp_path):
    for fold in range(2):
        write(tmp_path, "teacher", fold)
    whole = records.interval(tmp_path, "teacher")
    one = records.interval(tmp_path, "teacher", fold=1)
    assert (whole["n"], one["n"]) == (120, 60)
    frame = records.predictions(tmp_path, "teacher", fold=1)
    guess = frame[records.PROBABILITIES].to_numpy().argmax(1)
    assert one["macro_f1"] == pytest.approx(stats.macro_f1(frame["label"], guess))


def test_the_table_has_the_designs_columns_and_the_rulers_readings(tmp_path):
    write(tmp_path, "teacher", 0, params=7)
    write(tmp_path, "teacher", 1)
    reading = dict.fromkeys(records.Measure.model_fields, 1.0)
    reading |= {"variant": "teacher", "runtime": "torch", "cpu": "x", "cpu_flags": []}
    reading |= dict.fromkeys(["warmup", "timed", "timed128", "threads"], 1)
    reading["weights_sha256"] = None
    records.write_measures(tmp_path, [records.Measure(**reading)])
    table = records.table(tmp_path).set_index("fold")
    assert table.loc[0, "latency_ms_p50"] == 1.0
    assert pd.isna(table.loc[1, "latency_ms_p50"])
    assert table.loc[0, "params"] == 7
    assert list(records.table(tmp_path)) == records.RESULTS_COLUMNS
    records.write_measures(tmp_path, [])
    assert records.measures(tmp_path).empty


def test_tables_are_read_as_they_are_published(tmp_path):
    write(tmp_path, "teacher")
    records.write_sweep(tmp_path, *sweep_of())
    before = records.predictions(tmp_path, "teacher"), records.sweep(tmp_path, "one-shot")
    for path in (tmp_path / "predictions", tmp_path / "sweeps"):
        for table in path.glob("*.csv"):
            table.with_name(f"{table.name}.gz").write_bytes(gzip.compress(table.read_bytes()))
            table.unlink()
    pd.testing.assert_frame_equal(records.predictions(tmp_path, "teacher"), before[0])
    pd.testing.assert_frame_equal(records.sweep(tmp_path, "one-shot"), before[1])


def test_missing_predictions_are_told(tmp_path):
    write(tmp_path, "teacher")
    with pytest.raises(InputError, match="no test predictions of 'student-kd'"):
        records.predictions(tmp_path, "student-kd")
    (tmp_path / "predictions" / "teacher.fold0.seed0.csv").unlink()
    with pytest.raises(InputError, match="run chapter 02_teacher again"):
        records.predictions(tmp_path, "teacher")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"provenance": PROVENANCE.model_copy(update={"data_sha256": "e"})}, "sentences: d, e"),
        (
            {"provenance": PROVENANCE.model_copy(update={"config": {"model": "x"}})},
            "model: None, x",
        ),
        ({"device": "a card"}, "device: a card, cpu"),
    ],
)
def test_records_of_unlike_studies_are_not_pooled(tmp_path, changed, told):
    write(tmp_path, "teacher", 0)
    write(tmp_path, "teacher", 1, **changed)
    with pytest.raises(InputError, match=told):
        records.pool(tmp_path, draws=10)


POINTS = ["whole", "entropy@10", "random0@10"]


def sweep_of(fold=0, points=POINTS, **fields):
    """A sweep of a made-up model, and its table."""
    frame = guesses(seed=fold)[["id", "group", "source", "label"]]
    frame["id"] = frame["id"] + f"-{fold}"
    frame["group"] += 1000 * fold
    for number, point in enumerate(points):
        frame[point] = np.random.default_rng([fold, number]).integers(0, 3, len(frame))
    values = {"study": "t", "chapter": "05_pruning", "name": "one-shot", "fold": fold, "seed": 0}
    values |= {"n": len(frame), "points": list(points), "weights_sha256": "a" * 64}
    values |= {"teacher_saw_test": False, "provenance": PROVENANCE}
    return records.Sweep(**(values | fields)), frame


def test_a_sweep_comes_back_as_it_was_written(tmp_path):
    (zero, first), (one, second) = sweep_of(0), sweep_of(1)
    records.write_sweep(tmp_path, one, second.iloc[:, ::-1])  # in any order of columns
    records.write_sweep(tmp_path, zero, first)
    assert records.read_sweeps(tmp_path) == [zero, one]
    assert records.read_sweeps(tmp_path, "one-shot", fold=1) == [one]
    assert records.read_sweeps(tmp_path, "one") == []
    expected = pd.concat([first.assign(fold=0, seed=0), second.assign(fold=1, seed=0)])
    columns = ["id", "group", "source", "fold", "seed", "label", *POINTS]
    pooled = records.sweep(tmp_path, "one-shot")
    pd.testing.assert_frame_equal(
        pooled, expected[columns].reset_index(drop=True), check_dtype=False
    )
    assert all(pooled[point].dtype == int for point in POINTS)
    assert set(records.sweep(tmp_path, "one-shot", fold=1)["fold"]) == {1}
    records.remove(tmp_path, zero)
    assert records.read_sweeps(tmp_path) == [one]
    assert [path.name for path in sorted((tmp_path / "sweeps").iterdir())] == [
        "one-shot.fold1.seed0.csv",
        "one-shot.fold1.seed0.json",
    ]


def test_a_sweep_has_the_points_that_all_its_folds_have(tmp_path):
    records.write_sweep(tmp_path, *sweep_of(0, ["whole", "entropy@10", "entropy@20"]))
    records.write_sweep(tmp_path, *sweep_of(1, ["entropy@20", "random0@10", "whole"]))
    assert list(records.sweep(tmp_path, "one-shot"))[6:] == ["whole", "entropy@20"]
    records.write_sweep(tmp_path, *sweep_of(2, ["random1@10"]))
    with pytest.raises(InputError, match="no point in common"):
        records.sweep(tmp_path, "one-shot")
    with pytest.raises(InputError, match="no sweep 'iterative'"):
        records.sweep(tmp_path, "iterative")


@pytest.mark.parametrize(
    ("points", "spoil", "told"),
    [
        (["whole", "whole"], lambda table: table, "names a point twice"),
        (["whole", "seed"], lambda table: table, "like a column that is none"),
        (POINTS, lambda table: table.drop(columns="whole"), "only one of them has: whole"),
        (POINTS, lambda table: table.assign(spare=0), "only one of them has: spare"),
        (POINTS, lambda table: table.iloc[1:], "names 60 sentences, its table has 59"),
        (POINTS, lambda table: table.assign(whole=3), "not 0, 1 or 2"),
        (POINTS, lambda table: table.assign(whole=np.nan), "not 0, 1 or 2"),
        (POINTS, lambda table: table.assign(label=-1), "not 0, 1 or 2"),
    ],
)
def test_a_sweep_that_does_not_fit_its_table_is_not_written(tmp_path, points, spoil, told):
    sweep, table = sweep_of(points=points)
    with pytest.raises(InputError, match=told):
        records.write_sweep(tmp_path, sweep, spoil(table))
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_sweep_is_told(tmp_path):
    records.write_sweep(tmp_path, *sweep_of())
    path = tmp_path / "sweeps" / "one-shot.fold0.seed0.csv"
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(InputError, match=r"60 sentences and 3 points.*run chapter 05_pruning"):
        records.sweep(tmp_path, "one-shot")
    path.write_text(whole.replace("entropy@10", "entropy@20"))
    with pytest.raises(InputError, match="does not hold"):
        records.sweep(tmp_path, "one-shot")
    path.unlink()
    with pytest.raises(InputError, match=r"csv is missing: run chapter 05_pruning again"):
        records.sweep(tmp_path, "one-shot")
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match=r"is no sweep \(study"):
        records.read_sweeps(tmp_path)


def finding_of(claim="C13", fold=0, **fields):
    values = {"study": "t", "chapter": "05b_heads", "claim": claim, "fold": fold}
    values |= {"variant": "removed", "baseline": "masked"}
    values |= {"unit": "ratio", "diff": -0.3, "low": -0.31, "high": -0.29, "n": 500}
    values |= {"n_unit": "sentences", "teacher_saw_test": False, "provenance": PROVENANCE}
    return records.Finding(**(values | fields))


def test_a_finding_comes_back_as_it_was_written(tmp_path):
    found = [finding_of(), finding_of(fold=1, p=0.5, detectable=0.1), finding_of("C1")]
    for finding in found:
        records.write_finding(tmp_path, finding)
    assert records.read_findings(tmp_path, "C13") == found[:2]
    assert records.read_findings(tmp_path, "C1") == found[2:]
    assert len(records.read_findings(tmp_path)) == 3
    assert records.read_findings(tmp_path, fold=1) == found[1:2]
    records.write_finding(tmp_path, finding_of(diff=0.0))
    assert records.read_findings(tmp_path, "C13")[0].diff == 0
    records.remove(tmp_path, found[1])
    assert len(records.read_findings(tmp_path)) == 2
    (tmp_path / "findings" / "C1.fold0.json").write_text("{")
    with pytest.raises(InputError, match="is no finding"):
        records.read_findings(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"claim": "13"}, {"diff": np.nan}, {"high": np.inf}, {"p": 1.5}, {"n": 0}, {"other": 1}],
)
def test_a_finding_that_could_not_be_read_again_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        finding_of(**fields)


def test_a_finding_is_judged_by_the_rule_of_the_study():
    within = {"margin": 0.05, "side": "within"}
    difference = finding_of().difference()
    assert stats.verdict(difference, **within) == "refuted"
    assert np.isnan(difference.p)
    assert (difference.diff, difference.n, difference.groups) == (-0.3, 500, 500)
    same = finding_of(low=-0.01, high=0.01, p=0.5).difference()
    assert (stats.verdict(same, **within), same.p) == ("supported", 0.5)


@pytest.mark.parametrize("kind", ["sweep", "finding"])
def test_sweeps_and_findings_of_unlike_studies_are_not_pooled(tmp_path, kind):
    other = PROVENANCE.model_copy(update={"data_sha256": "e"})
    write(tmp_path, "teacher")
    records.write_sweep(tmp_path, *sweep_of())
    records.write_finding(tmp_path, finding_of())
    records.pool(tmp_path, draws=10)
    if kind == "sweep":
        records.write_sweep(tmp_path, *sweep_of(1, provenance=other))
    else:
        records.write_finding(tmp_path, finding_of(fold=1, provenance=other))
    with pytest.raises(InputError, match="sentences: d, e"):
        records.pool(tmp_path, draws=10)


def test_a_sweep_is_complete_with_its_json_and_a_finding_alone(tmp_path):
    write(tmp_path, "teacher")
    records.write_sweep(tmp_path, *sweep_of())
    records.write_sweep(tmp_path, *sweep_of(1))
    records.write_finding(tmp_path, finding_of())
    (tmp_path / "sweeps" / "one-shot.fold1.seed0.json").unlink()
    # A sweep's JSON vouches for no predictions, nor a record for a sweep.
    (tmp_path / "predictions" / "one-shot.fold0.seed0.csv").touch()
    (tmp_path / "sweeps" / "teacher.fold0.seed0.csv").touch()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in complete(tmp_path)) == [
        "findings/C13.fold0.json",
        "predictions/teacher.fold0.seed0.csv",
        "records/teacher.fold0.seed0.json",
        "sweeps/one-shot.fold0.seed0.csv",
        "sweeps/one-shot.fold0.seed0.json",
    ]
