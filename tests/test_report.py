"""Chapter 8 and its pages, on a small made-up study that was written as real ones are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from headcount import claims, records, report, stats
from headcount.errors import InputError
from headcount.report.__main__ import main
from headcount.report.headline import BEGIN, END, NOTHING
from headcount.report.tables import difference, points

ROOT = Path(__file__).parents[1]
# variant: (chapter, baseline, share of the teacher's answers that it shares, MB, runtime)
VARIANTS = {
    "majority": ("02_teacher", None, 0.0, None, "scikit-learn"),
    "tfidf": ("02_teacher", None, 0.6, None, "scikit-learn"),
    "teacher": ("02_teacher", "tfidf", 1.0, 90.9, "torch"),
    "student-hard-init": ("03_distillation", "teacher", 0.93, 69.7, "torch"),
    "student-kd-init": ("03_distillation", "teacher", 0.95, 69.7, "torch"),
    "teacher-int8": ("04_quantization", "teacher", 0.995, 23.1, "onnxruntime"),
    "student-kd-init-int8": ("04_quantization", "student-kd-init", 0.94, 17.8, "onnxruntime"),
    "teacher-qbert": ("04c_bits", "teacher", 0.97, 12.3, "simulated"),
    "teacher-continued-9": ("05_pruning", "teacher", 0.97, 90.9, "torch"),
    "teacher-continued-15": ("05_pruning", "teacher", 0.96, 90.9, "torch"),
    "heads-entropy-50": ("05_pruning", "teacher-continued-15", 0.9, 84.1, "torch"),
    "heads-random-30": ("05_pruning", "teacher-continued-9", 0.95, 86.7, "torch"),
}
# What the aims read besides the teacher and its INT8.
SMALL = {
    "student-small": ("03_distillation", "teacher", 1.0, 69.7, "torch"),
    "student-small-trimmed": ("04_quantization", "student-small", 1.0, 38.0, "torch"),
    "student-small-trimmed-int8": (
        "04_quantization", "student-small-trimmed", 1.0, 9.9, "onnxruntime"
    ),
    "student-small-trimmed-int8-e4": (
        "04_quantization", "student-small-trimmed", 1.0, 9.08, "onnxruntime"
    ),
    "teacher-onnx": ("04_quantization", "teacher", 1.0, 91.0, "onnxruntime"),
}  # fmt: skip
LAYERS = {"student-small": 3, "student-small-trimmed": 3, "student-tiny": 2}


def make_study(folder, *, study="tiny", folds=(0, 1), n=120, source="synthetic", saw_test=False):
    """Write records, predictions and measures of all `VARIANTS` into `folder`."""
    rng = np.random.default_rng(7)
    for fold in folds:
        frame = pd.DataFrame(
            {
                "id": [f"{source}-{fold}-{row}" for row in range(n)],
                "group": 1_000 * fold + np.arange(n) // 2,
                "source": source,
                "label": rng.choice(3, n, p=[0.2, 0.45, 0.35]),
            }
        )
        labels = frame["label"].to_numpy()
        teacher = np.where(rng.random(n) < 0.86, labels, rng.integers(0, 3, n))
        for variant, (chapter, baseline, shared, size_mb, runtime) in VARIANTS.items():
            guess = np.where(rng.random(n) < shared, teacher, rng.integers(0, 3, n))
            if variant == "majority":
                guess = np.ones(n, dtype=int)
            probabilities = np.full((n, 3), 0.08)
            probabilities[np.arange(n), guess] = 0.84
            trained = runtime == "torch"
            record = records.Record(
                study=study, chapter=chapter, variant=variant, baseline=baseline, fold=fold,
                seed=0, split="test", n=n, **records.scores(labels, probabilities),
                params=22_565_763 if trained else None,
                nonzero_params=22_565_763 if trained else None,
                size_mb=size_mb,
                heads_alive=None if not trained else 37 if variant == "heads-entropy-50" else 72,
                heads_total=72 if trained else None,
                layers=LAYERS.get(variant, 6) if trained else None,
                macs=320_000_000 if trained else None,
                train_seconds=61.5 if trained else None,
                steps=295 if trained else None,
                device="cpu",
                precision="int8" if variant.endswith("int8") else "fp32",
                runtime=runtime,
                teacher_saw_test=saw_test,
                provenance=records.Provenance(
                    config={"model": "minilm", "training_precision": "fp32"},
                    data_sha256="5984cef620fc2ac9", commit="0" * 40,
                    versions={"python": "3.11.7", "torch": "2.13.0"}, threads=2, cpu="a processor",
                ),
            )  # fmt: skip
            columns = dict(zip(records.PROBABILITIES, probabilities.T, strict=True))
            records.write(folder, record, frame.assign(**columns))
    measures = []
    for variant, (_, _, _, size_mb, runtime) in VARIANTS.items():
        if size_mb is None or runtime == "simulated":
            continue
        times = 9.0 * (0.4 if runtime == "onnxruntime" else 1.0) * (0.6 if "kd" in variant else 1.0)
        keys = [f"latency{pad}_ms_{q}" for pad in ("", "128") for q in ("p50", "p95", "p99")]
        measures.append(
            records.Measure(
                variant=variant, runtime=runtime, size_mb=size_mb,
                **dict(zip(keys, times * np.array([1, 1.3, 1.6, 3, 3.3, 3.9]), strict=True)),
                throughput_sps=1_000 / times, peak_rss_mb=420.0, warmup=50, timed=500, timed128=500,
                threads=2, cpu="a processor", cpu_flags=["avx2"],
            ),
        )  # fmt: skip
    records.write_measures(folder, measures)
    return folder


def execute(work, **parameters):
    """Chapter 8 with the public tools, as the study runs it; the path of the executed notebook."""
    out = work / "notebooks" / "fold0" / "08_report.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    given = {"work": work, "artifacts": work.parent / "artifacts", "draws": 300} | parameters
    flags = " ".join(f"-p {name} '{value}'" for name, value in given.items())
    command = (
        f"set -o pipefail; jupytext --quiet --to ipynb -o - notebooks/08_report.py"
        f" | papermill - {out} --no-progress-bar {flags}"
    )
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools}
    subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    return out


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The folder of a study that has run to its end, pages included."""
    work = make_study(tmp_path_factory.mktemp("study") / "work" / "tiny")
    for name in ("notebooks/fold0/02_teacher.ipynb", "figures/fold0/02_teacher-curve.png"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(b"left by chapter 2")
    report.render(execute(work, profile="tiny"), work)
    return work


def test_tables_are_the_records(rendered):
    results, pooled = (pd.read_csv(rendered / f"{name}.csv") for name in ("results", "pooled"))
    assert len(results) == 2 * len(VARIANTS)
    assert set(pooled["variant"]) == set(VARIANTS)
    line = pooled.set_index("variant").loc["teacher-int8"]
    found = records.predictions(rendered, "teacher-int8")
    guess = found[records.PROBABILITIES].to_numpy().argmax(1)
    assert line["macro_f1"] == pytest.approx(stats.macro_f1(found["label"], guess), abs=1e-5)
    assert line["n"] == 240
    assert line["diff_low"] <= line["diff"] <= line["diff_high"]
    # Holm runs over the contrasts of the claims alone.
    judged = claims.judge(rendered, draws=300)
    primary = judged.dropna(subset="diff")
    assert primary["id"].tolist() == ["C1", "C7", "C10", "C15b"]
    assert primary["p_holm"].tolist() == pytest.approx(stats.holm(primary["p"]).tolist())
    with_p = set(pooled.dropna(subset="p_holm")["variant"])
    assert with_p == {"heads-entropy-50", "teacher-int8", "heads-random-30"}


def test_pages_are_complete_and_need_nothing_else(rendered):
    page = (rendered / "report.html").read_text(encoding="utf-8")
    text = (rendered / "report.md").read_text(encoding="utf-8")
    for name in VARIANTS:
        assert f"<code>{name}</code>" in page
        assert f"`{name}`" in text
    assert not re.findall(r"<(?:script|link|iframe)|@import|src=\"http|url\(", page)
    assert "chapter.begin" not in page + text
    assert "Headcount, chapter 08_report" not in page + text
    images = re.findall(r"<img ([^>]+)>", page)
    assert all('src="data:image/png;base64,' in image for image in images)
    pictures = [re.search(r"alt=\"([^\"]+)\"", image)[1] for image in images]
    assert len(pictures) == 3
    links = re.findall(r"!\[(.+?)\]\((.+?)\)", text)
    assert [alt for alt, _ in links] == pictures
    assert all((rendered / path).is_file() for _, path in links)
    assert page.count("<table") == page.count('<div class="scroll"')
    assert len(re.findall(r"<li><a href=\"#", page)) == page.count("<h2") > 5
    for name in re.findall(r"<a href=\"#([^\"]+)\"", page):
        assert f'id="{name}"' in page


def test_synthetic_sentences_are_called_synthetic_wherever_they_appear(rendered):
    text = (rendered / "report.md").read_text(encoding="utf-8")
    assert "**The sentences are synthetic**" in text
    assert all("synthetic" in alt for alt in re.findall(r"!\[(.+?)\]", text))
    verdicts = [line.split("|")[2] for line in text.splitlines() if line.startswith("| **C")]
    assert len(verdicts) == 4
    assert all("** (synthetic corpus)" in verdict for verdict in verdicts)
    tables = (rendered / "tables" / "fold0").glob("08_report-*.csv")
    names = ("aims", "claims", "scores", "folds")
    assert {path.stem for path in tables} == {f"08_report-{name}" for name in names}


def test_executed_chapters_and_what_they_left_are_linked(rendered):
    for page in ("report.md", "report.html"):
        text = (rendered / page).read_text(encoding="utf-8")
        for path in ("notebooks/fold0/02_teacher.ipynb", "figures/fold0/02_teacher-curve.png",
                     "results.csv", "pooled.csv"):  # fmt: skip
            assert f"]({path})" in text or f'href="{path}"' in text
            assert (rendered / path).exists()


def test_claims_that_have_not_run_are_listed(rendered):
    text = (rendered / "report.md").read_text(encoding="utf-8")
    waiting = text.split("Not yet run:")[1].split("##")[0]
    listed = re.findall(r"\*\*(C\d+[a-z]?)\*\*", waiting)
    ran = ["C1", "C7", "C10", "C15b"]
    assert listed == [claim.id for claim in claims.CLAIMS if claim.id not in ran]


def test_an_early_report_has_neither_measures_nor_claims(tmp_path):
    """One fold, two variants, real sentences: chapters 3 to 7 have not run."""
    work = make_study(tmp_path / "work" / "early", study="early", folds=(0,), source="phrasebank")
    for path in [*work.glob("measures/*"), *work.glob("*/*")]:
        if path.name.split(".")[0] not in ("teacher", "tfidf"):
            path.unlink(missing_ok=True)
    (work / "measures" / "teacher.json").unlink(missing_ok=True)
    report.render(execute(work, profile="early"), work)
    text = (work / "report.md").read_text(encoding="utf-8")
    assert "synthetic" not in text
    assert "simulated" not in text
    assert "None has run." in text
    assert "No chapter that an aim reads has run yet." in text
    assert "No INT8 model has been scored yet." in text
    assert "Neither has run yet." in text
    assert "| folds alone" not in text
    assert "has not been put to these models yet" in text


def test_a_simulated_model_is_not_taken_for_a_file(rendered):
    text = (rendered / "report.md").read_text(encoding="utf-8")
    marked = [
        line for line in text.splitlines() if line.startswith("| `teacher-qbert` (simulated)")
    ]
    scored, sized = (line.split(" | ") for line in marked)
    assert re.match(r"0\.\d{3} \[", scored[1])
    assert sized[1:3] == ["12.3 computed", "7.39"]
    assert text.count(" computed |") == 1
    assert "A model marked *(simulated)*" in text.split("## Scores")[1].split("| variant")[0]
    assert "*computed*" in text.split("## What is left: bytes")[1].split("| variant")[0]


def judged_aims(folder):
    """Found and outcome of each aim, by its text."""
    table = report.aims(folder, report.describe(folder), draws=200).set_index("aim")
    assert list(table.index) == [aim.text for aim in report.AIMS]
    return table["found"], table["outcome"]


def take_time(folder, **milliseconds):
    """Write other median latencies, by variant with underscores."""
    measures = records.measures(folder).set_index("variant")
    for variant, time in milliseconds.items():
        measures.loc[variant.replace("_", "-"), "latency_ms_p50"] = time
    rows = measures.reset_index().to_dict("records")
    records.write_measures(folder, (records.Measure(**row) for row in rows))


def test_aims_are_met_by_what_was_found(tmp_path, monkeypatch):
    for variant, entry in SMALL.items():
        monkeypatch.setitem(VARIANTS, variant, entry)
    monkeypatch.setitem(
        VARIANTS, "student-tiny", ("03_distillation", "teacher", 0.2, 60.0, "torch")
    )
    make_study(tmp_path, source="phrasebank")
    small = {"student_small_trimmed_int8": 0.8, "student_small_trimmed_int8_e4": 0.9}
    take_time(tmp_path, teacher=9.0, teacher_onnx=4.5, **small)
    found, outcome = judged_aims(tmp_path)
    d = records.contrast(tmp_path, "teacher-int8", "teacher", draws=200)
    told = difference("points", d.diff, d.low, d.high, digits=2)
    assert found["The teacher in INT8"] == f"difference: {told}; file: 23.10 MB"
    assert ("not met" in outcome["The teacher in INT8"]) == (d.diff < -0.005)
    same = "difference: 0.00 [0.00, 0.00] points"  # its answers are the teacher's
    speed = "speed: 10.00 times (5.00 times `teacher-onnx`'s)"
    assert found["The whole study"] == f"{same}; file: 10.01 times smaller; {speed}"
    speed = "speed: 11.25 times (5.62 times `teacher-onnx`'s)"
    assert found["The small student, deployed"] == f"{same}; file: 9.90 MB; {speed}"
    assert found["A small student"] == f"{same}; layers: 3 of 6"
    for text in ("The whole study", "The small student, deployed", "A small student"):
        assert outcome[text] == "**met**"
    assert found["A tiny student"].endswith("layers: 2")
    assert outcome["A tiny student"] == "**not met**: difference"

    monkeypatch.setitem(LAYERS, "student-small", 4)
    monkeypatch.setitem(
        VARIANTS, "teacher-int8", ("04_quantization", "teacher", 1.0, 24.1, "torch")
    )
    make_study(tmp_path, source="phrasebank")
    take_time(tmp_path, teacher=9.0, student_small_trimmed_int8=0.91)
    _, outcome = judged_aims(tmp_path)
    assert outcome["The teacher in INT8"] == "**not met**: file"
    assert outcome["A small student"] == "**not met**: layers"
    assert outcome["The small student, deployed"] == "**not met**: speed"


def test_an_aim_is_judged_by_the_lower_end_where_one_is_named(tmp_path, monkeypatch):
    for variant, entry in SMALL.items():
        monkeypatch.setitem(VARIANTS, variant, entry)
    make_study(tmp_path, folds=(0,), source="phrasebank")
    for low, high, outcome in ((-0.014, 0.0, "**met**"), (-0.016, 0.02, "**not met**: difference")):
        found = stats.Difference(-0.004, low, high, 0.5, 120, 60)
        monkeypatch.setattr(records, "contrast", lambda *_, found=found, **__: found)
        assert judged_aims(tmp_path)[1]["A small student"] == outcome
        assert judged_aims(tmp_path)[1]["The teacher in INT8"] == "**met**"


def test_an_aim_waits_for_what_it_reads(tmp_path, monkeypatch):
    make_study(tmp_path)
    found, outcome = judged_aims(tmp_path)
    for text in set(outcome.index) - {"The teacher in INT8"}:
        assert (found[text], outcome[text]) == ("–", "not yet run")
    assert outcome["The teacher in INT8"].endswith(" (synthetic corpus)")

    for variant, entry in SMALL.items():
        monkeypatch.setitem(VARIANTS, variant, entry)
    make_study(tmp_path)
    (tmp_path / "measures" / "student-small-trimmed-int8-e4.json").unlink()
    (tmp_path / "records" / "student-small-trimmed-int8-e4.fold1.seed0.json").unlink()
    found, outcome = judged_aims(tmp_path)
    assert (
        "points (fold 0 only); file: 10.01 times smaller; speed: not yet run"
        in (found["The whole study"])
    )
    assert outcome["The whole study"] == "**undecided**: speed not yet run (synthetic corpus)"
    for path in tmp_path.glob("measures/*.json"):
        path.unlink()
    (tmp_path / "records" / "student-small-trimmed-int8-e4.fold0.seed0.json").unlink()
    (tmp_path / "records" / "teacher.fold0.seed0.json").unlink()
    found, outcome = judged_aims(tmp_path)
    assert outcome["The whole study"] == "not yet run"
    assert "fold 1 only" in found["A small student"]
    assert "layers: not yet run" in found["A small student"]


def test_no_aim_is_met_with_a_teacher_that_saw_the_test(tmp_path):
    make_study(tmp_path, folds=(0,), saw_test=True)
    _, outcome = judged_aims(tmp_path)
    assert outcome["The teacher in INT8"] == f"**{claims.SAW_TEST}** (synthetic corpus)"
    assert outcome["A tiny student"] == "not yet run"


def test_changed_answers_are_counted_by_class_and_by_confidence(tmp_path):
    make_study(tmp_path, source="phrasebank")
    confidences = np.tile([0.5, 0.6, 0.9, 0.95], 30)
    for fold in (0, 1):
        path = tmp_path / "predictions" / f"teacher.fold{fold}.seed0.csv"
        table = pd.read_csv(path)
        said = table[records.PROBABILITIES].to_numpy().argmax(1)
        given = np.repeat((1 - confidences)[:, None] / 2, 3, axis=1)
        given[np.arange(120), said] = confidences
        table.assign(**dict(zip(records.PROBABILITIES, given.T, strict=True))).to_csv(
            path, index=False
        )
    pairs = records.paired(tmp_path, "teacher-int8", "teacher")
    changed = pairs["guess"] != pairs["baseline_guess"]
    sure = pd.Series(np.tile(confidences, 2))  # folds follow each other
    row = report.flips(tmp_path, records.table(tmp_path)).set_index("variant").loc["teacher-int8"]
    assert row["answers"] == "240"
    assert row["changed"] == f"{100 * changed.mean():.1f} %"
    for k, label in enumerate(("negative", "neutral", "positive")):
        some = pairs["baseline_guess"] == k
        assert row[f"was {label}"] == f"{changed[some].sum()} of {some.sum()}"
    expected = [
        f"{changed[sure == 0.5].sum()} of 60",
        f"{changed[sure.isin([0.6, 0.9])].sum()} of 120",
        f"{changed[sure == 0.95].sum()} of 60",
    ]
    assert row[["confidence below 0.6", "0.6 to 0.9", "above 0.9"]].tolist() == expected


def test_int8_is_compared_with_more_than_its_baseline(tmp_path, monkeypatch):
    for variant, entry in SMALL.items():
        monkeypatch.setitem(VARIANTS, variant, entry)
    monkeypatch.setitem(
        VARIANTS, "teacher-int8-weights", ("04_quantization", "teacher", 0.99, 23.0, "onnxruntime")
    )
    for variant, baseline in {"int8": "student-small", "qat": "student-small-int8"}.items():
        entry = ("04b_qat", baseline, 0.95, 9.9, "onnxruntime")
        monkeypatch.setitem(VARIANTS, f"student-small-{variant}", entry)
    make_study(tmp_path)
    results = records.table(tmp_path)
    shown = report.beside(tmp_path, results, report.int8_questions(results), draws=200)
    assert shown[["variant", "minus"]].to_numpy().tolist() == [
        ["student-small-qat", "student-small-int8"],
        ["student-small-trimmed-int8", "student-small"],
        ["student-small-trimmed-int8-e4", "student-small"],
        ["student-small-trimmed-int8-e4", "student-small-trimmed-int8"],
        ["teacher-int8", "teacher-int8-weights"],
    ]
    d = records.contrast(tmp_path, "teacher-int8", "teacher-int8-weights", draws=200)
    assert shown["difference, points"].iloc[-1] == points(d.diff, d.low, d.high)


def test_what_a_teacher_gives_is_pooled_where_it_ran(tmp_path):
    make_study(tmp_path)
    shown = report.beside(tmp_path, records.table(tmp_path), claims.TEACHING, draws=200)
    assert shown[["variant", "minus"]].to_numpy().tolist() == [
        ["student-kd-init", "student-hard-init"],
        ["student-kd-init", "teacher"],
    ]
    judged = claims.judge(tmp_path, draws=200).set_index("id").loc["C7"]
    assert shown["difference, points"][0] == points(*judged[["diff", "diff_low", "diff_high"]])


def test_a_teacher_that_saw_the_test_settles_nothing(tmp_path):
    make_study(tmp_path, folds=(0,), saw_test=True)
    judged = claims.judge(tmp_path, draws=100).dropna(subset="diff")
    assert set(judged["verdict"]) == {claims.SAW_TEST}
    assert "had seen test sentences" in report.describe(tmp_path).line


def test_a_control_that_was_trained_longer_settles_nothing(tmp_path):
    make_study(tmp_path, folds=(0,))
    path = tmp_path / "records" / "teacher-continued-15.fold0.seed0.json"
    path.write_text(path.read_text().replace('"steps": 295', '"steps": 400'))
    judged = claims.judge(tmp_path, draws=100).set_index("id")["verdict"]
    assert judged["C1"] == claims.UNEQUAL
    assert judged["C15b"] != claims.UNEQUAL


def test_chapters_are_told_by_their_wall_time_and_memory(tmp_path):
    assert report.chapters(tmp_path).empty
    (tmp_path / "chapters").mkdir()
    for fold, (seconds, rss) in enumerate([(60, "1000.0"), (180, "NA")]):
        text = f"s\th:m:s\tmax_rss\n{seconds}\t0:01:00\t{rss}\n"
        (tmp_path / "chapters" / f"fold{fold}.02_teacher.tsv").write_text(text)
    (row,) = report.chapters(tmp_path).to_dict("records")
    expected = {"folds": 2, "minutes a fold": "2.0", "peak memory, GB": "1.0"}
    assert row == {"chapter": "02_teacher"} | expected


def test_three_seeds_are_asked_of_c1(tmp_path):
    make_study(tmp_path, folds=(0,))
    shown = report.contrasts(claims.judge(tmp_path, draws=100), report.describe(tmp_path))
    assert "1 of 3 seeds" in shown.set_index("claim")["verdict"].iloc[0]
    assert not shown["verdict"].iloc[1:].str.contains("seeds").any()


def test_a_verdict_by_sign_says_when_holm_would_not_have_it(tmp_path):
    make_study(tmp_path, folds=(0,))
    judged = claims.judge(tmp_path, draws=100).set_index("id")
    told = {}
    for p_holm in (0.04, 0.06):
        judged.loc[["C1", "C10"], "p_holm"] = p_holm
        judged.loc[["C1", "C10"], ["diff", "diff_low", "diff_high"]] = -0.03, -0.05, -0.01
        judged.loc[["C1", "C10"], "verdict"] = "refuted"
        shown = report.contrasts(judged.reset_index(), report.describe(tmp_path))
        told[p_holm] = shown.set_index(shown["claim"].str[2:5])["verdict"]
    after = told[0.06].str.contains("not after Holm's correction")
    assert after["C1*"]
    assert not after["C10"]  # its margin is not 0
    assert not told[0.04].str.contains("Holm").any()


def test_an_effect_that_was_claimed_stands_beside_the_margin(tmp_path):
    make_study(tmp_path, folds=(0,))
    shown = report.contrasts(claims.judge(tmp_path, draws=100), report.describe(tmp_path))
    margins = shown.set_index(shown["claim"].str.extract(r"\*\*(C\d+\w?)", expand=False))["margin"]
    assert margins["C1"] == "0; +0.9 points claimed"
    assert margins["C10"] == "\N{MINUS SIGN}0.5 points"


def test_contrasts_are_among_known_variants_and_margins_are_fractions():
    assert len({claim.id for claim in claims.CLAIMS}) == len(claims.CLAIMS)
    numbers = {int(re.search(r"\d+", claim.id)[0]) for claim in claims.CLAIMS}
    assert numbers == set(range(1, 19))
    for claim in claims.CLAIMS:
        assert abs(claim.margin) <= 0.05
        assert abs(claim.claim_effect or 0) <= 0.05


def notebook(tmp_path, *outputs, count=1, tags=()):
    cell = nbformat.v4.new_code_cell("1", execution_count=count, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    path = tmp_path / "08_report.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def picture(alt):
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return nbformat.v4.new_output("display_data", {"image/png": "aGVsbG8="}, metadata=metadata)


def failure():
    return nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])


