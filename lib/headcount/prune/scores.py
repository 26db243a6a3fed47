"""How much a head matters, by one criterion or another.

A criterion is a function ``(model, batches) -> scores``: an array of shape (layers, original
heads), NaN where a head has been removed. The lowest score goes first. ``batches`` is iterated once
and holds dictionaries of tensors, ``input_ids`` and ``attention_mask`` of shape (batch, length);
``gradient`` wants ``labels`` too; other keys are passed over. A new criterion is one function and
one line of ``SCORES``.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor
from transformers import PreTrainedModel

from headcount.attention import eager_attention
from headcount.errors import InputError
from headcount.prune.gates import gradient
from headcount.prune.surgery import Head, alive, attention_layers

Batches = Iterable[Mapping[str, Tensor]]
Score = Callable[[PreTrainedModel, Batches], np.ndarray]
# (maps (batch, heads, queries, keys), the batch) -> one value a query (batch, heads, queries)
RowStatistic = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@contextmanager
def _showing_attention(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode with eager attention: the fused kernels never form the maps."""
    training = model.training
    model.eval()
    try:
        with eager_attention(model):
            yield
    finally:
        model.train(training)


def attention_statistics(
    model: PreTrainedModel,
    batches: Batches,
    statistics: Mapping[str, RowStatistic],
    *,
    padded_queries: bool = False,
) -> dict[str, np.ndarray]:
    """Means of statistics of attention rows over real queries, each (layers, original heads).

    One pass for all of them. A statistic sees the maps of one layer and one batch, and they are
    dropped at once. Padded keys have weight 0 already; padded queries are left out of the mean here
    (unless ``padded_queries`` asks for them, as the seed study has it), and so are sentences of a
    single token, whose only map is uniform and focused at once. float64. Raises InputError if
    nothing is left to score, or if a map is not finite.
    """
    layers = attention_layers(model)
    living = [layer for layer in layers if layer.heads]
    sums = {(name, layer.index): 0.0 for name in statistics for layer in living}
    counts = {layer.index: 0 for layer in living}
    batch: Mapping[str, Tensor] = {}

    def accumulate(index: int):
        def hook(core, args, output):
            maps = output[1].float()
            rows = batch["attention_mask"].bool()
            rows = rows.sum(1, keepdim=True).gt(1) & (rows | padded_queries)
            counts[index] += rows.sum().item()
            for name, statistic in statistics.items():
                values = statistic(maps, batch).where(rows[:, None, :], 0)
                sums[name, index] += values.sum((0, 2), dtype=torch.float64).cpu().numpy()

        return hook

    handles = [layer.core.register_forward_hook(accumulate(layer.index)) for layer in living]
    try:
        with _showing_attention(model), torch.no_grad():
            for given in batches:
                batch = {k: v.to(model.device) for k, v in given.items() if k in INPUTS}
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    shape = (len(layers), model.config.num_attention_heads)
    scores = {name: np.full(shape, np.nan) for name in statistics}
    for (name, index), total in sums.items():
        if not counts[index]:
            raise InputError("no sentence to score heads on: give at least one of two tokens")
        if not np.isfinite(total).all():
            raise InputError(f"attention in layer {index} is not finite: the model has diverged")
        scores[name][index, layers[index].heads] = total / counts[index]
    return scores


# --- what a row of attention tells ---------------------------------------------------------------


def _lengths(batch: Mapping[str, Tensor]) -> Tensor:
    """n, the number of each sentence's own tokens, (batch, 1, 1)."""
    return batch["attention_mask"].sum(1)[:, None, None]


def focus(base: int | None = None) -> RowStatistic:
    """1 - H(A_i) / log n: 0 where a row is spread evenly, 1 where it is on a single token.

    n is the sentence's own length, or ``base``, as the seed study takes 128 for every sentence.
    """

    def row_focus(attention: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        unit = _lengths(batch).log() if base is None else math.log(base)
        return 1 - torch.special.entr(attention).sum(-1) / unit

    return row_focus


def _row_sparsity(attention: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Hoyer's sparsity of every row, in [0, 1]: (sqrt n - |a|_1 / |a|_2) / (sqrt n - 1)."""
    root = _lengths(batch).sqrt()
    return (root - attention.sum(-1) / attention.norm(dim=-1)) / (root - 1)


def _row_confidence(attention: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The largest weight of every row, the sentence's last token ([SEP]) left out as a key."""
    last = batch["attention_mask"].cumsum(1).argmax(1)
    sep = F.one_hot(last, attention.shape[-1]).bool()
    return attention.masked_fill(sep[:, None, None, :], 0).amax(-1)


ROWS: dict[str, RowStatistic] = {
    "entropy": focus(),
    "sparsity": _row_sparsity,
    "distribution": _row_confidence,
}


# --- criteria ------------------------------------------------------------------------------------


def entropy(
    model: PreTrainedModel,
    batches: Batches,
    *,
    padded_queries: bool = False,
    base: int | None = None,
) -> np.ndarray:
    """1 - mean over real queries of H(A[h]_i) / log n, n the sentence's own length (Fardeen 2022).

    0 for a head that looks everywhere alike, 1 for one that looks at a single token: the most
    uniform heads go first. ``padded_queries=True, base=128`` is the seed study's arithmetic.
    """
    rows = {"entropy": focus(base)}
    return attention_statistics(model, batches, rows, padded_queries=padded_queries)["entropy"]


def entropy_reversed(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """The mean normalised entropy itself: the most focused heads go first."""
    return 1 - entropy(model, batches)


def sparsity(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """Mean Hoyer sparsity of the rows (Fardeen 2022 names the metric, the definition is ours)."""
    return attention_statistics(model, batches, {"sparsity": _row_sparsity})["sparsity"]


def distribution(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """Mean largest weight of the rows, [SEP] left out as a key (Voita 2019's confidence).

    Fardeen 2022 names the metric, the definition is ours. [SEP] is the sentence's last token.
    """
    return attention_statistics(model, batches, {"distribution": _row_confidence})["distribution"]


def combined(model: PreTrainedModel, batches: Batches) -> np.ndarray:
    """Mean rank of a head by entropy, sparsity and distribution (Fardeen 2022); ranks from 1."""
    return _mean_rank(attention_statistics(model, batches, ROWS).values())


def _mean_rank(scores: Iterable[np.ndarray]) -> np.ndarray:
    ranks = [rankdata(one, axis=None, nan_policy="omit").reshape(one.shape) for one in scores]
    return np.mean(ranks, axis=0)


def magnitude(model: PreTrainedModel, batches: Batches = ()) -> np.ndarray:
    """||W_V[h]||_F + ||W_O[h]||_F: the baseline of Fardeen 2022. ``batches`` are not looked at."""
    layers = attention_layers(model)
    scores = np.full((len(layers), model.config.num_attention_heads), np.nan)
    for layer in layers:
        for head in layer.heads:
            block = layer.block(head)
            norms = layer.value.weight[block].norm() + layer.output.weight[:, block].norm()
            scores[layer.index, head] = norms.item()
    return scores


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
    "sparsity": sparsity,
    "distribution": distribution,
    "combined": combined,
    "magnitude": magnitude,
    "gradient": gradient,
    "random": random,
}


def score_all(
    model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, np.ndarray]:
    """Scores by every criterion of ``SCORES``; those that read attention share one pass."""
    scores = attention_statistics(model, batches, ROWS)
    scores["entropy-reversed"] = 1 - scores["entropy"]
    scores["combined"] = _mean_rank(scores[name] for name in ROWS)
    return {
        name: scores[name] if name in scores else score(model, batches)
        for name, score in SCORES.items()
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
