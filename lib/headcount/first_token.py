"""The last layer at the first token alone, where the answer is read.

A classifier of BERT or DistilBERT reads the last hidden state of [CLS] and no other. So its last
layer needs keys and values of all tokens, but only one query, one row of W_O and one of the
feed-forward network. The logits are the same numbers; of the 12 H^2 multiplications a token that
the layer's matrices take (feed-forward width 4H), 2 H^2 are left.

Files of :mod:`headcount.export` compute it so, and so do students while they learn from answers
alone (``Recipe.first_token``). Else every model in torch computes the whole layer, whose hidden
states and attention other chapters read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount.prune.surgery import ARCHITECTURES, AttentionLayer, attention_layers


def _last_block(model: PreTrainedModel) -> nn.Module:
    return model.base_model.get_submodule(ARCHITECTURES[model.config.model_type].blocks)[-1]


def linears(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers of which no logit reads more than the first position.

    They are those of the last block, but for W_K and W_V.

    Raises:
        InputError: as :func:`headcount.prune.surgery.attention_layers`.
    """
    layer = attention_layers(model)[-1]
    return [
        module
        for module in _last_block(model).modules()
        if isinstance(module, nn.Linear) and module not in (layer.key, layer.value)
    ]


@contextmanager
def alone(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within the context the last block returns (batch, 1, hidden), in training too.

    Gradients are those of the whole layer: no other position has any. Dropout is drawn for the
    first token alone, so that a training has other masks than with the whole layer.

    Masks are those of attention, plain or fused: additive or boolean, (batch, 1, 1 or sequence,
    sequence), or None.

    Raises:
        InputError: as :func:`headcount.prune.surgery.attention_layers`.
    """
    layer, block = attention_layers(model)[-1], _last_block(model)
    finish = {"bert": _bert, "distilbert": _distilbert}[model.config.model_type]

    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, *_, **__) -> Tensor:
        first = hidden_states[:, :1]
        return finish(block, _attended(layer, first, hidden_states, attention_mask), first)

    block.forward = forward  # of this object; its class keeps its own
    try:
        yield model
    finally:
        del block.forward


def _attended(layer: AttentionLayer, first: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """What self-attention hands to W_O, (batch, 1, heads * head_size)."""
    if not layer.heads:
        return first  # its W_O is a bias, which reads the shape alone
    q, k, v = (
        linear(x).unflatten(-1, (len(layer.heads), layer.head_size)).transpose(1, 2)
        for linear, x in ((layer.query, first), (layer.key, hidden), (layer.value, hidden))
    )
    mask = None if mask is None else mask[:, :, :1]
    dropped = layer.core.dropout.p if layer.core.training else 0.0
    if not dropped:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:  # plainly, see headcount.dropout
        scores = q @ k.transpose(2, 3) / math.sqrt(layer.head_size)
        if mask is not None:
            scores = scores + mask if mask.is_floating_point() else scores.where(mask, -math.inf)
        attended = F.dropout(scores.softmax(-1), dropped) @ v
    return attended.transpose(1, 2).flatten(2)


def _bert(block: nn.Module, attended: Tensor, first: Tensor) -> Tensor:
    return block.feed_forward_chunk(block.attention.output(attended, first))


def _distilbert(block: nn.Module, attended: Tensor, first: Tensor) -> Tensor:
    attended = block.sa_layer_norm(block.attention.out_lin(attended) + first)
    return block.output_layer_norm(block.ffn(attended) + attended)
