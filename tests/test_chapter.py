"""Opening a chapter: what IPython would hand over is handed over here, by the real IPython."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from headcount import chapter, claims, data, models, plots, records, stats, train
from headcount.errors import InputError
from headcount.parameters import literals

ROOT = Path(__file__).parents[1]
CELLS = [
    "from headcount import chapter",
    """
profile = "smoke"
work = {work!r}
artifacts = {artifacts!r}
data_dir = None
fold = 0
seed = 0
threads = 1
epochs = 4
learning_rate = 5e-5
""",
]


@pytest.fixture
def shell(tmp_path):
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    for cell in CELLS:
        folders = {name: str(tmp_path / name) for name in ("work", "artifacts")}
        shell.run_cell(cell.format(**folders), store_history=True).raise_error()
    yield shell
    InteractiveShell.clear_instance()


def begin(shell, injected=None, name="02_teacher"):
    """Run the cell that papermill would inject, then the one that opens the chapter."""
    if injected:
        shell.run_cell(f"# Parameters\n{injected}", store_history=True).raise_error()
    cell = f"run = chapter.begin({name!r}, globals())"
    shell.run_cell(cell, store_history=True).raise_error()
    return shell.user_ns["run"]


def test_injected_parameters_beat_the_chapters_own(shell):
    run = begin(shell, "epochs = 2\nfold = 1")
    assert run.parameters["epochs"] == 2
    assert run.fold == 1
    assert run.parameters["learning_rate"] == 5e-5
    assert run.model_folder("teacher").parts[-2:] == ("fold1", "teacher")


@pytest.mark.parametrize(
    ("injected", "told"),
    [
        ("epoch = 2", "no parameter 'epoch': did you mean 'epochs'?"),
        ("epochs = '2'", "epochs='2' is of type str, give one of type int"),
        ("epochs = True", "epochs=True is of type bool"),
        ("fold = -1", "fold and seed count from 0"),
    ],
)
def test_a_wrong_parameter_stops_in_one_line(shell, injected, told):
    with pytest.raises(InputError) as caught:
        begin(shell, injected)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_int_may_stand_for_a_float(shell):
    assert begin(shell, "learning_rate = 1").parameters["learning_rate"] == 1


def test_a_notebook_shows_an_input_error_as_one_line(shell, capsys):
    shell.run_cell("from headcount.errors import InputError\nraise InputError('mend it')")
    assert capsys.readouterr().out.strip() == "InputError: mend it"


def test_an_output_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        chapter.check_writable(tmp_path / "file" / "work")


def test_progress_goes_to_the_log_file(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADCOUNT_LOG", str(tmp_path / "log"))
    begin(shell)
    assert "fold 0 02_teacher begins" in (tmp_path / "log").read_text()


def test_a_missing_record_names_what_to_run(shell):
    with pytest.raises(InputError, match="no record of teacher for fold 0"):
        begin(shell).record("teacher")


def test_a_data_folder_may_come_from_the_environment(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADCOUNT_DATA", str(tmp_path))
    run = begin(shell)
    assert run.data_dir == tmp_path
    assert run.parameters["data_dir"] is None  # so no record and no notebook names it


def test_what_another_chapter_chose_takes_the_place_of_a_parameter(shell, tmp_path):
    run = begin(shell)
    assert run.chosen("03b_recipes")["epochs"] == 4
    path = tmp_path / "work" / "tables" / "fold0" / "03b_recipes-chosen.csv"
    values = {"learning_rate": 3e-05, "epochs": 7}
    table = pd.DataFrame({"parameter": values.keys(), "value": map(json.dumps, values.values())})
    records.write_text(path, table.to_csv(index=False))
    assert run.chosen("03b_recipes")["epochs"] == 4  # chapter 3b has not ended yet
    records.write_text(tmp_path / "artifacts" / "fold0" / "03b_recipes.done", "")
    assert {name: run.chosen("03b_recipes")[name] for name in values} == values
    assert run.parameters["epochs"] == 7  # and so do its records say
    path.unlink()
    with pytest.raises(InputError, match="does not say what 03b_recipes chose"):
        run.chosen("03b_recipes")
    records.write_text(path, "parameter,value\nepoch,7\n")
    with pytest.raises(InputError, match="no parameter 'epoch': did you mean 'epochs'"):
        run.chosen("03b_recipes")


# --- what a chapter leaves ----------------------------------------------------------------------


@pytest.fixture
def settled(shell, tmp_path):
    """A function that opens a chapter after chapter 1 has settled the facts."""

    def open_run(injected=None, **facts):
        common = {"model": "minilm", "protocol": "folds", "max_length": 128}
        common |= {"model_revision": None, "model_commit": None}
        common |= {"corpus": "synthetic", "mean_tokens": 20.0, "teacher_saw_test": False}
        path = tmp_path / "artifacts" / "data" / "facts.json"
        records.write_json(path, common | {"data_sha256": "d"} | facts)
        return begin(shell, injected)

    return open_run


def score(run, variant, **arguments):
    frame = pd.DataFrame({"id": list("abc"), "group": range(3), "source": "s", "label": range(3)})
    return run.score(variant, np.eye(3), frame, **arguments)


def test_a_chapter_run_again_leaves_nothing_of_the_time_before(settled, tmp_path):
    first = settled("epochs = 5")
    for variant in ("teacher", "teacher-continued-5"):
        score(first, variant)
    first.finish()
    other = settled("fold = 1")
    score(other, "teacher-continued-5")
    other.finish()
    again = settled("fold = 0")
    score(again, "teacher")
    again.finish()
    left = {record.stem for record in records.read(tmp_path / "work")}
    assert left == {"teacher.fold0.seed0", "teacher-continued-5.fold1.seed0"}
    assert {path.stem for path in (tmp_path / "work" / "predictions").iterdir()} == left


def test_a_study_that_another_kind_of_machine_began_is_refused(settled, shell, monkeypatch):
    score(settled(), "teacher")  # of fold 0
    begin(shell, name="05_pruning")
    other = "bf16" if train.precision("cpu") == "fp32" else "fp32"
    monkeypatch.setattr(train, "precision", lambda device: other)
    begin(shell)  # trains that teacher again
    begin(shell, name="08_report")
    for name, fold in (("05_pruning", 0), ("05_pruning", 1), ("02_teacher", 1)):
        with pytest.raises(InputError, match=f"this machine trains in {other} on"):
            begin(shell, f"fold = {fold}", name)


def sweep(run, model, name="one-shot"):
    frame = pd.DataFrame({"id": list("abc"), "group": range(3), "source": "s", "label": range(3)})
    points = {"whole": np.eye(3), "entropy@30": np.eye(3)[[0, 1, 1]]}
    return run.sweep(name, points, frame, model)


def test_a_sweep_is_kept_and_told_as_a_curve(settled, tiny, tmp_path):
    run = settled()
    curve = sweep(run, tiny())
    assert curve["series"].tolist() == ["whole", "entropy"]
    assert curve["percent"].tolist() == [0, 30]
    # By class 1, 2/3 and 0.
    assert curve["score"].tolist() == pytest.approx([1, 5 / 9])
    kept = records.sweep(tmp_path / "work", "one-shot")
    assert kept["entropy@30"].tolist() == [0, 1, 1]


def test_other_seeds_findings_and_sweeps_of_the_time_before_go_too(settled, tiny, tmp_path):
    difference = stats.Difference(0.1, 0.0, 0.2, p=np.nan, n=8, groups=8)
    named = {"variant": "a", "baseline": "b", "unit": "%", "n_unit": "heads"}
    first = settled("epochs = 5")
    for number in (0, 1, 2):
        score(first.at(number), "teacher")
    sweep(first, tiny())
    sweep(first, tiny(), "layers")
    for claim in ("C13", "C17"):
        first.finding(claim, difference, **named)
    first.finish()
    by_hand = settled("seed = 5")  # another chapter run, whose records are its own
    score(by_hand, "teacher")
    by_hand.finish()
    again = settled("seed = 0\nepochs = 6")
    score(again, "teacher")
    score(again.at(1), "teacher")
    sweep(again, tiny())
    again.finding("C13", difference, **named)
    again.finish()
    work = tmp_path / "work"
    assert [record.seed for record in records.read(work)] == [0, 1, 5]
    assert [one.name for one in records.read_sweeps(work)] == ["one-shot"]
    (found,) = records.read_findings(work)
    assert (found.claim, found.p) == ("C13", None)
    assert again.settle("C13").diff == 0.1
    with pytest.raises(InputError, match="C17 cannot be judged"):
        again.settle("C17")
    (row,) = again.verdicts(["C13", "C17"]).to_dict("records")
    assert (row["difference"], row["unit"]) == (10, "%")
    assert row["verdict here"] == "undecided (synthetic corpus)"


def test_a_large_table_is_packed_and_reads_the_same(settled):
    run = settled()
    large = pd.DataFrame({"loss": np.arange(20_000) / 8})
    path = run.table(large, "losses")
    assert path.name.endswith("-losses.csv.gz")
    pd.testing.assert_frame_equal(pd.read_csv(path), large)
    small = run.table(large.head(), "losses")
    assert [*path.parent.iterdir()] == [small]
    pd.testing.assert_frame_equal(pd.read_csv(small), large.head())


def test_weights_that_are_not_those_of_the_record_are_refused(settled, tiny, word_pieces):
    run = settled()
    word_pieces.save_pretrained(run.artifacts / "data" / "tokenizer")
    model = tiny()
    score(run, "teacher", model=model, folder=run.save("teacher", model))
    assert models.weights_sha256(run.load("teacher")) == models.weights_sha256(model)
    later = settled("seed = 1")
    assert models.weights_sha256(later.load("teacher")) == models.weights_sha256(model)
    run.save("teacher", tiny(seed=1))
    with pytest.raises(InputError, match="other weights than its record"):
        run.load("teacher")
    shutil.rmtree(run.model_folder("teacher"))
    with pytest.raises(InputError, match=r"is not here: remove .*fold0/02_teacher.done"):
        run.load("teacher")


def test_what_ran_elsewhere_than_in_torch_ran_on_the_cpu(settled, monkeypatch):
    monkeypatch.setattr(chapter.machine, "device_name", lambda device: "a card")
    run = settled()
    assert score(run, "teacher").device == "a card"
    assert score(run, "teacher-int8", runtime="onnxruntime").device == "cpu"


def test_caveats_stand_at_the_top_of_a_chapter_and_under_its_figures(settled, capsys, tmp_path):
    run = settled(teacher_saw_test=True)
    top = capsys.readouterr().out
    assert "synthetic" in top
    assert "may have seen the test" in top
    one = {"variant": "teacher", "macro_f1": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    figure = plots.scores(pd.DataFrame([one]), title="Scores")
    run.figure(figure, "scores", "One score")
    assert figure.get_supxlabel() == "synthetic corpus"
    result = stats.Difference(0.02, 0.01, 0.03, p=0.01, n=100, groups=90)
    assert run.verdict("C1", result) == f"{claims.SAW_TEST} (synthetic corpus)"
    real = settled(corpus="phrasebank-fiqa")
    assert "synthetic" not in capsys.readouterr().out
    assert real.verdict("C1", result) == "supported"


# --- answers ------------------------------------------------------------------------------------


def test_an_interval_decides_whether_a_difference_lies_within():
    def between(low, high):
        return stats.Difference((low + high) / 2, low, high, 0.5, 100, 100)

    assert chapter.within(between(-0.004, 0.01), -0.005) is True
    assert chapter.within(between(-0.02, -0.006), -0.005) is False
    assert chapter.within(between(-0.02, 0.0), -0.005) is None
    assert chapter.within(between(0.006, 0.01), -0.005, 0.005) is False
    assert chapter.in_points(between(-0.0125, 0.0)) == "-0.62 (-1.25 to +0.00)"
    assert chapter.told("It", "little", "much", None) == (
        "* It: expected little, found much, **undecided**."
    )


def test_sentences_of_the_domain_are_of_no_part_that_is_judged(settled, tmp_path):
    labelled = pd.DataFrame({"text": list("abcdef"), "group": range(6), "fold": [0, 0, 1, 1, 2, 2]})
    labelled = labelled.assign(id=labelled["text"], label=0, source="phrasebank", conflict=False)
    others = pd.DataFrame({"text": list("uvwx"), "group": [6, 3, 7, 8], "label": 0})
    others = others.assign(id=others["text"], agreement=66, conflict=False)
    others["source"] = ["phrasebank", "phrasebank", "twitter-train", "twitter-valid"]
    run = settled()
    run.__dict__["_parts"] = data.Split(labelled[4:], labelled[2:4], labelled[:2])
    for name, frame in (("sentences", labelled), ("others", others)):
        frame.to_parquet(run.artifacts / "data" / f"{name}.parquet")
    assert run.domain_texts() == ["e", "f", "u"]  # v is near a sentence of the validation part


def test_of_several_intervals_one_may_lie_below_by_chance():
    lows, highs = [-0.004, 0.0, 0.002], [0.01, 0.01, 0.01]
    assert chapter.all_above(lows, highs, -0.005) is True
    assert chapter.all_above([*lows, -0.03], [*highs, -0.02], -0.005) is None
    assert chapter.all_above([*lows, -0.006], [*highs, 0.01], -0.005) is None
    assert chapter.all_above([*lows, -0.03, -0.03], [*highs, -0.02, -0.01], -0.005) is False


def test_without_3b_chapter_3_has_the_recipes_that_3b_found():
    source = (ROOT / "notebooks/03_distillation.py").read_text(encoding="utf-8")
    declared = literals(source.split('# %% tags=["parameters"]')[1].split("# %%")[0])
    chosen = records.chosen(ROOT / "reports/minilm", "03b_recipes")
    assert chosen
    assert {name: declared[name] for name in chosen} == chosen
