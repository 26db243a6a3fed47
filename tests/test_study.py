"""The runner and the DAG: real Snakemake, jupytext and papermill on chapters of a few lines."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import huggingface_hub
import nbformat
import psutil
import pytest
import yaml

from headcount import models
from headcount.errors import InputError
from headcount.study import backup
from headcount.study import plan as plans
from headcount.study.__main__ import main
from headcount.study.publish import publish

ROOT = Path(__file__).parents[1]
CHAPTER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
{own}

# %%
import os, time
from pathlib import Path

with open(os.environ["HEADCOUNT_LOG"], "a") as log:
    log.write("fold %d {name} epoch 1/1\\n" % fold)
while "{name}" == "05_pruning" and Path("pause").exists():
    time.sleep(0.1)
{body}

# %%
done = Path(artifacts) / ("fold%d" % fold) / "{name}.done"
done.parent.mkdir(parents=True, exist_ok=True)
done.write_text("the same each time")
"""
OWN = {"01_data": 'n_folds = 5\nprotocol = "folds"', "02_teacher": "learning_rate = 5e-5"}


def chapter(folder, name, own="epochs = 1", body=""):
    source = CHAPTER.format(name=name, own=OWN.get(name, own), body=body)
    (folder / "notebooks" / f"{name}.py").write_text(source)


def study(folder, *arguments, **popen):
    command = [sys.executable, "-m", "headcount.study", "run", "--profile", "tiny", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, **streams, **popen)


