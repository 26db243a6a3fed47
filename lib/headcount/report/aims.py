"""What the study set out to reach, as data, and how far it came, from what it left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd

from headcount import claims, records, stats
from headcount.report.study import Study
from headcount.report.tables import (
    MISSING,
    ONNX_TEACHER,
    TORCH_TEACHER,
    difference,
    shared_folds,
    shipped,
    speeds,
)

# The limits in bytes and layers were set for this teacher's students.
AIMS_MODEL = "minilm"


@dataclass(frozen=True)
class Left:
    """What a study left, as aims read it.

    Attributes:
        shipped: fold 0's row of `records.table`, by variant, where a size is known.
        speeds: what `tables.speeds` gives.
        draws: of the bootstrap.
    """

    folder: Path
    results: pd.DataFrame
    shipped: pd.DataFrame
    speeds: dict[str, pd.Series]
    folds: tuple[int, ...]
    draws: int

    def of(self, variant: str, column: str) -> float | None:
        """A number of fold 0's model; None where it is not known."""
        if variant not in self.shipped.index:
            return None
        value = self.shipped.loc[variant, column]
        return None if pd.isna(value) else float(value)


# What was found, in words, and whether it meets what was asked.
Reading = tuple[str, bool]


class Part(Protocol):
    """One thing that an aim asks of its variant.

    Attributes:
        what: the quantity, in one word.
        asked: its limit, in words.
    """

    what: str

    @property
    def asked(self) -> str: ...

    def read(self, variant: str, left: Left) -> Reading | None:
        """What was found; None where a chapter that it needs has not run."""


@dataclass(frozen=True)
class Loss:
    """Pooled macro-F1 of the variant minus that of `baseline`. Limits are fractions.

    Attributes:
        at_most: what the estimate may lie below the baseline; a gain meets it as well.
        low_above: what the lower end of the 95 % interval must exceed, if anything.
    """

    baseline: str
    at_most: float
    low_above: float | None = None
    what: str = "difference"

    @property
    def asked(self) -> str:
        lost = 100 * self.at_most
        text = f"at most {lost:g} point{'s' * (lost != 1)} below `{self.baseline}`"
        if self.low_above is not None:
            text += f", lower end above {difference('points', self.low_above)}"
        return text

    def read(self, variant: str, left: Left) -> Reading | None:
        folds = shared_folds(left.results, variant, self.baseline)
        if not folds:
            return None
        d = records.contrast(left.folder, variant, self.baseline, draws=left.draws)
        found = difference("points", d.diff, d.low, d.high, digits=2)
        if len(folds) < len(left.folds):
            found += f" (fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))} only)"
        above = self.low_above is None or d.low > self.low_above
        return found, d.diff >= -self.at_most and above


@dataclass(frozen=True)
class FileUnder:
    """The file that would be shipped, in 10^6 bytes."""

    megabytes: float
    what: str = "file"

    @property
    def asked(self) -> str:
        return f"under {self.megabytes:g} MB"

    def read(self, variant: str, left: Left) -> Reading | None:
        size = left.of(variant, "size_mb")
        return None if size is None else (f"{size:.2f} MB", size < self.megabytes)


@dataclass(frozen=True)
class FileSmaller:
    """The FP32 teacher's file over the variant's."""

    times: float
    what: str = "file"

    @property
    def asked(self) -> str:
        return f"{self.times:g} times smaller than `{TORCH_TEACHER}`'s"

    def read(self, variant: str, left: Left) -> Reading | None:
        size, whole = left.of(variant, "size_mb"), left.of(TORCH_TEACHER, "size_mb")
        if size is None or whole is None:
            return None
        return f"{whole / size:.2f} times smaller", whole / size >= self.times


@dataclass(frozen=True)
class Layers:
    """Transformer layers: a number of them, or, with `of`, a share of that variant's."""

    at_most: float
    of: str | None = None
    what: str = "layers"

    @property
    def asked(self) -> str:
        if self.of is None:
            return f"at most {self.at_most:g}"
        return f"at most {100 * self.at_most:g} % of `{self.of}`'s"

    def read(self, variant: str, left: Left) -> Reading | None:
        own = left.of(variant, "layers")
        whole = 1.0 if self.of is None else left.of(self.of, "layers")
        if own is None or whole is None:
            return None
        told = f"{own:.0f}" if self.of is None else f"{own:.0f} of {whole:.0f}"
        return told, own <= self.at_most * whole


