"""What a student learns from inside its teacher: hidden states and attention, layer by layer.

`observed` looks into a model while it runs, with its fused attention kernels as they are. The
teacher's side comes from `Recomputed` or `Cached`, which are interchangeable. `LayerLosses` adds
two kinds of layer losses to a prediction loss: ``seed``, the seed study's, which compares attention
probabilities averaged over heads, and ``tinybert`` (Jiao 2020), which compares scores head by head.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount import models
from headcount.data import Tokenized, collate
from headcount.distill.objectives import Batch, HardLabels, VanillaKD, student_logits
from headcount.errors import InputError
from headcount.parameters import known
from headcount.prune.surgery import ARCHITECTURES, AttentionLayer, attention_layers

KINDS = ("seed", "tinybert")
NOTHING = 1e-4


# --- looking into a model -------------------------------------------------------------------------


@dataclass
class Internals:
    """What a forward pass computed on its way.

    Attributes:
        embeddings: output of the embeddings, (b, t, d).
        hidden: by layer, the output of its block, (b, t, d).
        attention: by layer, scores before the softmax, (b, heads, t, t), in FP32 at least; from a
            source of kind ``seed``, probabilities averaged over heads, (b, t, t).
    """

    embeddings: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def observed(
    model: PreTrainedModel, layers: Iterable[int], *, attention: bool = True
) -> Iterator[Internals]:
    """Within the context each forward pass leaves its `Internals` in what is yielded.

    They are part of the graph: gradients flow through them. No map of attention is asked of the
    model, so it goes on with the kernels it has: scores are computed beside it, from what W_Q and
    W_K return. Padded queries and keys have scores too, which mean nothing.

    Args:
        layers: which to look into, counted from 0.
        attention: whether to compute scores.

    Raises:
        InputError: there is no such layer, or it has no heads to compute scores of.
    """
    found, seen = attention_layers(model), Internals()
    blocks = model.base_model.get_submodule(ARCHITECTURES[model.config.model_type].blocks)
    queries: dict[int, Tensor] = {}

    def see_embeddings(module: nn.Module, args: tuple, output: Tensor) -> None:
        seen.embeddings = output

    def see_hidden(index: int, module: nn.Module, args: tuple, output: Tensor) -> None:
        seen.hidden[index] = output

    def see_query(index: int, module: nn.Module, args: tuple, output: Tensor) -> None:
        queries[index] = output

    def see_key(layer: AttentionLayer, module: nn.Module, args: tuple, output: Tensor) -> None:
        query = queries.pop(layer.index)
        seen.attention[layer.index] = _scores(query, output, layer.head_size)

    handles = [model.base_model.embeddings.register_forward_hook(see_embeddings)]
    try:
        for index in dict.fromkeys(layers):
            if not 0 <= index < len(found):
                raise InputError(
                    f"there is no layer {index} to look into: the model has {len(found)}, counted "
                    "from 0; mend the layer map"
                )
            layer = found[index]
            handles.append(blocks[index].register_forward_hook(partial(see_hidden, index)))
            if not attention:
                continue
            if not layer.heads:
                raise InputError(
                    f"layer {index} has lost all its heads, so it has no attention to compare: "
                    "set the attention's weight to 0 or leave the layer out of the layer map"
                )
            handles.append(layer.query.register_forward_hook(partial(see_query, index)))
            handles.append(layer.key.register_forward_hook(partial(see_key, layer)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _full(tensor: Tensor) -> Tensor:
    """In FP32 at least: what autocast computed comes in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scores(query: Tensor, key: Tensor, head_size: int) -> Tensor:
    """QK^T / sqrt(d_head), (b, heads, t, t), of what W_Q and W_K return, (b, t, heads * d_head)."""
    heads = (_full(x).unflatten(-1, (-1, head_size)).transpose(1, 2) for x in (query, key))
    with torch.autocast(query.device.type, enabled=False):  # it would round them again
        Q, K = heads
        return Q @ K.transpose(-1, -2) / math.sqrt(head_size)


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
    return _mean((_full(student) - _full(teacher)).square().mean(-1), mask)


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
    return _over_pairs((_full(student) - _full(teacher)).square().mean(1), mask)


