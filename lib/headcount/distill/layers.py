"""Layer losses: a student's hidden states and attention are pulled towards its teacher's.

`LayerLosses` adds two kinds of them to a prediction loss: ``seed``, the seed study's, which
compares attention probabilities averaged over heads, and ``tinybert`` (Jiao 2020), which compares
scores head by head. The teacher's side comes from :mod:`headcount.distill.internals`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount import models
from headcount.distill.internals import (
    KINDS,
    Source,
    in_fp32,
    mean_probabilities,
    observed,
)
from headcount.distill.objectives import Batch, HardLabels, VanillaKD, student_logits
from headcount.errors import InputError
from headcount.parameters import known

NOTHING = 1e-4


# --- losses ---------------------------------------------------------------------------------------


def _mean(squares: Tensor, real: Tensor) -> Tensor:
    """Mean of ``squares`` where ``real`` is 1; both of one shape."""
    return (squares * real).sum() / real.sum()


def _over_pairs(squares: Tensor, mask: Tensor) -> Tensor:
    """Mean of (b, t, t) over pairs of a real query and a real key."""
    return _mean(squares, mask[:, :, None] * mask[:, None, :])


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE(H^S, H^T) over real tokens (Jiao 2020, equation 8; 9 for embeddings), in FP32.

    The student's are projected already, where widths differ.

    Args:
        student, teacher: hidden states, (b, t, d).
        mask: ones and zeros (b, t).
    """
    return _mean((in_fp32(student) - in_fp32(teacher)).square().mean(-1), mask)


def score_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE(A^S, A^T) over heads and real query-key pairs, in FP32 (Jiao 2020, equation 7).

    Where numbers of heads differ, scores are averaged first: if one divides the other, over as many
    consecutive groups of the more as there are heads on the other side; else over all heads of
    either side.

    Args:
        student, teacher: scores before the softmax, (b, heads, t, t).
        mask: ones and zeros (b, t).
    """
    few, many = sorted((student.shape[1], teacher.shape[1]))
    if few != many:
        groups = few if many % few == 0 else 1
        student, teacher = (x.unflatten(1, (groups, -1)).mean(2) for x in (student, teacher))
    return _over_pairs((in_fp32(student) - in_fp32(teacher)).square().mean(1), mask)


def probability_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE of `mean_probabilities` over real query-key pairs, in FP32: the seed study's.

    Args:
        student, teacher: scores before the softmax (b, heads, t, t), or the means themselves
            (b, t, t).
        mask: ones and zeros (b, t).
    """
    student, teacher = (
        in_fp32(x) if x.ndim == 3 else mean_probabilities(x, mask) for x in (student, teacher)
    )
    return _over_pairs((student - teacher).square(), mask)


# --- projections ----------------------------------------------------------------------------------


def attach_projections(
    model: PreTrainedModel,
    width: int,
    layers: Iterable[int],
    embeddings: bool = False,
    seed: int = 0,
) -> None:
    """Give a student learned maps P_j of its hidden states to ``width``, the teacher's.

    They are ``model.layer_projections`` until `detach_projections`, and trained, moved and saved
    with the model, whose outputs they do not touch: linear with a bias, weights drawn as BERT's are
    (as TinyBERT and textbrewer have them). Where widths are equal nothing is attached.

    Args:
        layers: of the student, counted from 0; each has a map of its own.
        embeddings: whether the embeddings have one too.
        seed: the weights are a function of it; the global random state is left alone.

    Raises:
        InputError: the model has projections.
    """
    if hasattr(model, "layer_projections"):
        raise InputError("the model has projections already: call detach_projections first")
    own = model.config.hidden_size
    if own == width:
        return
    names = [*map(str, layers), *["embeddings"] * embeddings]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        projections = nn.ModuleDict({name: nn.Linear(own, width) for name in names})
        for projection in projections.values():
            nn.init.normal_(projection.weight, std=model.config.initializer_range)
            nn.init.zeros_(projection.bias)
    model.layer_projections = projections.to(model.device)


def detach_projections(model: PreTrainedModel) -> None:
    """Take the projections off, and leave the plain model; one without any is left as it is."""
    if hasattr(model, "layer_projections"):
        del model.layer_projections


def _projected(model: nn.Module, name: str, states: Tensor, width: int) -> Tensor:
    """The student's (b, t, d) as wide as the teacher's."""
    if states.shape[-1] == width:
        return states
    projections = getattr(model, "layer_projections", {})
    if name not in projections:
        raise InputError(
            f"the student's hidden states have width {states.shape[-1]}, the teacher's {width}: "
            f"call attach_projections for layers as the layer map has them ({name} is missing)"
        )
    return projections[name](in_fp32(states))


