"""How much a head matters, by one criterion or another.

A criterion is a function ``(model, batches) -> scores``: an array of shape (layers, original
heads), NaN where a head has been removed. The lowest score goes first. ``batches`` is iterated once
and holds dictionaries of tensors, ``input_ids`` and ``attention_mask`` of shape (batch, length);
other keys are passed over. A new criterion is one function and one line of ``SCORES``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from headcount.errors import InputError
from headcount.prune.surgery import Head, alive, attention_layers

Batches = Iterable[Mapping[str, Tensor]]
Score = Callable[[PreTrainedModel, Batches], np.ndarray]
# (maps (batch, heads, queries, keys), the batch) -> one value a query (batch, heads, queries)
RowStatistic = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@contextmanager
def _showing_attention(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode with eager attention: the fused kernels never form the maps."""
    implementation, training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    model.eval()
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)
        model.train(training)


def attention_statistic(
    model: PreTrainedModel, batches: Batches, statistic: RowStatistic
) -> np.ndarray:
    """Mean of a statistic of attention rows over real queries, (layers, original heads), float64.

    ``statistic`` sees the maps of one layer and one batch, and they are dropped at once. Padded
    keys have weight 0 already; padded queries are left out of the mean here, and so are sentences
    of a single token, whose only map is uniform and focused at once. Raises InputError if nothing
    is left to score, or if a map is not finite.
    """
    layers = attention_layers(model)
    scores = np.full((len(layers), model.config.num_attention_heads), np.nan)
    sums = {layer.index: 0.0 for layer in layers if layer.heads}
    counts = dict(sums)
    batch: Mapping[str, Tensor] = {}

    def accumulate(index: int):
        def hook(core, args, output):
            values = statistic(output[1].float(), batch)
            real = batch["attention_mask"].bool()
            real &= real.sum(1, keepdim=True) > 1
            counts[index] += real.sum().item()
            values = values.where(real[:, None, :], 0)
            sums[index] += values.sum((0, 2), dtype=torch.float64).cpu().numpy()

        return hook

    handles = [
        layer.core.register_forward_hook(accumulate(layer.index)) for layer in layers if layer.heads
    ]
    try:
        with _showing_attention(model), torch.no_grad():
            for given in batches:
                batch = {k: v.to(model.device) for k, v in given.items() if k in INPUTS}
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    for index in sums:
        if not counts[index]:
            raise InputError("no sentence to score heads on: give at least one of two tokens")
        if not np.isfinite(sums[index]).all():
            raise InputError(f"attention in layer {index} is not finite: the model has diverged")
        scores[index, layers[index].heads] = sums[index] / counts[index]
    return scores


def _row_entropy(attention: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """H(A_i) / log n of every row, in [0, 1]."""
    return (
        torch.special.entr(attention).sum(-1) / batch["attention_mask"].sum(1).log()[:, None, None]
    )


def entropy(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """1 - mean over real queries of H(A[h]_i) / log n, n the sentence's own length (Fardeen 2022).

    0 for a head that looks everywhere alike, 1 for one that looks at a single token: the most
    uniform heads go first.
    """
    return 1 - attention_statistic(model, batches, _row_entropy)


def entropy_reversed(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """The mean normalised entropy itself: the most focused heads go first."""
    return 1 - entropy(model, batches)


def random(
    model: PreTrainedModel, batches: Batches = (), *, seed: int | Sequence[int] = 0
) -> np.ndarray:
    """Uniform draws in [0, 1), a function of the seed (or seeds) alone.

    A head keeps its draw from round to round, so what a seed removes later contains what it removed
    before. ``batches`` are not looked at.
    """
    live = alive(model)
    draws = np.random.default_rng(seed).random((len(live), model.config.num_attention_heads))
    dead = np.array([np.isin(range(draws.shape[1]), heads, invert=True) for heads in live])
    return np.where(dead, np.nan, draws)


SCORES: dict[str, Score] = {
    "entropy": entropy,
    "entropy-reversed": entropy_reversed,
    "random": random,
}


def tidy(scores: np.ndarray) -> pd.DataFrame:
    """Scores as a frame with a row a head: layer, head, score, alive."""
    layers, heads = np.indices(scores.shape).reshape(2, -1)
    frame = pd.DataFrame({"layer": layers, "head": heads, "score": scores.ravel()})
    return frame.assign(alive=frame["score"].notna())


def select(scores: np.ndarray, k: int) -> list[Head]:
    """The k live heads of lowest score as (layer, head), the lowest first.

    Equal scores go by layer, then by head. A layer may lose all its heads. Raises InputError if
    fewer than k heads are alive.
    """
    live = int((~np.isnan(scores)).sum())
    if not 0 <= k <= live:
        raise InputError(f"{k} heads cannot be chosen: {live} have a score; ask for 0 to {live}")
    order = np.argsort(scores, axis=None, kind="stable")[:k]
    return [divmod(int(flat), scores.shape[1]) for flat in order]
