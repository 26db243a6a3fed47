"""Opening a chapter: what IPython would hand over is handed over here, by the real IPython."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from headcount import chapter
from headcount.errors import InputError

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


def begin(shell, injected=None):
    """Run the cell that papermill would inject, then the one that opens the chapter."""
    if injected:
        shell.run_cell(f"# Parameters\n{injected}", store_history=True).raise_error()
    cell = "run = chapter.begin('02_teacher', globals())"
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
