"""Run a plan: one Snakemake at a time, its progress in the terminal, its failure in two lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import nbformat

from headcount.errors import InputError
from headcount.parameters import DATA_VARIABLE, LOG_VARIABLE
from headcount.study import backup as backups
from headcount.study import plan as plans

PATIENCE_S = 5  # a killed study's processes may take a moment to let go of the lock

# The first process of a study's own group. When the study dies, by whatever signal, the pipe that
# it holds closes and the whole group goes: no orphan trains on beside the next study.
GUARD = (
    "exec 3<&0 </dev/null; { read -r <&3; kill -KILL 0; } 2>/dev/null & "
    '"$@" 3<&-; code=$?; kill $! 2>/dev/null; exit $code'
)

STEPS = {"localrule report:": "rendering the report", "localrule publish:": "publishing"}


@contextlib.contextmanager
def exclusive(work: Path, profile: str) -> Iterator[IO[str]]:
    """Hold ``work/.lock`` for a study of ``profile``; yields the open file.

    One study at a time in a clone, of whatever profile: they would share Snakemake's notes, and the
    ruler needs the machine for itself.

    Raises:
        InputError: another study holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with open(work / ".lock", "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                file.seek(0)
                raise InputError(
                    f"a study is already running in this clone ({file.read().strip()}): wait for "
                    "it, or stop it first"
                ) from None
        file.truncate(0)
        file.write(f"profile {profile}, process {os.getpid()}")
        file.flush()
        yield file


def run(
    plan: plans.Plan,
    *,
    before: str | None = None,
    backup: Path | None = None,
    keep: bool = False,
) -> int:
    """Run what of ``plan`` is not up to date; returns the exit status.

    Args:
        keep: take published results that still hold, instead of making them again (see `kept`).
        before: a chapter: run only what it reads, and publish nothing.
        backup: keep a copy of the study there after each job, and go on from that copy where the
            study has never run here.
    """
    with exclusive(plan.work.parent, plan.profile) as lock:
        if backup and (files := backups.bring(plan.profile, backup)):
            say(f"going on from {files} files in {backup / plan.profile}")
        plans.write(plan)
        if keep and (status := _keep(plan, lock, backup)):
            return status
        return _snakemake(plan, lock, before, backup)


def _keep(plan: plans.Plan, lock: IO[str], backup: Path | None) -> int:
    """Take published results that still hold; returns the exit status."""
    from headcount.study import kept

    jobs = kept.candidates(plan)
    if not jobs:
        return 0
    # What they were made from has to be here before it can be compared.
    names = ",".join(f"{chapter}.{fold}" for chapter, fold in jobs)
    if status := _snakemake(plan, lock, names, backup):
        return status
    reasons = {job: kept.refusal(plan, job) for job in jobs}
    taken = kept.closed([job for job in jobs if reasons[job] is None], plan.pairs)
    for job in jobs:
        if job in taken:
            kept.take(plan, job)
            said = "taken as published"
        else:
            said = f"runs again, for {reasons[job] or 'what it reads, or loads its models, does'}"
        say(f"{job[0]}, fold {job[1]}: {said}")
    return 0


def command(plan: plans.Plan, before: str | None = None) -> list[str]:
    """The Snakemake command line. Only times and contents of files decide what runs again."""
    return [
        *(sys.executable, "-m", "snakemake"),
        *(["inputs", "--config", f"before={before}"] if before else []),
        *("--configfile", (plan.work / "study.yaml").as_posix()),
        *("--cores", str(plan.cores)),
        *("--rerun-triggers", "mtime"),
        *("--scheduler", "greedy"),
        *("--rerun-incomplete", "--nolock", "--nocolor"),
    ]


def _snakemake(plan: plans.Plan, lock: IO[str], before: str | None, backup: Path | None) -> int:
    logs = plan.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    study_log = logs / "study.log"
    study_log.touch()
    scripts = sysconfig.get_path("scripts")  # papermill and jupytext of this very Python
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
        LOG_VARIABLE: str(study_log.resolve()),
    }
    if plan.data:  # not a parameter: a folder of this machine has no place in a notebook
        environment[DATA_VARIABLE] = str(Path(plan.data).resolve())
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", "-c", GUARD, "study", *command(plan, before)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        pass_fds=[lock.fileno()],
    )
    progress = Progress(plan)
    try:
        with following(study_log), open(logs / "snakemake.log", "w", encoding="utf-8") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                started = progress.started
                progress.read(line)
                if 0 < started < progress.started:  # the job before has ended
                    backup = keep_copy(plan.profile, backup)
            status = process.wait()
    except KeyboardInterrupt:
        process.stdin.close()
        process.wait()
        say("stopped; the same command goes on from here")
        return 130
    keep_copy(plan.profile, backup)
    if status:
        explain(plan, progress, logs)
        return 1
    took = f"{progress.summary()} in {minutes(time.monotonic() - began)}"
    if before:
        say(f"{took}: what {before.replace(',', ', ')} reads is here")
        return 0
    report = Path("reports") / plan.profile
    pages = [path for path in (report / "report.html", report) if path.exists()]
    say(f"{took}: see {pages[0]}")
    return 0


