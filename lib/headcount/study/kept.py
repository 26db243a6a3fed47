"""Published results that still hold, taken as they are instead of being made again.

A study takes hours, and what git keeps of it are results without models. Whoever has a clone can go
on from there: a chapter's results on a fold stand if its sentences, its parameters and the weights
of the models that it was made from are those of this machine, and if nothing that still has to run
needs the models that it would have left. The weights are known to be equal because the models above
it were trained again, and ended with the same hash.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat

from headcount import data, records
from headcount.records import Result, write_json, write_text
from headcount.study.graph import ONCE, Job, models_of
from headcount.study.plan import READ_IN_EVERY_FOLD, RESERVED, Plan
from headcount.study.publish import REPORTS

# The sentences are not published, and the report is made of all the rest.
NEVER = {"01_data", "08_report"}


def stamp(folder: Path, job: Job) -> Path:
    """The file that says that a job ended: how long it took."""
    chapter, fold = job
    return folder / "chapters" / f"fold{fold}.{chapter}.tsv"


def outputs(plan: Plan, job: Job) -> tuple[Path, Path]:
    """Sentinel and executed notebook of a job."""
    chapter, fold = job
    return (
        plan.artifacts / f"fold{fold}" / f"{chapter}.done",
        plan.work / "notebooks" / f"fold{fold}" / f"{chapter}.ipynb",
    )


def candidates(plan: Plan, reports: Path = REPORTS) -> list[Job]:
    """Jobs that are published, have not run here, and whose models no job that will run loads."""
    report = reports / plan.profile
    found = [
        job
        for job in plan.pairs
        if job[0] not in NEVER and stamp(report, job).exists()
        if not all(path.exists() for path in outputs(plan, job))
    ]
    while True:
        loaded = {
            (name, 0 if name in ONCE else fold)
            for chapter, fold in plan.pairs
            if (chapter, fold) not in found and not outputs(plan, (chapter, fold))[0].exists()
            for name in models_of(chapter)
        }
        left = [job for job in found if job not in loaded]
        if left == found:
            return found
        found = left


def results(folder: Path, job: Job) -> list[Result]:
    """What a chapter left on a fold: records, sweeps, findings."""
    chapter, fold = job
    every = (records.read, records.read_sweeps, records.read_findings)
    return [one for read in every for one in read(folder, fold=fold) if one.chapter == chapter]


def refusal(plan: Plan, job: Job, reports: Path = REPORTS) -> str | None:
    """Why a job's published results do not hold here; None where they do.

    To be asked when all that the job reads has run, or was itself taken.
    """
    chapter, fold = job
    found = results(reports / plan.profile, job)
    if not found:
        return "no published result says what it was made from"
    facts = data.load_facts(plan.artifacts / "data")
    values = plan.values[chapter]
    for chooser, reader in READ_IN_EVERY_FOLD.items():
        if reader == chapter and chooser in plan.chapters:
            values = values | records.chosen(plan.work, chooser)
    weights = {r.weights_sha256 for r in records.read(plan.work, fold=fold)}
    weights |= {one.weights_sha256 for one in found if isinstance(one, records.Record)}
    for one in found:
        made = one.provenance
        if made.data_sha256 != facts["data_sha256"]:
            return f"{one.stem} was made from other sentences"
        for name in values.keys() - RESERVED.keys():
            if made.config.get(name) != values[name]:
                was = made.config.get(name, "missing")
                return f"{one.stem} was made with {name} {was}, not {values[name]}"
        if isinstance(one, records.Sweep) and one.weights_sha256 not in weights:
            return f"{one.stem} was made from a model with other weights than those here"
        if isinstance(one, records.Record) and one.baseline:
            known = {
                r.weights_sha256 for r in records.read(plan.work, variant=one.baseline, fold=fold)
            }
            if known - {None} and one.baseline_sha256 and one.baseline_sha256 not in known:
                return f"{one.stem} was made from {one.baseline} with other weights than those here"
    return None


def take(plan: Plan, job: Job, reports: Path = REPORTS) -> None:
    """Put a job's published results where it would have left them, and mark it as finished."""
    chapter, fold = job
    report, work = reports / plan.profile, plan.work
    found = results(report, job)
    for one in found:
        folder = records.FOLDERS[type(one)]
        if type(one) in records.TABLES:
            table = Path(records.TABLES[type(one)]) / f"{one.stem}.csv"
            write_text(work / table, _unpacked(report / table))
        write_text(work / folder / f"{one.stem}.json", one.model_dump_json(indent=1) + "\n")
    patterns = [f"figures/fold{fold}/{chapter}-*", f"tables/fold{fold}/{chapter}-*"]
    patterns += ["measures/*.json"] if chapter == "07_benchmark" else []
    copied = [path for pattern in patterns for path in report.glob(pattern)]
    for path in [*copied, stamp(report, job)]:
        target = work / path.relative_to(report)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    done, notebook = outputs(plan, job)
    commits = sorted({one.provenance.commit for one in found})
    executed = report / "notebooks" / f"fold{fold}" / f"{chapter}.ipynb"
    text = executed.read_text(encoding="utf-8") if executed.exists() else _note(job, commits)
    write_text(notebook, text)
    write_json(done, {"commit": ", ".join(commits), "taken": stamp(report, job).as_posix()})


def _unpacked(path: Path) -> str:
    if path.exists():
        return path.read_text(encoding="utf-8")
    return gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()).decode("utf-8")


def _note(job: Job, commits: Iterable[str]) -> str:
    chapter, fold = job
    text = (
        f"The results of `{chapter}` on fold {fold} were taken as they are published, made at "
        f"commit {', '.join(commits)}; its executed notebook is not kept."
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="taken")])
    return nbformat.writes(notebook)
