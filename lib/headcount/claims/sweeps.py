"""What sweeps are asked: one number from macro-F1 at many points.

Points are arrays of any one shape: one value each, or one for each resampling of the sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headcount import curves
from headcount.claims.evidence import Points


def series(points: Points, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Curve of a series from the whole model on: percent (m,), macro-F1 (..., m).

    The points are `whole`, at 0 percent, and `{name}@{percent}`.
    """
    found = {float(p.partition("@")[2]): v for p, v in points.items() if p.startswith(f"{name}@")}
    percent = sorted(found)
    return np.array([0.0, *percent]), np.stack([points["whole"], *map(found.get, percent)], -1)


def random_series(points: Points) -> list[str]:
    """Names of the series that are random draws, `random0` and so on."""
    names = dict.fromkeys(point.partition("@")[0] for point in points)
    return [name for name in names if name.startswith("random")]


def area(points: Points, name: str) -> np.ndarray:
    """Mean height of a series' curve; of `random`, the mean over the draws."""
    if name != "random":
        return curves.area(*series(points, name))
    return _over_draws(np.stack([curves.area(*series(points, r)) for r in random_series(points)]))


def at(points: Points, name: str, percents: Sequence[int]) -> np.ndarray:
    """Mean macro-F1 of a series over some percents; of `random`, over the draws too."""
    names = random_series(points) if name == "random" else [name]
    heights = [np.mean([points[f"{one}@{p}"] for p in percents], axis=0) for one in names]
    return _over_draws(np.stack(heights)) if name == "random" else heights[0]


def early_minus_late(points: Points, series: str = "off", without: int | None = None) -> np.ndarray:
    """Macro-F1 lost by what a series does to a layer: first half of the layers minus second half.

    The points are `{series}@{layer}`; `off` silences a layer's heads. The layer `without` does not
    count; each half needs another.
    """
    layers = sorted(int(p.partition("@")[2]) for p in points if p.startswith(f"{series}@"))
    half = len(layers) // 2
    early, late = (
        np.mean([points[f"{series}@{layer}"] for layer in part if layer != without], axis=0)
        for part in (layers[:half], layers[-half:])
    )
    return late - early


def deferral(points: Points) -> np.ndarray:
    """Share of the heads at which 2 points are lost: step by step minus at once.

    Lost against the whole model after as many epochs of training, series `continued`.
    """
    percent, continued = series(points, "continued")
    steps, once = (
        curves.sparsity_at_loss(percent, series(points, name)[1] - continued)
        for name in ("steps", "once")
    )
    return (steps - once) / 100


def ends_minus_rest(points: Points) -> np.ndarray:
    """Macro-F1 lost with one module's weights in INT4: mean of the two ends minus that of the rest.

    The ends are the embeddings and the classifier.
    """
    scores = {p.removeprefix("int4 "): v for p, v in points.items() if p.startswith("int4 ")}
    ends = [scores.pop(name) for name in ("embeddings", "classifier")]
    return np.mean(list(scores.values()), axis=0) - np.mean(ends, axis=0)


def _over_draws(values: np.ndarray) -> np.ndarray:
    """Mean over random draws (k, ...); where sentences are resampled (k, n), draws are as well.

    Other draws would have been other heads: their luck belongs into the interval.
    """
    if values.ndim == 1:
        return values.mean()
    k, n = values.shape
    times = np.random.default_rng(0).multinomial(k, np.full(k, 1 / k), size=n).T
    return (times * values).sum(0) / k
