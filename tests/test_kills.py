"""A study that dies at any moment goes on, and ends as if nothing had been."""

import re
import time

import pytest
from kills import clone, differences, finish, kill_all, small, start, terminal, trial, undisturbed

pytestmark = pytest.mark.timeout(2700)  # whole studies, on a machine that may be busy

CHAPTERS = "01,02,05"  # tests/kills.py takes them all


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An undisturbed study, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed") / "clone"
    return folder, undisturbed(folder, CHAPTERS)


@pytest.mark.parametrize("seed", range(3))
def test_a_study_killed_at_a_random_moment_ends_the_same(reference, tmp_path, seed):
    folder, seconds = reference
    done = trial(tmp_path / "clone", folder, seed, seconds, CHAPTERS)
    assert done.differences == [], done


def test_a_study_killed_in_chapter_5_goes_on_where_it_was(reference, tmp_path):
    """In a recovery: neither a finished chapter nor a finished training runs again."""
    folder = clone(tmp_path / "clone", CHAPTERS)
    arguments = small(folder)
    process = start(folder, *arguments)
    deadline = time.monotonic() + 1200
    while "fold 0 heads-entropy-round2: epoch 2" not in terminal(folder):
        assert process.poll() is None, terminal(folder)
        assert time.monotonic() < deadline, terminal(folder)
        time.sleep(0.02)
    kill_all(process.pid)
    done = {path.name for path in (folder / "artifacts/smoke/fold0").glob("*.done")}
    assert "02_teacher.done" in done
    assert "05_pruning.done" not in done

    finish(folder, *arguments)
    told = terminal(folder)
    assert told.count("fold 0 02_teacher begins") == 1
    assert told.count("fold 0 heads-entropy-round1: epoch 1") == 1
    assert re.search(r"fold 0 heads-entropy-round2: (\d+ steps, going on|trained already)", told)
    assert differences(folder / "reports/smoke", reference[0] / "reports/smoke") == []
