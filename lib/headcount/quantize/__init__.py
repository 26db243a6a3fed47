"""Fewer bits: the arithmetic, models that simulate it in training, bytes, and curvature."""

from headcount.quantize.arithmetic import (
    asymmetric_scale,
    dequantize,
    error,
    load_torch_dynamic,
    quantize,
    range_scale,
    serialized_mb,
    symmetric_scale,
    torch_dynamic,
)
from headcount.quantize.fake import (
    FakeQuantization,
    attach,
    one_by_one,
    rounded,
    settle,
    simulated,
)
from headcount.quantize.grids import Grid, fake_quantize
from headcount.quantize.hessian import (
    bits_by_sensitivity,
    eigenvalues,
    omega,
    top_eigenvalue,
)
from headcount.quantize.schemes import (
    BLOCK,
    Scheme,
    byte_counts,
    deployed,
    modules,
    q8bert,
    quant_noise,
    simulated_bytes,
    targets,
    weights_only,
)

__all__ = [
    "BLOCK",
    "FakeQuantization",
    "Grid",
    "Scheme",
    "asymmetric_scale",
    "attach",
    "bits_by_sensitivity",
    "byte_counts",
    "deployed",
    "dequantize",
    "eigenvalues",
    "error",
    "fake_quantize",
    "load_torch_dynamic",
    "modules",
    "omega",
    "one_by_one",
    "q8bert",
    "quant_noise",
    "quantize",
    "range_scale",
    "rounded",
    "serialized_mb",
    "settle",
    "simulated",
    "simulated_bytes",
    "symmetric_scale",
    "targets",
    "top_eigenvalue",
    "torch_dynamic",
    "weights_only",
]
