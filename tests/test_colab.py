"""Badges and set-up cells, and the set-up on a Python that has Colab's shape."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import jupytext
import nbformat
import pytest

from headcount import colab
from headcount.colab import cells
from headcount.colab.__main__ import main
from headcount.errors import InputError
from headcount.study.publish import publish

ROOT = Path(__file__).parents[1]
NEW = "https://github.com/somebody/compressed"
PYPROJECT = '[project]\nname = "headcount"\n[project.urls]\nRepository = "{}"\n'


def tagged(notebook):
    return [cell for cell in notebook.cells if "colab" in cell.metadata.get("tags", ())]


def tracked():
    """What git knows of the working tree, new files included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in done.stdout.splitlines() if (ROOT / line).is_file()]


# --- the cells ----------------------------------------------------------------------------------


def test_the_address_is_written_once():
    """It stands in pyproject.toml; everywhere else the tool has put it, and it is the same."""
    assert cells.write(ROOT, check=True) == []
    address = cells.address(ROOT / "pyproject.toml").removeprefix("https://").encode()
    holders = {path for path in tracked() if address in (ROOT / path).read_bytes()}
    stamped = {path.relative_to(ROOT) for path in cells.written(ROOT)}
    assert Path("pyproject.toml") in holders
    assert holders <= stamped | {Path("pyproject.toml")}


@pytest.fixture
def repository(tmp_path):
    """Chapters, one of them executed, a README, and an address."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(NEW))
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "README.md", tmp_path)
    executed = tmp_path / "reports/demo/notebooks/fold0/02_teacher.ipynb"
    executed.parent.mkdir(parents=True)
    notebook = jupytext.read(ROOT / "notebooks/02_teacher.py")
    notebook.cells = [cell for cell in notebook.cells if cell not in tagged(notebook)]
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    last.outputs = [nbformat.v4.new_output("stream", text="kept")]
    nbformat.write(notebook, executed)
    return tmp_path


def test_a_new_address_gets_everywhere(repository):
    executed = repository / "reports/demo/notebooks/fold0/02_teacher.ipynb"
    before = nbformat.read(executed, as_version=4)
    assert set(cells.write(repository)) == set(cells.written(repository))
    assert cells.write(repository) == []
    texts = "".join(path.read_text() for path in cells.written(repository))
    assert cells.address(ROOT / "pyproject.toml") not in texts
    after = nbformat.read(executed, as_version=4)
    badge, set_up = tagged(after)
    opened = "https://colab.research.google.com/github/somebody/compressed/blob/main/"
    assert f"]({opened}reports/demo/notebooks/fold0/02_teacher.ipynb)" in badge.source
    assert NEW in set_up.source
    kinds = [cell.cell_type for cell in after.cells]
    assert after.cells.index(badge) == 1  # after the title
    assert after.cells.index(set_up) == kinds.index("code")  # before all other code
    assert [cell for cell in after.cells if cell not in (badge, set_up)] == before.cells


def test_a_new_chapter_gets_its_cells(repository):
    source = repository / "notebooks/06_beyond_heads.py"
    text = "# %% [markdown]\n# # Six?\n\n# %% [markdown]\n# Text.\n\n# %%\nimport os\n"
    source.write_text(text)
    cells.write(repository)
    notebook = jupytext.read(source)
    kinds = [(cell.cell_type, cell in tagged(notebook)) for cell in notebook.cells]
    assert kinds == [
        ("markdown", False), ("markdown", True), ("markdown", False),
        ("code", True), ("code", False),
    ]  # fmt: skip
    assert "reports/minilm/notebooks/fold0/06_beyond_heads.ipynb" in tagged(notebook)[0].source


def test_what_is_published_opens_itself(repository, tmp_path):
    cells.write(repository)
    work = tmp_path / "work" / "demo"
    executed = work / "notebooks/fold0/05_pruning.ipynb"
    executed.parent.mkdir(parents=True)
    nbformat.write(jupytext.read(repository / "notebooks/05_pruning.py"), executed)
    publish(work, repository / "reports")
    assert cells.write(repository, check=True) == []
    shown = (repository / "reports/demo/notebooks/fold0/05_pruning.ipynb").read_text()
    assert "/reports/demo/notebooks/fold0/05_pruning.ipynb" in shown


def test_the_notebook_for_the_whole_study_is_the_source(repository):
    cells.write(repository)
    made = nbformat.read(repository / cells.WHOLE, as_version=4)
    nbformat.validate(made)
    source = jupytext.read(repository / "notebooks/colab.py")
    assert [cell.source for cell in made.cells] == [cell.source for cell in source.cells]
    assert "reports/colab.ipynb" in tagged(made)[0].source


@pytest.mark.parametrize("address", ["", "https://example.org/a/b", "https://github.com/a"])
def test_an_address_that_colab_cannot_open(tmp_path, address):
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT.format(address))
    with pytest.raises(InputError, match="is no https://github"):
        cells.address(path)


def test_stale_cells_fail_the_check(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main(["check"]) == 1
    assert "02_teacher.py" in capsys.readouterr().err
    assert main(["write"]) == 0
    assert main(["check"]) == 0


def test_a_study_that_cannot_run_is_told_in_one_line(repository, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match="unknown profile 'minilmm': did you mean 'minilm'"):
        colab.run_study("minilmm", "0")


# --- the set-up ---------------------------------------------------------------------------------

KERNEL = ("ipython==7.34.0", "ipykernel==6.17.1")  # as Colab has them
MISSING = ("headcount", "jupytext", "papermill", "ipython", "ipykernel")
# A line of a .pth file: run when Python starts, as Colab loads its own package.
STAND_IN = (
    "import sys, importlib.machinery as m, importlib.util as u; "
    "sys.modules['google.colab'] = u.module_from_spec(m.ModuleSpec('google.colab', None))\n"
)


@pytest.fixture(scope="module")
def colab_python(tmp_path_factory):
    """A Python of Colab's shape: its kernel, google.colab loaded, most libraries, not all."""
    folder = tmp_path_factory.mktemp("colab") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        # What pip is to install must not be a link: it would write into the other environment.
        missing = any(name in path.name.lower() for name in MISSING)
        if not missing and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    (site / "colab.pth").write_text(STAND_IN)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", *KERNEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if "(from versions: none)" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A repository that can be cloned, with the working tree as its one commit."""
    folder = tmp_path_factory.mktemp("published") / "repository"
    for path in tracked():
        if path.parts[0] != "reports":
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*author, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder.as_uri()


