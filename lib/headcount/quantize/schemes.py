"""What of a model is quantised and how, the bytes that makes, and the units to do it to one by one.

A `Scheme` is applied by :mod:`headcount.quantize.fake`. What it names is found by `targets`: every
linear layer, pooler and classifier included, and every embedding table, which is what ONNX
Runtime's dynamic quantisation takes too. LayerNorm, softmax, GELU, biases, QK^T and AV stay FP32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from headcount.errors import InputError
from headcount.parameters import known
from headcount.prune.surgery import ARCHITECTURES, attention_layers
from headcount.quantize.grids import Grid

ACTIVATIONS = ("fp32", "dynamic", "static")
BLOCK = 32  # inputs that share a scale in the INT4 files of headcount.export
TABLE = Grid(reach="tensor", asymmetric=True)  # embeddings in the INT8 files of headcount.export
FFN = {"bert": ("intermediate", "output"), "distilbert": ("ffn",)}  # paths from a block
# Attached to a model for its training, and taken off it before it leaves.
NOT_THE_MODEL = ("layer_projections", "head_gates")


@dataclass(frozen=True)
class Scheme:
    """What is quantised, and how.

    Modules are named as in ``model.named_modules()``; a name stands for all that is inside it.

    Attributes:
        linear: of the weights of linear layers; None leaves them in FP32.
        embedding: of embedding tables; None leaves them in FP32.
        activations: of the inputs of those linear layers. ``dynamic``: 8 bits asymmetric, in a
            range taken from each sentence in each forward pass, as the file takes it.
            ``static``: 8 bits symmetric, in a range learned in training.
        momentum: of static ranges: the share of the old range that a training step keeps.
        noise: share of the weights that a forward pass quantises in training; in evaluation all.
        bits: by module, bits of its weights where they are not the grid's; the innermost counts.
        only: modules to quantise; None means all.
    """

    linear: Grid | None = None
    embedding: Grid | None = None
    activations: str = "fp32"
    momentum: float = 0.0
    noise: float = 1.0
    bits: Mapping[str, int] = field(default_factory=dict, hash=False)
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        known(self.activations, ACTIVATIONS, "activations cannot be")
        if self.embedding is not None and self.embedding.reach == "group":
            raise InputError("no group of tokens shares a scale: give embeddings another reach")
        for name in ("momentum", "noise"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{name}={share} is no share: choose from 0 to 1")

    def describe(self) -> dict[str, Any]:
        """All that a training with it depends on, in JSON's types."""
        return {**asdict(self), "only": None if self.only is None else list(self.only)}


def deployed(embedding_bits: int = 8) -> Scheme:
    """The arithmetic of :func:`headcount.export.quantize_dynamic`.

    Weights int8, symmetric by output row; each embedding table uint8, asymmetric; inputs of linear
    layers uint8, asymmetric, over the sentence. The runtime's range is over the tensor, and what
    is deployed is given one sentence at a time, so that is the sentence's real positions: here,
    too, neither neighbours nor padding count. In the last layer, all but W_K and W_V take the range
    of the first position, which is what :mod:`headcount.first_token` leaves of it in the file.

    Args:
        embedding_bits: fewer than 8 are symmetric, in blocks of 32 dimensions of a token; 4 is
            :func:`headcount.export.quantize_embeddings_int4`.
    """
    table = TABLE if embedding_bits == 8 else Grid(embedding_bits, "block", BLOCK)
    return Scheme(linear=Grid(), embedding=table, activations="dynamic")


def q8bert(momentum: float) -> Scheme:
    """Q8BERT (Zafrir 2019, section 2): all symmetric int8 with one scale a tensor.

    The scale of weights and tables is max|w| / 127; the range of a linear layer's inputs is an
    exponential moving average of max|x| over the batches of the training, begun at the first one's.
    The authors' code (NLP Architect) also rounds what linear layers return; here it stays FP32.

    Args:
        momentum: theirs is 0.9999, which takes some 10,000 steps to forget the first batch.
    """
    tensor = Grid(reach="tensor")
    return Scheme(linear=tensor, embedding=tensor, activations="static", momentum=momentum)


def quant_noise(p: float, base: Scheme | None = None) -> Scheme:
    """Quant-Noise (Fan 2020, section 4): a training step quantises a random share of the weights.

    Each weight for itself, with probability ``p``; of embeddings each one looked up. Evaluation
    quantises all. Activations are as in ``base``, which is `deployed` by default.
    """
    return replace(base or deployed(), noise=p)


def weights_only(
    bits: int,
    *,
    block: int | None = None,
    groups: int | None = None,
    clip: bool = False,
    embedding_bits: int | None = 8,
) -> Scheme:
    """Symmetric weights and FP32 activations.

    Args:
        bits: of weights of linear layers.
        block: inputs that share a scale; 4 bits in blocks of 32 is
            :func:`headcount.export.quantize_int4`.
        groups: groups of consecutive output rows that share a scale (Shen 2020). By
            default each output row has its own.
        clip: of linear layers, the largest weights, as `Grid` does.
        embedding_bits: 8 is uint8, asymmetric by table, as in the files of `headcount.export`;
            fewer have a scale for each block or else for each token. None leaves them in FP32.

    Raises:
        InputError: both ``block`` and ``groups`` are given, or bits that weights cannot have.
    """
    if block and groups:
        raise InputError("blocks of inputs or groups of rows, not both: leave one out")
    linear = Grid(bits, clip=clip)
    if block or groups:
        linear = Grid(bits, "block" if block else "group", block or groups, clip=clip)
    embedding = None
    if embedding_bits == 8:
        embedding = TABLE
    elif embedding_bits:
        embedding = replace(linear, bits=embedding_bits) if block else Grid(embedding_bits)
    return Scheme(linear=linear, embedding=embedding)


