"""Which of its implementations a model computes attention with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the context attention is computed plainly, step by step; afterwards as before.

    The fused kernels never form the maps, have no second derivatives on a CPU, and are slower there
    than the plain steps as soon as attention has dropout.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
