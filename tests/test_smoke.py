"""The whole study, from nothing to a report, on the smallest profile."""

import re

import nbformat
import pandas as pd
import pytest
from kills import ROOT, clone, finish, terminal

from headcount import records

pytestmark = pytest.mark.timeout(2700)  # a whole study, on a machine that may be busy

SMOKE = ("--profile", "smoke")
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py"))
ARMS = ("entropy", "random", "seedloop")
TAUGHT = (
    *("hard", "hard-scratch", "kd", "shuffled", "hard-init", "kd-init", "shuffled-init"),
    *("intermediate-tuned", "map-reversed", "small"),
)
WHOLE = ("teacher", *(f"student-{name}" for name in TAUGHT))
VARIANTS = {
    *("majority", "tfidf", "teacher-onnx", "teacher-torch-int8"),
    *(f"{name}{end}" for name in WHOLE for end in ("", "-int8", "-int8-weights")),
    *("teacher-int4", "student-small-int4"),
    *(f"heads-{arm}-{percent}" for arm in ARMS for percent in (30, 50)),
    *("teacher-continued-9", "teacher-continued-15"),
    *(f"student-small-trimmed{end}" for end in ("", "-int8", "-int8-e4")),
    *("student-small-continued", "student-small-continued-int8", "student-small-continued-int4"),
    *("student-small-qat", "student-small-quant-noise", "student-small-qat-int4"),
    *("student-small-q8bert", "student-small-continued-q8bert"),
}
ONCE = {  # of chapters 4c and 5b, on fold 0
    *("heads-fixed", "heads-one-a-layer"),
    *(f"teacher-qbert{end}" for end in ("", "-reversed", "-uniform", "-control")),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = clone(tmp_path_factory.mktemp("smoke") / "clone")
    finish(folder, *SMOKE)
    return folder


def test_every_variant_has_a_record_on_every_fold(undisturbed):
    report = undisturbed / "reports/smoke"
    for fold in (0, 1):
        once = ONCE if fold == 0 else set()
        assert {r.variant for r in records.read(report, fold=fold)} == VARIANTS | once
    pooled = pd.read_csv(report / "pooled.csv").set_index("variant")
    assert set(pooled.index) == VARIANTS | ONCE
    assert (pooled["folds"].drop(list(ONCE)) == 2).all()
    assert pooled.loc[["teacher-continued-15", "heads-entropy-50"], "seeds"].tolist() == [2, 2]
    assert (pooled["ci_low"] <= pooled["macro_f1"]).all()
    results = pd.read_csv(report / "results.csv")
    assert list(results) == records.RESULTS_COLUMNS
    # The second seed of the control and of entropy, after both rounds.
    assert len(results) == 2 * (len(VARIANTS) + 4) + len(ONCE)


def test_claims_about_heads_are_judged(undisturbed):
    """From sweeps of both folds, findings of fold 0, and losses."""
    judged = pd.read_csv(undisturbed / "reports/smoke/tables/fold0/08_report-claims.csv")
    judged = judged.set_index("id").dropna(subset="diff")
    heads = ["C1", "C2", "C3", "C4", "C5", "C13", "C15a", "C15b", "C16a", "C16b", "C17"]
    assert set(heads) <= set(judged.index)
    assert (judged["diff_low"] <= judged["diff_high"]).all()
    once, twice = judged.loc["C4", "n"], judged.loc["C2", "n"]
    assert twice == sum(r.n for r in records.read(undisturbed / "reports/smoke", variant="teacher"))
    assert once < twice


def test_heads_that_a_record_counts_are_those_that_its_model_has(undisturbed):
    found = {r.variant: r for r in records.read(undisturbed / "reports/smoke", fold=0)}
    total = found["teacher"].heads_total
    assert found["heads-entropy-50"].heads_alive == total - total // 2
    assert found["teacher-continued-15"].heads_alive == total
    assert found["heads-entropy-50"].steps == found["teacher-continued-15"].steps
    assert found["heads-entropy-50"].params < found["teacher"].params
    assert found["heads-entropy-50"].baseline == "teacher-continued-15"


def test_notebooks_are_readable(undisturbed):
    """No error, no progress bar, no warning; figures have a text in their place."""
    folder = undisturbed / "reports/smoke/notebooks/fold0"
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == CHAPTERS
    for path in folder.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                text = "".join(output.get("text", ""))
                assert output.output_type != "error", path
                assert not (output.output_type == "stream" and output.name == "stderr"), text
                assert not re.search(r"\d+%\||Warning|it/s", text), (path, text)
                if "image/png" in output.get("data", {}):
                    assert output.metadata["image/png"]["alt"], path


def test_what_is_plotted_lies_beside_the_figure(undisturbed):
    figures = list((undisturbed / "work/smoke/figures").rglob("*.png"))
    assert len(figures) > 10
    assert all(path.with_suffix(".csv").exists() for path in figures)


def test_the_report_needs_nothing_from_elsewhere(undisturbed):
    page = (undisturbed / "reports/smoke/report.html").read_text(encoding="utf-8")
    assert "synthetic" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page)
    images = re.findall(r"<img [^>]*>", page)
    assert images
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    markdown = (undisturbed / "reports/smoke/report.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", markdown):
        assert (undisturbed / "reports/smoke" / link).exists(), link


def test_the_terminal_told_what_was_going_on(undisturbed):
    told = terminal(undisturbed)
    assert re.search(r"fold 0 teacher: epoch 8 of 8 in \d+ s", told)
    assert "02_teacher, fold 1" in told


def test_a_finished_study_does_nothing_again(undisturbed):
    before = (undisturbed / "work/smoke/notebooks/fold0/02_teacher.ipynb").stat().st_mtime
    finish(undisturbed, *SMOKE)
    assert "nothing to do" in terminal(undisturbed)
    after = (undisturbed / "work/smoke/notebooks/fold0/02_teacher.ipynb").stat().st_mtime
    assert before == after
