"""Published results that stand in for a run: real Snakemake, short chapters that leave records."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from test_study import chapter, make_repository, run

from headcount import records
from headcount.study import kept
from headcount.study import plan as plans

# What chapters 2, 3 and 4 of this study leave: one record each, of weights that tell what they were
# made from.
LEAVES = """
import json
import pandas as pd
from headcount import records
from headcount.records import PROBABILITIES

OWN = ("profile", "fold", "seed", "epochs", "learning_rate")
SCORES = ("macro_f1", "accuracy", "f1_negative", "f1_neutral", "f1_positive", "ece")

def leave(variant, baseline=None):
    data = json.loads(Path(artifacts, "data/facts.json").read_text())["data_sha256"]
    above = records.read(Path(work), variant=baseline, fold=fold)[0] if baseline else None
    sha256 = above.weights_sha256 if above else ""
    own = {{name: value for name, value in globals().items() if name in OWN}}
    made = records.Provenance(config=own, data_sha256=data, commit="abc", versions={{}}, threads=1)
    record = records.Record(
        study=profile, chapter={name!r}, variant=variant, baseline=baseline, fold=fold, seed=0,
        split="test", n=1, **dict.fromkeys(SCORES, 0.5), device="cpu", precision="fp32",
        runtime="torch", teacher_saw_test=False, provenance=made, baseline_sha256=sha256 or None,
        weights_sha256=variant + str(own.get("learning_rate")) + sha256,
    )
    row = {{"id": "a", "group": 0, "source": "s", "label": 0}} | dict.fromkeys(PROBABILITIES, 0.0)
    records.write(Path(work), record, pd.DataFrame([row]))
    with open(Path(work).parent / "ran.txt", "a") as ran:
        ran.write("{name} %d\\n" % fold)

{call}
"""
FACTS = """
folder = Path(artifacts, "data")
folder.mkdir(parents=True, exist_ok=True)
(folder / "facts.json").write_text('{"data_sha256": "sentences"}')
"""
CALLS = {
    "02_teacher": 'leave("teacher")',
    "03_distillation": 'leave("student", "teacher")',
    "04_quantization": 'leave("student-int8", "student")',
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A clone with a published report, in which nothing has run."""
    folder = make_repository(tmp_path_factory.mktemp("published"))
    for name in ("05_pruning", "07_benchmark"):
        (folder / "notebooks" / f"{name}.py").unlink()
    profile = {"study": {"folds": [0, 1]}, "03_distillation": {"epochs": 2}}
    (folder / "notebooks" / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(profile))
    chapter(folder, "01_data", body=FACTS)
    for name, call in CALLS.items():
        chapter(folder, name, body=LEAVES.format(name=name, call=call))
    status, _, err = run(folder)
    assert (status, err) == (0, "")
    for name in ("work", "artifacts", ".snakemake"):
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture
def clone(published, tmp_path):
    return shutil.copytree(published, tmp_path / "clone")


def again(clone, *arguments):
    """What ran, in a study that keeps what is published; and what it said."""
    status, out, err = run(clone, "--keep", *arguments)
    assert (status, err) == (0, "")
    path = clone / "work/ran.txt"
    return sorted(path.read_text().split("\n")[:-1]) if path.exists() else [], out


def test_everything_is_taken_and_published_again_as_it_was(clone):
    report = clone / "reports/tiny"
    before = {p.name: p.read_bytes() for p in (report / "records").iterdir()}
    ran, out = again(clone)
    assert ran == []
    assert out.count("taken as published") == 6
    assert {p.name: p.read_bytes() for p in (report / "records").iterdir()} == before
    assert len(list((report / "predictions").glob("*.csv.gz"))) == len(before)
    assert "nothing to do" in run(clone, "--keep")[1]


def test_what_a_chapter_that_runs_needs_is_made_again_and_the_rest_taken(clone):
    """Chapter 4 needs its fold's models of chapters 2 and 3; of fold 1 nobody needs any."""
    (clone / "reports/tiny/chapters/fold0.04_quantization.tsv").unlink()
    ran, out = again(clone)
    assert ran == ["02_teacher 0", "03_distillation 0", "04_quantization 0"]
    assert out.count("taken as published") == 3


def test_results_of_other_weights_are_made_again(clone):
    """Chapter 2 is made again with another rate, and so is all that was made from it."""
    ran, out = again(clone, "-p", "learning_rate", "1e-3")
    assert ran == [f"{name} {fold}" for name in CALLS for fold in (0, 1)]
    assert (
        "02_teacher, fold 0: runs again, for teacher.fold0.seed0 was made with learning_rate" in out
    )


@pytest.fixture(scope="module")
def begun(published, tmp_path_factory):
    """A clone in which chapters 1 and 2 have run."""
    folder = shutil.copytree(published, tmp_path_factory.mktemp("begun") / "clone")
    assert run(folder, "--before", "03_distillation")[0] == 0
    return folder


@pytest.fixture
def ready(begun, tmp_path, monkeypatch):
    """The plan of a copy of that clone, which is the working folder."""
    monkeypatch.chdir(shutil.copytree(begun, tmp_path / "begun"))
    return plans.make("tiny", cores=2)


def rewrite(stem, change):
    path = Path(f"reports/tiny/records/{stem}.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["provenance"].update(data_sha256="other"), "made from other sentences"),
        (lambda r: r["provenance"]["config"].update(epochs=7), "made with epochs 7, not 2"),
        (lambda r: r["provenance"]["config"].pop("epochs"), "made with epochs missing, not 2"),
        (lambda r: r.update(baseline_sha256="other"), "from teacher with other weights"),
    ],
)
def test_what_differs_is_named(ready, change, reason):
    job = ("03_distillation", 1)
    assert job in kept.candidates(ready)
    assert kept.refusal(ready, job) is None
    rewrite("student.fold1.seed0", change)
    assert reason in kept.refusal(ready, job)


def test_what_nothing_vouches_for_is_not_taken(ready):
    job = ("03_distillation", 1)
    for path in Path("reports/tiny/records").glob("student.fold1*"):
        path.unlink()
    assert kept.refusal(ready, job) == "no published result says what it was made from"


def test_what_has_run_here_is_not_replaced(ready):
    found = {chapter for chapter, _ in kept.candidates(ready)}
    assert found == {"03_distillation", "04_quantization"}


def test_a_fold_whose_notebook_is_not_published_says_so(ready):
    for fold in (0, 1):
        kept.take(ready, ("03_distillation", fold))
    notes = [ready.work / f"notebooks/fold{fold}/03_distillation.ipynb" for fold in (0, 1)]
    first, second = (json.loads(path.read_text()) for path in notes)
    assert len(first["cells"]) > 1
    (note,) = second["cells"]
    assert "fold 1 were taken as they are published, made at commit abc" in "".join(note["source"])
    published = records.read(Path("reports/tiny"), variant="student")
    assert records.read(ready.work, variant="student") == published
