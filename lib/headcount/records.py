"""What a result is: one checked JSON file a variant, fold and seed, its predictions beside it.

A folder of results looks like this (``work/<profile>`` while a study runs, ``reports/<profile>``
once it is published)::

    records/{variant}.fold{k}.seed{s}.json      predictions/{variant}.fold{k}.seed{s}.csv
    sweeps/{name}.fold{k}.seed{s}.json          sweeps/{name}.fold{k}.seed{s}.csv
    findings/{claim}.fold{k}.json               what a claim compares that is no two variants' F1
    measures/{variant}.json                     what the ruler of chapter 7 read, fold 0 only

Files are written whole or not at all, so a file that exists is a result.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from headcount import curves, stats
from headcount.errors import InputError

PROBABILITIES = ["p_negative", "p_neutral", "p_positive"]
VARIANT_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
SENTENCE_COLUMNS = ["id", "group", "source", "label"]

# Columns of the two tables, in the order of the design.
RESULTS_COLUMNS = [
    "study", "chapter", "variant", "baseline", "fold", "seed", "split", "n",
    "macro_f1", "accuracy", "f1_negative", "f1_neutral", "f1_positive", "ece",
    "params", "nonzero_params", "size_mb", "heads_alive", "heads_total", "layers", "macs",
    "latency_ms_p50", "latency_ms_p95", "throughput_sps", "peak_rss_mb",
    "train_seconds", "steps", "device", "precision", "runtime", "teacher_saw_test",
    "weights_sha256", "baseline_sha256", "commit",
]  # fmt: skip
POOLED_COLUMNS = [
    "variant", "baseline", "folds", "seeds", "n", "macro_f1", "ci_low", "ci_high",
    "diff", "diff_low", "diff_high", "p", "p_holm",
]  # fmt: skip
# What chapter 1 and the machine settle for a whole study, by its name in a record's configuration.
SETTINGS = ("model", "model_revision", "model_commit", "corpus", "protocol", "training_precision")
READINGS = ["latency_ms_p50", "latency_ms_p95", "throughput_sps", "peak_rss_mb"]


class Provenance(BaseModel):
    """Where a record comes from: enough to run it again and to see why it differs."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]
    data_sha256: str
    commit: str
    versions: dict[str, str]
    threads: int
    batch_size: int | None = None
    max_length: int | None = None
    cpu: str = ""
    cpu_flags: list[str] = []
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Record(BaseModel):
    """One variant, scored on one part of one fold with one seed. Scores lie in [0, 1]."""

    model_config = ConfigDict(extra="forbid")

    study: str
    chapter: str
    variant: str = Field(pattern=VARIANT_PATTERN)
    baseline: str | None
    fold: int = Field(ge=0)
    seed: int = Field(ge=0)
    split: Literal["test", "validation"]
    n: int = Field(gt=0)
    macro_f1: float = Field(ge=0, le=1)
    accuracy: float = Field(ge=0, le=1)
    f1_negative: float = Field(ge=0, le=1)
    f1_neutral: float = Field(ge=0, le=1)
    f1_positive: float = Field(ge=0, le=1)
    ece: float = Field(ge=0, le=1)
    params: int | None = None
    nonzero_params: int | None = None
    size_mb: float | None = None
    heads_alive: int | None = None
    heads_total: int | None = None
    layers: int | None = None
    macs: int | None = None
    train_seconds: float | None = None
    steps: int | None = None
    device: str
    precision: Literal["fp32", "bf16", "fp16", "int8", "int4", "mixed"]
    runtime: str
    teacher_saw_test: bool
    weights_sha256: str | None = None
    baseline_sha256: str | None = None
    provenance: Provenance

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.variant}.fold{self.fold}.seed{self.seed}"