# --- the objective --------------------------------------------------------------------------------


LAYER_MAPS: dict[str, Callable[[int, int], Iterable[int]]] = {
    "even": lambda s, t: models.even_layers(t, s),
    "last": lambda s, t: range(t - s, t),
    "first": lambda s, t: range(s),
    "reversed": lambda s, t: reversed(models.even_layers(t, s)),
    "none": lambda s, t: (),
}


def layer_map(name: str, student_layers: int, teacher_layers: int) -> dict[int, int]:
    """Which layer of the teacher each of the student's learns from, counted from 0.

    Args:
        name: ``even``, evenly spaced, last to last; ``last`` or ``first``, so many in their order;
            ``reversed``, the even ones upside down; ``none``, no layer.

    Raises:
        InputError: there is no such map, or the student has more layers.
    """
    known(name, LAYER_MAPS, "unknown layer map")
    if not 1 <= student_layers <= teacher_layers:
        raise InputError(
            f"{student_layers} layers cannot learn from {teacher_layers}: give the student 1 to "
            f"{teacher_layers}"
        )
    return dict(enumerate(LAYER_MAPS[name](student_layers, teacher_layers)))


@dataclass(frozen=True, eq=False)
class LayerLosses:
    """L = L_prediction + w_h mean_j L_hidden + w_a mean_j L_attention + w_e L_embedding.

    Means are over the layers j of the layer map. Of kind ``seed``, attention is `probability_loss`;
    of kind ``tinybert``, `score_loss` (Jiao 2020, equations 7 to 10). The layer losses are logged
    as ``hidden``, ``attention`` and ``embedding``, with their weights: all logged terms add up to
    the loss. One of weight 0 is neither computed nor logged.

    Of kind ``tinybert`` the layer losses stand alone in the first half of the steps, as TinyBERT
    learns from layers first and predictions afterwards. (There the second stage has no layer
    losses, and each stage its own schedule; here they stay on, in the steps that others have, so
    that predictions are learned at a rate that has begun to decay. `throughout` has them on in all
    steps.)

    Attributes:
        prediction: the loss on the student's logits; None for none.
        states: the teacher's side, of the same kind.
        layer_map: layer of the teacher by layer of the student; see :func:`layer_map`.
        embedding_weight: ``tinybert`` alone.
        throughout: whether the prediction loss is on in all steps; of kind ``seed`` it always is.

    Raises:
        InputError: the parts do not fit together; in the forward pass, the student has not the
            layers, heads or projections (see `attach_projections`).
    """

    prediction: HardLabels | VanillaKD | None
    states: Source
    layer_map: dict[int, int]
    kind: str
    hidden_weight: float
    attention_weight: float
    embedding_weight: float = 0.0
    throughout: bool = False

    def __post_init__(self) -> None:
        known(self.kind, KINDS, "unknown kind of layer losses")
        if self.states.kind != self.kind:
            raise InputError(
                f"layer losses of kind {self.kind!r} cannot use the teacher's states of kind "
                f"{self.states.kind!r}: give both the same"
            )
        if self.kind == "seed" and self.embedding_weight:
            raise InputError("the seed's layer losses have no embeddings: set their weight to 0")
        if lacking := sorted({*self.layer_map.values()} - {*self.states.layers}):
            raise InputError(
                f"the teacher's states have no layer {lacking[0]}: give them all layers of the map"
            )
        if self.prediction is None and not self.weights:
            raise InputError("no loss is left: give a prediction loss, or a layer map and weights")

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the layer losses that are on, by their logged names."""
        weights = {"embedding": self.embedding_weight}
        if self.layer_map:
            weights |= {"hidden": self.hidden_weight, "attention": self.attention_weight}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def alone_until(self) -> float:
        """The share of the steps before which layer losses stand alone."""
        return 0.5 if self.kind == "tinybert" and not self.throughout else 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, layers = self.layer_terms(model, batch)
        layers = {name: weight * layers[name] for name, weight in self.weights.items()}
        alone = batch.get("progress", 1.0) < self.alone_until and layers
        terms = {}
        if self.prediction is not None and not alone:
            terms = self.prediction.from_logits(logits, batch)
            terms.setdefault("hard", terms["loss"].detach())  # labels alone
        loss = terms.get("loss", 0) + sum(layers.values())
        return terms | {name: term.detach() for name, term in layers.items()} | {"loss": loss}

    def layer_terms(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits (b, 3) and the layer losses that are on, unweighted, in one pass."""
        on, terms = self.weights, {}
        with observed(model, self.layer_map, attention="attention" in on) as student:
            logits = student_logits(model, batch)
        if not on:
            return logits, terms
        teacher, mask = self.states(batch), batch["attention_mask"]

        def compare(name: str, own: Tensor, others: Tensor) -> Tensor:
            return hidden_loss(_projected(model, name, own, others.shape[-1]), others, mask)

        if "hidden" in on:
            losses = [
                compare(str(j), student.hidden[j], teacher.hidden[m])
                for j, m in self.layer_map.items()
            ]
            terms["hidden"] = torch.stack(losses).mean()
        if "attention" in on:
            loss = probability_loss if self.kind == "seed" else score_loss
            losses = [
                loss(student.attention[j], teacher.attention[m], mask)
                for j, m in self.layer_map.items()
            ]
            terms["attention"] = torch.stack(losses).mean()
        if "embedding" in on:
            terms["embedding"] = compare("embeddings", student.embeddings, teacher.embeddings)
        return logits, terms

    def describe(self) -> dict[str, Any]:
        return {
            "objective": "layer-losses",
            "kind": self.kind,
            "layer_map": [list(pair) for pair in sorted(self.layer_map.items())],
            "hidden_weight": self.hidden_weight,
            "attention_weight": self.attention_weight,
            "embedding_weight": self.embedding_weight,
            "alone_until": self.alone_until,
            "prediction": None if self.prediction is None else self.prediction.describe(),
            "states": self.states.describe(),
        }


