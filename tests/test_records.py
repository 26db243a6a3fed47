import json
import zlib

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from headcount import records, stats
from headcount.errors import InputError

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
