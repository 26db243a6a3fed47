"""The claims on trial, as data, and their verdicts so far, from what a study left.

Contrasts, margins and sides were fixed before any run. Most claims compare macro-F1 of one variant
with that of another; some compare curves over many masked models, and some were measured in another
unit altogether: each says which, as its evidence.
"""

from headcount.claims.beside import TEACHING, Question
from headcount.claims.evidence import (
    SCALES,
    UNEQUAL,
    Elsewhere,
    Evidence,
    Found,
    Gap,
    Settled,
    Sweep,
    Variants,
)
from headcount.claims.sweeps import (
    area,
    at,
    deferral,
    early_minus_late,
    ends_minus_rest,
    random_series,
    series,
)
from headcount.claims.trial import (
    BY_ID,
    CLAIMS,
    Claim,
)
from headcount.claims.verdicts import (
    NOT_RUN,
    SAW_TEST,
    judge,
    settle,
    verdict,
    with_holm,
)

__all__ = [
    "BY_ID",
    "CLAIMS",
    "NOT_RUN",
    "SAW_TEST",
    "SCALES",
    "TEACHING",
    "UNEQUAL",
    "Claim",
    "Elsewhere",
    "Evidence",
    "Found",
    "Gap",
    "Question",
    "Settled",
    "Sweep",
    "Variants",
    "area",
    "at",
    "deferral",
    "early_minus_late",
    "ends_minus_rest",
    "judge",
    "random_series",
    "series",
    "settle",
    "verdict",
    "with_holm",
]
