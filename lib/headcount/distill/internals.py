"""What a model computes on its way, and where a student finds what its teacher computed.

`observed` looks into a model while it runs, with its fused attention kernels as they are. The
teacher's side comes from `Recomputed` or `Cached`, which are interchangeable.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount import models
from headcount.data import Tokenized, collate
from headcount.distill.objectives import Batch, student_logits
from headcount.errors import InputError
from headcount.parameters import known
from headcount.prune.surgery import ARCHITECTURES, AttentionLayer, attention_layers

KINDS = ("seed", "tinybert")


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


def in_fp32(tensor: Tensor) -> Tensor:
    """In FP32 at least: what autocast computed comes in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scores(query: Tensor, key: Tensor, head_size: int) -> Tensor:
    """QK^T / sqrt(d_head), (b, heads, t, t), of what W_Q and W_K return, (b, t, heads * d_head)."""
    heads = (in_fp32(x).unflatten(-1, (-1, head_size)).transpose(1, 2) for x in (query, key))
    with torch.autocast(query.device.type, enabled=False):  # it would round them again
        Q, K = heads
        return Q @ K.transpose(-1, -2) / math.sqrt(head_size)


def mean_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """Attention over real keys, averaged over heads, (b, t, t), of scores (b, heads, t, t)."""
    unseen = mask[:, None, None, :] == 0
    return in_fp32(scores).masked_fill(unseen, -torch.inf).softmax(-1).mean(1)


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