def run(folder, *arguments):
    process = study(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def planned(folder):
    """Jobs that Snakemake would run now, as chapter or chapter.fold."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--cores", "2"]
    command += ["--configfile", "work/tiny/study.yaml", "--rerun-triggers", "mtime"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pairs = re.findall(r"wildcards: fold=(\d), chapter=(\w+)", done.stdout + done.stderr)
    return sorted({f"{name.partition('_')[0]}.{fold}" for fold, name in pairs})


def write_plan(folder, monkeypatch, **arguments):
    monkeypatch.chdir(folder)
    plans.write(plans.make("tiny", cores=2, **arguments))


@pytest.fixture
def repository(tmp_path):
    """A checkout with short chapters; nothing has run."""
    return make_repository(tmp_path)


def make_repository(folder):
    (folder / "notebooks" / "profiles").mkdir(parents=True)
    for name in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("01_data", "02_teacher", "05_pruning", "07_benchmark", "08_report"):
        chapter(folder, name)
    fails = 'if epochs == 13:\n    raise ValueError("first line\\n13 epochs bring bad luck")'
    chapter(folder, "05_pruning", body=fails)
    profile = {"study": {"folds": [0, 1]}, "all": {"seed": 1}, "05_pruning": {"epochs": 2}}
    (folder / "notebooks" / "profiles" / "tiny.yaml").write_text(yaml.safe_dump(profile))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A study that was killed in chapter 5 and started again, with what was seen of it."""
    folder = make_repository(tmp_path_factory.mktemp("study"))
    (folder / "pause").touch()
    first = study(folder, stdin=subprocess.DEVNULL)
    log = folder / "work" / "tiny" / "logs" / "study.log"
    wait_for(lambda: log.exists() and "05_pruning" in log.read_text())
    profiles = folder / "notebooks" / "profiles"
    shutil.copy(profiles / "tiny.yaml", profiles / "other.yaml")
    second = run(folder, "--profile", "other")  # its files are its own, Snakemake's notes are not
    ours = [process for process in psutil.process_iter() if belongs(process, folder)]
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, alive = psutil.wait_procs(ours, timeout=30)
    notebooks = folder / "work" / "tiny" / "notebooks"
    before = {path: path.read_bytes() for path in notebooks.glob("*/0*.ipynb")}
    (folder / "pause").unlink()
    third = run(folder)
    return folder, {
        "second": second,
        "ours": ours,
        "alive": alive,
        "before": before,
        "third": third,
    }


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def belongs(process, folder):
    try:
        return process.pid != os.getpid() and process.cwd() == str(folder)
    except psutil.Error:
        return False


@pytest.fixture
def finished(killed, tmp_path):
    """A copy, times of files included, of a study that has finished."""
    return Path(shutil.copytree(killed[0], tmp_path / "copy"))


# --- a run --------------------------------------------------------------------------------------


def test_second_study_in_a_clone_stops(killed):
    status, _, err = killed[1]["second"]
    assert status == 2
    told = (
        r"headcount: a study is already running in this clone \(profile tiny, process \d+\): .*\n"
    )
    assert re.fullmatch(told, err)


def test_sigkill_leaves_no_process(killed):
    names = " ".join(
        process.name() if process.is_running() else "" for process in killed[1]["ours"]
    )
    assert len(killed[1]["ours"]) >= 4, names  # the study, Snakemake, papermill, the kernel
    assert killed[1]["alive"] == []


def test_goes_on_where_it_was_killed(killed):
    seen = killed[1]
    status, out, err = seen["third"]
    assert (status, err) == (0, "")
    finished_before = [p for p in seen["before"] if not p.name.endswith(".partial.ipynb")]
    assert "01_data.ipynb" in {path.name for path in finished_before}
    assert all(path.read_bytes() == seen["before"][path] for path in finished_before)
    assert "1 of" in out
    assert "01_data" not in out


def test_terminal_shows_jobs_and_the_chapters_own_lines(killed):
    _, out, _ = killed[1]["third"]
    assert re.search(r"^\d\d:\d\d:\d\d 1 of \d: 0\d_\w+, fold \d$", out, re.MULTILINE)
    assert re.search(r"^fold 0 05_pruning epoch 1/1$", out, re.MULTILINE)
    assert re.search(r"jobs done in .* s: see reports/tiny/report\.html$", out)


def test_two_chapters_at_a_time_share_the_cores(finished):
    """Each fold waits until the other runs too; the one that fails is named, not the last."""
    meets = """
    Path("met%d" % fold).touch()
    deadline = time.monotonic() + 60
    while not Path("met%d" % (1 - fold)).exists():
        assert time.monotonic() < deadline, "alone"
        time.sleep(0.1)
    if fold == 0 and Path("bad").exists():
        raise ValueError("bad luck")
    """
    chapter(finished, "05_pruning", body=textwrap.dedent(meets))
    (finished / "bad").touch()
    status, _, err = run(finished, "--cores", "2", "--jobs", "2")
    assert status == 1
    assert err.startswith("headcount: 05_pruning, fold 0 failed: ValueError: bad luck")
    (finished / "bad").unlink()
    status, _, err = run(finished, "--cores", "2", "--jobs", "2")
    assert (status, err) == (0, "")
    threads = {}
    for path in (finished / "work" / "tiny" / "notebooks").glob("*/0[57]*.ipynb"):
        parameters = nbformat.read(path, as_version=4).metadata.papermill.parameters
        threads[path.stem, parameters["fold"]] = parameters["threads"]
    # The ruler measures time, and has the machine for itself.
    assert threads == {("05_pruning", 0): 1, ("05_pruning", 1): 1, ("07_benchmark", 0): 2}


def test_benchmark_waits_for_every_fold(killed):
    lines = (killed[0] / "work" / "tiny" / "logs" / "study.log").read_text().splitlines()
    order = [line.split()[2] for line in lines]
    assert order[-2:] == ["07_benchmark", "08_report"]
    assert {"fold 0 05_pruning epoch 1/1", "fold 1 05_pruning epoch 1/1"} <= set(lines[:-2])


def test_notebooks_get_the_checked_parameters(killed):
    path = killed[0] / "work" / "tiny" / "notebooks" / "fold1" / "05_pruning.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.papermill.parameters == {
        "profile": "tiny",
        "work": "work/tiny",
        "artifacts": "artifacts/tiny",
        "seed": 1,
        "epochs": 2,
        "fold": 1,
        "threads": os.cpu_count(),
    }


def test_published_is_what_is_complete(killed):
    reports = killed[0] / "reports"
    assert [path.name for path in reports.iterdir()] == ["tiny"]
    assert {p.name for p in reports.glob("tiny/notebooks/*/*")} == {
        f"{name}.ipynb"
        for name in ("01_data", "02_teacher", "05_pruning", "07_benchmark", "08_report")
    }
    assert not (reports / "tiny" / "notebooks" / "fold1").exists()


# --- what runs again ----------------------------------------------------------------------------


