"""Results as tables: `results.csv`, and the answers of a variant or a sweep, folds together."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from headcount import curves
from headcount.errors import InputError
from headcount.records.files import measures, read, read_sweeps, read_table
from headcount.records.kinds import PROBABILITIES, SENTENCE_COLUMNS

# Columns of the two tables, in the order of the design.
RESULTS_COLUMNS = [
    "study", "chapter", "variant", "baseline", "fold", "seed", "split", "n",
    "macro_f1", "accuracy", "f1_negative", "f1_neutral", "f1_positive", "ece",
    "params", "nonzero_params", "size_mb", "heads_alive", "heads_total", "layers", "macs",
    "latency_ms_p50", "latency_ms_p95", "throughput_sps", "peak_rss_mb",
    "train_seconds", "steps", "device", "precision", "runtime", "teacher_saw_test",
    "weights_sha256", "baseline_sha256", "commit",
]  # fmt: skip
READINGS = ["latency_ms_p50", "latency_ms_p95", "throughput_sps", "peak_rss_mb"]


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
        part = read_table(path, one.chapter)
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
        part = read_table(folder / "predictions" / f"{record.stem}.csv", record.chapter)
        parts.append(part.assign(fold=record.fold, seed=record.seed))
    if not parts:
        raise InputError(f"no test predictions of {variant!r} in {folder}: run its chapter first")
    return pd.concat(parts, ignore_index=True)[[*curves.KEYS, *PROBABILITIES]]


def paired(folder: Path, variant: str, baseline: str, *, fold: int | str = "*") -> pd.DataFrame:
    """Labels and guesses of two variants over the same sentences, folds and seeds.

    A baseline with one seed is the reference of every seed of the variant. Columns: id, group,
    source, fold, label, guess, baseline_guess.
    """
    left, right = (guesses(folder, name, fold) for name in (variant, baseline))
    keys = ["id", "fold"] + ["seed"] * (right["seed"].nunique() > 1)
    right = right[[*keys, "guess"]].rename(columns={"guess": "baseline_guess"})
    return left.merge(right, on=keys, validate="many_to_one")


def guesses(folder: Path, variant: str, fold: int | str = "*") -> pd.DataFrame:
    """`predictions`, with the likeliest class as ``guess`` in place of the probabilities."""
    frame = predictions(folder, variant, fold=fold)
    return frame.assign(guess=frame[PROBABILITIES].to_numpy().argmax(1)).drop(columns=PROBABILITIES)
