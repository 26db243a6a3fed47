"""Results of all folds together: scores and differences with their intervals, `pooled.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from headcount import stats
from headcount.errors import InputError
from headcount.records.files import check_baseline, read, read_findings, read_sweeps
from headcount.records.kinds import Record, Result
from headcount.records.tables import guesses, paired, table

POOLED_COLUMNS = [
    "variant", "baseline", "folds", "seeds", "n", "macro_f1", "ci_low", "ci_high",
    "diff", "diff_low", "diff_high", "p", "p_holm",
]  # fmt: skip
# What chapter 1 and the machine settle for a whole study, by its name in a record's configuration.
SETTINGS = ("model", "model_revision", "model_commit", "corpus", "protocol", "training_precision")


def pool(folder: Path, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """``pooled.csv``: a row a variant, scored once on the test parts of all folds together.

    ``ci_*`` bound macro-F1, ``diff_*`` the paired difference to the baseline (fractions, not
    points): bootstrap over groups of near-duplicates, 95 %. ``p`` is the paired permutation test;
    ``p_holm`` is left to the report, which knows the primary contrasts.
    """
    found = read(folder)
    check_one_study(folder, [*found, *read_sweeps(folder), *read_findings(folder)])
    for record in found:
        check_baseline(folder, record, found)
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


def check_trained_on(
    folder: Path, teachers: Sequence[Record], here: tuple[str, str], otherwise: str
) -> None:
    """Refuse to go on with trainings of another kind of machine: :func:`check_one_study`, early.

    Args:
        here: this machine's device and training precision, such as ``("cpu", "bf16")``.
        otherwise: what to do instead, for the message.
    """
    pairs = {(one.device, one.provenance.config.get("training_precision")) for one in teachers}
    if others := sorted(pair for pair in pairs - {here} if pair[1]):
        device, precision = others[0]
        raise InputError(
            f"{folder} was trained on {device} in {precision}, and this machine trains in "
            f"{here[1]} on {here[0]}: {otherwise}"
        )


def interval(
    folder: Path, variant: str, *, fold: int | str = "*", draws: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """n, macro_f1, and its 95 % interval by bootstrap over groups: ci_low, ci_high."""
    frame = guesses(folder, variant, fold)
    labels, guess, group = (frame[name].to_numpy() for name in ("label", "guess", "group"))
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