def run(python, folder, *arguments):
    """What a process on that Colab prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HEADCOUNT", "PYTHON"))}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


IN_A_CELL = """
import importlib.metadata, json, os, pathlib, torch
from headcount import chapter, colab
print(json.dumps([chapter.__file__, torch.__file__, os.getcwd()]))
print(*(importlib.metadata.version(name) for name in ("ipython", "ipykernel", "papermill")))
colab.DRIVE = pathlib.Path(os.environ["DRIVE"])
colab.run_inputs("02_teacher", "smoke", 0)
"""


@pytest.mark.timeout(1200)  # installs a few packages, runs two chapters
def test_a_chapter_opened_on_colab(colab_python, address, tmp_path, monkeypatch):
    """Its set-up cell in an empty folder; what it reads, kept on Drive; then the chapter itself."""
    drive = tmp_path / "drive"
    drive.mkdir()
    monkeypatch.setenv("DRIVE", str(drive))
    source = jupytext.read(ROOT / "notebooks/02_teacher.py")
    set_up = tagged(source)[1]
    set_up.source = set_up.source.replace(cells.address(ROOT / "pyproject.toml"), address)
    imports = source.cells[source.cells.index(set_up) + 1].source
    told = run(colab_python, tmp_path, "-c", f"{set_up.source}\n{imports}\n{IN_A_CELL}")
    clone = tmp_path / "headcount"
    found, versions = told.splitlines()[2:4]
    file, torch_file, folder = json.loads(found)
    assert Path(file) == clone / "lib/headcount/chapter/__init__.py"
    assert Path(torch_file).resolve() == Path(sysconfig.get_path("purelib"), "torch/__init__.py")
    assert Path(folder) == clone
    assert versions.startswith("7.34.0 6.17.1 2.")
    assert "1 of 1: 01_data, fold 0" in told
    assert (drive / "headcount/smoke/artifacts/smoke/fold0/01_data.done").exists()

    nbformat.write(source, clone / "chapter.ipynb")
    command = ["-m", "headcount.study", "parameters", "--profile", "smoke"]
    parameters = run(colab_python, clone, *command, "--chapter", "02_teacher")
    (clone / "parameters.yaml").write_text(parameters)
    arguments = ["chapter.ipynb", "executed.ipynb", "-f", "parameters.yaml"]
    run(colab_python, clone, "-m", "papermill", *arguments, "--no-progress-bar")
    executed = nbformat.read(clone / "executed.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "nothing to do: all up to date" in printed
    assert "what 02_teacher reads is here" in printed
    assert "fold 0 teacher: epoch 8 of 8" in printed  # it shows its progress
    alts = [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    assert alts
    assert all(alts)
    assert (clone / "work/smoke/records/teacher.fold0.seed0.json").exists()
    assert not list((clone / "reports").iterdir())