@pytest.mark.parametrize(
    ("outputs", "count", "word"),
    [
        ([failure()], 1, "a cell failed"),
        ([], None, "was not executed"),
        ([picture("")], 1, "without alternative text"),
        ([picture("a head map")], 1, r"a picture \(a head map\) that is not in"),
    ],
)
def test_a_notebook_that_cannot_be_a_report_is_refused(tmp_path, outputs, count, word, capsys):
    path = notebook(tmp_path, *outputs, count=count)
    with pytest.raises(InputError, match=word):
        report.render(path, tmp_path)
    assert main(["render", str(path), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_missing_inputs_are_one_line(tmp_path):
    with pytest.raises(InputError, match="is missing: run chapter 08_report"):
        report.render(tmp_path / "no.ipynb", tmp_path)
    with pytest.raises(InputError, match="no records"):
        report.describe(tmp_path)
    make_study(tmp_path, folds=(0,))
    make_study(tmp_path, folds=(1,), study="other")
    with pytest.raises(InputError, match="2 studies"):
        report.describe(tmp_path)


def test_markdown_tables_survive_pipes_and_align_numbers():
    columns = {
        "variant": ["a", "b"],
        "x": ["1.0", "–"],
        "range": ["[−0.1, 0.2]", "[0.1, 0.2]"],
        "y": ["p|q", "r"],
        "link": ["[r](r.md)", "–"],
    }
    assert report.markdown(pd.DataFrame(columns)).splitlines() == [
        "| variant | x | range | y | link |",
        "| :-- | --: | --: | :-- | :-- |",
        "| `a` | 1.0 | [−0.1, 0.2] | p\\|q | [r](r.md) |",
        "| `b` | – | [0.1, 0.2] | r | – |",
    ]


def test_headline_is_generated_and_found_stale(rendered, tmp_path, capsys):
    reports, readme = tmp_path / "reports", tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\n{END}\n\nThe end.\n")
    assert main(["headline", str(reports), str(readme), "--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["headline", str(reports), str(readme)]) == 0
    assert NOTHING in readme.read_text()

    reports.mkdir()
    (reports / "offline").symlink_to(rendered)
    assert main(["check", str(reports), str(readme)]) == 1
    assert main(["headline", str(reports), str(readme)]) == 0
    assert main(["headline", str(reports), str(readme), "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    assert "**The sentences are synthetic**" in text
    row = next(line for line in text.splitlines() if line.startswith("| `teacher-int8`"))
    line = pd.read_csv(rendered / "pooled.csv").set_index("variant").loc["teacher-int8"]
    assert f"{line['macro_f1']:.3f} [{line['ci_low']:.3f}, {line['ci_high']:.3f}]" in row
    assert row.endswith("| 23.1 | 2.50 × | – |")  # no FP32 teacher ran in ONNX Runtime
    assert "majority" not in text

    readme.write_text(text.replace("23.1", "23.2"))
    assert main(["headline", str(reports), str(readme), "--check"]) == 1
    # A study with real sentences comes first.
    make_study(reports / "minilm", study="minilm", folds=(0,), source="phrasebank", n=40)
    records.pool(reports / "minilm", draws=50).to_csv(reports / "minilm" / "pooled.csv")
    assert "synthetic" not in report.headline(reports)


def headline_rows(reports):
    """Cells of the headline's table by variant, in its order."""
    lines = [line for line in report.headline(reports).splitlines() if line.startswith("| `")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {name: rest for name, *rest in cells}


def test_headline_shows_what_its_rows_are_compared_with(tmp_path, monkeypatch):
    monkeypatch.setitem(
        VARIANTS, "teacher-continued-15", ("05_pruning", "extra", 0.96, 90.9, "torch")
    )
    monkeypatch.setitem(VARIANTS, "extra", ("05_pruning", "teacher", 0.97, 90.9, "torch"))
    folder = make_study(tmp_path / "offline", folds=(0,), n=40)
    records.pool(folder, draws=50).to_csv(folder / "pooled.csv", index=False)
    assert list(headline_rows(tmp_path)) == [
        "tfidf",
        "teacher",
        "teacher-int8",
        "student-kd-init",
        "student-kd-init-int8",
        "teacher-continued-9",
        "heads-random-30",
        "extra",
        "teacher-continued-15",
        "heads-entropy-50",
    ]


def test_headline_shows_of_a_second_study_what_the_first_has_not(tmp_path):
    for name in ("minilm-students", "finbert-clean"):
        make_study(tmp_path / name, study=name, folds=(0,), source="fiqa", n=40)
    alone = records.pool(tmp_path / "minilm-students", draws=50)
    alone.to_csv(tmp_path / "minilm-students" / "pooled.csv", index=False)
    alone.to_csv(tmp_path / "finbert-clean" / "pooled.csv", index=False)
    assert report.headline(tmp_path).count("Profile `") == 1  # a row above decides

    first = make_study(tmp_path / "minilm", study="minilm", folds=(0,), source="fiqa", n=40)
    without = alone[~alone["variant"].str.startswith("student-")]
    without.to_csv(first / "pooled.csv", index=False)
    _, of_first, of_second = report.headline(tmp_path).split("Profile `")
    assert of_first.startswith("minilm`")
    assert "| `student-" not in of_first
    assert of_second.startswith("minilm-students`")
    rows = [line.split("`")[1] for line in of_second.splitlines() if line.startswith("| `")]
    assert rows == ["tfidf", "teacher", "student-kd-init", "student-kd-init-int8"]

    alone.to_csv(first / "pooled.csv", index=False)
    assert report.headline(tmp_path).count("Profile `") == 1


def test_headline_tells_verdicts_and_aims_as_their_reports_do(rendered, tmp_path):
    def table_rows(text, starts):
        found = [line for line in text.splitlines() if line.startswith(starts)]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]

    shutil.copytree(rendered, tmp_path / "minilm-students")
    page = (rendered / "report.md").read_text(encoding="utf-8")
    told = table_rows(report.headline(tmp_path), "| **C")
    assert [row[:4] for row in told] == [[*r[:3], r[4]] for r in table_rows(page, "| **C")]
    (link,) = {row[4] for row in told}
    assert link == f"[minilm-students]({tmp_path.name}/minilm-students/report.md)"
    (aim,) = table_rows(report.headline(tmp_path), "| The teacher in INT8 |")
    (same,) = table_rows(page, "| The teacher in INT8 |")
    assert aim[:4] == [*same[:2], *same[3:]]
    assert "A tiny student" in page  # which has not run
    assert "A tiny student" not in report.headline(tmp_path)

    # An earlier study goes first, in what it has put to the test.
    shutil.copytree(rendered, tmp_path / "minilm")
    path = tmp_path / "minilm" / "tables" / "fold0" / "08_report-claims.csv"
    judged = pd.read_csv(path)
    judged[judged["id"] == "C10"].to_csv(path, index=False)
    pd.read_csv(path.with_name("08_report-aims.csv")).head(0).to_csv(
        path.with_name("08_report-aims.csv"), index=False
    )
    again = table_rows(report.headline(tmp_path), ("| **C", "| The teacher in INT8 |"))
    links = {row[0].split("**")[-2]: row[4].split("]")[0] for row in again if "**C" in row[0]}
    assert links == {**dict.fromkeys(["C1", "C7", "C15b"], "[minilm-students"), "C10": "[minilm"}
    assert [row[:4] for row in again[1:]] == [row[:4] for row in told]  # in the claims' order
    assert again[0][4].startswith("[minilm-students]")


def test_headline_tells_a_change_of_runtime_from_compression(tmp_path, monkeypatch):
    shape = ("04_quantization", "teacher", 1.0, 91.0)
    monkeypatch.setitem(VARIANTS, "teacher-onnx", (*shape, "onnxruntime"))
    monkeypatch.setitem(VARIANTS, "student-kd", (*shape, "torch.ao"))
    folder = make_study(tmp_path / "offline", folds=(0,), n=40)
    records.pool(folder, draws=50).to_csv(folder / "pooled.csv", index=False)
    measures = records.measures(folder)
    measures.loc[measures["variant"] == "teacher-onnx", "latency_ms_p50"] = 4.5
    records.write_measures(folder, (records.Measure(**row) for row in measures.to_dict("records")))
    speeds = {name: cells[-2:] for name, cells in headline_rows(tmp_path).items()}
    assert speeds["teacher"] == ["1.00 ×", "1.00 ×"]  # 9 ms
    assert speeds["teacher-onnx"] == ["2.00 ×", "1.00 ×"]
    assert speeds["teacher-int8"] == ["2.50 ×", "1.25 ×"]  # 3.6 ms
    assert speeds["student-kd"] == ["1.67 ×", "1.67 ×"]  # 5.4 ms
    assert speeds["tfidf"] == ["–", "–"]
    assert list(speeds)[:3] == ["tfidf", "teacher", "teacher-onnx"]

    (folder / "measures" / "teacher.json").unlink()
    speeds = {name: cells[-2:] for name, cells in headline_rows(tmp_path).items()}
    assert speeds["teacher-int8"] == ["–", "1.25 ×"]
    assert speeds["student-kd"] == ["–", "–"]

    shutil.rmtree(folder / "measures")
    told = report.headline(tmp_path)
    assert "| MB |\n" in told
    assert "has not timed these models yet" in told


def test_what_int8_brings_is_told_by_processor(tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS, "teacher-onnx", SMALL["teacher-onnx"])
    for name, source in (("minilm", "fiqa"), ("minilm-short", "fiqa"), ("offline", "synthetic")):
        folder = make_study(tmp_path / name, study=name, folds=(0,), n=40, source=source)
        records.pool(folder, draws=50).to_csv(folder / "pooled.csv", index=False)
    last = [line for line in report.headline(tmp_path).splitlines() if line.startswith("| [")]
    assert [line.split("]")[0] for line in last] == ["| [minilm", "| [minilm-short"]
    assert all(line.endswith("| 2.50 × | 1.00 × |") for line in last)  # 9 ms, 3.6 and 3.6
    assert "a processor (avx2)" in last[0]

    shutil.rmtree(tmp_path / "minilm-short" / "measures")
    assert report.headline(tmp_path).count("| [minilm") == 1


@pytest.mark.parametrize("text", ["no marks", f"{END} {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_its_marks_is_bad_input(tmp_path, text, capsys):
    (tmp_path / "README.md").write_text(text)
    assert main(["headline", str(tmp_path), str(tmp_path / "README.md")]) == 2
    assert "headline:begin" in capsys.readouterr().err


def test_age_tells_old_reports_and_never_fails(tmp_path, monkeypatch, capsys):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        git("add", name)
        git("commit", "-m", name)
        return git("rev-parse", "HEAD")

    git("init")
    made_at = commit("lib/code.py", "1")
    commit("README.md", "only prose")
    monkeypatch.chdir(tmp_path)
    for name in ("fresh", "dirty", "lost"):
        make_study(tmp_path / "reports" / name, study=name, folds=(0,), n=20)
        (tmp_path / "reports" / name / "results.csv").touch()

    def stamp(name, value):
        for path in (tmp_path / "reports" / name / "records").glob("*.json"):
            path.write_text(re.sub(r'"commit": ?"[^"]*"', f'"commit":"{value}"', path.read_text()))

    stamp("fresh", made_at)
    stamp("dirty", f"{made_at}-dirty")
    assert main(["age"]) == 0
    dirty, fresh, lost = capsys.readouterr().out.splitlines()
    assert fresh.endswith("as new as lib/ and notebooks/")
    assert "uncommitted changes" in dirty
    assert "not in this history" in lost
    commit("notebooks/01_data.py", "2")
    assert main(["age"]) == 0
    assert "older than 1 later change" in capsys.readouterr().out