def keep_copy(profile: str, place: Path | None) -> Path | None:
    """Copy the study to ``place``; returns None, having said why, where that cannot be done."""
    try:
        if place:
            backups.keep(profile, place)
    except InputError as error:
        say(f"{error}; the study runs on without")
        return None
    return place


class Progress:
    """Snakemake's own lines, read for what a reader wants to know: which chapter, how far."""

    def __init__(self, plan: plans.Plan) -> None:
        self.plan = plan
        self.total = self.started = 0
        self.jobs: dict[str, Path | None] = {}

    def read(self, line: str) -> None:
        """Take in one line of output; announce a job that starts."""
        if match := re.match(r"total\s+(\d+)$", line):
            self.total = int(match[1]) - 1  # rule all only asks
        elif line.strip() in STEPS:
            self._start(STEPS[line.strip()], None)
        elif match := re.match(r"\s+wildcards: (.*)", line):
            wildcards = dict(pair.split("=", 1) for pair in match[1].split(", "))
            chapter, fold = wildcards["chapter"], wildcards["fold"]
            folder = self.plan.work / "notebooks" / f"fold{fold}"
            self._start(f"{chapter}, fold {fold}", folder / f"{chapter}.partial.ipynb")

    def _start(self, job: str, partial: Path | None) -> None:
        self.started += 1
        self.jobs[job] = partial
        say(f"{self.started} of {self.total}: {job}")

    def summary(self) -> str:
        """What was done."""
        return f"{self.started} jobs done" if self.started else "nothing to do: all up to date"


def explain(plan: plans.Plan, progress: Progress, logs: Path) -> None:
    """Say on stderr what failed, why, and where to read more."""
    # The last to start, or another that ran beside it.
    job, partial = next(reversed(progress.jobs.items()), ("the study", None))
    for other, notebook in progress.jobs.items():
        if notebook and notebook_error(notebook):
            job, partial = other, notebook
    reason = notebook_error(partial) if partial else None
    if reason is None:
        lines = (logs / "snakemake.log").read_text(encoding="utf-8").splitlines()
        ours = [
            line.removeprefix("headcount: ") for line in lines if line.startswith("headcount: ")
        ]
        told = [line.strip() for line in lines if re.search(r"(Error|Exception)\b", line)]
        reason = next(iter(ours + told), "Snakemake stopped")
    print(f"headcount: {job} failed: {reason}", file=sys.stderr)
    more = [path for path in (partial, logs / "snakemake.log") if path and path.exists()]
    print(f"headcount: see {' and '.join(map(str, more))}", file=sys.stderr)


def notebook_error(path: Path) -> str | None:
    """The last line of the error that a notebook stopped with, if it did."""
    if not path.exists():
        return None
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"{output.ename}: {' '.join(output.evalue.strip().splitlines()[-1:])}"
    return None


@contextlib.contextmanager
def following(path: Path) -> Iterator[None]:
    """Show what is appended to ``path`` while the block runs."""
    stop = threading.Event()

    def follow() -> None:
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(0, os.SEEK_END)
            while True:
                last = stop.is_set()
                for line in file:
                    print(line.rstrip("\n"), flush=True)
                if last:
                    return
                stop.wait(0.3)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def say(text: str) -> None:
    """Print a line with the time, as the chapters' own lines have it."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def minutes(seconds: float) -> str:
    """``seconds`` for a reader: 7 s, 12 min 5 s."""
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest} s" if whole else f"{rest} s"
