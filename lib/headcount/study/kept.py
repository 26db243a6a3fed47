"""Published results that still hold, taken as they are instead of being made again.

A study takes hours, and what git keeps of it are results without models. Whoever has a clone can go
on from there. Results stand that belong to the same sentences, the same parameters and a teacher
with the same weights. That hash is the anchor: each fold's teacher is trained here, and with other
code, libraries, arithmetic or pretrained weights it would have ended elsewhere. What it does not
cover is the code of the chapter itself: results name the commit that they were made at.

A chapter whose model is loaded by one that runs has to run too. The clock and the ruler always run,
as what they measure is this machine: with the ruler in the study, fold 0 is left with its models.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import nbformat

from headcount import data, records, train
from headcount.errors import InputError
from headcount.records import write_json, write_text
from headcount.study import graph
from headcount.study.graph import Job
from headcount.study.plan import RESERVED, Plan
from headcount.study.publish import REPORTS

ANCHORS = {"01_data", "02_teacher"}


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
    """Jobs that can be taken, as far as can be told before the teachers are here.

    They are published and have not begun here; in the order in which they read each other.

    Raises:
        InputError: something is published that ``plan`` leaves out, and that would go with the old
            report; or it was trained on another kind of machine, and no teacher would be equal.
    """
    report = reports / plan.profile
    published = sorted(path.stem for path in (report / "chapters").glob("*.tsv"))
    planned = {stamp(report, job).stem for job in plan.pairs}
    if lost := [name for name in published if name not in planned]:
        raise InputError(
            f"{report} holds {', '.join(lost)}, which would be lost: let the study have these "
            "folds and chapters too, or run it without --keep"
        )
    always = ANCHORS | graph.TIMED | {"08_report"}
    found = [job for job in plan.pairs if job[0] not in always and stamp(report, job).exists()]
    found = closed([job for job in found if not _begun(plan, job)], plan.pairs)
    if found:
        device = train.device()
        records.check_trained_on(
            report,
            records.read(report, variant="teacher"),
            (device, train.precision(device)),
            "no teacher would have the published weights; run --keep on a machine of that kind, or "
            "make all anew without it",
        )
    return sorted(found, key=lambda job: graph.depth(job[0]))


def closed(jobs: Sequence[Job], pairs: Sequence[Job]) -> list[Job]:
    """Those of ``jobs`` that can be taken when the others of ``pairs`` run.

    None reads what is made again, the teacher apart; none leaves a model that is loaded there.
    """

    def reads(job: Job) -> set[Job]:
        above = graph.jobs(set(graph.upstream(job[0])) - ANCHORS, [job[1]])
        return set(above).intersection(pairs)

    taken = list(jobs)
    while True:
        others = [job for job in pairs if job not in taken]
        loaded = {
            one for chapter, fold in others for one in graph.jobs(graph.models_of(chapter), [fold])
        }
        stay = [job for job in taken if job not in loaded and reads(job) <= set(taken)]
        if stay == taken:
            return taken
        taken = stay


def _begun(plan: Plan, job: Job) -> bool:
    done, notebook = outputs(plan, job)
    # What was interrupted goes on from its own trainings.
    return done.exists() or notebook.with_suffix(".partial.ipynb").exists()


def refusal(plan: Plan, job: Job, reports: Path = REPORTS) -> str | None:
    """Why a job's published results do not hold here; None where they do.

    To be asked when this fold's teacher is here.
    """
    chapter, fold = job
    report = reports / plan.profile
    theirs, ours = (
        [record.weights_sha256 for record in records.read(folder, variant="teacher", fold=fold)]
        for folder in (report, plan.work)
    )
    if not theirs or theirs != ours:
        return "the teacher here has other weights than the published one"
    sha256 = data.load_facts(plan.artifacts / "data")["data_sha256"]
    values = dict(plan.values[chapter])
    for above in graph.RESULTS_OF.get(chapter, []):
        if above in plan.chapters:
            values |= records.chosen(report, above)
    found = records.left_by(report, *job)
    for one in found:
        made = one.provenance
        if made.data_sha256 != sha256:
            return f"{one.stem} was made from other sentences"
        for name in values.keys() - RESERVED.keys():
            if made.config.get(name) != values[name]:
                was = made.config.get(name, "missing")
                return f"{one.stem} was made with {name} {was}, not {values[name]}"
    return None if found else "no published result says what it was made from"


def take(plan: Plan, job: Job, reports: Path = REPORTS) -> None:
    """Put a job's published results where it would have left them, and mark it as finished."""
    chapter, fold = job
    report, work = reports / plan.profile, plan.work
    for one in records.left_by(work, *job):
        records.remove(work, one)
    found = records.left_by(report, *job)
    for one in found:
        if type(one) in records.TABLES:
            table = Path(records.TABLES[type(one)]) / f"{one.stem}.csv"
            packed = (report / table).with_name(f"{table.name}.gz")
            write_text(work / table, gzip.decompress(packed.read_bytes()).decode("utf-8"))
        folder = records.FOLDERS[type(one)]
        write_text(work / folder / f"{one.stem}.json", one.model_dump_json(indent=1) + "\n")
    patterns = [f"{kind}/fold{fold}/{chapter}-*" for kind in ("figures", "tables")]
    for path in [path for pattern in patterns for path in work.glob(pattern)]:
        path.unlink()
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


def _note(job: Job, commits: Iterable[str]) -> str:
    chapter, fold = job
    text = (
        f"The results of `{chapter}` on fold {fold} were taken as they are published, made at "
        f"commit {', '.join(commits)}; its executed notebook is not kept."
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id="taken")])
    return nbformat.writes(notebook)