# --- what of a model ------------------------------------------------------------------------------


def _inside(name: str, outer: str) -> bool:
    return f"{name}.".startswith(f"{outer}.")


def targets(model: PreTrainedModel, scheme: Scheme) -> Iterator[tuple[str, nn.Module, Grid]]:
    """Each module whose weights the scheme quantises, with its name and its grid.

    Raises:
        InputError: the scheme names a module that has no weights to quantise.
    """
    found = [
        (name, module, grid)
        for name, module in model.named_modules()
        for grid in [scheme.linear if isinstance(module, nn.Linear) else scheme.embedding]
        if isinstance(module, (nn.Linear, nn.Embedding))
        and grid is not None
        and not any(_inside(name, other) for other in NOT_THE_MODEL)
    ]
    for wanted in (*scheme.bits, *(scheme.only or ())):
        if not any(_inside(name, wanted) for name, *_ in found):
            raise InputError(
                f"the scheme names {wanted!r}, where the model has nothing that it quantises: take "
                "a name of quantize.modules(model) or of model.named_modules()"
            )
    for name, module, grid in found:
        if scheme.only is not None and not any(_inside(name, outer) for outer in scheme.only):
            continue
        overrides = [outer for outer in scheme.bits if _inside(name, outer)]
        if overrides:
            grid = replace(grid, bits=scheme.bits[max(overrides, key=len)])
        yield name, module, grid


def static_inputs(model: PreTrainedModel, scheme: Scheme) -> dict[int, int]:
    """Where ranges are static, the number of each linear layer's input, by id; Q, K and V have one.

    Numbers count from 0. Empty for other schemes.
    """
    if scheme.activations != "static":
        return {}
    layers = [layer for layer in attention_layers(model) if layer.heads]
    first = {id(module): id(layer.query) for layer in layers for module in (layer.key, layer.value)}
    numbers: dict[int, int] = {}
    return {
        id(module): numbers.setdefault(first.get(id(module), id(module)), len(numbers))
        for _, module, _ in targets(model, scheme)
        if isinstance(module, nn.Linear)
    }


def modules(model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
    """Units to quantise one at a time, first to last, each with the names of its modules.

    They are ``embeddings``, ``layer 0 attention``, ``layer 0 ffn`` and so on, ``pooler`` (of
    DistilBERT, the dense layer in its place) and ``classifier``. An attention that has lost all its
    heads is left out. ``replace(scheme, only=names)`` quantises one of them.
    """
    base = model.base_model_prefix
    units = {"embeddings": (f"{base}.embeddings",)}
    paths = ARCHITECTURES[model.config.model_type]
    for layer in attention_layers(model):
        block = f"{base}.{paths.blocks}.{layer.index}"
        if layer.heads:
            units[f"layer {layer.index} attention"] = (f"{block}.attention",)
        parts = FFN[model.config.model_type]
        units[f"layer {layer.index} ffn"] = tuple(f"{block}.{part}" for part in parts)
    dense = "pre_classifier" if hasattr(model, "pre_classifier") else f"{base}.pooler"
    return units | {"pooler": (dense,), "classifier": ("classifier",)}


# --- bytes ----------------------------------------------------------------------------------------


def byte_counts(model: PreTrainedModel, scheme: Scheme) -> dict[str, int]:
    """Bytes of ``codes``, ``scales``, ``zero_points`` and ``fp32``, computed and not counted.

    Codes lie packed at their bit width, those of a block grid in whole blocks; a scale takes 4
    bytes, and so does a static range; a zero point takes 1. There are zero points where ONNX
    Runtime's file has them: for asymmetric grids, and zeros for the rows of ``channel``. ``fp32``
    is every other parameter at 4 bytes. A file has its graph besides, with the constants that
    belong to it (position ids, 8 bytes each, and a few numbers).

    Args:
        model: plain, or with the scheme attached.
    """
    codes = zero_points = quantized = 0
    scales = 4 * len(set(static_inputs(model, scheme).values()))
    for _, module, grid in targets(model, scheme):
        shape, count = module.weight.shape, grid.scales(module.weight.shape)
        stored = count * grid.size if grid.reach == "block" else shape.numel()
        codes += math.ceil(stored * grid.bits / 8)
        scales += 4 * count
        zero_points += count * (grid.asymmetric or grid.reach == "channel")
        quantized += module.weight.numel()
    whole = sum(parameter.numel() for parameter in model.parameters())
    return {
        "codes": codes,
        "scales": scales,
        "zero_points": zero_points,
        "fp32": 4 * (whole - quantized),
    }


def simulated_bytes(model: PreTrainedModel, scheme: Scheme) -> int:
    """Bytes that a file of the quantised model has, its graph left out: see `byte_counts`."""
    return sum(byte_counts(model, scheme).values())
