"""Gates on the outputs of attention heads: their gradient as a score, and gates that are trained.

A gate is a factor on what a head hands to W_O: at 1 the head is as it was, at 0 it is masked. Gates
come in the shape (layers, original heads); those of heads that have been removed are not looked at.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from headcount.distill.objectives import Batch, student_logits
from headcount.errors import InputError
from headcount.prune.surgery import Head, alive, attention_layers, remove

INPUTS = ("input_ids", "attention_mask", "labels")
BETA = 0.33  # temperature of the hard concrete
LOW, HIGH = -0.1, 1.1  # what its (0, 1) is stretched to, before it is clipped
EDGE = 1e-6  # how near draws may come to 0 and 1, where the logit is infinite


def _times(context: Tensor, gates: Tensor, heads: list[int], head_size: int) -> Tensor:
    """Outputs of a layer's live heads (batch, tokens, len(heads) * head_size), each by its gate.

    gates: (original heads) or (batch, original heads).
    """
    # Not gates[..., heads]: a list of indices is copied to a GPU, and each layer would wait for it.
    every = gates.to(context).unbind(-1)
    live = torch.stack([every[head] for head in heads], -1)[..., None, :, None]
    return (context.unflatten(-1, (len(heads), head_size)) * live).flatten(-2)


@contextmanager
def gated(model: PreTrainedModel, gates: Tensor) -> Iterator[PreTrainedModel]:
    """Within the context the output of each head is multiplied by its gate, on its way into W_O.

    gates: (layers, original heads), or (batch, layers, original heads) for a gate a sentence. The
    model's outputs are differentiable in them.
    """
    handles = []
    try:
        for layer in attention_layers(model):
            if not layer.heads:
                continue

            def scale(module, args, layer=layer):
                own = gates[..., layer.index, :]
                return (_times(args[0], own, layer.heads, layer.head_size), *args[1:])

            handles.append(layer.output.register_forward_pre_hook(scale))
        yield model
    finally:
        for handle in handles:
            handle.remove()


# --- the gradient as a score ----------------------------------------------------------------------


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode, and no gradients for weights."""
    training, wanted = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        model.train(training)


def gradient(model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> np.ndarray:
    """E_x |dL(x) / d xi_h| for a gate xi_h = 1 on each head (Michel 2019, section 4.1).

    float64 (layers, original heads), NaN where a head has been removed. L is the cross-entropy of a
    sentence with its label, in evaluation mode; each layer is divided by its l2 norm over live
    heads, and a layer whose loss moves with no head scores 0. batches: as for every criterion, with
    ``labels`` (batch). Raises InputError if there is no sentence or no label, or if a gradient is
    not finite.
    """
    live = alive(model)
    scores = np.full((len(live), model.config.num_attention_heads), np.nan)
    if not any(live):
        return scores
    total, sentences = np.zeros(scores.shape), 0
    with _frozen(model):
        for given in batches:
            if "labels" not in given:
                raise InputError("the gradient is the loss's: give batches that have labels")
            batch = {name: given[name].to(model.device) for name in INPUTS}
            count = len(batch["labels"])
            gates = torch.ones((count, *scores.shape), dtype=model.dtype, device=model.device)
            with gated(model, gates.requires_grad_()):
                logits = student_logits(model, batch)
            # Sentences do not see each other, so the gradient of the sum is each one's own.
            loss = F.cross_entropy(logits, batch["labels"], reduction="sum")
            (slopes,) = torch.autograd.grad(loss, gates)
            total += slopes.abs().sum(0, dtype=torch.float64).cpu().numpy()
            sentences += count
    if not sentences:
        raise InputError("no sentence to score heads on: give at least one")
    for index, heads in enumerate(live):
        mean = total[index, heads] / sentences
        if not np.isfinite(mean).all():
            raise InputError(f"gradient in layer {index} is not finite: the model has diverged")
        norm = np.linalg.norm(mean)
        scores[index, heads] = mean / norm if norm else 0.0
    return scores


# --- gates that are trained -----------------------------------------------------------------------


class HardConcrete(nn.Module):
    """Random gates in [0, 1] that are exactly 0 or 1 at times (Louizos 2018, Voita 2019 section 5).

    A binary concrete of temperature BETA, stretched to (LOW, HIGH) and clipped. Its one parameter
    is ``log_alpha`` (layers, heads): the larger, the likelier a gate is open.
    """

    def __init__(self, layers: int, heads: int, initial: float = 2.0) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((layers, heads), float(initial)))
        self.handles: list[RemovableHandle] = []

    def forward(self, layer: int | slice = slice(None)) -> Tensor:
        """Gates of one layer (heads), or of all: drawn anew in training, else fixed."""
        concrete = self.log_alpha[layer]
        if self.training:
            noise = torch.rand_like(concrete).clamp(EDGE, 1 - EDGE).logit()
            concrete = (noise + concrete) / BETA
        return (concrete.sigmoid() * (HIGH - LOW) + LOW).clamp(0, 1)

    def open_probability(self) -> Tensor:
        """P(gate > 0), (layers, heads)."""
        return (self.log_alpha - BETA * math.log(-LOW / HIGH)).sigmoid()


