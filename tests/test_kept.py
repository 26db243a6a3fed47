"""Published results that stand in for a run: real Snakemake, short chapters that leave records."""

import json
import re
import shutil
from pathlib import Path

import pytest
from test_study import ROOT, chapter, make_repository, run

from headcount import records, train
from headcount.errors import InputError
from headcount.study import graph, kept
from headcount.study import plan as plans

# What chapters of this study leave: one record each, of weights that tell what they were made from,
# and a model. Some load another's: they stop where it is not.
LEAVES = """
import json
import pandas as pd
from headcount import records
from headcount.records import PROBABILITIES

OWN = ("profile", "fold", "seed", "epochs", "learning_rate")
SCORES = ("macro_f1", "accuracy", "f1_negative", "f1_neutral", "f1_positive", "ece")

def leave(variant, baseline=None, loads=None):
    folder = Path(artifacts, "fold%d" % fold)
    assert loads is None or (folder / loads).exists(), loads
    folder.mkdir(parents=True, exist_ok=True)
    (folder / variant).touch()
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
    "05_pruning": 'leave("heads", "teacher")',
    "05b_heads": 'leave("one-head", "heads")',
}
CHAIN = {  # chapters that load each other's models, by what chapter 3b chose
    "02_teacher": 'leave("teacher")',
    "03b_recipes": """
leave("recipe", "teacher", loads="teacher")
chosen = Path(work, "tables/fold0/03b_recipes-chosen.csv")
chosen.parent.mkdir(parents=True)
chosen.write_text("parameter,value\\nepochs,3\\n")
""",
    "03_distillation": """
epochs = records.chosen(Path(work), "03b_recipes")["epochs"]
leave("student", "teacher", loads="teacher")
""",
    "04_quantization": 'leave("int8", "student", loads="student")',
    "07_benchmark": 'leave("timed", "int8", loads="int8")',
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A clone with a published report, in which nothing has run."""
    return publish(make_repository(tmp_path_factory.mktemp("published")), CALLS)


def publish(folder, calls):
    chapter(folder, "01_data", body=FACTS)
    for name, call in calls.items():
        chapter(folder, name, body=LEAVES.format(name=name, call=call))
    status, _, err = run(folder)
    assert (status, err) == (0, "")
    for name in ("work", "artifacts", ".snakemake"):
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture
def clone(published, tmp_path):
    return shutil.copytree(published, tmp_path / "clone")


TEACHERS = ["02_teacher 0", "02_teacher 1"]


def again(clone, *arguments):
    """What ran, in a study that keeps what is published; and what it said."""
    status, out, err = run(clone, "--keep", *arguments)
    assert (status, err) == (0, "")
    return sorted((clone / "work/ran.txt").read_text().split("\n")[:-1]), out


def test_only_the_teachers_are_made_again_and_the_rest_is_published_as_it_was(clone):
    report = clone / "reports/tiny"
    kept_records = ("heads.fold0.seed0", "heads.fold1.seed0", "one-head.fold0.seed0")
    before = {name: (report / f"records/{name}.json").read_bytes() for name in kept_records}
    ran, out = again(clone)
    assert ran == TEACHERS
    assert out.count("taken as published") == len(kept_records)
    for name, content in before.items():
        assert (report / f"records/{name}.json").read_bytes() == content
        assert (report / f"predictions/{name}.csv.gz").exists()
    assert "nothing to do" in run(clone, "--keep")[1]


def test_what_is_not_published_is_made_from_what_is(clone):
    (clone / "reports/tiny/chapters/fold0.05b_heads.tsv").unlink()
    ran, out = again(clone)
    assert ran == [*TEACHERS, "05b_heads 0"]
    assert out.count("taken as published") == 2


def test_beside_another_teacher_nothing_holds(clone):
    ran, out = again(clone, "-p", "learning_rate", "1e-3")
    assert ran == [*TEACHERS, "05_pruning 0", "05_pruning 1", "05b_heads 0"]
    assert "05_pruning, fold 1: runs again, for the teacher here has other weights" in out


def test_published_results_that_the_study_leaves_out_are_not_lost(clone):
    status, _, err = run(clone, "--keep", "--folds", "0")
    assert status == 2
    assert "holds fold1.02_teacher, fold1.05_pruning, which would be lost" in err
    assert (clone / "reports/tiny/records/heads.fold1.seed0.json").exists()


def test_a_reader_who_wants_models_keeps_no_results(clone):
    status, _, err = run(clone, "--keep", "--before", "05_pruning")
    assert (status, err.count("give one of them")) == (2, 1)


