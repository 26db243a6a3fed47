"""The README's headline, and how old the committed reports are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd

from headcount import claims, records
from headcount.errors import InputError
from headcount.report.aims import AIMS, AIMS_MODEL
from headcount.report.study import Study, describe
from headcount.report.tables import (
    MISSING,
    ONNX_TEACHER,
    TORCH_TEACHER,
    contrasts,
    markdown,
    points,
    score,
    shipped,
    speeds,
)

BEGIN, END = "<!-- headline:begin -->", "<!-- headline:end -->"
# The first of these rows of which a study is committed is shown: verdicts come from clean teachers
# and real text. Of one row, a later study is shown for what the earlier ones do not have.
STUDIES = (("minilm", "minilm-students"), ("finbert-clean",), ("offline",))
# Those of them that a study has are shown, each after its baseline.
HEADLINE = (
    "tfidf", "teacher", "teacher-onnx", "teacher-int8",
    "student-kd", "student-kd-init", "student-kd-init-int8",
    "student-small", "student-small-int8", "student-small-trimmed", "student-small-trimmed-int8",
    "student-small-trimmed-int8-e4",
    "student-tiny", "student-tiny-int8", "student-tiny-trimmed", "student-tiny-trimmed-int8",
    "heads-entropy-30", "heads-random-30", "heads-entropy-50", "heads-random-50",
)  # fmt: skip
# By runtime, the FP32 teacher that ran in it.
TEACHERS = {"torch": TORCH_TEACHER, "torch.ao": TORCH_TEACHER, "onnxruntime": ONNX_TEACHER}
CODE = (":/lib", ":/notebooks")
SPEED = (
    "Speed is median latency at batch 1 on the machine of the run: first against the FP32 teacher "
    "in torch, so that a change of runtime counts as well, then against the FP32 teacher in the "
    f"row's own runtime (`{ONNX_TEACHER}` in ONNX Runtime), so that only the change of the model "
    "counts."
)
REACHED = "What the study set out to reach, and what was found:"
VERDICTS = (
    "Claims on trial, each by a rule fixed before any run: supported where the whole interval lies "
    "on the claim's side of its margin, refuted where it lies on the other, or leaves out the "
    "effect that was claimed. The reports tell the margins."
)
INT8_TEACHER = "teacher-int8"
PROCESSORS = (
    f"INT8 belongs to a processor: `{INT8_TEACHER}` against the FP32 teacher, where it was timed."
)
NO_SPEED = "Chapter 7 has not timed these models yet."
NOTHING = "No study has been published yet: `make study` makes the first one."


def headline(reports: Path) -> str:
    """The headline in Markdown, from the records, measures and tables of its studies."""
    published = (
        [reports / n for n in row if (reports / n / "pooled.csv").exists()] for row in STUDIES
    )
    folders = next(filter(None, published), [])
    if not folders:
        return NOTHING
    studies = {folder: describe(folder) for folder in folders}
    parts, shown = [], set()
    for folder, study in studies.items():
        pooled = pd.read_csv(folder / "pooled.csv").set_index("variant")
        new = [name for name in HEADLINE if name in pooled.index and name not in shown]
        if new:
            rows = pooled.loc[_with_baselines(pooled["baseline"], new)]
            parts.append(_study(folder, study, rows))
            shown |= {*new}
    for told, table in (
        (REACHED, reached(studies)),
        (VERDICTS, verdicts(studies)),
        (PROCESSORS, by_processor(reports)),
    ):
        if len(table):
            parts += [told, markdown(table)]
    return "\n\n".join(parts)


def _study(folder: Path, study: Study, pooled: pd.DataFrame) -> str:
    """A study's line, the table of some of its variants' pooled rows, and what the table says."""
    sizes = shipped(records.table(folder)).set_index("variant")["size_mb"]
    measures = records.measures(folder)
    ratios, runtimes = speeds(measures), measures.set_index("variant")["runtime"]
    rows = []
    for variant, line in pooled.iterrows():
        difference = points(line["diff"], line["diff_low"], line["diff_high"])
        if difference != MISSING:
            difference += f" vs `{line['baseline']}`"
        size = sizes.get(variant)
        some = "" if line["folds"] == len(study.folds) else f" ({line['folds']} folds)"
        row = {
            "variant": variant + some,
            "macro-F1 [95 %]": score(line["macro_f1"], line["ci_low"], line["ci_high"]),
            "difference, points [95 %]": difference,
            "MB": MISSING if pd.isna(size) else f"{size:.1f}",
        }
        if ratios:
            row["speed"] = _times(ratios, TORCH_TEACHER, variant)
            row["same runtime"] = _times(ratios, TEACHERS.get(runtimes.get(variant)), variant)
        rows.append(row)
    notes = (
        "Scores and paired differences are on the pooled test parts. "
        f"{SPEED if ratios else NO_SPEED} "
        f"Report: {_link(folder)}, [all numbers]({folder.parent.name}/{folder.name}/results.csv)."
    )
    return f"{study.line}\n\n{markdown(pd.DataFrame(rows))}\n\n{notes}"


def reached(studies: dict[Path, Study]) -> pd.DataFrame:
    """Aim, variant, what was found and the outcome; of each aim, from the first study to tell."""
    ran = []
    for folder, study in studies.items():
        path = _left_by_report(folder, "aims")
        if study.model == AIMS_MODEL and path.exists():
            aims = pd.read_csv(path)
            ran.append(aims[aims["outcome"] != claims.NOT_RUN].assign(report=_link(folder)))
    columns = ["aim", "variant", "found", "outcome", "report"]
    return _first_of_each(ran, columns, [aim.text for aim in AIMS])


def verdicts(studies: dict[Path, Study]) -> pd.DataFrame:
    """Claim, verdict and contrast; of each claim, from the first study that tried it."""
    tried = [
        contrasts(pd.read_csv(path), study).assign(report=_link(folder))
        for folder, study in studies.items()
        if (path := _left_by_report(folder, "claims")).exists()
    ]
    columns = ["claim", "verdict", "difference [95 %]", "contrast", "report"]
    return _first_of_each(
        tried, columns, [f"**{claim.id}** {claim.text}" for claim in claims.CLAIMS]
    )


def by_processor(reports: Path) -> pd.DataFrame:
    """What INT8 costs and brings where studies of real sentences were timed; one row a study."""
    rows = []
    for folder in sorted(path.parent for path in reports.glob("*/pooled.csv")):
        measures = records.measures(folder)
        ratios, timed = speeds(measures), set(measures["variant"])
        if not {INT8_TEACHER, TORCH_TEACHER, ONNX_TEACHER} <= timed or describe(folder).synthetic:
            continue
        line = pd.read_csv(folder / "pooled.csv").set_index("variant").loc[INT8_TEACHER]
        machine = measures.iloc[0]
        rows.append(
            {
                "report": _link(folder),
                "processor": f"{machine['cpu']} ({', '.join(machine['cpu_flags'])})",
                "difference, points [95 %]": points(
                    line["diff"], line["diff_low"], line["diff_high"]
                ),
                "speed": _times(ratios, TORCH_TEACHER, INT8_TEACHER),
                "same runtime": _times(ratios, ONNX_TEACHER, INT8_TEACHER),
            }
        )
    return pd.DataFrame(rows)


def write_headline(reports: Path, readme: Path, *, check: bool = False) -> bool:
    """Put the headline between the two marks of `readme`; returns whether that changed it.

    With `check` nothing is written.

    Raises:
        InputError: `readme` is missing or has not each of the marks once, in order.
    """
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise InputError(f"{readme} needs the lines {BEGIN} and {END} once each: put them in")
    new = f"{before}{BEGIN}\n\n{headline(reports)}\n\n{END}{after}"
    if new != text and not check:
        records.write_text(readme, new)
    return new != text


def ages(reports: Path) -> list[str]:
    """One line for each committed report: whether lib/ or notebooks/ changed after its records."""
    folders = sorted(path.parent for path in reports.glob("*/results.csv"))
    return [f"{folder}: {_age(folder)}" for folder in folders]


def _age(folder: Path) -> str:
    again = f"make study PROFILE={folder.name} brings it up to date"
    commits = sorted({record.provenance.commit for record in records.read(folder)})
    dirty = [commit for commit in commits if commit.endswith("-dirty")]
    if dirty:
        return f"made from uncommitted changes on {dirty[0][:12]}; {again}"
    try:
        since = [
            _git("rev-list", "--count", f"{c}..HEAD", "--", "lib", "notebooks") for c in commits
        ]
    except (OSError, subprocess.CalledProcessError):
        return f"made from {commits[0][:12]}, which is not in this history; {again}"
    changes = max(map(int, since), default=0)
    if changes:
        return f"older than {changes} later change(s) of lib/ or notebooks/; {again}"
    return "as new as lib/ and notebooks/"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _left_by_report(folder: Path, table: str) -> Path:
    return folder / "tables" / "fold0" / f"08_report-{table}.csv"


def _link(folder: Path) -> str:
    return f"[{folder.name}]({folder.parent.name}/{folder.name}/report.md)"


def _first_of_each(
    frames: list[pd.DataFrame], columns: list[str], order: list[str]
) -> pd.DataFrame:
    """Of equal entries in the first of ``columns`` the first, those of ``order`` in that order."""
    rows = pd.concat([pd.DataFrame(columns=columns), *frames])[columns]
    rows = rows.drop_duplicates(columns[0]).set_index(columns[0])
    return rows.loc[[name for name in order if name in rows.index]].reset_index()


def _with_baselines(baselines: pd.Series, variants: list[str]) -> list[str]:
    """``variants``, each after its baseline and that one's own; ``baselines`` by variant."""
    shown: list[str] = []
    for variant in variants:
        chain = []
        while variant in baselines.index and variant not in shown + chain:
            chain.append(variant)
            variant = baselines[variant]
        shown += reversed(chain)
    return shown


def _times(ratios: dict[str, pd.Series], teacher: str | None, variant: str) -> str:
    ratio = ratios[teacher].get(variant) if teacher in ratios else None
    return MISSING if ratio is None else f"{ratio:.2f} ×"