def test_nothing_runs_again(finished):
    status, out, _ = run(finished)
    assert status == 0
    assert "nothing to do" in out
    assert planned(finished) == []


def test_parameters_of_a_chapter_concern_it_and_its_descendants(finished, monkeypatch):
    write_plan(finished, monkeypatch)
    assert planned(finished) == []
    profile = finished / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text().replace("epochs: 2", "epochs: 3"))
    write_plan(finished, monkeypatch)
    assert planned(finished) == ["05.0", "05.1", "07.0", "08.0"]


def test_a_chapter_that_a_profile_goes_without_is_not_planned(repository, monkeypatch):
    profile = repository / "notebooks" / "profiles" / "tiny.yaml"
    given = yaml.safe_load(profile.read_text())
    given["study"]["without"] = ["05_pruning"]
    profile.write_text(yaml.safe_dump(given))
    write_plan(repository, monkeypatch)
    assert planned(repository) == ["01.0", "02.0", "02.1", "07.0", "08.0"]
    assert not (repository / "work/tiny/parameters/05_pruning.yaml").exists()


def test_a_second_part_of_a_chapter_runs_once_and_after_it(repository, monkeypatch):
    chapter(repository, "05b_heads")
    write_plan(repository, monkeypatch)
    assert planned(repository) == ["01.0", "02.0", "02.1", "05.0", "05.1", "05b.0", "07.0", "08.0"]


def test_cores_and_data_folder_are_no_reason_to_run_again(finished, monkeypatch):
    monkeypatch.chdir(finished)
    plans.write(plans.make("tiny", cores=7, data="notebooks"))
    assert planned(finished) == []


def test_source_that_is_only_touched_is_the_same(finished):
    (finished / "notebooks" / "02_teacher.py").touch()
    assert planned(finished) == []
    chapter(finished, "02_teacher", body="print('changed')")
    assert planned(finished) == ["02.0", "02.1", "05.0", "05.1", "07.0", "08.0"]


def test_lost_artifacts_are_made_again(finished):
    shutil.rmtree(finished / "artifacts" / "tiny" / "fold1")
    assert planned(finished) == ["02.1", "05.1", "07.0", "08.0"]


def test_new_chapters_are_taken_and_their_upstream_is_right(finished, monkeypatch):
    for name in ("03_distillation", "04_quantization", "06_beyond_heads"):
        chapter(finished, name)
    write_plan(finished, monkeypatch)
    new = [f"{number}.{fold}" for number in ("03", "04", "06") for fold in "01"]
    assert planned(finished) == sorted([*new, "07.0", "08.0"])


def test_another_fold_is_added(finished, monkeypatch):
    write_plan(finished, monkeypatch, folds=[0, 1, 2])
    assert planned(finished) == ["02.2", "05.2", "07.0", "08.0"]


def test_folds_of_different_parameters_are_not_mixed(finished, monkeypatch):
    before = (finished / "work/tiny/parameters/05_pruning.yaml").read_text()
    with pytest.raises(InputError, match="fold 1 was run with other parameters of 05_pruning"):
        write_plan(finished, monkeypatch, folds=[0], given={"epochs": "9"})
    assert (finished / "work/tiny/parameters/05_pruning.yaml").read_text() == before


def test_folds_of_different_data_are_not_mixed(repository, monkeypatch):
    """Chapter 1 runs once, on fold 0, but what it makes is in every fold."""
    write_plan(repository, monkeypatch)
    for name in ("fold0/01_data", "fold0/02_teacher", "fold1/02_teacher", "fold0/07_benchmark"):
        path = repository / "artifacts" / "tiny" / f"{name}.done"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(InputError, match="fold 1 was run with other parameters of 01_data"):
        write_plan(repository, monkeypatch, folds=[0], given={"n_folds": "4"})
    assert "n_folds" not in (repository / "work/tiny/parameters/01_data.yaml").read_text()
    write_plan(repository, monkeypatch, folds=[0, 1], given={"n_folds": "4"})


