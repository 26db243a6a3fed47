"""Kill a study at random moments, start it again, and compare it with an undisturbed one.

::

    python tests/kills.py --trials 20      # a table; fails where anything differs

Each trial is a study of its own in a folder of its own. SIGKILL goes to all of its processes at
once, as when a machine dies, at a moment drawn by the trial's seed; then the same command again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).parents[1]
CLOCKS = ("train_seconds", "provenance")  # differ between equal runs
# The smallest study that trains, prunes and reports.
SMALL = {
    "sentences": 300, "simulated_studies": 5, "epochs": 2, "student_epochs": 2, "init_epochs": 2,
    "recovery_epochs": 2, "probe_sentences": 10, "warmup": 1, "timed": 5, "draws": 100,
    "trainings": 1, "random_draws": 1, "percents": [30, 50], "arms": ["entropy", "random"],
}  # fmt: skip


def clone(folder: Path, chapters: str = "") -> Path:
    """What a study needs of the repository, in a folder of its own.

    Args:
        chapters: numbers of the chapters to take, such as "01,02"; all where empty.
    """
    folder.mkdir(parents=True)
    for name in ("Snakefile", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    if chapters:
        _without_other_chapters(folder / "notebooks", chapters.split(","))
    return folder


def _without_other_chapters(notebooks: Path, kept: list[str]) -> None:
    for source in notebooks.glob("[0-9]*.py"):
        if _number(source.name) not in kept:
            source.unlink()
    left = "".join(source.read_text(encoding="utf-8") for source in notebooks.glob("[0-9]*.py"))
    # Profiles may not name chapters that are not there, nor parameters that those alone had.
    for path in notebooks.glob("profiles/*.yaml"):
        parts = yaml.safe_load(path.read_text(encoding="utf-8"))
        parts = {n: v for n, v in parts.items() if n in ("study", "all") or _number(n) in kept}
        everywhere = parts.get("all", {}).items()
        parts["all"] = {name: value for name, value in everywhere if f"\n{name} = " in left}
        without = parts["study"].pop("without", [])
        parts["study"]["without"] = [chapter for chapter in without if _number(chapter) in kept]
        path.write_text(yaml.safe_dump(parts), encoding="utf-8")


def _number(chapter: str) -> str:
    return chapter.partition("_")[0]


def start(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen:
    """Start a study on one core; what it says goes into ``folder``/terminal.log.

    Studies of tests run beside each other, and a small model takes twice the work on two threads.
    """
    command = [sys.executable, "-m", "headcount.study", "run", "--cores", "1", *arguments]
    log = open(folder / "terminal.log", "a")  # noqa: SIM115 (the process writes into it)
    return subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=env
    )


def terminal(folder: Path) -> str:
    """What the studies in ``folder`` have said so far."""
    return (folder / "terminal.log").read_text(encoding="utf-8")


def finish(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a study to its end; leave nothing running if it does not come to one."""
    process = start(folder, *arguments, env=env)
    try:
        assert process.wait(timeout=2400) == 0, terminal(folder)
    finally:
        if process.poll() is None:
            kill_all(process.pid)


def kill_all(pid: int) -> None:
    """SIGKILL to a process and all that they started, as a machine that dies would."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    psutil.wait_procs(processes, timeout=10)


def differences(mine: Path, theirs: Path) -> list[str]:
    """Names of what two published folders of fold 0 do not have in common, clocks left out."""
    found = []
    for pattern, read in (
        ("predictions/*.fold0.*.csv.gz", Path.read_bytes),
        ("records/*.fold0.*.json", _without_clocks),
    ):
        names = {
            path.relative_to(folder) for folder in (mine, theirs) for path in folder.glob(pattern)
        }
        assert names, f"nothing to compare in {mine} and {theirs}"
        for name in sorted(names):
            if not all((folder / name).exists() for folder in (mine, theirs)):
                found.append(f"{name} is missing")
            elif read(mine / name) != read(theirs / name):
                found.append(str(name))
    return found


def _without_clocks(path: Path) -> dict:
    record = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in record.items() if name not in CLOCKS}


@dataclass
class Trial:
    """One study that was killed and started again."""

    seed: int
    killed_after_s: float
    killed_in: str
    again_s: float
    differences: list[str]


def small(folder: Path, profile: str = "smoke", **settings: Any) -> list[str]:
    """Command line of one fold of a small study, with the settings that a chapter there has."""
    text = "".join(p.read_text("utf-8") for p in (folder / "notebooks").glob("[0-9]*.py"))
    given = (SMALL | settings).items()
    given = [(n, v) for n, v in given if re.search(rf"^{n} = ", text, re.MULTILINE)]
    words = [word for name, value in given for word in ("-p", name, str(value))]
    return ["--profile", profile, "--folds", "0", *words]


def trial(folder: Path, reference: Path, seed: int, seconds: float, chapters: str) -> Trial:
    """Kill a study at a moment before ``seconds``, finish it, and compare it with ``reference``."""
    clone(folder, chapters)
    arguments = small(folder)
    moment = random.Random(seed).uniform(0, seconds)
    process = start(folder, *arguments)
    began = time.monotonic()
    while time.monotonic() - began < moment and process.poll() is None:
        time.sleep(0.01)
    jobs = re.findall(r"^[\d:]+ \d+ of \d+: (.*)$", terminal(folder), re.MULTILINE)
    where = "after its end" if process.poll() is not None else next(reversed(jobs), "its checks")
    if process.poll() is None:
        kill_all(process.pid)
    began = time.monotonic()
    finish(folder, *arguments)
    again = time.monotonic() - began
    published = "reports/smoke"
    return Trial(seed, moment, where, again, differences(folder / published, reference / published))


def undisturbed(folder: Path, chapters: str) -> float:
    """Run the small study without a kill; returns its seconds."""
    clone(folder, chapters)
    began = time.monotonic()
    finish(folder, *small(folder))
    return time.monotonic() - began


def main() -> int:
    """Run the trials and print their table; returns 1 if any study did not end the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20, help="seeds 0 to TRIALS - 1")
    parser.add_argument("--chapters", default="", help="such as 01,02,05,08; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        reference = Path(place, "undisturbed")
        seconds = undisturbed(reference, options.chapters)
        print(f"undisturbed: {seconds:.0f} s\n")
        print("| seed | killed after, s | in | again, s | differences |\n|--:|--:|:--|--:|:--|")
        bad = 0
        for seed in range(options.trials):
            folder = Path(place, f"trial{seed}")
            done = trial(folder, reference, seed, seconds, options.chapters)
            bad += bool(done.differences)
            print(
                f"| {seed} | {done.killed_after_s:.1f} | {done.killed_in} | {done.again_s:.0f} "
                f"| {', '.join(done.differences) or 'none'} |",
                flush=True,
            )
            shutil.rmtree(folder)
        print(f"\n{options.trials - bad} of {options.trials} ended as the undisturbed one")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
