"""Pruning of attention heads: which matter less (scores), cutting them out (surgery), recovery."""

from headcount.prune.iterate import iterate, target
from headcount.prune.scores import SCORES, attention_statistic, select, tidy
from headcount.prune.surgery import (
    alive,
    apply_heads_alive,
    attention_layers,
    masked,
    parameters_per_head,
    remove,
)

__all__ = [
    "SCORES",
    "alive",
    "apply_heads_alive",
    "attention_layers",
    "attention_statistic",
    "iterate",
    "masked",
    "parameters_per_head",
    "remove",
    "select",
    "target",
    "tidy",
]