def test_chapters_that_only_read_the_folds_may_change_alone(repository, monkeypatch):
    monkeypatch.setitem(OWN, "07_benchmark", "timed = 500")
    chapter(repository, "07_benchmark")
    write_plan(repository, monkeypatch)
    for name in ("fold0/07_benchmark", "fold1/02_teacher"):
        path = repository / "artifacts" / "tiny" / f"{name}.done"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_plan(repository, monkeypatch, folds=[0], given={"timed": "20"})
    assert "timed: 20" in (repository / "work/tiny/parameters/07_benchmark.yaml").read_text()


def test_recipes_that_every_fold_reads_count_for_every_fold(repository, monkeypatch):
    monkeypatch.setitem(OWN, "03b_recipes", "depth = 3")
    for name in ("03_distillation", "03b_recipes"):
        chapter(repository, name)
    write_plan(repository, monkeypatch)
    assert {"03.0", "03.1", "03b.0"} <= set(planned(repository))
    assert "03b.1" not in planned(repository)
    for name in ("fold0/03b_recipes", "fold0/03_distillation", "fold1/03_distillation"):
        path = repository / "artifacts" / "tiny" / f"{name}.done"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(InputError, match="fold 1 was run with other parameters of 03b_recipes"):
        write_plan(repository, monkeypatch, folds=[0], given={"depth": "2"})
    write_plan(repository, monkeypatch, folds=[0, 1], given={"depth": "2"})


def test_the_seed_studys_split_has_no_sentences_to_choose_on(repository, monkeypatch):
    monkeypatch.chdir(repository)
    chapter(repository, "03b_recipes")
    assert "03b_recipes" in plans.make("tiny").chapters
    given = {"folds": [0], "given": {"protocol": "seed"}}
    assert "03b_recipes" not in plans.make("tiny", **given).chapters


def test_failure_is_told_and_mended(finished):
    """After a failure in the middle, an upstream chapter's news still reach its descendants."""
    seeds = finished / "notebooks" / "profiles" / "tiny.yaml"
    seeds.write_text(seeds.read_text().replace("seed: 1", "seed: 2"))
    status, out, err = run(finished, "-p", "epochs", "13")
    assert status == 1
    first, second = err.splitlines()
    assert re.fullmatch(
        r"headcount: 05_pruning, fold \d failed: ValueError: .*13 epochs bring bad luck", first
    )
    notebook = finished / re.search(r"see (\S+\.partial\.ipynb) and \S+", second)[1]
    assert "bad luck" in notebook.read_text()
    assert "07_benchmark" not in out
    assert "01.0" not in planned(finished)
    assert {"05.0", "05.1", "07.0", "08.0"} <= set(planned(finished))


# --- parts of a study, and copies of it ---------------------------------------------------------


def test_only_what_a_chapter_reads(repository):
    status, out, _ = run(repository, "--folds", "0,1", "--before", "05_pruning")
    assert status == 0
    assert out.endswith(": what 05_pruning reads is here\n")
    done = {path.relative_to(repository).as_posix() for path in repository.rglob("*.done")}
    expected = {"fold0/01_data", "fold0/02_teacher", "fold1/02_teacher"}
    assert done == {f"artifacts/tiny/{name}.done" for name in expected}
    assert not list((repository / "reports").iterdir())


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """A study that failed in chapter 5, its machine gone, and the copy that it had kept."""
    folder, place = (
        make_repository(tmp_path_factory.mktemp("lost")),
        tmp_path_factory.mktemp("kept"),
    )
    status, _, _ = run(folder, "--backup", str(place), "-p", "epochs", "13")
    assert status == 1
    shutil.rmtree(folder)
    return place


def test_a_study_goes_on_from_its_copy_on_another_machine(lost, repository):
    """The sources are newer there than all that was made from them."""
    status, out, err = run(repository, "--backup", str(lost))
    assert (status, err) == (0, "")
    assert re.search(r"going on from \d+ files in", out)
    assert "01_data" not in out
    assert out.count("02_teacher, fold") < 2  # one fold's, if the failure came before it
    assert "05_pruning, fold 1" in out
    assert "nothing to do" in run(repository, "--backup", str(lost))[1]


def test_a_finished_study_is_published_again_on_another_machine(finished, tmp_path):
    place = str(tmp_path / "place")
    assert "nothing to do" in run(finished, "--backup", place)[1]
    (tmp_path / "new").mkdir()
    status, out, err = run(make_repository(tmp_path / "new"), "--backup", place)
    assert (status, err) == (0, "")
    assert "1 of 1: publishing" in out
    names = {path.name for path in (tmp_path / "new/reports/tiny/notebooks/fold0").iterdir()}
    assert "08_report.ipynb" in names


