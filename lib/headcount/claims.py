"""The claims on trial, as data, and their verdicts so far, from what a study left.

Contrasts, margins and sides were fixed before any run. Most claims compare macro-F1 of one variant
with that of another; some compare curves over many masked models, and some were measured in another
unit altogether: each says which, as its evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from headcount import curves, records, stats

NOT_RUN = "not yet run"
SAW_TEST = "no verdict: the teacher saw the test"
UNEQUAL = "no verdict: trained for unequal steps"

# What a difference is multiplied by to be told in its unit.
SCALES = {"points": 100, "%": 100, "% of the heads": 100, "nats": 1, "rank correlation": 1}
Points = Mapping[str, np.ndarray]
Settled = tuple[stats.Difference, dict[str, Any]]


class Evidence(Protocol):
    """The one comparison that settles a claim."""

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        """The difference, and the columns of `judge` that it does not fill; None if not run.

        Keywords: draws, seed, and fold, "*" for all of them together.
        """


@dataclass(frozen=True)
class Variants:
    """Macro-F1 of a variant minus that of its baseline, on the pooled test parts.

    Attributes:
        equal_steps: whether both must have been trained equally long.
    """

    variant: str
    baseline: str
    equal_steps: bool = False

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        names = (self.variant, self.baseline)
        fold = how["fold"]
        results = records.table(folder).query("split == 'test' and variant in @names")
        if fold != "*":
            results = results.query("fold == @fold")
        if results["variant"].nunique() < 2:
            return None
        pairs = records.paired(folder, *names, fold=fold)
        alone = stats.mcnemar(pairs["label"], pairs["guess"], pairs["baseline_guess"])
        unequal = results.groupby("variant")["steps"].mean().nunique() > 1
        return records.contrast(folder, *names, **how), {
            "variant": self.variant,
            "baseline": self.baseline,
            "unit": "points",
            "seeds": int(results.query("variant == @self.variant")["seed"].nunique()),
            "only_variant": alone.only_first,
            "only_baseline": alone.only_second,
            # Exact for sentences that are seen once.
            "p_mcnemar": alone.p if len(pairs) == pairs["id"].nunique() else None,
            "barred": UNEQUAL if self.equal_steps and unequal else None,
        }


@dataclass(frozen=True)
class Sweep:
    """A number computed from macro-F1 at many points of a sweep, on the pooled test parts.

    Attributes:
        name: of the sweep.
        variant, baseline: what is compared, in words.
        value: takes macro-F1 by point, arrays of any one shape, and returns the difference.
        needs: points, or series (what stands before their @), without which it has not run.
    """

    name: str
    variant: str
    baseline: str
    value: Callable[[Points], np.ndarray]
    needs: tuple[str, ...]
    unit: str = "points"

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        fold = how.pop("fold")
        if not records.read_sweeps(folder, self.name, fold=fold):
            return None
        table = records.sweep(folder, self.name, fold=fold)
        if not set(self.needs) <= {*table, *(point.partition("@")[0] for point in table)}:
            return None
        difference = curves.contrast(table, self.value, **how)
        named = {"variant": self.variant, "baseline": self.baseline, "unit": self.unit}
        return difference, named


@dataclass(frozen=True)
class Elsewhere:
    """Macro-F1 of a variant minus that of its baseline, on sentences of another domain.

    Those are the same in every fold: each is answered by every fold's model, and counts as a group
    of near-duplicates with its own answers.

    Attributes:
        sweep: in which both answered.
    """

    sweep: str
    variant: str
    baseline: str

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        fold = how.pop("fold")
        if not records.read_sweeps(folder, self.sweep, fold=fold):
            return None
        table = records.sweep(folder, self.sweep, fold=fold)
        if not {self.variant, self.baseline} <= set(table):
            return None
        answers = (table[name].to_numpy() for name in ("label", self.variant, self.baseline))
        difference = stats.paired_difference(*answers, table["group"].to_numpy(), **how)
        variant, baseline = (f"{name}, out of domain" for name in (self.variant, self.baseline))
        return difference, {"variant": variant, "baseline": baseline, "unit": "points"}


@dataclass(frozen=True)
class Gap:
    """Cross-entropy on the validation part minus that on the training part, of two variants.

    Read from the table `losses` that chapter 5 leaves in each fold.
    """

    variant: str
    baseline: str

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        pattern = f"fold{how.pop('fold')}/05_pruning-losses.csv"
        tables = [pd.read_csv(path) for path in sorted((folder / "tables").glob(pattern))]
        if not tables:
            return None
        table = pd.concat(tables)
        if not {self.variant, self.baseline} <= set(table):
            return None
        differences = table[self.variant] - table[self.baseline]
        validation = table["part"] == "validation"
        difference = curves.gap(differences, validation, table["group"], **how)
        return difference, {"variant": self.variant, "baseline": self.baseline, "unit": "nats"}


@dataclass(frozen=True)
class Found:
    """What a chapter measured on fold 0, and wrote down as a finding of this claim."""

    claim: str

    def settle(self, folder: Path, **how: Any) -> Settled | None:
        findings = records.read_findings(folder, self.claim, fold=how["fold"])
        if not findings:
            return None
        found = findings[0]
        named = {"variant": found.variant, "baseline": found.baseline, "unit": found.unit}
        return found.difference(), named


# --- what sweeps are asked -----------------------------------------------------------------------


def series(points: Points, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Curve of a series from the whole model on: percent (m,), macro-F1 (..., m).

    The points are `whole`, at 0 percent, and `{name}@{percent}`.
    """
    found = {float(p.partition("@")[2]): v for p, v in points.items() if p.startswith(f"{name}@")}
    percent = sorted(found)
    return np.array([0.0, *percent]), np.stack([points["whole"], *map(found.get, percent)], -1)


