"""The claims on trial, as data, and their verdicts so far, from a study's records.

Contrasts, margins and sides were fixed before any run. What a claim compares is macro-F1 of one
variant minus that of another; where it compares something else, `contrast` is empty until the
chapter that measures it exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from headcount import records, stats

NOT_RUN = "not yet run"
SAW_TEST = "no verdict: the teacher saw the test"
UNEQUAL = "no verdict: trained for unequal steps"


@dataclass(frozen=True)
class Claim:
    """What somebody says, and the one comparison that settles it.

    Attributes:
        contrast: two variants; the difference is the first minus the second.
        margin, claim_effect: fractions of macro-F1, not points. The effect is what was claimed.
        side: of the margin, on which the claim says that the difference lies.
        seeds: how many the contrast needs.
        equal_steps: whether both variants must have been trained equally long.
    """

    id: str
    text: str
    contrast: tuple[str, str] | None = None
    margin: float = 0.0
    side: str = "above"
    claim_effect: float | None = None
    seeds: int = 1
    equal_steps: bool = False


CLAIMS = (
    Claim(
        "C1",
        "I pruned half of the attention heads and it got better",
        ("heads-entropy-50", "teacher-continued-15"),
        claim_effect=0.009,
        seeds=3,
        equal_steps=True,
    ),
    Claim("C2", "Entropy finds the heads that matter less"),
    Claim("C3", "Pruning regularises"),
    Claim("C4", "Early layers are the redundant ones"),
    Claim("C5", "There is a sharp cliff, and iterating defers it"),
    Claim(
        "C6",
        "Vanilla beats intermediate distillation for unlike architectures",
        ("student-kd", "student-intermediate-tuned"),
        claim_effect=0.03,
    ),
    Claim(
        "C7",
        "Soft labels teach more than hard ones",
        ("student-kd-init", "student-hard-init"),
        equal_steps=True,
    ),
    Claim("C8", "T squared is not optional"),
    Claim("C9", "The layer map matters"),
    Claim("C10", "Post-training INT8 is nearly free", ("teacher-int8", "teacher"), margin=-0.005),
    Claim("C11", "Quantisation-aware training recovers the rest"),
    Claim("C12", "The first and last layers are sensitivity cliffs"),
    Claim("C13", "A pruned model's latency stays about the same"),
    Claim("C14", "9.1 times smaller"),
    Claim("C15a", "20 % of the heads, chosen by gradient, go without noticeable loss"),
    Claim(
        "C15b",
        "30 % of the heads, chosen at random, go without noticeable loss",
        ("heads-random-30", "teacher-continued-9"),
        margin=-0.005,
        equal_steps=True,
    ),
    Claim("C16", "Attention metrics beat random and magnitude up to 50 %"),
    Claim("C17", "The specialised heads go last"),
    Claim("C18", "The verdicts hold out of domain"),
)
BY_ID = {claim.id: claim for claim in CLAIMS}


def verdict(claim: Claim, difference: stats.Difference, *, saw_test: bool) -> str:
    """`supported`, `refuted` or `undecided`, unless the teacher saw the test."""
    if saw_test:
        return SAW_TEST
    return stats.verdict(difference, claim.margin, side=claim.side, claim_effect=claim.claim_effect)


def judge(folder: Path, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """One row a claim, in their order, judged on the pooled test parts of the records in `folder`.

    Columns: id, text, variant, baseline, margin, seeds_needed; where both variants have run also
    seeds, diff, diff_low, diff_high (fractions, 95 %), p (paired permutation), p_holm (over the
    contrasts that have run), detectable, only_variant and only_baseline (rows that one of the two
    gets right alone), p_mcnemar; and verdict. A teacher that saw the test settles nothing.
    """
    results = records.table(folder).query("split == 'test'")
    present = set(results["variant"])
    rows = []
    for claim in CLAIMS:
        variant, baseline = claim.contrast or (None, None)
        row = {"id": claim.id, "text": claim.text, "variant": variant, "baseline": baseline}
        row |= {"margin": claim.margin, "seeds_needed": claim.seeds, "verdict": NOT_RUN}
        if {variant, baseline} <= present:
            row |= _settle(claim, folder, results, draws, seed)
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    return table.assign(p_holm=stats.holm(table["p"].astype(float)))


COLUMNS = [
    "id", "text", "variant", "baseline", "margin", "seeds_needed", "seeds", "n", "diff",
    "diff_low", "diff_high", "p", "p_holm", "detectable", "only_variant", "only_baseline",
    "p_mcnemar", "verdict",
]  # fmt: skip


def _settle(
    claim: Claim, folder: Path, results: pd.DataFrame, draws: int, seed: int
) -> dict[str, object]:
    difference = records.contrast(folder, *claim.contrast, draws=draws, seed=seed)
    pairs = records.paired(folder, *claim.contrast)
    discordant = stats.mcnemar(pairs["label"], pairs["guess"], pairs["baseline_guess"])
    both = results[results["variant"].isin(claim.contrast)]
    outcome = verdict(claim, difference, saw_test=both["teacher_saw_test"].any())
    if claim.equal_steps and both.groupby("variant")["steps"].mean().nunique() > 1:
        outcome = UNEQUAL
    return {
        "seeds": int(results.query("variant == @claim.contrast[0]")["seed"].nunique()),
        "n": difference.n,
        "diff": difference.diff,
        "diff_low": difference.low,
        "diff_high": difference.high,
        "p": difference.p,
        "detectable": difference.detectable,
        "only_variant": discordant.only_first,
        "only_baseline": discordant.only_second,
        "p_mcnemar": discordant.p,
        "verdict": outcome,
    }


def with_holm(pooled: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """`pooled` with `p_holm` where a row's difference is a primary contrast, missing elsewhere."""
    primary = judged.dropna(subset="diff")[["variant", "baseline", "p_holm"]]
    merged = pooled.drop(columns="p_holm").merge(primary, how="left", on=["variant", "baseline"])
    return merged[list(pooled.columns)]