def test_a_copy_that_was_cut_off_brings_nothing_that_does_not_fit(tmp_path, monkeypatch):
    place = tmp_path / "place"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("work/demo/study.yaml", "work/demo/old.csv", "artifacts/demo/fold0/02.done"):
        write(name, "old")
    write("artifacts/demo/fold0/training/checkpoint", "stays here")
    backup.keep("demo", place)
    write("artifacts/demo/fold0/02.done", "newer")
    write("artifacts/demo/fold0/model", "new")
    real = shutil.copyfile

    def fails_in_the_middle(source, target):
        real(source, target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fails_in_the_middle)
    with pytest.raises(InputError, match=r"cannot be used .*No space left"):
        backup.keep("demo", place)
    monkeypatch.setattr(shutil, "copyfile", real)
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert backup.bring("demo", place) == 2
    found = {path.as_posix() for path in Path().rglob("*") if path.is_file()}
    assert found == {"work/demo/study.yaml", "work/demo/old.csv"}
    assert backup.bring("demo", place) == 0  # it has run here now


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def test_a_copy_follows_what_is_removed_and_keeps_times(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("work/demo/study.yaml", "")
    write("work/demo/gone.csv", "")
    os.utime("work/demo/study.yaml", ns=(10**18, 10**18))
    backup.keep("demo", tmp_path / "place")
    Path("work/demo/gone.csv").unlink()
    backup.keep("demo", tmp_path / "place")
    shutil.rmtree("work")
    assert backup.bring("demo", tmp_path / "place") == 1
    assert Path("work/demo/study.yaml").stat().st_mtime_ns == 10**18


# --- bad input ----------------------------------------------------------------------------------

DATA_CHAPTER = 'corpus = "phrasebank-fiqa"\nn_folds = 5\nsentences = 600\nprotocol = "folds"'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--profile", "tinny"], "unknown profile 'tinny': did you mean 'tiny'?"),
        (["-p", "epoch", "3"], "no parameter 'epoch': did you mean 'epochs'?"),
        (["-p", "epochs", "many"], "epochs='many' is of type str, give one of type int"),
        (["-p", "epochs", "2.5"], "epochs=2.5 is of type float"),
        (["-p", "fold", "1"], "use --folds"),
        (["--folds", "0,5"], "fold 5 is out of range: choose from 0 to 4"),
        (["--folds", "0,-1"], "fold -1 is out of range"),
        (["--folds", "0,x"], "give whole numbers"),
        (["--folds", "1"], "add fold 0"),
        (["--folds", "0,1", "-p", "protocol", "seed"], "fold 1 is out of range"),
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--cores", "0"], "one core or more"),
        (["--cores", "2", "--jobs", "3"], "--jobs 3: give 1 to 2, the number of cores"),
        (["--jobs", "0"], "--jobs 0: give 1 to"),
        (["--before", "05_prunning"], "unknown chapter '05_prunning': did you mean '05_pruning'?"),
        (["--backup", "Snakefile"], "cannot write to Snakefile"),
    ],
)
def test_bad_arguments(repository, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(repository)
    refused(capsys, arguments, expected)
    assert not (repository / "work").exists()


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("05_pruning: {epoch: 3}", "part 05_pruning, has no parameter 'epoch'"),
        ("all: {sed: 3}", "part all, has no parameter 'sed': did you mean 'seed'?"),
        ("05_prunning: {epochs: 3}", "unknown part '05_prunning': did you mean '05_pruning'?"),
        ("study: {fold: [0]}", "part study, has no parameter 'fold': did you mean 'folds'?"),
        ("study: {folds: 0}", "folds 0: give whole numbers"),
        ("study: {without: [05_prunning]}", "without: unknown chapter '05_prunning': did you mean"),
        ("study: {without: 05_pruning}", "without '05_pruning': give a list of chapters"),
        ("all: {seed: one}", "seed='one' is of type str"),
        ("02_teacher: {learning_rate: fast}", "learning_rate='fast' is of type str"),
        ("all: {work: elsewhere}", "does not take 'work': use --profile"),
        ("all: [seed", "is no YAML"),
        ("all: seed", "write `name: value` lines"),
    ],
)
def test_bad_profile(repository, monkeypatch, capsys, profile, expected):
    monkeypatch.chdir(repository)
    (repository / "notebooks" / "profiles" / "tiny.yaml").write_text(profile)
    refused(capsys, [], expected)