def mean_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """Attention over real keys, averaged over heads, (b, t, t), of scores (b, heads, t, t)."""
    unseen = mask[:, None, None, :] == 0
    return _full(scores).masked_fill(unseen, -torch.inf).softmax(-1).mean(1)


def probability_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE of `mean_probabilities` over real query-key pairs, in FP32: the seed study's.

    Args:
        student, teacher: scores before the softmax (b, heads, t, t), or the means themselves
            (b, t, t).
        mask: ones and zeros (b, t).
    """
    student, teacher = (
        _full(x) if x.ndim == 3 else mean_probabilities(x, mask) for x in (student, teacher)
    )
    return _over_pairs((student - teacher).square(), mask)


# --- the teacher's side ---------------------------------------------------------------------------


class Source(Protocol):
    """Where the teacher's `Internals` of a batch come from.

    Attributes:
        kind: whose attention it gives, ``seed`` or ``tinybert``.
        layers: of the teacher, counted from 0.
        width: of the teacher's hidden states.
    """

    kind: str
    layers: tuple[int, ...]
    width: int

    def __call__(self, batch: Batch) -> Internals:
        """The teacher's for these sentences, where the batch is; no gradient flows into them."""

    def describe(self) -> dict[str, Any]:
        """All that they depend on."""


class Recomputed:
    """The teacher's internals, from a forward pass a batch, in the teacher's own precision.

    Args:
        teacher: goes where the batch is, and into evaluation mode. It reads the student's tokens.
        layers: of the teacher, counted from 0.
        kind: whose attention to give, ``seed`` or ``tinybert``.
    """

    def __init__(self, teacher: PreTrainedModel, layers: Iterable[int], kind: str) -> None:
        self.teacher, self.layers = teacher, tuple(dict.fromkeys(layers))
        self.kind = known(kind, KINDS, "unknown kind of layer losses")
        self.width = teacher.config.hidden_size

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Internals:
        mask = batch["attention_mask"]
        if self.teacher.device != mask.device:
            self.teacher.to(mask.device)
        with observed(self.teacher.eval(), self.layers) as seen:
            student_logits(self.teacher, batch)
        if self.kind == "seed":
            seen.attention = {i: mean_probabilities(x, mask) for i, x in seen.attention.items()}
        return seen

    def describe(self) -> dict[str, Any]:
        return {
            "states": "recomputed",
            "kind": self.kind,
            "teacher_sha256": models.weights_sha256(self.teacher),
        }


