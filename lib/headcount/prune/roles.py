"""What a head seems to do, by where its largest weight falls (Voita 2019, arXiv:1905.09418).

Means are over real queries of sentences of two tokens or more; arrays are (layers, original heads),
NaN where a head has been removed. Of equal weights the first in the sentence is the largest.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from headcount.prune.scores import Batches, attention_statistics

POSITIONAL = 0.9  # a head is positional from this share of its rows on (Voita 2019, section 5.1)


def _on(attention: Tensor, target: Tensor) -> Tensor:
    """1.0 where a row's largest weight is on the target, 0.0 elsewhere, (b, heads, queries).

    NaN where the row has none, so that a diverged model is noticed.
    """
    largest, at = attention.max(-1)
    return (at == target).float().masked_fill(largest.isnan(), torch.nan)


def positional(
    model: PreTrainedModel, batches: Batches, offsets: Sequence[int] = (-2, -1, 0, 1, 2)
) -> tuple[np.ndarray, np.ndarray]:
    """How steadily a head looks at one place relative to the query (Voita 2019, section 5.1).

    Returns (share, offset): the largest share, over the offsets, of rows whose largest weight is on
    the token at that offset from the query, and that offset (the first given, if equal). Rows for
    which the offset falls outside the sentence count, as rows whose largest weight is elsewhere.
    """

    def row_offset(offset: int, attention: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        # Past the end comes padding or nothing, and before the start nothing: no weight is there.
        return _on(attention, torch.arange(attention.shape[-1], device=attention.device) + offset)

    statistics = {str(offset): partial(row_offset, offset) for offset in offsets}
    found = attention_statistics(model, batches, statistics)
    shares = np.stack([found[str(offset)] for offset in offsets])
    share = shares.max(0)
    return share, np.where(np.isnan(share), np.nan, np.asarray(offsets)[shares.argmax(0)])


def rare(model: PreTrainedModel, batches: Batches, counts: np.ndarray) -> np.ndarray:
    """How much oftener than by chance a head looks at the rarest token (Voita 2019, section 5.3).

    The share of rows whose largest weight is on the sentence's rarest token, minus the mean over
    rows of 1/n, n the sentence's own length. The first and the last real token, [CLS] and [SEP],
    cannot be the rarest; of equally rare ones the first is. Rows of a sentence of two tokens have
    none, and add nothing to the share or to chance.

    counts: (vocabulary,), how often each token id occurs in the training part.
    """
    often = torch.as_tensor(counts, dtype=torch.float64, device=model.device)

    def row_rarest(attention: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        mask = batch["attention_mask"]
        place, n = mask.cumsum(1), mask.sum(1, keepdim=True)
        inner = mask.bool() & (place > 1) & (place < n)
        rarest = often[batch["input_ids"]].masked_fill(~inner, torch.inf).argmin(1)
        gain = _on(attention, rarest[:, None, None]) - 1 / n[:, None]
        return gain * inner.any(1)[:, None, None]

    return attention_statistics(model, batches, {"rare": row_rarest})["rare"]


def token_counts(input_ids: Iterable[Sequence[int]], vocabulary: int) -> np.ndarray:
    """How often each token id occurs in unpadded sentences, int64 (vocabulary,)."""
    every = np.fromiter(chain.from_iterable(input_ids), dtype=np.int64)
    return np.bincount(every, minlength=vocabulary)