def refused(capsys, arguments, expected):
    status = main(["run", "--profile", "tiny", *arguments])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_outside_the_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, [], "run this in the repository's root")


@pytest.mark.parametrize("place", ["work", "artifacts", "reports"])
def test_output_that_cannot_be_written(repository, monkeypatch, capsys, place):
    monkeypatch.chdir(repository)
    (repository / place).write_text("a file where a folder should be")
    refused(capsys, [], f"cannot write to {place}")


@pytest.mark.parametrize("damage", ["truncated", "empty zip", "no file"])
def test_data_that_cannot_be_had(repository, monkeypatch, capsys, damage):
    folder = repository / "downloads"
    folder.mkdir()
    archive = folder / "FinancialPhraseBank-v1.0.zip"
    empty_zip = b"PK\5\6" + bytes(18)
    if damage != "no file":
        archive.write_bytes(b"PK\3\4 cut off" if damage == "truncated" else empty_zip)
    monkeypatch.setitem(OWN, "01_data", DATA_CHAPTER)
    chapter(repository, "01_data")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(repository / "hub"))
    monkeypatch.chdir(repository)
    refused(capsys, ["--data", "downloads"], "FinancialPhraseBank-v1.0.zip")
    assert not list((repository / "work").rglob("*.yaml"))


def test_weights_with_another_checksum(repository, monkeypatch, capsys):
    monkeypatch.setattr(models, "MINILM_PACKAGE", "weights_of_another_kind")
    package = repository / models.MINILM_PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"not these")
    monkeypatch.setitem(OWN, "02_teacher", 'model = "minilm"')
    chapter(repository, "02_teacher")
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(repository)
    refused(capsys, [], "SHA-256")


# --- parameters and publication -----------------------------------------------------------------


