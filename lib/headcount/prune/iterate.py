"""Iterative pruning: score the live heads, remove some, recover, and again."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from headcount.errors import InputError
from headcount.prune.scores import select
from headcount.prune.surgery import Head, alive, attention_layers, remove

log = logging.getLogger("headcount")

Recover = Callable[[PreTrainedModel, int], PreTrainedModel]
# (round, the recovered model, the heads that went in this round, the scores they were chosen by)
OnRound = Callable[[int, PreTrainedModel, list[Head], np.ndarray], None]


def target(total: int, share: float) -> int:
    """Heads that are gone at a share of the total: the running total is rounded, not each round."""
    return round(share * total)


def iterate(
    model: PreTrainedModel,
    score: Callable[[PreTrainedModel], np.ndarray],
    recover: Recover,
    shares: Sequence[float],
    on_round: OnRound | None = None,
) -> PreTrainedModel:
    """Remove heads round by round, lowest score first, and recover after each round.

    score: scores the live heads of the model, (layers, original heads), NaN where removed.
    recover: trains the model after round 1, 2, ... and returns it (or another of the same heads).
    shares: of the *original* heads, what is gone after each round; ascending, in [0, 1].
    on_round: told what happened, after each recovery.

    The model is cut in place; what the last ``recover`` returned is the result. Importance is
    computed afresh on live heads in every round, so no head is chosen twice. Raises InputError if
    the shares do not ascend or take more heads than there are, AssertionError if heads are not
    counted out.
    """
    total = model.config.num_hidden_layers * model.config.num_attention_heads
    start = sum(map(len, alive(model)))
    gone = [target(total, share) for share in shares]
    if gone != sorted(gone) or any(not 0 <= n <= start for n in gone):
        raise InputError(
            f"shares {list(shares)} would remove {', '.join(map(str, gone))} heads of {start}: "
            "let them ascend, and take no more than there are"
        )
    for number, n in enumerate(gone, start=1):
        scores = score(model)
        expected = start - n
        going = select(scores, sum(map(len, alive(model))) - expected)
        remove(model, going)
        log.info("round %d of %d: %d heads go, %d left", number, len(gone), len(going), expected)
        model = recover(model, number)
        left = sum(map(len, alive(model)))
        assert left == expected, f"{left} heads alive after round {number}, not {expected}"
        if on_round is not None:
            on_round(number, model, going, scores)
    return model


# --- the seed study's loop ------------------------------------------------------------------------


def zero(model: PreTrainedModel, heads: Sequence[Head]) -> None:
    """Set all the weights of some heads to zero and leave them in place, as the seed study does."""
    layers = attention_layers(model)
    for index, head in heads:
        layer, block = layers[index], layers[index].block(head)
        with torch.no_grad():
            for linear in (layer.query, layer.key, layer.value):
                linear.weight[block] = 0
                linear.bias[block] = 0
            layer.output.weight[:, block] = 0


def silent(model: PreTrainedModel) -> list[Head]:
    """Heads that are in place and contribute nothing: their columns of W_O are all zero."""
    return [
        (layer.index, head)
        for layer in attention_layers(model)
        for head in layer.heads
        if not layer.output.weight[:, layer.block(head)].any()
    ]


def seed_loop(
    model: PreTrainedModel,
    score: Callable[[PreTrainedModel], np.ndarray],
    recover: Recover,
    rounds: int = 5,
    share: float = 0.10,
    on_round: OnRound | None = None,
) -> PreTrainedModel:
    """The seed study's loop as its code has it (FinCompress, commit 442af31): an error kept.

    In each round it scores all heads, those that it has zeroed included, and zeroes the lowest
    ``share`` of the total (rounded down). A zeroed head has uniform attention, by entropy the
    lowest score of all, so it is chosen again; and as its gradients are zero, recovery never
    revives it. Arguments and result as those of `iterate`; ``on_round`` is told the heads chosen.
    """
    total = model.config.num_hidden_layers * model.config.num_attention_heads
    for number in range(1, rounds + 1):
        scores = score(model)
        chosen = select(scores, int(share * total))
        zero(model, chosen)
        log.info("round %d of %d: %d heads zeroed", number, rounds, len(chosen))
        model = recover(model, number)
        if on_round is not None:
            on_round(number, model, chosen, scores)
    return model
