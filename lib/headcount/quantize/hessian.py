"""Bits for each layer from the curvature of the loss (Q-BERT: Shen 2020).

A layer in whose weights the loss is steep in some direction is given more bits. How steep: the
largest eigenvalue of the loss's Hessian with respect to the layer's weights. It is found from
products of the Hessian with vectors alone, by Lanczos' method: Shen 2020 takes power iteration,
which needs more of them, and many more where the largest eigenvalues have unlike signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from transformers import PreTrainedModel

from headcount.attention import eager_attention
from headcount.data import Tokenized, collate
from headcount.distill.objectives import Batch, student_logits
from headcount.errors import InputError
from headcount.quantize.grids import Grid
from headcount.quantize.schemes import Scheme, targets

BASIS = 8  # vectors that Lanczos' method keeps


def _matrices(model: PreTrainedModel, name: str) -> list[nn.Parameter]:
    scheme = Scheme(linear=Grid(), embedding=Grid(), only=(name,))
    return [module.weight for _, module, _ in targets(model, scheme)]


@contextmanager
def _twice_differentiable(model: PreTrainedModel, weights: Sequence[Tensor]) -> Iterator[None]:
    """Evaluation mode, gradients for ``weights`` alone, and attention that has second derivatives.

    The fused kernels have none on a CPU.
    """
    training = model.training
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with eager_attention(model):
            yield
    finally:
        for parameter, want in wanted.items():
            parameter.requires_grad_(want)
        model.train(training)


def _product(
    model: PreTrainedModel, weights: list[Tensor], vector: list[Tensor], batches: list[Batch]
) -> list[Tensor]:
    """H v, of the loss's mean over all sentences; in the shapes of the weights."""
    total = [torch.zeros_like(weight) for weight in weights]
    sentences = sum(len(batch["labels"]) for batch in batches)
    for batch in batches:
        logits = student_logits(model, batch)
        loss = F.cross_entropy(logits, batch["labels"], reduction="sum") / sentences
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        products = torch.autograd.grad(slopes, weights, vector, materialize_grads=True)
        total = [one + other for one, other in zip(total, products, strict=True)]
    return total


def top_eigenvalue(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    name: str,
    *,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> float:
    """The Hessian's eigenvalue of largest magnitude, with its sign, for one part of a model.

    The Hessian is that of the mean cross-entropy, in evaluation mode, with respect to the part's
    weight matrices (biases and LayerNorm left out). Lanczos' method from a random vector.

    Args:
        batches: ``input_ids``, ``attention_mask`` (b, t) and ``labels`` (b,).
        name: of the part, as in ``model.named_modules()``: a layer, say.
        tolerance: how far off the eigenvalue may be, as a share of itself.
        seed: of the first vector.

    Raises:
        InputError: there is no sentence or no label, no weights, or the curvature is not finite.
    """
    weights = _matrices(model, name)
    own = [{key: tensor.to(model.device) for key, tensor in batch.items()} for batch in batches]
    if not own or any("labels" not in batch for batch in own):
        raise InputError("the curvature is the loss's: give at least one batch with labels")
    shapes, sizes = [w.shape for w in weights], [w.numel() for w in weights]

    def product(flat: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(flat.reshape(-1)).to(weights[0]).split(sizes)
        vector = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        found = torch.cat([part.flatten() for part in _product(model, weights, vector, own)])
        if not found.isfinite().all():
            raise InputError(f"the curvature in {name} is not finite: the model has diverged")
        return found.cpu().numpy()

    first = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed))
    first = first.to(weights[0].dtype).numpy()
    with _twice_differentiable(model, weights):
        if not product(first).any():  # nothing is curved
            return 0.0
        hessian = LinearOperator((len(first), len(first)), matvec=product, dtype=first.dtype)
        # A small basis: each product takes longer than all the arithmetic between two of them.
        found = eigsh(
            hessian, k=1, which="LM", v0=first, ncv=BASIS, tol=tolerance, return_eigenvectors=False
        )
    return float(found[0])


def eigenvalues(
    model: PreTrainedModel,
    data: Tokenized,
    names: Iterable[str],
    *,
    subsets: int = 10,
    share: float = 0.1,
    batch_size: int = 32,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> pd.DataFrame:
    """`top_eigenvalue` of each part on each of several random subsets of the sentences.

    An eigenvalue takes some ten products of Hessian and vector, each some four forward passes over
    the subset.

    Args:
        names: parts, as in ``model.named_modules()``.
        subsets: how many, without a sentence in common.
        share: of the sentences, in each.
        seed: of the subsets and of the first vectors.

    Returns:
        index ``names``, a column for each subset.

    Raises:
        InputError: the subsets would be empty, or there are not as many sentences.
    """
    size = round(share * len(data))
    if not 0 < size * subsets <= len(data):
        raise InputError(
            f"{subsets} subsets of {share:.0%} cannot be had from {len(data)} sentences: choose "
            "fewer or smaller ones"
        )
    order, found = np.random.default_rng(seed).permutation(len(data)), {}
    for subset in range(subsets):
        rows = order[subset * size : (subset + 1) * size]
        rows = rows[np.argsort(data.lengths[rows], kind="stable")]
        batches = [
            collate([data[int(row)] for row in rows[at : at + batch_size]], pad_token_id=0)
            for at in range(0, size, batch_size)
        ]
        found[subset] = {
            name: top_eigenvalue(model, batches, name, tolerance=tolerance, seed=seed)
            for name in names
        }
    return pd.DataFrame(found)


def omega(found: pd.DataFrame) -> pd.Series:
    """Omega = |mean(lambda)| + std(lambda) over the columns of `eigenvalues` (Shen 2020).

    The standard deviation is that of these values, not of a population that they are drawn from.
    """
    return found.mean(axis=1).abs() + found.std(axis=1, ddof=0)


def bits_by_sensitivity(
    omegas: Mapping[str, float],
    sizes: Mapping[str, int] | None = None,
    *,
    low: int = 2,
    high: int = 4,
    average: float = 3.0,
) -> dict[str, int]:
    """``high`` bits for the parts of largest Omega, as far as the budget goes; ``low`` for others.

    Parts are taken in order of Omega, largest first, until the next would bring the bits a weight
    above ``average``. The result is what `Scheme` has as ``bits``.

    Args:
        omegas: by part.
        sizes: weights of each part; by default all have as many.

    Raises:
        InputError: there is no part, or the budget is below ``low``.
    """
    if not omegas or not low <= average:
        raise InputError(
            f"{len(omegas)} parts cannot have {average} bits on average, {low} at least: give "
            "parts, or a larger average"
        )
    sizes = sizes or dict.fromkeys(omegas, 1)
    bits, spare = dict.fromkeys(omegas, low), (average - low) * sum(sizes[name] for name in omegas)
    for name in sorted(omegas, key=lambda name: -omegas[name]):
        spare -= (high - low) * sizes[name]
        if spare < 0:
            break
        bits[name] = high
    return bits