def random_series(points: Points) -> list[str]:
    """Names of the series that are random draws, `random0` and so on."""
    names = dict.fromkeys(point.partition("@")[0] for point in points)
    return [name for name in names if name.startswith("random")]


def _over_draws(values: np.ndarray) -> np.ndarray:
    """Mean over random draws (k, ...); where sentences are resampled (k, n), draws are as well.

    Other draws would have been other heads: their luck belongs into the interval.
    """
    if values.ndim == 1:
        return values.mean()
    k, n = values.shape
    times = np.random.default_rng(0).multinomial(k, np.full(k, 1 / k), size=n).T
    return (times * values).sum(0) / k


def area(points: Points, name: str) -> np.ndarray:
    """Mean height of a series' curve; of `random`, the mean over the draws."""
    if name != "random":
        return curves.area(*series(points, name))
    return _over_draws(np.stack([curves.area(*series(points, r)) for r in random_series(points)]))


def at(points: Points, name: str, percents: Sequence[int]) -> np.ndarray:
    """Mean macro-F1 of a series over some percents; of `random`, over the draws too."""
    names = random_series(points) if name == "random" else [name]
    heights = [np.mean([points[f"{one}@{p}"] for p in percents], axis=0) for one in names]
    return _over_draws(np.stack(heights)) if name == "random" else heights[0]


def _layers(points: Points) -> np.ndarray:
    """Macro-F1 without each layer's heads, (layers, ...)."""
    names = sorted((p for p in points if p.startswith("off@")), key=lambda p: int(p[4:]))
    return np.stack([points[name] for name in names])


def early_minus_late(points: Points) -> np.ndarray:
    """Macro-F1 lost without the heads of a layer: first half of the layers minus second half."""
    scores = _layers(points)
    half = len(scores) // 2
    return scores[-half:].mean(0) - scores[:half].mean(0)


def deferral(points: Points) -> np.ndarray:
    """Share of the heads at which 2 points are lost: step by step minus at once.

    Lost against the whole model after as many epochs of training, series `continued`.
    """
    percent, continued = series(points, "continued")
    steps, once = (
        curves.sparsity_at_loss(percent, series(points, name)[1] - continued)
        for name in ("steps", "once")
    )
    return (steps - once) / 100


def ends_minus_rest(points: Points) -> np.ndarray:
    """Macro-F1 lost with one module's weights in INT4: mean of the two ends minus that of the rest.

    The ends are the embeddings and the classifier.
    """
    scores = {p.removeprefix("int4 "): v for p, v in points.items() if p.startswith("int4 ")}
    ends = [scores.pop(name) for name in ("embeddings", "classifier")]
    return np.mean(list(scores.values()), axis=0) - np.mean(ends, axis=0)


