"""Pruning of attention heads: which matter less (scores), cutting them out (surgery), recovery."""

from headcount.prune.gates import (
    L0,
    HardConcrete,
    attach_gates,
    gated,
    gradient,
    settle_gates,
)
from headcount.prune.iterate import iterate, seed_loop, silent, target, zero
from headcount.prune.patterns import fixed_but_one, replaced
from headcount.prune.scores import (
    SCORES,
    attention_statistics,
    entropy,
    focus,
    score_all,
    select,
    tidy,
)
from headcount.prune.surgery import (
    alive,
    apply_heads_alive,
    attention_layers,
    masked,
    parameters_per_head,
    remove,
)

__all__ = [
    "L0",
    "SCORES",
    "HardConcrete",
    "alive",
    "apply_heads_alive",
    "attach_gates",
    "attention_layers",
    "attention_statistics",
    "entropy",
    "fixed_but_one",
    "focus",
    "gated",
    "gradient",
    "iterate",
    "masked",
    "parameters_per_head",
    "remove",
    "replaced",
    "score_all",
    "seed_loop",
    "select",
    "settle_gates",
    "silent",
    "target",
    "tidy",
    "zero",
]
