"""Iterative pruning: score the live heads, remove some, recover, and again."""

import logging
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel

from headcount.errors import InputError
from headcount.prune.scores import select
from headcount.prune.surgery import Head, alive, remove

log = logging.getLogger("headcount")

Recover = Callable[[PreTrainedModel, int], PreTrainedModel]
# (round, the recovered model, the heads that went in this round, the scores they were chosen by)
OnRound = Callable[[int, PreTrainedModel, list[Head], np.ndarray], None]


def target(total: int, rounds: int, share: float) -> int:
    """Heads that are gone after so many rounds: the running total is rounded, not each round."""
    return round(rounds * share * total)


def iterate(
    model: PreTrainedModel,
    score: Callable[[PreTrainedModel], np.ndarray],
    recover: Recover,
    rounds: int = 5,
    share: float = 0.10,
    on_round: OnRound | None = None,
) -> PreTrainedModel:
    """Remove ``share`` of the *original* heads a round, lowest score first, and recover after each.

    score: scores the live heads of the model, (layers, original heads), NaN where removed.
    recover: trains the model after round 1, 2, ... and returns it (or another of the same heads).
    on_round: told what happened, after each recovery.

    The model is cut in place; what the last ``recover`` returned is the result. Importance is
    computed afresh on live heads in every round, so no head is chosen twice. Raises InputError if
    the rounds would take more heads than there are, AssertionError if heads are not counted out.
    """
    total = model.config.num_hidden_layers * model.config.num_attention_heads
    start = sum(map(len, alive(model)))
    if rounds < 0 or share < 0 or target(total, rounds, share) > start:
        raise InputError(
            f"{rounds} rounds of {share:.0%} would remove {target(total, rounds, share)} heads "
            f"of {start}: lower rounds or share"
        )
    for number in range(1, rounds + 1):
        scores = score(model)
        expected = start - target(total, number, share)
        going = select(scores, sum(map(len, alive(model))) - expected)
        remove(model, going)
        log.info("round %d of %d: %d heads removed, %d left", number, rounds, len(going), expected)
        model = recover(model, number)
        left = sum(map(len, alive(model)))
        assert left == expected, f"{left} heads alive after round {number}, not {expected}"
        if on_round is not None:
            on_round(number, model, going, scores)
    return model
