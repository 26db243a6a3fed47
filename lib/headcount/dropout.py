"""Dropout on a CPU, from sixteen random bits an element.

PyTorch draws a variate an element, which is a tenth of a training step of a model of MiniLM's size
on one core. And as soon as attention has dropout, its fused attention there falls back on a path
slower than the plain one. Sixteen random bits decide as well, and four elements share a draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from headcount.attention import eager_attention

LEVELS = 2**16

_drawn_one_by_one = F.dropout


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.dropout`, with ``p`` rounded to a multiple of 2^-16.

    The factor of what is kept belongs to the rounded p. Draws are of torch's generator, so that a
    training which restores its state goes on with the same masks. Never in place.
    """
    dropped = round(p * LEVELS)
    if not training or not 0 < dropped < LEVELS:
        return _drawn_one_by_one(x, p, training, inplace)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    bits = draws.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
    kept = (bits >= dropped - LEVELS // 2).to(x.dtype)
    return x * kept.mul_(LEVELS / (LEVELS - dropped))


@contextmanager
def quick_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Within the context all dropout is `dropout`, that of the model's attention included.

    It stands in for ``torch.nn.functional.dropout``, which both ``nn.Dropout`` and transformers'
    plain attention call, and puts fused attention aside. Nothing changes for a model that is not on
    the CPU.
    """
    if model.device.type != "cpu":
        yield
        return
    before = F.dropout
    F.dropout = dropout
    try:
        with eager_attention(model):
            yield
    finally:
        F.dropout = before
