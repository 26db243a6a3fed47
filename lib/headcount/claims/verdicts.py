"""Verdicts on the claims, from what a study left."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from headcount import records, stats
from headcount.claims.evidence import Settled
from headcount.claims.trial import BY_ID, CLAIMS, Claim

NOT_RUN = "not yet run"
SAW_TEST = "no verdict: the teacher saw the test"


def verdict(claim: Claim, difference: stats.Difference, *, saw_test: bool) -> str:
    """`supported`, `refuted` or `undecided`, unless the teacher saw the test."""
    if saw_test:
        return SAW_TEST
    return stats.verdict(difference, claim.margin, side=claim.side, claim_effect=claim.claim_effect)


def settle(
    claim: Claim,
    folder: Path,
    *,
    saw_test: bool,
    fold: int | str = "*",
    draws: int = stats.DRAWS,
    seed: int = 0,
) -> Settled | None:
    """A claim's difference and the other columns of `judge`, `verdict` among them; None if not run.

    `fold` is one, or "*" for all that have run, pooled. A teacher that saw the test settles none.
    """
    how = {"fold": fold, "draws": draws, "seed": seed}
    settled = claim.evidence and claim.evidence.settle(folder, **how)
    if not settled:
        return None
    difference, named = settled
    outcome = named.pop("barred", None) or verdict(claim, difference, saw_test=saw_test)
    if claim.together and outcome == "supported":
        other = settle(BY_ID[claim.together], folder, saw_test=saw_test, **how)
        told = other[1]["verdict"] if other else NOT_RUN
        if told != "supported":
            outcome = f"undecided: {claim.together} is {told}"
    return difference, named | {"verdict": outcome}


COLUMNS = [
    "id", "text", "variant", "baseline", "unit", "margin", "claimed", "seeds_needed", "seeds", "n",
    "diff", "diff_low", "diff_high", "p", "p_holm", "detectable", "only_variant", "only_baseline",
    "p_mcnemar", "verdict",
]  # fmt: skip


def judge(folder: Path, *, draws: int = stats.DRAWS, seed: int = 0) -> pd.DataFrame:
    """One row a claim, in their order, judged on what lies in `folder`, all folds pooled.

    Columns: id, text, variant, baseline, unit, margin, claimed (the effect, where one was named),
    seeds_needed; where the evidence has run also n, diff, diff_low, diff_high (95 %; fractions, or
    the unit), p, p_holm (over the contrasts that have run), detectable, and for variants seeds,
    only_variant and only_baseline (predictions that one of the two gets right alone), p_mcnemar;
    and verdict.
    """
    left = [*records.read(folder), *records.read_sweeps(folder), *records.read_findings(folder)]
    saw_test = any(one.teacher_saw_test for one in left)
    rows = []
    for claim in CLAIMS:
        row = {"id": claim.id, "text": claim.text, "margin": claim.margin}
        row |= {"claimed": claim.claim_effect, "seeds_needed": claim.seeds, "verdict": NOT_RUN}
        if settled := settle(claim, folder, saw_test=saw_test, draws=draws, seed=seed):
            difference, named = settled
            row |= named | {
                "n": difference.n,
                "diff": difference.diff,
                "diff_low": difference.low,
                "diff_high": difference.high,
                "p": difference.p,
                "detectable": difference.detectable,
            }
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    return table.assign(p_holm=stats.holm(table["p"].astype(float)))


def with_holm(pooled: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """`pooled` with `p_holm` where a row's difference is a primary contrast, missing elsewhere."""
    # Only variants have seeds: a gap of the same two is another contrast.
    primary = judged.dropna(subset="seeds")[["variant", "baseline", "p_holm"]]
    merged = pooled.drop(columns="p_holm").merge(primary, how="left", on=["variant", "baseline"])
    return merged[list(pooled.columns)]
