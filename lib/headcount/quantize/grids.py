"""Which numbers a matrix may be rounded to, and the gradient through rounding.

A `Grid` is the set of levels and the reach of one scale: a matrix, an output row, a group of
consecutive rows, or a block of consecutive inputs. `fake_quantize` rounds and reads back in one
step, in floating point, with the straight-through estimator as its gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from headcount.errors import InputError
from headcount.parameters import known
from headcount.quantize.arithmetic import quantize, range_scale

REACHES = ("tensor", "channel", "group", "block")


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, share: float
    ) -> Tensor:
        # In place where it can be: a training step does this for every weight.
        codes = torch.div(x.to(scale.dtype), scale).round_().add_(zero_point)
        clipped = codes.clamp(low, high)
        passing = codes == clipped
        read_back = clipped.sub_(zero_point).mul_(scale).to(x.dtype)
        if share < 1:
            exact = torch.rand_like(x) >= share
            read_back = torch.where(exact, x, read_back)
            passing |= exact
        ctx.save_for_backward(passing)
        return read_back

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (passing,) = ctx.saved_tensors
        return slope * passing, None, None, None, None, None


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, share: float = 1.0
) -> Tensor:
    """x as its codes from ``low`` to ``high`` are read back, with a gradient.

    The gradient is the identity (straight-through estimator: Bengio 2013) where the code is inside
    the range, and 0 where it was clipped. Computed in the precision of ``scale``, whatever that of
    ``x``.

    Args:
        scale, zero_point: broadcast against ``x``, in FP32 at least; no gradient flows into them.
        share: of the entries of ``x``, drawn at random, that are rounded; the others stay exact.
    """
    return _StraightThrough.apply(x, scale, zero_point, low, high, share)


@cache
def normal_step(levels: int) -> float:
    """Step between even levels that round a standard normal number with least squared error.

    The levels lie symmetrically about 0 (Max 1960, table II).
    """
    codes = np.arange(levels) - (levels - 1) / 2

    def squared_error(step: float) -> float:
        edges = np.concatenate([[-np.inf], step * (codes[:-1] + 0.5), [np.inf]])
        share, mean = np.diff(norm.cdf(edges)), -np.diff(norm.pdf(edges))
        return 1 - 2 * step * (codes * mean).sum() + step**2 * (codes**2 * share).sum()

    return float(minimize_scalar(squared_error, bounds=(1e-3, 3), options={"xatol": 1e-7}).x)


@dataclass(frozen=True)
class Grid:
    """How the weights of a matrix (out, in) are rounded.

    One scale serves a ``tensor``, a ``channel`` (an output row; of an embedding table, a token's
    row), a ``group`` of consecutive rows (Shen 2020) or a ``block`` of consecutive inputs. The
    first three are symmetric: codes to +-(2^(bits-1) - 1), scale max|w| / (2^(bits-1) - 1).
    ``block`` is what ONNX Runtime makes for MatMulNBits: all 2^bits codes, the weight of largest
    magnitude at -2^(bits-1), so that a scale may be negative.

    Attributes:
        bits: of a code, 2 to 8.
        reach: of one scale.
        size: groups in a matrix, or inputs in a block; the last ones are smaller where it does not
            divide the matrix, and there are no more groups than rows.
        asymmetric: from 0 to 2^bits - 1 with a zero point instead; for reach ``tensor``.
        clip: the symmetric scale is at most `normal_step` times the root mean square of the
            weights that are not 0: the largest are clipped, for the good of the many.

    Raises:
        InputError: no such grid.
    """

    bits: int = 8
    reach: str = "channel"
    size: int = 0
    asymmetric: bool = False
    clip: bool = False

    def __post_init__(self) -> None:
        known(self.reach, REACHES, "unknown reach of a scale")
        if not 2 <= self.bits <= 8:
            raise InputError(f"weights cannot be rounded to {self.bits} bits: choose 2 to 8")
        if (self.reach in ("group", "block")) != (self.size > 0):
            raise InputError(f"size {self.size} does not fit reach {self.reach!r}: mend the grid")
        if self.asymmetric and self.reach != "tensor":
            raise InputError(f"no asymmetric grid has reach {self.reach!r}: choose 'tensor'")
        if self.clip and (self.asymmetric or self.reach == "block"):
            raise InputError("only a symmetric grid clips: leave clip out, or asymmetric and block")

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        if self.asymmetric:
            return 0, 2**self.bits - 1
        top = 2 ** (self.bits - 1) - 1
        return (-top - 1 if self.reach == "block" else -top), top

    def scales(self, shape: torch.Size) -> int:
        """How many scales a matrix of this shape has."""
        out, inputs = shape
        rows = math.ceil(out / self.size) if self.reach == "group" else 1
        return {
            "tensor": 1,
            "channel": out,
            "group": math.ceil(out / rows),
            "block": out * math.ceil(inputs / (self.size or 1)),
        }[self.reach]

    def _parts(self, weight: Tensor) -> Tensor:
        """The matrix with all that shares a scale along the last axis, padded with zeros."""
        out, inputs = weight.shape
        if self.reach == "tensor":
            return weight.reshape(1, -1)
        if self.reach == "block":
            short = -inputs % self.size
            return (F.pad(weight, (0, short)) if short else weight).unflatten(1, (-1, self.size))
        if self.reach == "group":
            rows = math.ceil(out / self.size)
            short = -out % rows
            padded = F.pad(weight, (0, 0, 0, short)) if short else weight
            return padded.reshape(-1, rows * inputs)
        return weight

    def _whole(self, parts: Tensor, shape: torch.Size) -> Tensor:
        if self.reach == "block":
            return parts.flatten(1)[:, : shape[1]]
        return parts.reshape(-1, shape[1])[: shape[0]]

    @torch.no_grad()
    def _scale(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        # The two ends first: on a CPU torch finds them many times faster than the largest |w|.
        low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
        if self.asymmetric:
            return range_scale(low, high, self.bits)
        if self.reach == "block":
            scale = torch.where(high > -low, high, low) / self.levels[0]
        else:
            scale = torch.maximum(high, -low) / self.levels[1]
            if self.clip:
                square = parts.square().sum(-1) / parts.count_nonzero(-1)  # NaN of zeros alone
                step = normal_step(2 * self.levels[1] + 1) * square.sqrt()
                scale = torch.fmin(scale, step.unsqueeze(-1))
        return torch.where(scale != 0, scale, torch.ones_like(scale)), torch.zeros_like(scale)

    def scale(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and zero points of a matrix (out, in), each as many as `scales` says.

        Of shape (1, 1), (out, 1), (groups, 1) or (out, blocks, 1).
        """
        return self._scale(self._parts(weight))

    def codes(self, weight: Tensor) -> Tensor:
        """Integers (held as floats) that stand for a matrix (out, in), in its shape."""
        parts = self._parts(weight.detach())
        return self._whole(quantize(parts, *self._scale(parts), *self.levels), weight.shape)

    def read_back(self, weight: Tensor, share: float = 1.0) -> Tensor:
        """The matrix (out, in) as it is read back, by `fake_quantize`."""
        parts = self._parts(weight)
        read_back = fake_quantize(parts, *self._scale(parts), *self.levels, share)
        return self._whole(read_back, weight.shape)