def _gate(
    gates: HardConcrete, index: int, heads: list[int], head_size: int, module: nn.Module, args: Any
) -> tuple[Tensor, ...]:
    return (_times(args[0], gates(index), heads, head_size), *args[1:])


def attach_gates(model: PreTrainedModel, initial: float = 2.0) -> HardConcrete:
    """Put hard concrete gates on all live heads, as ``model.head_gates`` until `settle_gates`.

    One draw of the gates serves a forward pass, whatever its batch. They are trained, moved, copied
    and saved with the model, from which no head may be removed while they are on. The gates of
    heads that are gone already are closed for good. Raises InputError if the model has gates.
    """
    if hasattr(model, "head_gates"):
        raise InputError("the model has gates on its heads already: call settle_gates first")
    layers = attention_layers(model)
    gates = HardConcrete(len(layers), model.config.num_attention_heads, initial).to(model.device)
    model.head_gates = gates.train(model.training)
    for layer in layers:
        gone = [head for head in range(gates.log_alpha.shape[1]) if head not in layer.heads]
        gates.log_alpha.data[layer.index, gone] = -torch.inf
        if layer.heads:
            # The hook holds the module itself, not its function: deepcopy gives a copied model a
            # hook on its own gates. A layer draws only its own row, once a forward pass.
            hook = partial(_gate, gates, layer.index, layer.heads, layer.head_size)
            gates.handles.append(layer.output.register_forward_pre_hook(hook))
    return gates


@torch.no_grad()
def settle_gates(model: PreTrainedModel) -> list[Head]:
    """Take the gates off, and leave a plain model of the same function in evaluation mode.

    Heads whose gate is exactly 0 then are removed, and returned as (layer, original head); the
    others have their columns of W_O multiplied by their gates. Raises InputError without gates.
    """
    if not hasattr(model, "head_gates"):
        raise InputError("the model has no gates on its heads: call attach_gates first")
    gates, closed = model.head_gates, []
    for handle in gates.handles:
        handle.remove()
    del model.head_gates
    values = gates.eval()()
    for layer in attention_layers(model):
        for head in layer.heads:
            layer.output.weight[:, layer.block(head)] *= values[layer.index, head]
            if values[layer.index, head] == 0:
                closed.append((layer.index, head))
    remove(model, closed)
    return closed


@dataclass(frozen=True)
class L0:
    """CE(s, y) + weight * the expected number of open heads (Voita 2019, section 5).

    For a model with gates (`attach_gates`). ``open`` is that number: the sum of P(gate > 0).
    """

    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        hard = F.cross_entropy(student_logits(model, batch), batch["labels"])
        heads = model.head_gates.open_probability().sum()
        loss = hard + self.weight * heads
        return {"loss": loss, "hard": hard.detach(), "open": heads.detach()}

    def describe(self) -> dict[str, Any]:
        return {"objective": "l0-gates", "weight": self.weight}