class Sweep(BaseModel):
    """Many models' predictions of the same sentences: a curve's points, a grid's cells.

    The sentences are the test part of its fold, or what its chapter says (the tune part, another
    domain). ``points`` name the columns of its table, such as ``entropy@30``; ``weights_sha256`` is
    of the model that they were all made from, or taught by.
    """

    model_config = ConfigDict(extra="forbid")

    study: str
    chapter: str
    name: str = Field(pattern=VARIANT_PATTERN)
    fold: int = Field(ge=0)
    seed: int = Field(ge=0)
    n: int = Field(gt=0)
    points: list[str] = Field(min_length=1)
    weights_sha256: str
    teacher_saw_test: bool
    provenance: Provenance

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.name}.fold{self.fold}.seed{self.seed}"


class Finding(BaseModel):
    """What a claim compares, where that is not macro-F1 of two variants.

    ``variant`` and ``baseline`` say in words what is compared; ``n`` counts ``n_unit`` (sentences,
    heads). ``diff``, its 95 % interval ``low`` to ``high`` and ``detectable`` are fractions where
    ``unit`` is shown in hundredths (points, %, % of the heads), else they are in ``unit`` (nats,
    rank correlation). A ratio is given as its distance from 1.
    """

    model_config = ConfigDict(extra="forbid")

    study: str
    chapter: str
    claim: str = Field(pattern=r"^C[0-9]+[a-z]?$")
    fold: int = Field(ge=0)
    variant: str
    baseline: str
    unit: str
    diff: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    p: float | None = Field(None, ge=0, le=1)
    n: int = Field(gt=0)
    n_unit: str
    detectable: FiniteFloat | None = None
    teacher_saw_test: bool
    provenance: Provenance

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return f"{self.claim}.fold{self.fold}"

    def difference(self) -> stats.Difference:
        """What was found, as verdicts take it; its groups are its ``n``."""
        p = float("nan") if self.p is None else self.p
        return stats.Difference(self.diff, self.low, self.high, p, self.n, self.n)


Result = Record | Sweep | Finding
# Where a result's JSON is, and the table that it vouches for.
FOLDERS: dict[type[Result], str] = {Record: "records", Sweep: "sweeps", Finding: "findings"}
TABLES: dict[type[Result], str] = {Record: "predictions", Sweep: "sweeps"}