# --- the claims ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What somebody says, and what settles it.

    Attributes:
        margin, claim_effect: in fractions (of macro-F1, of the heads) or in the evidence's unit.
            The effect is what was claimed.
        side: of the margin, on which the claim says that the difference lies.
        seeds: how many the contrast needs.
        together: a claim without whose support this one has none either.
    """

    id: str
    text: str
    evidence: Evidence | None = None
    margin: float = 0.0
    side: str = "above"
    claim_effect: float | None = None
    seeds: int = 1
    together: str | None = None


CLAIMS = (
    Claim(
        "C1",
        "I pruned half of the attention heads and it got better",
        Variants("heads-entropy-50", "teacher-continued-15", equal_steps=True),
        claim_effect=0.009,
        seeds=3,
    ),
    Claim(
        "C2",
        "Entropy finds the heads that matter less",
        Sweep(
            "one-shot",
            "heads off by entropy, one shot, area",
            "heads off by random draws",
            lambda points: area(points, "entropy") - area(points, "random"),
            needs=("entropy", "random0"),
        ),
    ),
    Claim(
        "C3",
        "Pruning regularises",
        Gap("heads-entropy-50", "teacher-continued-15"),
        side="below",
        together="C1",
    ),
    Claim(
        "C4",
        "Early layers are the redundant ones",
        Sweep(
            "layers",
            "heads of a layer off, loss, first half of the layers",
            "second half",
            early_minus_late,
            needs=("off",),
        ),
        side="below",
    ),
    Claim(
        "C5",
        "There is a sharp cliff, and iterating defers it",
        Sweep(
            "cliff",
            "heads gone when 2 points are lost, step by step",
            "at once",
            deferral,
            needs=("steps", "once", "continued"),
            unit="% of the heads",
        ),
    ),
    Claim(
        "C6",
        "Vanilla beats intermediate distillation for unlike architectures",
        Variants("student-kd", "student-intermediate-tuned", equal_steps=True),
        claim_effect=0.03,
    ),
    Claim(
        "C7",
        "Soft labels teach more than hard ones",
        Variants("student-kd-init", "student-hard-init", equal_steps=True),
    ),
    Claim(
        "C8",
        "T squared is not optional",
        Variants("student-kd", "student-kd-no-t2", equal_steps=True),
    ),
    Claim(
        "C9",
        "The layer map matters",
        Variants("student-intermediate-tuned", "student-map-reversed", equal_steps=True),
    ),
    Claim(
        "C10",
        "Post-training INT8 is nearly free",
        Variants("teacher-int8", "teacher"),
        margin=-0.005,
    ),
    Claim(
        "C11",
        "Quantisation-aware training recovers the rest",
        Variants("student-small-qat", "student-small-continued-int8", equal_steps=True),
    ),
    Claim(
        "C12",
        "The first and last layers are sensitivity cliffs",
        Sweep(
            "sensitivity",
            "one module's weights in INT4, loss, embeddings and classifier",
            "the other modules",
            ends_minus_rest,
            needs=("int4 embeddings", "int4 classifier"),
        ),
    ),
    Claim(
        "C13",
        "A pruned model's latency stays about the same",
        Found("C13"),
        margin=0.05,
        side="within",
    ),
    Claim("C14", "9.1 times smaller", Found("C14"), margin=0.02, side="within"),
    Claim(
        "C15a",
        "20 % of the heads, chosen by gradient, go without noticeable loss",
        Sweep(
            "one-shot",
            "heads off by gradient, one shot, 20 %",
            "teacher",
            lambda points: points["gradient@20"] - points["whole"],
            needs=("gradient@20",),
        ),
        margin=-0.005,
    ),
    Claim(
        "C15b",
        "30 % of the heads, chosen at random, go without noticeable loss",
        Variants("heads-random-30", "teacher-continued-9", equal_steps=True),
        margin=-0.005,
    ),
    Claim(
        "C16a",
        "Attention metrics beat magnitude up to 50 %",
        Sweep(
            "one-shot",
            "heads off by combined, one shot, 30 % and 50 %",
            "heads off by magnitude",
            lambda points: at(points, "combined", (30, 50)) - at(points, "magnitude", (30, 50)),
            needs=tuple(f"{name}@{p}" for name in ("combined", "magnitude") for p in (30, 50)),
        ),
    ),
    Claim(
        "C16b",
        "Attention metrics beat random up to 50 %",
        Sweep(
            "one-shot",
            "heads off by combined, one shot, 30 % and 50 %",
            "heads off by random draws",
            lambda points: at(points, "combined", (30, 50)) - at(points, "random", (30, 50)),
            needs=tuple(f"{name}@{p}" for name in ("combined", "random0") for p in (30, 50)),
        ),
    ),
    Claim("C17", "The specialised heads go last", Found("C17")),
    Claim(
        "C18a",
        "Soft labels teach more than hard ones, out of domain",
        Elsewhere("elsewhere", "student-kd-init", "student-hard-init"),
    ),
    Claim(
        "C18b",
        "Post-training INT8 is nearly free, out of domain",
        Elsewhere("elsewhere", "teacher-int8", "teacher"),
        margin=-0.005,
    ),
    Claim(
        "C18c",
        "Pruning half of the attention heads is better, out of domain",
        Elsewhere("elsewhere-heads", "heads-entropy-50", "teacher-continued-15"),
        claim_effect=0.009,
    ),
)
BY_ID = {claim.id: claim for claim in CLAIMS}


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


COLUMNS = [
    "id", "text", "variant", "baseline", "unit", "margin", "claimed", "seeds_needed", "seeds", "n",
    "diff", "diff_low", "diff_high", "p", "p_holm", "detectable", "only_variant", "only_baseline",
    "p_mcnemar", "verdict",
]  # fmt: skip


def with_holm(pooled: pd.DataFrame, judged: pd.DataFrame) -> pd.DataFrame:
    """`pooled` with `p_holm` where a row's difference is a primary contrast, missing elsewhere."""
    # Only variants have seeds: a gap of the same two is another contrast.
    primary = judged.dropna(subset="seeds")[["variant", "baseline", "p_holm"]]
    merged = pooled.drop(columns="p_holm").merge(primary, how="left", on=["variant", "baseline"])
    return merged[list(pooled.columns)]