@torch.no_grad()
def balanced(
    objective: LayerLosses,
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    share: float,
) -> LayerLosses:
    """The objective with other weights: each layer loss starts as ``share`` of the prediction loss.

    Both are means over ``batches``, for the untrained student in evaluation mode. Weights have two
    significant digits. A loss of weight 0 stays off; one that is next to nothing (`NOTHING` of the
    prediction loss: a student cut from the very layers that teach it, up to half precision) is
    switched off.

    Args:
        objective: where it has no prediction loss, cross-entropy with the labels stands for it.
        model: the untrained student, with its projections.

    Raises:
        InputError: there is no batch, or no prediction loss to compare with.
    """
    prediction = objective.prediction or HardLabels()
    training, totals = model.training, {}
    model.eval()
    try:
        for given in batches:
            batch = {name: tensor.to(model.device) for name, tensor in given.items()}
            logits, terms = objective.layer_terms(model, batch)
            terms["prediction"] = prediction.from_logits(logits, batch)["loss"]
            for name, term in terms.items():
                totals[name] = totals.get(name, 0.0) + term.item()
    finally:
        model.train(training)
    yardstick = totals.pop("prediction", 0.0)
    if not (math.isfinite(yardstick) and yardstick > 0):
        raise InputError(
            "no prediction loss to balance layer losses against: give batches of labelled "
            "sentences, and a student that differs from its teacher"
        )
    weights = {
        f"{name}_weight": float(f"{share * yardstick / total:.2g}")
        if total > NOTHING * yardstick
        else 0.0
        for name, total in totals.items()
    }
    return replace(objective, **weights)


TERMS = {
    "hard": "labels",
    "soft": "teacher's answers",
    "hidden": "hidden states",
    "attention": "attention",
    "embedding": "embeddings",
}
LAYER_TERMS = [TERMS[name] for name in ("hidden", "attention", "embedding")]


def shares(history: pd.DataFrame) -> pd.DataFrame:
    """How much of the loss each term was, at each logged point of a training.

    Args:
        history: of `headcount.train.Fitted`, of an objective whose logged terms add up to its loss.

    Returns:
        columns epoch, term (in words) and share, from 0 to 1.
    """
    logged = history.dropna(subset=["loss"]).set_index("epoch")
    found = logged[[name for name in TERMS if name in logged]].rename(columns=TERMS)
    found = found.div(found.sum(axis=1), axis=0).rename_axis(columns="term")
    return found.stack().dropna().rename("share").reset_index()


def typical_shares(history: pd.DataFrame) -> pd.Series:
    """Median share of each layer loss over the points at which all terms are on; see `shares`.

    Prediction terms are left out: they become small by being learned. Empty where there are no
    layer losses.
    """
    table = shares(history).pivot_table(index="epoch", columns="term", values="share")
    return table.dropna().median().reindex(LAYER_TERMS).dropna()
