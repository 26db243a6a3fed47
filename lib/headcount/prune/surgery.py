"""Physical removal of attention heads, and masking as its oracle.

A head is a pair (layer, head) counted from 0 in the *original* model, however many heads have gone
since. The heads that remain are listed in ``model.config.heads_alive``, so a saved configuration
says how to rebuild the shapes; where it is absent, all heads are alive.

What is cut (Michel 2019, section 2.1): with head size d, head h owns rows h*d to (h+1)*d of W_Q,
W_K and W_V and of their biases, and the same columns of W_O. The bias of W_O belongs to the layer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount.errors import InputError

Head = tuple[int, int]


@dataclass(frozen=True)
class Architecture:
    """Where a model keeps its attention: paths from the base model, then from a block."""

    blocks: str
    core: str
    query: str
    key: str
    value: str
    output: str
    heads: str
    width: str


ARCHITECTURES = {
    "bert": Architecture(
        blocks="encoder.layer",
        core="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        heads="num_attention_heads",
        width="all_head_size",
    ),
    "distilbert": Architecture(
        blocks="transformer.layer",
        core="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        heads="n_heads",
        width="dim",
    ),
}


class NoHeads(nn.Module):
    """Stands where self-attention was in a layer that has lost all its heads.

    It has no attention to report: such a layer is missing from ``output_attentions``.
    """

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> tuple[Tensor, None]:
        # DistilBERT applies W_O inside its attention module, BERT outside. Either way the bias
        # that is left reads only the shape, so no tensor of width 0 has to be exported.
        output = getattr(self, "out_lin", None)
        return (hidden_states if output is None else output(hidden_states)), None


class OutputBias(nn.Module):
    """W_O of a layer without heads: no columns, hence its bias alone, at every position."""

    def __init__(self, bias: nn.Parameter):
        super().__init__()
        self.bias = bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.bias.expand(*hidden_states.shape[:-1], -1)


@dataclass(frozen=True)
class AttentionLayer:
    """One layer's attention, the same for every architecture.

    ``core`` is the module that returns (context, attention maps); ``query``, ``key``, ``value`` are
    ``nn.Linear`` of shape (len(heads) * head_size, hidden) and ``output`` of shape
    (hidden, len(heads) * head_size). Block i of them is head ``heads[i]`` of the original model.
    In a layer without heads the first three are None and ``output`` is an ``OutputBias``.
    """

    index: int
    heads: list[int]
    head_size: int
    core: nn.Module
    query: nn.Linear | None
    key: nn.Linear | None
    value: nn.Linear | None
    output: nn.Module

    def block(self, head: int) -> slice:
        """Rows of W_Q, W_K, W_V (columns of W_O) that belong to an original head."""
        at = self.heads.index(head)
        return slice(at * self.head_size, (at + 1) * self.head_size)

    def indices(self, heads: Iterable[int]) -> Tensor:
        """The blocks of several original heads, one after the other, as int64 indices."""
        rows = [range(self.block(head).start, self.block(head).stop) for head in heads]
        return torch.tensor(
            [i for block in rows for i in block], dtype=torch.long, device=self.output.bias.device
        )


def _architecture(model: PreTrainedModel) -> Architecture:
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(
            f"the attention heads of a {kind!r} model cannot be pruned: "
            f"use one of {', '.join(ARCHITECTURES)}, or add its module paths to ARCHITECTURES"
        )
    return ARCHITECTURES[kind]


def _every_head(model: PreTrainedModel) -> list[list[int]]:
    config = model.config
    return [list(range(config.num_attention_heads)) for _ in range(config.num_hidden_layers)]


def alive(model: PreTrainedModel) -> list[list[int]]:
    """Original indices of the heads that each layer still has, ascending."""
    _architecture(model)
    heads_alive = getattr(model.config, "heads_alive", None)
    return _every_head(model) if heads_alive is None else [list(heads) for heads in heads_alive]


def attention_layers(model: PreTrainedModel) -> list[AttentionLayer]:
    """The attention of every layer, first to last.

    Raises InputError for an architecture that is not supported, and for a model whose weights do
    not have the shapes that its configuration's ``heads_alive`` says.
    """
    paths = _architecture(model)
    head_size = model.config.hidden_size // model.config.num_attention_heads
    blocks = model.base_model.get_submodule(paths.blocks)
    layers = []
    for index, (block, heads) in enumerate(zip(blocks, alive(model), strict=True)):
        core = block.get_submodule(paths.core)
        found = 0 if isinstance(core, NoHeads) else block.get_submodule(paths.query).out_features
        if found != len(heads) * head_size:
            raise InputError(
                f"layer {index} has {found // head_size} heads but config.heads_alive lists "
                f"{len(heads)}: build the model in full, then call apply_heads_alive once"
            )
        projections = (
            block.get_submodule(path) if heads else None
            for path in (paths.query, paths.key, paths.value)
        )
        output = block.get_submodule(paths.output)
        layers.append(AttentionLayer(index, heads, head_size, core, *projections, output))
    return layers


def parameters_per_head(model: PreTrainedModel) -> int:
    """Parameters that leave with one head: d (H + 1) each of Q, K, V, and H d of W_O.

    With head size d = 64 and hidden size H = 768 (BERT-base) that is 196,800.
    """
    hidden = model.config.hidden_size
    head_size = hidden // model.config.num_attention_heads
    return 3 * head_size * (hidden + 1) + hidden * head_size


def by_layer(model: PreTrainedModel, heads: Iterable[Head]) -> dict[int, list[int]]:
    """Group heads by layer, in ascending order; InputError unless each is alive, and named once."""
    live, counts = alive(model), Counter((int(layer), int(head)) for layer, head in heads)
    grouped: dict[int, list[int]] = {}
    for (layer, head), count in sorted(counts.items()):
        if not (0 <= layer < len(live) and 0 <= head < model.config.num_attention_heads):
            raise InputError(
                f"there is no head {head} in layer {layer}: the model has {len(live)} layers "
                f"of {model.config.num_attention_heads} heads, counted from 0"
            )
        if head not in live[layer]:
            raise InputError(
                f"head {head} of layer {layer} has been removed already: "
                "choose among the heads that alive(model) lists"
            )
        if count > 1:
            raise InputError(f"head {head} of layer {layer} is named {count} times: name it once")
        grouped.setdefault(layer, []).append(head)
    return grouped


def _keep(parameter: nn.Parameter, dim: int, indices: Tensor) -> nn.Parameter:
    kept = parameter.detach().index_select(dim, indices)
    return nn.Parameter(kept, requires_grad=parameter.requires_grad)


def _keep_rows(linear: nn.Linear, rows: Tensor) -> None:
    linear.weight = _keep(linear.weight, 0, rows)
    if linear.bias is not None:
        linear.bias = _keep(linear.bias, 0, rows)
    linear.out_features = len(rows)


def _keep_columns(linear: nn.Linear, columns: Tensor) -> None:
    linear.weight = _keep(linear.weight, 1, columns)
    linear.in_features = len(columns)


def remove(model: PreTrainedModel, heads: Iterable[Head]) -> None:
    """Cut heads out of the model, in place. A layer may lose all of them.

    heads: pairs (layer, original head). Parameters are replaced, so an optimizer made before this
    call no longer holds the model's own. Raises InputError for a head that does not exist, is gone
    already, or is named twice; then nothing has been cut.
    """
    going = by_layer(model, heads)
    paths, layers = _architecture(model), attention_layers(model)
    blocks = model.base_model.get_submodule(paths.blocks)
    for index, gone in going.items():
        layer = layers[index]
        stay = [head for head in layer.heads if head not in gone]
        if stay:
            kept = layer.indices(stay)
            for linear in (layer.query, layer.key, layer.value):
                _keep_rows(linear, kept)
            _keep_columns(layer.output, kept)
            setattr(layer.core, paths.heads, len(stay))
            setattr(layer.core, paths.width, len(kept))
        else:
            blocks[index].set_submodule(paths.core, NoHeads())
            blocks[index].set_submodule(paths.output, OutputBias(layer.output.bias))
    gone = {(index, head) for index, heads in going.items() for head in heads}
    model.config.heads_alive = [
        [head for head in layer.heads if (layer.index, head) not in gone] for layer in layers
    ]


def apply_heads_alive(model: PreTrainedModel, heads_alive: list[list[int]] | None) -> None:
    """Shape a freshly built full model, in place, so that a pruned state dict fits into it.

    heads_alive: for each layer the original heads to keep, ascending; None keeps them all. The
    configuration may carry ``heads_alive`` already. Raises InputError if it does not fit the model.
    """
    if heads_alive is None:
        return
    every = _every_head(model)
    fits = len(heads_alive) == len(every) and all(
        list(heads) == sorted(set(heads) & set(full))
        for heads, full in zip(heads_alive, every, strict=True)
    )
    if not fits:
        raise InputError(
            f"heads_alive does not fit {len(every)} layers of "
            f"{model.config.num_attention_heads} heads: give one ascending list for each layer"
        )
    model.config.heads_alive = every
    remove(
        model,
        [
            (layer, head)
            for layer, full in enumerate(every)
            for head in full
            if head not in heads_alive[layer]
        ],
    )


@contextmanager
def masked(model: PreTrainedModel, heads: Iterable[Head]) -> Iterator[PreTrainedModel]:
    """Within the context the outputs of these heads are exactly zero on their way into W_O.

    The same function as ``remove``, computed without touching a weight: nothing gets smaller.
    Raises InputError for a head that is not alive.
    """
    going, handles = by_layer(model, heads), []
    layers = attention_layers(model)
    try:
        for index, gone in going.items():
            columns = layers[index].indices(gone)

            def silence(module, args, columns=columns):
                return (args[0].index_fill(-1, columns, 0.0), *args[1:])

            handles.append(layers[index].output.register_forward_pre_hook(silence))
        yield model
    finally:
        for handle in handles:
            handle.remove()