def test_models_that_the_ruler_loads_are_made_again_and_other_folds_are_kept(tmp_path):
    clone = publish(make_repository(tmp_path), CHAIN)
    ran, out = again(clone)
    assert ran == [*TEACHERS, "03_distillation 0", "04_quantization 0", "07_benchmark 0"]
    taken = re.findall(r"(\w+), fold (\d): taken as published", out)
    assert taken == [("03b_recipes", "0"), ("03_distillation", "1"), ("04_quantization", "1")]


CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py"))
ALWAYS = ("01_data", "02_teacher", "05c_clock", "07_benchmark", "08_report")


@pytest.mark.parametrize(
    ("runs", "besides"),
    [
        ([("03b_recipes", 0)], ["03_distillation", "04_quantization", "04b_qat", "07b_elsewhere"]),
        ([("04b_qat", 1)], ["03_distillation", "04_quantization", "07b_elsewhere"]),
        ([("05_pruning", 1)], ["07b_elsewhere"]),
        ([("04c_bits", 0), ("07b_elsewhere", 0)], []),
    ],
)
def test_what_reads_a_chapter_that_runs_and_what_it_loads_are_not_taken(runs, besides):
    chapters = [name for name in CHAPTERS if name != "07_benchmark"]
    pairs = graph.jobs(chapters, [0, 1])
    jobs = [job for job in pairs if job[0] not in ALWAYS and job not in runs]
    taken = kept.closed(jobs, pairs)
    folds = [0, 1] if ("03b_recipes", 0) in runs else [fold for _, fold in runs]
    assert set(jobs) - set(taken) == set(graph.jobs(besides, folds))
    order = [name for name, _ in sorted(jobs, key=lambda job: graph.depth(job[0]))]
    for name in order:
        above = set(graph.upstream(name)) - {*ALWAYS, name}
        assert above & set(order) <= set(order[: order.index(name)])


@pytest.fixture(scope="module")
def begun(published, tmp_path_factory):
    """A clone in which chapters 1 and 2 have run."""
    folder = shutil.copytree(published, tmp_path_factory.mktemp("begun") / "clone")
    assert run(folder, "--before", "05_pruning")[0] == 0
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
    ],
)
def test_what_differs_is_named(ready, change, reason):
    job = ("05_pruning", 1)
    assert job in kept.candidates(ready)
    assert kept.refusal(ready, job) is None
    rewrite("heads.fold1.seed0", change)
    assert reason in kept.refusal(ready, job)


def test_on_another_kind_of_machine_nothing_is_trained_to_find_that_nothing_can_be_kept(ready):
    assert kept.candidates(ready)
    theirs = "fp32" if train.precision(train.device()) != "fp32" else "bf16"
    rewrite(
        "teacher.fold1.seed0",
        lambda r: r["provenance"]["config"].update(training_precision=theirs),
    )
    with pytest.raises(InputError, match=f"tiny was trained on cpu in {theirs}, and this machine"):
        kept.candidates(ready)


def test_what_nothing_vouches_for_is_not_taken(ready):
    job = ("05_pruning", 1)
    for path in Path("reports/tiny/records").glob("heads.fold1*"):
        path.unlink()
    assert kept.refusal(ready, job) == "no published result says what it was made from"


def test_what_has_begun_here_is_not_replaced(ready):
    assert kept.candidates(ready) == [("05_pruning", 0), ("05_pruning", 1), ("05b_heads", 0)]
    (ready.work / "notebooks/fold1").mkdir(parents=True, exist_ok=True)
    (ready.work / "notebooks/fold1/05_pruning.partial.ipynb").touch()
    assert kept.candidates(ready) == [("05_pruning", 0), ("05b_heads", 0)]


def test_what_a_chapter_had_left_before_is_gone(ready):
    job = ("05_pruning", 1)
    stray = Path("work/tiny/tables/fold1/05_pruning-stray.csv")
    stray.parent.mkdir(parents=True)
    stray.touch()
    kept.take(ready, job)
    (old,) = records.left_by(ready.work, *job)
    other = old.model_copy(update={"variant": "stray"})
    records.write(ready.work, other, records.predictions(ready.work, "heads", fold=1))
    kept.take(ready, job)
    assert [one.variant for one in records.left_by(ready.work, *job)] == ["heads"]
    assert not stray.exists()


def test_a_fold_whose_notebook_is_not_published_says_so(ready):
    for fold in (0, 1):
        kept.take(ready, ("05_pruning", fold))
    notes = [ready.work / f"notebooks/fold{fold}/05_pruning.ipynb" for fold in (0, 1)]
    first, second = (json.loads(path.read_text()) for path in notes)
    assert len(first["cells"]) > 1
    (note,) = second["cells"]
    assert "fold 1 were taken as they are published, made at commit abc" in "".join(note["source"])
    published = records.read(Path("reports/tiny"), variant="heads")
    assert records.read(ready.work, variant="heads") == published