@dataclass(frozen=True)
class Faster:
    """How many times as fast as the FP32 teacher in torch the variant is, by the ruler.

    The ratio to the FP32 teacher in ONNX Runtime stands beside it, and decides nothing.
    """

    times: float
    what: str = "speed"

    @property
    def asked(self) -> str:
        return f"{self.times:g} times `{TORCH_TEACHER}`'s in torch, one sentence at a time"

    def read(self, variant: str, left: Left) -> Reading | None:
        found = {
            teacher: ratios[variant]
            for teacher, ratios in left.speeds.items()
            if variant in ratios.index
        }
        if TORCH_TEACHER not in found:
            return None
        told = f"{found[TORCH_TEACHER]:.2f} times"
        if ONNX_TEACHER in found:
            told += f" ({found[ONNX_TEACHER]:.2f} times `{ONNX_TEACHER}`'s)"
        return told, found[TORCH_TEACHER] >= self.times


@dataclass(frozen=True)
class Aim:
    """All `parts` are asked of the one variant."""

    text: str
    variant: str
    parts: tuple[Part, ...]


AIMS = (
    Aim(
        "The whole study",
        "student-small-trimmed-int8-e4",
        (Loss(TORCH_TEACHER, 0.01), FileSmaller(10), Faster(10)),
    ),
    Aim("The teacher in INT8", "teacher-int8", (Loss(TORCH_TEACHER, 0.005), FileUnder(24))),
    Aim(
        "A small student",
        "student-small",
        (Loss(TORCH_TEACHER, 0.01, low_above=-0.015), Layers(0.5, of=TORCH_TEACHER)),
    ),
    Aim("A tiny student", "student-tiny", (Loss(TORCH_TEACHER, 0.03), Layers(2))),
    Aim(
        "The small student, deployed",
        "student-small-trimmed-int8",
        (Loss("student-small", 0.01), FileUnder(10), Faster(10)),
    ),
)


def aims(folder: Path, study: Study, *, draws: int = stats.DRAWS) -> pd.DataFrame:
    """One row an aim, as text: aim, variant, asked, found, outcome.

    Outcome: "met" where all parts are, "not met" where one is not, "undecided" where one that has
    not run could still decide, `claims.NOT_RUN` where none has, and `claims.SAW_TEST` for a teacher
    that has seen test sentences.
    """
    results = records.table(folder)
    left = Left(
        folder=folder,
        results=results,
        shipped=shipped(results).set_index("variant"),
        speeds=speeds(records.measures(folder)),
        folds=study.folds,
        draws=draws,
    )
    rows = []
    for aim in AIMS:
        readings = {part.what: part.read(aim.variant, left) for part in aim.parts}
        run = any(readings.values())
        told = (f"{what}: {r[0] if r else claims.NOT_RUN}" for what, r in readings.items())
        outcome = _outcome(readings, study.teacher_saw_test)
        rows.append(
            {
                "aim": aim.text,
                "variant": aim.variant,
                "asked": "; ".join(f"{part.what}: {part.asked}" for part in aim.parts),
                "found": "; ".join(told) if run else MISSING,
                "outcome": f"{outcome}{study.mark}" if run else claims.NOT_RUN,
            }
        )
    return pd.DataFrame(rows)


def _outcome(readings: dict[str, Reading | None], saw_test: bool) -> str:
    missed = [what for what, reading in readings.items() if reading and not reading[1]]
    waiting = [what for what, reading in readings.items() if not reading]
    if saw_test:
        return f"**{claims.SAW_TEST}**"
    if missed:
        return f"**not met**: {', '.join(missed)}"
    if waiting:
        return f"**undecided**: {', '.join(waiting)} {claims.NOT_RUN}"
    return "**met**"