def test_parameters_for_use_by_hand(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    arguments = ["--profile", "tiny", "--chapter", "05_pruning", "-p", "epochs", "4"]
    assert main(["parameters", *arguments]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "profile": "tiny",
        "work": "work/tiny",
        "artifacts": "artifacts/tiny",
        "seed": 1,
        "epochs": 4,
    }


def test_a_data_folder_given_by_hand_is_among_the_parameters(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("HEADCOUNT_DATA", "notebooks")
    arguments = ["parameters", "--profile", "tiny", "--chapter", "01_data"]
    main(arguments)
    assert "data_dir" not in yaml.safe_load(capsys.readouterr().out)
    main([*arguments, "--data", "notebooks/profiles"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["data_dir"], shown["seed"]) == ("notebooks/profiles", 1)
    plan = plans.make("tiny", data="notebooks/profiles")
    assert "data_dir" not in plan.text("01_data")  # a run's notebooks name no folder of a machine


def test_the_environments_data_folder_stands_for_one_that_is_not_given(
    repository, monkeypatch, capsys
):
    monkeypatch.chdir(repository)
    monkeypatch.setenv("HEADCOUNT_DATA", "notebooks")
    plan = plans.make("tiny")
    assert plan.data == "notebooks"
    assert plan.values["01_data"]["data_dir"] == "notebooks"  # what the check before a run reads
    assert plans.make("tiny", data="notebooks/profiles").data == "notebooks/profiles"
    monkeypatch.setenv("HEADCOUNT_DATA", "nowhere")
    refused(capsys, [], "HEADCOUNT_DATA nowhere: there is no such folder")
    monkeypatch.setenv("HEADCOUNT_DATA", "")
    assert plans.make("tiny").data is None


def test_scientific_notation_is_a_number(repository, monkeypatch):
    """YAML 1.1 takes 3e-4 for a string."""
    monkeypatch.chdir(repository)
    plan = plans.make("tiny", given={"learning_rate": "3e-4"})
    assert plan.chapters["02_teacher"]["learning_rate"] == 3e-4
    assert yaml.safe_load(plan.text("02_teacher"))["learning_rate"] == 3e-4


def test_one_chapter_by_hand(repository, monkeypatch, capsys):
    """The README's command."""
    monkeypatch.chdir(repository)
    main(["parameters", "--profile", "tiny", "--chapter", "02_teacher"])
    Path("parameters.yaml").write_text(capsys.readouterr().out)
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("HEADCOUNT_LOG", str(repository / "log"))
    command = "jupytext --to ipynb -o - notebooks/02_teacher.py"
    command += " | papermill - out.ipynb -f parameters.yaml -p fold 0"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, capture_output=True)
    assert Path("artifacts/tiny/fold0/02_teacher.done").exists()


def test_publish(tmp_path):
    work, reports = tmp_path / "work" / "demo", tmp_path / "reports"
    for name in (
        "records/teacher.fold0.seed0.json",
        "predictions/teacher.fold0.seed0.csv",
        "predictions/student.fold0.seed0.csv",
        "predictions/.teacher.csv.x1",
        "notebooks/fold0/02_teacher.ipynb",
        "notebooks/fold0/05_pruning.partial.ipynb",
        "notebooks/fold1/02_teacher.ipynb",
        "figures/fold0/02_teacher-curves.png",
        "figures/fold1/02_teacher-curves.png",
        "figures/fold1/02_teacher-curves.csv",
        "tables/fold0/05_pruning-rounds.csv",
        "tables/fold1/05_pruning-losses.csv.gz",
        "measures/teacher.json",
        "logs/study.log",
        "report.html",
    ):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(name)
    warning = nbformat.v4.new_output("stream", name="stderr", text="/home/me/lib.py:1: Warning")
    printed = nbformat.v4.new_output("stream", name="stdout", text="Zahl: ½")
    cell = nbformat.v4.new_code_cell("1", outputs=[warning, printed])
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 2"), cell])
    nbformat.write(executed, work / "notebooks/fold0/02_teacher.ipynb")
    (reports / "demo").mkdir(parents=True)
    (reports / "demo" / "stale.csv").touch()
    publish(work, reports)
    files = {p.relative_to(reports).as_posix() for p in reports.rglob("*") if p.is_file()}
    assert files == {
        "demo/records/teacher.fold0.seed0.json",
        "demo/predictions/teacher.fold0.seed0.csv.gz",
        "demo/notebooks/fold0/02_teacher.ipynb",
        "demo/figures/fold0/02_teacher-curves.png",
        "demo/figures/fold1/02_teacher-curves.csv",
        "demo/tables/fold1/05_pruning-losses.csv.gz",
        "demo/tables/fold0/05_pruning-rounds.csv",
        "demo/measures/teacher.json",
        "demo/report.html",
    }
    packed = reports / "demo/predictions/teacher.fold0.seed0.csv.gz"
    assert gzip.decompress(packed.read_bytes()) == b"predictions/teacher.fold0.seed0.csv"
    before = packed.read_bytes()
    left = nbformat.read(reports / "demo/notebooks/fold0/02_teacher.ipynb", as_version=4)
    nbformat.validate(left)
    assert left.cells[1].outputs == [printed]
    publish(work, reports)
    assert packed.read_bytes() == before


def test_publish_keeps_reports_small(tmp_path):
    work, reports = tmp_path / "work" / "demo", tmp_path / "reports"
    (work / "records").mkdir(parents=True)
    (work / "report.html").write_bytes(bytes(13_000_000))
    (reports / "other").mkdir(parents=True)
    (reports / "other" / "report.html").write_bytes(bytes(13_000_000))
    (reports / "demo").mkdir()
    (reports / "demo" / "report.html").write_text("old")
    with pytest.raises(InputError, match=r"26\.0 MB, more than the 25 MB"):
        publish(work, reports)
    assert (reports / "demo" / "report.html").read_text() == "old"


# --- the real profiles --------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "profiles").glob("*.yaml")))
def test_profiles_fit_the_chapters(monkeypatch, path):
    monkeypatch.chdir(ROOT)
    plan = plans.make(path.stem)
    for name, values in plan.values.items():
        common = {"profile", "work", "artifacts", "data_dir", "fold", "seed", "threads"}
        assert common <= set(values), name