class Measure(BaseModel):
    """What the ruler read of one variant; times in ms, sizes in 10^6 bytes."""

    model_config = ConfigDict(extra="forbid")

    variant: str = Field(pattern=VARIANT_PATTERN)
    runtime: str
    size_mb: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    latency128_ms_p50: float
    latency128_ms_p95: float
    latency128_ms_p99: float
    throughput_sps: float
    peak_rss_mb: float
    warmup: int
    timed: int
    timed128: int
    threads: int
    cpu: str
    cpu_flags: list[str]
    weights_sha256: str | None = None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` whole or not at all: a killed run leaves no half file under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Macro-F1, accuracy, F1 by class and expected calibration error.

    ``labels`` (n,) in {0, 1, 2}; ``probabilities`` (n, 3), rows summing to 1.
    """
    guesses = probabilities.argmax(1)
    by_class = stats.f1_by_class(labels, guesses)
    return {
        "macro_f1": float(by_class.mean()),
        "accuracy": float((guesses == labels).mean()),
        "f1_negative": float(by_class[0]),
        "f1_neutral": float(by_class[1]),
        "f1_positive": float(by_class[2]),
        "ece": float(stats.ece(labels, probabilities)),
    }


def write(folder: Path, record: Record, predictions: pd.DataFrame) -> None:
    """Write the predictions, then the record that vouches for them.

    ``predictions`` has the columns id, group, source, label, p_negative, p_neutral, p_positive.

    Raises:
        InputError: the record's baseline is known in this fold and its weights are others than
            those that ``record.baseline_sha256`` names.
    """
    if record.baseline is not None:
        _check_baseline(folder, record, read(folder, variant=record.baseline, fold=record.fold))
    columns = [*SENTENCE_COLUMNS, *PROBABILITIES]
    table = predictions[columns].to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_text(folder / "predictions" / f"{record.stem}.csv", table)
    write_text(folder / "records" / f"{record.stem}.json", record.model_dump_json(indent=1) + "\n")


def remove(folder: Path, result: Result) -> None:
    """Remove a record, a sweep or a finding, and the table that it vouches for."""
    kind = type(result)
    (folder / FOLDERS[kind] / f"{result.stem}.json").unlink()
    if kind in TABLES:
        (folder / TABLES[kind] / f"{result.stem}.csv").unlink(missing_ok=True)


def _check_baseline(folder: Path, record: Record, others: list[Record]) -> None:
    """Refuse a record that was made from other weights than its baseline's in ``others`` are."""
    known = [
        one.weights_sha256
        for one in others
        if (one.variant, one.fold) == (record.baseline, record.fold) and one.weights_sha256
    ]
    if known and record.baseline_sha256 and record.baseline_sha256 not in known:
        raise InputError(
            f"{record.variant} (fold {record.fold}) was made from {record.baseline} with weights "
            f"{record.baseline_sha256[:12]}, but the record of {record.baseline} in {folder} names "
            f"{known[0][:12]}: run the chapter of {record.variant} again"
        )


def read(
    folder: Path, *, variant: str = "*", fold: int | str = "*", seed: int | str = "*"
) -> list[Record]:
    """Read the records below ``folder``, in the order of their names.

    Raises:
        InputError: a file is no record.
    """
    return _parsed(Record, (folder / "records").glob(f"{variant}.fold{fold}.seed{seed}.json"))


Kind = TypeVar("Kind", bound=BaseModel)


def _parsed(kind: type[Kind], paths: Iterable[Path]) -> list[Kind]:
    found = []
    for path in sorted(paths):
        try:
            found.append(kind.model_validate_json(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{path} is no {kind.__name__.lower()} "
                f"({'.'.join(map(str, first['loc']))}: {first['msg']}): "
                "delete it and run its chapter again"
            ) from None
    return found


def write_sweep(folder: Path, sweep: Sweep, table: pd.DataFrame) -> None:
    """Write a sweep's table, then the JSON that vouches for it.

    ``table`` has the columns id, group, source, label and one for each point: the predicted class.

    Raises:
        InputError: columns, rows or classes are not those of a sweep.
    """
    columns = [*SENTENCE_COLUMNS, *sweep.points]
    if len({*curves.KEYS, *sweep.points}) < len(curves.KEYS) + len(sweep.points):
        raise InputError(
            f"sweep {sweep.stem} names a point twice, or like a column that is none "
            f"({', '.join(curves.KEYS)}): name each point once"
        )
    if sorted(table.columns) != sorted(columns) or len(table) != sweep.n:
        differ = sorted(set(table.columns) ^ set(columns))
        raise InputError(
            f"sweep {sweep.stem} names {sweep.n} sentences, its table has {len(table)} (columns "
            f"that only one of them has: {', '.join(differ) or 'none'}): pass them as they are"
        )
    classes = table[["label", *sweep.points]]
    if not classes.isin(range(stats.CLASSES)).all(axis=None):
        raise InputError(f"sweep {sweep.stem} holds a class that is not 0, 1 or 2: pass class ids")
    whole = table[columns].astype(dict.fromkeys(classes, int))
    text = whole.to_csv(index=False, lineterminator="\n")
    write_text(folder / "sweeps" / f"{sweep.stem}.csv", text)
    write_text(folder / "sweeps" / f"{sweep.stem}.json", sweep.model_dump_json(indent=1) + "\n")


def read_sweeps(folder: Path, name: str = "*", fold: int | str = "*") -> list[Sweep]:
    """Read the sweeps below ``folder``, in the order of their names.

    Raises:
        InputError: a file is no sweep.
    """
    return _parsed(Sweep, (folder / "sweeps").glob(f"{name}.fold{fold}.seed*.json"))


def sweep(folder: Path, name: str, fold: int | str = "*") -> pd.DataFrame:
    """Guesses of a sweep, all seeds and, unless one is named, all folds pooled.

    Columns: id, group, source, fold, seed, label, and the points that every fold and seed has, in
    the first one's order.

    Raises:
        InputError: there is no such sweep, its folds have no point in common, or a table is missing
            or not the one that its JSON vouches for.
    """
    found = read_sweeps(folder, name, fold=fold)
    if not found:
        raise InputError(f"no sweep {name!r} in {folder}: run its chapter first")
    parts = []
    for one in found:
        path = folder / "sweeps" / f"{one.stem}.csv"
        part = _read_table(path, one.chapter)
        if list(part) != [*SENTENCE_COLUMNS, *one.points] or len(part) != one.n:
            raise InputError(
                f"{path} does not hold the {one.n} sentences and {len(one.points)} points that its "
                f"JSON names: run chapter {one.chapter} again"
            )
        parts.append(part.assign(fold=one.fold, seed=one.seed))
    points = [point for point in found[0].points if all(point in one.points for one in found)]
    if not points:
        raise InputError(
            f"the folds of sweep {name!r} in {folder} have no point in common: run chapter "
            f"{found[0].chapter} of all folds with the same parameters"
        )
    return pd.concat(parts, ignore_index=True)[[*curves.KEYS, *points]]


def write_finding(folder: Path, finding: Finding) -> None:
    """Write what was found on a claim, in place of what this fold had found before."""
    path = folder / "findings" / f"{finding.stem}.json"
    write_text(path, finding.model_dump_json(indent=1) + "\n")


def read_findings(folder: Path, claim: str = "*", fold: int | str = "*") -> list[Finding]:
    """Read the findings below ``folder``, in the order of their names.

    Raises:
        InputError: a file is no finding.
    """
    return _parsed(Finding, (folder / "findings").glob(f"{claim}.fold{fold}.json"))


def write_measures(folder: Path, read_off: Iterable[Measure]) -> None:
    """Write what the ruler read, one file a variant, in place of all that it had read before."""
    texts = {f"{one.variant}.json": one.model_dump_json(indent=1) + "\n" for one in read_off}
    for path in (folder / "measures").glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        write_text(folder / "measures" / name, text)


def measures(folder: Path) -> pd.DataFrame:
    """What the ruler read, one row a variant; empty before chapter 7 has run."""
    rows = [
        Measure.model_validate_json(path.read_text(encoding="utf-8")).model_dump()
        for path in sorted((folder / "measures").glob("*.json"))
    ]
    return pd.DataFrame(rows, columns=list(Measure.model_fields))


def table(folder: Path) -> pd.DataFrame:
    """``results.csv``: a row a variant, fold and seed; the ruler's readings on fold 0's rows."""
    rows = []
    for record in read(folder):
        row = record.model_dump(exclude={"provenance"})
        rows.append(row | {"commit": record.provenance.commit})
    results = pd.DataFrame(rows, columns=[c for c in RESULTS_COLUMNS if c not in READINGS])
    readings = measures(folder)[["variant", *READINGS]].assign(fold=0)
    results = results.merge(readings, how="left", on=["variant", "fold"])[RESULTS_COLUMNS]
    whole = ["params", "nonzero_params", "heads_alive", "heads_total", "layers", "macs", "steps"]
    return results.astype(dict.fromkeys(whole, "Int64"))


def _read_table(path: Path, chapter: str) -> pd.DataFrame:
    """A table of sentences, as it was written or as `headcount.study.publish` packs it."""
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and not packed.exists():
        raise InputError(f"{path} is missing: run chapter {chapter} again")
    table = pd.read_csv(path if path.exists() else packed, dtype={"id": str, "source": str})
    return table.copy()  # in one block: a column for each of many points makes as many


def predictions(folder: Path, variant: str, *, fold: int | str = "*") -> pd.DataFrame:
    """Test predictions of ``variant``, all seeds and, unless one is named, all folds pooled.

    Columns: id, group, source, fold, seed, label, p_negative, p_neutral, p_positive.

    Raises:
        InputError: there is no such variant, or a record's predictions are missing.
    """
    parts = []
    for record in read(folder, variant=variant, fold=fold):
        if record.split != "test":
            continue
        part = _read_table(folder / "predictions" / f"{record.stem}.csv", record.chapter)
        parts.append(part.assign(fold=record.fold, seed=record.seed))
    if not parts:
        raise InputError(f"no test predictions of {variant!r} in {folder}: run its chapter first")
    return pd.concat(parts, ignore_index=True)[[*curves.KEYS, *PROBABILITIES]]


def paired(folder: Path, variant: str, baseline: str, *, fold: int | str = "*") -> pd.DataFrame:
    """Labels and guesses of two variants over the same sentences, folds and seeds.

    A baseline with one seed is the reference of every seed of the variant. Columns: id, group,
    source, fold, label, guess, baseline_guess.
    """
    left, right = (_guesses(folder, name, fold) for name in (variant, baseline))
    keys = ["id", "fold"] + ["seed"] * (right["seed"].nunique() > 1)
    right = right[[*keys, "guess"]].rename(columns={"guess": "baseline_guess"})
    return left.merge(right, on=keys, validate="many_to_one")


def _guesses(folder: Path, variant: str, fold: int | str = "*") -> pd.DataFrame:
    frame = predictions(folder, variant, fold=fold)
    return frame.assign(guess=frame[PROBABILITIES].to_numpy().argmax(1)).drop(columns=PROBABILITIES)


def pool(folder: Path, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """``pooled.csv``: a row a variant, scored once on the test parts of all folds together.

    ``ci_*`` bound macro-F1, ``diff_*`` the paired difference to the baseline (fractions, not
    points): bootstrap over groups of near-duplicates, 95 %. ``p`` is the paired permutation test;
    ``p_holm`` is left to the report, which knows the primary contrasts.
    """
    found = read(folder)
    check_one_study(folder, [*found, *read_sweeps(folder), *read_findings(folder)])
    for record in found:
        _check_baseline(folder, record, found)
    rows = []
    for variant, group in table(folder).query("split == 'test'").groupby("variant", sort=False):
        row = {
            "variant": variant,
            "baseline": group["baseline"].iloc[0],
            "folds": group["fold"].nunique(),
            "seeds": group["seed"].nunique(),
        }
        row |= interval(folder, variant, draws=draws, seed=seed)
        if isinstance(row["baseline"], str):
            difference = contrast(folder, variant, row["baseline"], draws=draws, seed=seed)
            row |= {
                "diff": difference.diff,
                "diff_low": difference.low,
                "diff_high": difference.high,
                "p": difference.p,
            }
        rows.append(row)
    return pd.DataFrame(rows, columns=POOLED_COLUMNS)


def check_one_study(folder: Path, found: Sequence[Result]) -> None:
    """Refuse results that cannot be pooled: of other sentences, teachers, protocols or machines.

    Raises:
        InputError: names what differs.
    """
    settings = {
        name: {str(record.provenance.config.get(name)) for record in found} for name in SETTINGS
    }
    settings["sentences"] = {record.provenance.data_sha256[:12] for record in found}
    settings["device"] = {
        record.device
        for record in found
        if isinstance(record, Record) and record.runtime == "torch"
    }
    for name, values in settings.items():
        if len(values) > 1:
            differ = f"{name}: {', '.join(sorted(values))}"
            raise InputError(
                f"{folder} holds records that cannot be pooled ({differ}): "
                "remove it and its artifacts, and run the study again on one machine"
            )


def interval(
    folder: Path, variant: str, *, fold: int | str = "*", draws: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """n, macro_f1, and its 95 % interval by bootstrap over groups: ci_low, ci_high."""
    guesses = _guesses(folder, variant, fold)
    labels, guess, group = (guesses[name].to_numpy() for name in ("label", "guess", "group"))
    return stats.with_interval(labels, guess, group, draws=draws, seed=seed)


def contrast(
    folder: Path,
    variant: str,
    baseline: str,
    *,
    fold: int | str = "*",
    draws: int = 10_000,
    seed: int = 0,
) -> stats.Difference:
    """Paired difference in macro-F1, ``variant`` minus ``baseline``, on the pooled test parts."""
    pairs = paired(folder, variant, baseline, fold=fold)
    return stats.paired_difference(
        pairs["label"].to_numpy(),
        pairs["guess"].to_numpy(),
        pairs["baseline_guess"].to_numpy(),
        pairs["group"].to_numpy(),
        draws=draws,
        seed=seed,
    )


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
