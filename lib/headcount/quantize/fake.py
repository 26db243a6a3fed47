"""Fake quantisation: a model that computes in floating point what its quantised self would.

`attach` puts a `Scheme` on a BERT or DistilBERT classifier, in place, which `headcount.train.fit`
then trains like any other (quantisation-aware training); `settle` takes it off. The weights that
are trained stay exact: rounding is redone in every forward pass, with the straight-through
estimator as its gradient. `simulated` is the same for evaluation alone, `rounded` a plain copy.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from headcount import first_token
from headcount.errors import InputError
from headcount.quantize.arithmetic import range_scale
from headcount.quantize.grids import Grid, fake_quantize
from headcount.quantize.schemes import Scheme, modules, static_inputs, targets

CODE = ("arithmetic.py", "fake.py", "grids.py", "schemes.py")


class FakeQuantization(nn.Module):
    """A model's ``fake_quantization`` while a scheme is attached: what its modules share.

    Attributes:
        scheme: the scheme.
        largest: of static activations, max|x| of each input, a buffer (inputs); 0 before the first
            training step. W_Q, W_K and W_V of a layer have one input.
    """

    def __init__(self, scheme: Scheme, inputs: int) -> None:
        super().__init__()
        self.scheme = scheme
        self.register_buffer("largest", torch.zeros(inputs) if inputs else None)
        self.handles: list[RemovableHandle] = []
        self.forget()

    def forget(self, *_: Any) -> None:
        """Let go of what belongs to one forward pass."""
        self.real: Tensor | None = None  # (b, t), where there is no padding; None if there is none
        self.last: tuple[Tensor, tuple[int | None, bool], Tensor] | None = None

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the model's forward pass: keep which positions are real."""
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if mask is not None and mask.ndim == 4:  # see headcount.distill.keys_mask
            mask = mask[:, 0, 0]
        self.real = None if mask is None else mask.bool()
        if self.largest is not None and not self.training and not self.largest.all():
            raise InputError(
                "static ranges are learned in training and there has been none: train the model "
                "with the scheme attached, or choose a scheme of dynamic activations"
            )

    def rounded(self, x: Tensor, site: int | None, first: bool = False) -> Tensor:
        """A linear layer's input (b, t, d) or (b, d), rounded once for all layers that it feeds.

        ``first``: a dynamic range is that of the first position, since no other is read.
        """
        if self.last is None or self.last[0] is not x or self.last[1] != (site, first):
            made = self._dynamic(x, first) if site is None else self._static(x, site)
            self.last = x, (site, first), made
        return self.last[2]

    @torch.no_grad()
    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest value of each sentence's real positions and 0, (b,), in FP32 at least.

        Sentence by sentence: the deployed kernel has one range a tensor and gets one a time.
        """
        low, high = x.amin(-1), x.amax(-1)
        if x.ndim == 3 and self.real is not None:
            low, high = (end.where(self.real, 0) for end in (low, high))
        wide = torch.promote_types(x.dtype, torch.float32)
        low, high = (end.reshape(len(x), -1).to(wide) for end in (low, high))
        return low.amin(1), high.amax(1)

    def _dynamic(self, x: Tensor, first: bool) -> Tensor:
        ends = range_scale(*self._ends(x[:, 0] if first else x))
        scale, zero_point = (end.reshape(-1, *[1] * (x.ndim - 1)) for end in ends)
        return fake_quantize(x, scale, zero_point, 0, 255)

    def _static(self, x: Tensor, site: int) -> Tensor:
        with torch.no_grad():
            largest = self.largest[site]
            if self.training:
                low, high = self._ends(x)
                seen = torch.maximum(high.amax(), -low.amin()).to(largest)
                moved = largest.lerp(seen, 1 - self.scheme.momentum)
                # No `if`: on a GPU each layer would wait for the answer.
                self.largest[site] = largest = torch.where(largest > 0, moved, seen)
            scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))[None]
        return fake_quantize(x, scale, torch.zeros_like(scale), -127, 127)


@dataclass
class _Fake:
    """How one module is quantised."""

    grid: Grid
    shared: FakeQuantization
    site: int | None  # of its input in FakeQuantization.largest
    first: bool  # whether its input is read at the first position alone
    kept: tuple[tuple[int, int], Any] | None = None

    def input(self, x: Tensor) -> Tensor:
        exact = self.shared.scheme.activations == "fp32"
        return x if exact else self.shared.rounded(x, self.site, self.first)

    def weight(self, weight: Tensor) -> Tensor:
        return self._once(weight, lambda: self.grid.read_back(weight, self.share))

    def rows(self, rows: Tensor, table: Tensor) -> Tensor:
        """Rows (..., d) that were looked up in a table: rounding all of it would take longer."""
        if self.grid.reach == "tensor":
            scale, zero_point = self._once(table, lambda: self.grid.scale(table))
            return fake_quantize(rows, scale, zero_point, *self.grid.levels, self.share)
        return self.grid.read_back(rows.flatten(0, -2), self.share).view_as(rows)

    @property
    def share(self) -> float:
        """Of the weights to round in this forward pass."""
        return self.shared.scheme.noise if self.shared.training else 1.0

    def _once(self, weight: Tensor, compute: Callable[[], Any]) -> Any:
        """In evaluation without gradients, compute again only when the weight has changed."""
        if self.shared.training or torch.is_grad_enabled():
            self.kept = None
            return compute()
        key = (weight.data_ptr(), weight._version)
        if self.kept is None or self.kept[0] != key:
            self.kept = key, compute()
        return self.kept[1]


class FakeLinear(nn.Linear):
    """What `attach` turns an ``nn.Linear`` into: the same parameters, another forward pass."""

    fake: _Fake

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fake.input(x), self.fake.weight(self.weight), self.bias)


class FakeEmbedding(nn.Embedding):
    """What `attach` turns an ``nn.Embedding`` into: the same table, another forward pass."""

    fake: _Fake

    def forward(self, ids: Tensor) -> Tensor:
        return self.fake.rows(super().forward(ids), self.weight)


def attach(model: PreTrainedModel, scheme: Scheme) -> FakeQuantization:
    """Have a model compute as if it were quantised, until `settle`.

    Parameters and their names stay; static ranges are trained, moved, copied and saved with the
    model, as ``model.fake_quantization``. ``model.config`` has the scheme, so that
    :func:`headcount.train.fit` tells trainings with different ones apart. No head may be removed
    while a scheme is attached. Under autocast scales and codes are computed in FP32.

    Raises:
        InputError: a scheme is attached already, or there is nothing that it quantises.
    """
    if hasattr(model, "fake_quantization"):
        raise InputError("the model has a scheme attached already: call settle first")
    found = list(targets(model, scheme))
    if not found:
        raise InputError("the scheme quantises nothing: give it a grid for weights or embeddings")
    sites = static_inputs(model, scheme)
    shared = FakeQuantization(scheme, len(set(sites.values())))
    model.fake_quantization = shared.to(model.device).train(model.training)
    at_first = first_token.linears(model)
    for _, module, grid in found:
        module.fake = _Fake(grid, shared, sites.get(id(module)), module in at_first)
        module.__class__ = FakeLinear if isinstance(module, nn.Linear) else FakeEmbedding
    shared.handles = [
        model.register_forward_pre_hook(shared.begin, with_kwargs=True),
        model.register_forward_hook(shared.forget, always_call=True),
    ]
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in CODE)
    model.config.fake_quantization = {
        **scheme.describe(),
        "code": hashlib.sha256(code).hexdigest(),
    }
    return shared


def settle(model: PreTrainedModel) -> None:
    """Leave a plain model with the weights as they were trained, not rounded.

    Its export rounds them, to the same numbers. Static ranges are lost. Raises InputError where no
    scheme is attached.
    """
    if not hasattr(model, "fake_quantization"):
        raise InputError("the model has no scheme attached: call attach first")
    for handle in model.fake_quantization.handles:
        handle.remove()
    for module in model.modules():
        if isinstance(module, (FakeLinear, FakeEmbedding)):
            module.__class__ = nn.Linear if isinstance(module, nn.Linear) else nn.Embedding
            del module.fake
    del model.fake_quantization, model.config.fake_quantization


@contextmanager
def simulated(model: PreTrainedModel, scheme: Scheme) -> Iterator[PreTrainedModel]:
    """Within the context the model, in evaluation mode, computes as if it were quantised.

    Raises:
        InputError: as `attach` does; or activations are static, whose ranges come from a training.
    """
    if scheme.activations == "static":
        raise InputError(
            "static ranges are learned in training: attach the scheme, train the model, and score "
            "it as it is"
        )
    training = model.training
    attach(model, scheme)
    model.eval()
    try:
        yield model
    finally:
        settle(model)
        model.train(training)


def one_by_one(model: PreTrainedModel, scheme: Scheme) -> Iterator[str]:
    """Name each unit of `modules` in turn, and compute as if it alone were quantised meanwhile.

    Raises:
        InputError: as `simulated` does.
    """
    for unit, names in modules(model).items():
        with simulated(model, replace(scheme, only=names)):
            yield unit


@torch.no_grad()
def rounded(model: PreTrainedModel, scheme: Scheme) -> PreTrainedModel:
    """A plain copy whose weights are those that the scheme reads back; activations stay FP32."""
    plain = copy.deepcopy(model)
    if hasattr(plain, "fake_quantization"):
        settle(plain)
    for _, module, grid in targets(plain, scheme):
        module.weight.copy_(grid.read_back(module.weight))
    return plain