class Cached:
    """The teacher's internals for all sentences, from one pass, kept on disk in half precision.

    A sentence takes 2 bytes for each of its n (layers + 1) d hidden states and embeddings, and for
    each of n^2 scores a head (``tinybert``) or probabilities a layer (``seed``); no padding is
    kept. The file has no name: it is gone when it is closed, or when the process ends however that
    comes about, and no other process sees it.

    On a GPU a step waits for the batch's ``index``, by which sentences are looked up.

    Args:
        teacher: goes into evaluation mode, and stays where it is.
        data: the sentences, as `headcount.train.fit` gets them.
        layers: of the teacher, counted from 0; at least one.
        kind: whose attention to keep, ``seed`` or ``tinybert``.
        folder: where the file is made, and the folder where it is missing.

    Raises:
        InputError: there are no layers, something is not finite in half precision, or the folder
            cannot be written or has no room.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        data: Tokenized,
        layers: Iterable[int],
        kind: str,
        folder: Path,
        batch_size: int = 32,
    ) -> None:
        source = Recomputed(teacher, layers, kind)
        if not source.layers:
            raise InputError("no layer of the teacher to keep: name at least one")
        self.kind, self.layers, self.width = source.kind, source.layers, source.width
        heads = {layer.index: len(layer.heads) for layer in attention_layers(teacher)}
        self._maps = [heads.get(i, 0) if kind == "tinybert" else 1 for i in self.layers]
        self._description = {
            **source.describe(),
            "states": "cached in half precision",
            "data_sha256": data.sha256(),
        }
        self._lengths, self._starts = data.lengths, np.empty(len(data), dtype=np.int64)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._write(source, data, teacher.device, batch_size)
            self._file.flush()
            self._halves = np.asarray(np.memmap(self._file, np.float16, mode="r"))
        except OSError as error:
            raise InputError(
                f"cannot keep the teacher's states in {folder} ({error.strerror}): choose another "
                "folder, make room, or have them recomputed"
            ) from None
        self.size_mb = self._halves.nbytes / 1e6

    def _write(
        self, source: Recomputed, data: Tokenized, device: torch.device, batch_size: int
    ) -> None:
        order = np.argsort(data.lengths, kind="stable")
        end = 0
        for at in range(0, len(order), batch_size):
            rows = order[at : at + batch_size]
            batch = collate([data[int(row)] for row in rows], pad_token_id=0)
            seen = source({name: tensor.to(device) for name, tensor in batch.items()})
            vectors = [seen.embeddings, *(seen.hidden[i] for i in self.layers)]
            maps = [seen.attention[i] for i in self.layers]
            maps = torch.cat([x[:, None] if x.ndim == 3 else x for x in maps], 1)
            vectors, maps = (x.half().cpu().numpy() for x in (torch.stack(vectors, 1), maps))
            for i, row in enumerate(rows):
                n = data.lengths[row]
                halves = np.concatenate([vectors[i, :, :n].ravel(), maps[i, :, :n, :n].ravel()])
                if not np.isfinite(halves).all():
                    raise InputError(
                        f"the teacher's states of sentence {row} are not finite in half precision: "
                        "have them recomputed, or look whether the teacher has diverged"
                    )
                self._file.write(halves.tobytes())
                self._starts[row], end = end, end + len(halves)

    def __call__(self, batch: Batch) -> Internals:
        if self._file.closed:
            raise InputError("the teacher's states were kept until close(): cache them again")
        mask = batch["attention_mask"]
        rows, lengths = batch["index"].tolist(), mask.sum(1).tolist()
        if max(rows) >= len(self._lengths) or lengths != self._lengths[rows].tolist():
            raise InputError(
                "the batch's sentences are not the cached ones: cache the sentences that are "
                "trained on, in their order"
            )
        (b, t), count, total = mask.shape, 1 + len(self.layers), sum(self._maps)
        vectors = np.zeros((b, count, t, self.width), dtype=np.float16)
        maps = np.zeros((b, total, t, t), dtype=np.float16)
        for i, (row, n) in enumerate(zip(rows, lengths, strict=True)):
            start, cut = self._starts[row], self._starts[row] + count * n * self.width
            vectors[i, :, :n] = self._halves[start:cut].reshape(count, n, -1)
            maps[i, :, :n, :n] = self._halves[cut : cut + total * n * n].reshape(total, n, n)
        embeddings, *hidden = torch.from_numpy(vectors).to(mask.device).unbind(1)
        attention = torch.from_numpy(maps).to(mask.device).split(self._maps, 1)
        if self.kind == "seed":
            attention = [one.squeeze(1) for one in attention]
        return Internals(
            embeddings,
            dict(zip(self.layers, hidden, strict=True)),
            dict(zip(self.layers, attention, strict=True)),
        )

    def describe(self) -> dict[str, Any]:
        return self._description

    def close(self) -> None:
        """Give the disk back. May be called twice."""
        self._halves = None
        self._file.close()

    def __enter__(self) -> Cached:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    return projections[name](_full(states))


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
    losses, and each stage its own schedule; here they stay on, in the steps that others have.)

    Attributes:
        prediction: the loss on the student's logits; None for none.
        states: the teacher's side, of the same kind.
        layer_map: layer of the teacher by layer of the student; see :func:`layer_map`.
        embedding_weight: ``tinybert`` alone.

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

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, layers = self.layer_terms(model, batch)
        layers = {name: weight * layers[name] for name, weight in self.weights.items()}
        alone = self.kind == "tinybert" and batch.get("progress", 1.0) < 0.5 and layers
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
    """Median share of each term over the points at which all terms are on; see `shares`."""
    table = shares(history).pivot_table(index="epoch", columns="term", values="share")
    return table.dropna().median()
