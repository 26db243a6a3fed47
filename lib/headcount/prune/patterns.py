"""Attention by fixed patterns: weights that hang on positions alone, not on queries and keys.

A pattern is a function ``mask -> weights``: from ones (real tokens) and zeros (padding), int64
(b, n), to (b, n, n), queries by keys, float32. The row of a real token sums to 1 and has nothing on
padding; the row of padding is finite. [CLS] and [SEP] are tokens like any other: the first real
token is a sentence's start, the last its end. Sources: Kovaleva 2019 (arXiv:1908.08593), Raganato
2020 (arXiv:2002.10260).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount.errors import InputError
from headcount.prune.surgery import AttentionLayer, Head, alive, attention_layers, by_layer

Pattern = Callable[[Tensor], Tensor]


def _rows(weights: Tensor, mask: Tensor) -> Tensor:
    """Weights (b, 1 or n, n) as a pattern; a row with none on a real token looks at its own."""
    weights = (weights * mask[:, None, :]).float()
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total, torch.eye(mask.shape[1], device=mask.device))


def _offsets(mask: Tensor) -> Tensor:
    """j - i for query i and key j, counted over real tokens, (b, n, n)."""
    place = mask.cumsum(1)
    return place[:, None, :] - place[:, :, None]


def _from_start(mask: Tensor) -> Tensor:
    """(j + 1)^3 for key j, counted from 0 over real tokens, (b, 1, n)."""
    return mask.cumsum(1)[:, None, :] ** 3


def _from_end(mask: Tensor) -> Tensor:
    """(n - j)^3 for key j of a sentence of n real tokens, (b, 1, n)."""
    return (mask.sum(1, keepdim=True) + 1 - mask.cumsum(1))[:, None, :] ** 3


def constant(mask: Tensor) -> Tensor:
    """1/n on each of the sentence's n real tokens: a head disabled (Kovaleva 2019, section 4.6)."""
    return _rows(mask.new_ones(mask.shape)[:, None, :], mask)


# The seven of Raganato 2020, section 3. Tokens i and j count from 0 in a sentence of n; a context
# begins at the second neighbour, since the first has a pattern of its own. That a token looks at
# itself where a pattern finds none (the first has no previous one) is ours.


def own_token(mask: Tensor) -> Tensor:
    """All weight on token i."""
    return _rows(_offsets(mask) == 0, mask)


def previous_token(mask: Tensor) -> Tensor:
    """All weight on token i - 1; the first token looks at itself."""
    return _rows(_offsets(mask) == -1, mask)


def next_token(mask: Tensor) -> Tensor:
    """All weight on token i + 1; the last token looks at itself."""
    return _rows(_offsets(mask) == 1, mask)


def left_context(mask: Tensor) -> Tensor:
    """Weight ~ (j + 1)^3 on tokens 0 to i - 2; the first two tokens look at themselves."""
    return _rows(_from_start(mask) * (_offsets(mask) <= -2), mask)


def right_context(mask: Tensor) -> Tensor:
    """Weight ~ (n - j)^3 on tokens i + 2 to n - 1; the last two tokens look at themselves."""
    return _rows(_from_end(mask) * (_offsets(mask) >= 2), mask)


def sentence_end(mask: Tensor) -> Tensor:
    """Weight ~ (j + 1)^3 on every token: most on the last, from wherever one looks."""
    return _rows(_from_start(mask), mask)


def sentence_start(mask: Tensor) -> Tensor:
    """Weight ~ (n - j)^3 on every token: most on the first, from wherever one looks."""
    return _rows(_from_end(mask), mask)


FIXED: tuple[Pattern, ...] = (
    own_token,
    previous_token,
    next_token,
    left_context,
    right_context,
    sentence_end,
    sentence_start,
)


def fixed_but_one(model: PreTrainedModel, layer: int) -> dict[Head, Pattern]:
    """A fixed pattern for every live head of a layer but the last (Raganato 2020, section 3).

    ``FIXED`` in its order, from the start again when a layer has more than eight heads.
    """
    fixed = alive(model)[layer][:-1]
    return {(layer, head): FIXED[i % len(FIXED)] for i, head in enumerate(fixed)}


def _keys(mask: Tensor | None) -> Tensor | None:
    """An attention mask as ones and zeros, int64 (b, n); None, where all is real, stays None."""
    if mask is None:
        return None
    if mask.dim() == 2:
        return mask.long()
    if mask.dim() == 4 and mask.dtype == torch.bool and mask.shape[1:3] == (1, 1):
        return mask[:, 0, 0].long()
    raise InputError(
        f"fixed patterns cannot read an attention mask of {mask.dtype}, {tuple(mask.shape)}: "
        "give ones and zeros (b, n), or which keys are seen as booleans (b, 1, 1, n)"
    )


@contextmanager
def replaced(model: PreTrainedModel, patterns: Mapping[Head, Pattern]) -> Iterator[PreTrainedModel]:
    """Within the context these heads attend by a pattern, whatever their queries and keys.

    patterns: (layer, original head) -> pattern, a function with a name. Values and W_O are used as
    before, so that a training within the context reaches them, and the head's W_Q and W_K get a
    gradient of 0. No attention dropout falls on a pattern, and the maps that the model returns are
    still the computed ones. An inner context has the last word on a head.

    ``attention_mask`` may be ones and zeros (b, n), booleans (b, 1, 1, n) as
    :func:`headcount.distill.keys_mask` makes them, or None. ``model.config.attention_patterns``
    lists [layer, head, name] meanwhile, for the weights alone do not tell what is trained. Raises
    InputError for a head that is not alive, and in the forward pass for another mask.
    """
    going, layers = by_layer(model, patterns), attention_layers(model)
    names = [[i, head, patterns[i, head].__name__] for i, heads in going.items() for head in heads]
    outer = getattr(model.config, "attention_patterns", None)
    mask: Tensor | None = None
    weights: dict[Pattern, Tensor] = {}  # of this batch: heads share them
    values: dict[int, Tensor] = {}  # of this batch, by layer

    def see(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal mask
        mask = _keys(kwargs.get("attention_mask", args[1] if len(args) > 1 else None))
        weights.clear()

    def keep(layer: AttentionLayer, module: nn.Module, args: tuple, output: Tensor) -> None:
        values[layer.index] = output

    def attend(layer: AttentionLayer, module: nn.Module, args: tuple) -> tuple:
        contexts = list(args[0].split(layer.head_size, -1))
        V = values.pop(layer.index)
        real = V.new_ones(V.shape[:2], dtype=torch.long) if mask is None else mask
        for head in going[layer.index]:
            pattern, at = patterns[layer.index, head], layer.heads.index(head)
            if pattern not in weights:
                weights[pattern] = pattern(real)
            contexts[at] = weights[pattern].to(V.dtype) @ V[..., layer.block(head)]
        return (torch.cat(contexts, -1), *args[1:])

    model.config.attention_patterns = (outer or []) + names
    handles = [model.base_model.register_forward_pre_hook(see, with_kwargs=True)]
    try:
        for index in going:
            layer = layers[index]
            handles.append(layer.value.register_forward_hook(partial(keep, layer)))
            handles.append(layer.output.register_forward_pre_hook(partial(attend, layer)))
        yield model
    finally:
        for handle in handles:
            handle.remove()
        if outer is None:
            del model.config.attention_patterns
        else:
            model.config.attention_patterns = outer
