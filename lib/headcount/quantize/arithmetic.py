"""INT8 arithmetic by hand, and the seed study's own way of quantising, kept as a reference row.

A number x is kept as the integer q = clip(round(x / s) + z, low, high), and read back as
s (q - z). Weights are symmetric: z = 0 and s = max|w| / 127, for a whole matrix (per tensor) or
for each output row (per channel). Activations are asymmetric, 0 to 255 (Jacob 2018, equation 1;
Zafrir 2019, section 2.1, uses the symmetric form for both). Rounding is to the nearest, ties to
even, as in torch and ONNX Runtime.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from headcount import bench, models


def symmetric_scale(weight: Tensor, axis: int | None = None, bits: int = 8) -> Tensor:
    """Scale s = max|w| / (2^(bits-1) - 1) of a tensor, or of each index along ``axis``.

    Returns a scalar, or a tensor that broadcasts against ``weight`` (size 1 but for ``axis``).
    An all-zero channel has scale 1, so that it is read back as zeros.
    """
    rest = [d for d in range(weight.ndim) if d != axis]
    largest = weight.abs().amax(rest, keepdim=axis is not None)
    return torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), torch.ones_like(largest))


def asymmetric_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (integer-valued, 0 to 255) of a tensor for uint8; 0 is exact."""
    return range_scale(x.min(), x.max())


def range_scale(low: Tensor, high: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Scales and zero points (0 to 2^bits - 1) for values from ``low`` to ``high``; 0 is exact.

    All four have one shape; each pair of ends stands for a tensor (Jacob 2018, section 3).
    """
    low, high, top = low.clamp(max=0), high.clamp(min=0), 2**bits - 1
    scale = torch.where(high > low, (high - low) / top, torch.ones_like(high))
    return scale, torch.round(-low / scale).clamp(0, top)


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | int = 0, low: int = -127, high: int = 127
) -> Tensor:
    """Integers (held as floats, in the shape of ``x``) that stand for ``x``."""
    return (torch.round(x / scale) + zero_point).clamp(low, high)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor | int = 0) -> Tensor:
    """What the integers ``q`` are read back as."""
    return scale * (q - zero_point)


def error(x: Tensor, x_read_back: Tensor) -> float:
    """Root mean square error, as a share of the root mean square of ``x``."""
    x = x.detach()
    return float((x - x_read_back.detach()).norm() / x.norm())


def torch_dynamic(model: nn.Module) -> nn.Module:
    """A copy with every ``nn.Linear`` in dynamic INT8 by ``torch.ao`` (deprecated), CPU only.

    The seed study's way: embeddings stay FP32, weights have one scale a matrix, and activations
    get 7 of their 8 bits (torch's guard against saturation on x86 without VNNI).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        return quantize_dynamic(copy.deepcopy(model).cpu().eval(), {nn.Linear}, dtype=torch.qint8)


def serialized_mb(model: nn.Module) -> float:
    """10^6 bytes of the serialised state dict, packed INT8 weights included.

    Summing ``parameters()`` instead, as the seed study does, misses exactly the packed weights:
    they are not parameters any more.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(model.state_dict(), file)
    return file.tell() / 1e6


def load_torch_dynamic(folder: Path, threads: int) -> Callable:
    """A loader for :mod:`headcount.bench`: the FP32 model of ``folder``, quantised on loading."""
    return bench.torch_scorer(torch_dynamic(models.load(folder)[0]), threads)
