"""The claims on trial. Contrasts, margins and sides were fixed before any run."""

from __future__ import annotations

from dataclasses import dataclass

from headcount.claims.evidence import Elsewhere, Evidence, Found, Gap, Sweep, Variants
from headcount.claims.sweeps import area, at, deferral, early_minus_late, ends_minus_rest


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
    Claim("C14a", "9.1 times smaller", Found("C14a"), margin=0.02, side="within"),
    Claim(
        "C14b",
        "A model's size is one number, once what differs is explained",
        Found("C14b"),
        margin=0.02,
        side="within",
    ),
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
        Elsewhere("elsewhere-students", "student-kd-init", "student-hard-init"),
    ),
    Claim(
        "C18b",
        "Post-training INT8 is nearly free, out of domain",
        Elsewhere("elsewhere-int8", "teacher-int8", "teacher"),
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
