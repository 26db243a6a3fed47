"""What a study finds: scores, paired differences, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    FuncFormatter,
    NullLocator,
)

from headcount.plots.style import (
    COLOURS,
    MARKERS,
    column,
    family,
    family_handles,
    family_legend,
    log_ticks,
    panels,
    rows,
    signed,
    style,
)


@style()
def scores(
    pooled: pd.DataFrame,
    *,
    title: str,
    reference: str | None = None,
    part: str = "of the test part",
) -> Figure:
    """Macro-F1 with its 95 % interval, one line a variant, in the order given.

    Columns: variant, macro_f1, ci_low, ci_high; `fold_scores`, a list of each fold's own score, is
    drawn as small ticks where it is there, and who ran on fewer folds than others says so.
    `reference` names a variant to draw a line at; `part` says which sentences were scored.
    """
    figure, (ax,) = panels(1, title, height=1.5 + 0.33 * len(pooled))
    floor = _floor(pooled)
    for row, line in enumerate(pooled.itertuples()):
        colour = COLOURS[family(line.variant)]
        if line.macro_f1 < floor:
            note = f"◂ {line.macro_f1:.3f}"
            ax.text(0.01, row, note, color="#444", va="center", transform=ax.get_yaxis_transform())
            continue
        ax.plot([line.ci_low, line.ci_high], [row, row], color=colour, linewidth=2)
        ax.plot(line.macro_f1, row, "o", color=colour, markersize=7)
        for fold in getattr(line, "fold_scores", []):
            ax.plot(fold, row + 0.28, "|", color=colour, markersize=6, alpha=0.7)
    if reference is not None and (pooled["variant"] == reference).any():
        at = pooled.loc[pooled["variant"] == reference, "macro_f1"].iloc[0]
        ax.axvline(at, color=COLOURS[family(reference)], linewidth=1, linestyle="--", zorder=0)
    names = pooled["variant"]
    if "fold_scores" in pooled:
        folds = pooled["fold_scores"].str.len()
        few = names + " (" + folds.astype(str) + f" of {folds.max()} folds)"
        names = names.where(folds == folds.max(), few)
    rows(ax, names)
    ticks = "; ticks: each fold alone" if "fold_scores" in pooled else ""
    ax.set_xlabel(f"macro-F1 on the sentences {part} (95 % interval{ticks})", loc="right")
    family_legend(figure, pooled["variant"])
    return figure


@style()
def differences(
    contrasts: pd.DataFrame,
    *,
    title: str,
    xlabel: str | None = None,
    xlim: tuple[float, float] | None = None,
) -> Figure:
    """Forest plot of paired differences, in points, with a line at zero and each one's margin.

    Columns: variant, diff, diff_low, diff_high (fractions); optional baseline (named under the
    variant), label (instead of both), margin (a fraction, drawn as a tick where it is not 0),
    claimed (a fraction, the effect that somebody named).
    Figures to be compared with each other have one `xlim`, in points. Without it, a difference many
    times as large as most is an arrow at the edge with its numbers: else no other could be read.
    """
    figure, (ax,) = panels(1, title, height=1.6 + 0.42 * len(contrasts))
    ax.axvline(0, color="#444", linewidth=1.2, zorder=1)
    names = []
    far = _off_the_scale(contrasts) if xlim is None else np.zeros(len(contrasts), dtype=bool)
    for row, line in enumerate(contrasts.itertuples()):
        colour = COLOURS[family(line.variant)]
        if far[row]:
            _arrow(ax, row, line, colour)
        else:
            ax.plot([100 * line.diff_low, 100 * line.diff_high], [row, row], color=colour)
            ax.plot(100 * line.diff, row, "o", color=colour, markersize=7)
        margin = getattr(line, "margin", 0)
        if margin and not pd.isna(margin):
            ax.plot([100 * margin] * 2, [row - 0.38, row + 0.38], color="#444", linestyle=":")
        ax.plot(100 * getattr(line, "claimed", np.nan), row, "x", color="#444", markersize=8)
        between = f"{line.variant}\n− {line.baseline}" if "baseline" in contrasts else line.variant
        names.append(getattr(line, "label", between))
    rows(ax, names)
    if xlim is not None:
        ax.set_xlim(xlim)
    if any("\n" in name for name in names):
        ax.tick_params(axis="y", labelsize=9)
    signs = {"margin": "dotted: margin", "claimed": "×: what was claimed"}
    drawn = contrasts.reindex(columns=[*signs]).fillna(0).any()
    note = "".join(f"; {sign}" for name, sign in signs.items() if drawn[name])
    told = xlabel or f"difference in macro-F1, points (95 % paired interval{note})"
    ax.set_xlabel(told, loc="right")  # names to the left leave less room than it may need
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: signed(value, "+g") if value else "0")
    )
    family_legend(figure, contrasts["variant"])
    return figure


def _off_the_scale(contrasts: pd.DataFrame) -> np.ndarray:
    """Which intervals lie beyond four times what most reach to either side, (rows,)."""
    low, high = contrasts["diff_low"].to_numpy(), contrasts["diff_high"].to_numpy()
    reach = 4 * np.median(np.maximum(np.abs(low), np.abs(high)))
    return (low > reach) | (high < -reach)


def _arrow(ax: Axes, row: int, line: Any, colour: str) -> None:
    """A difference off the scale: an arrow at the edge, and its numbers."""
    right = line.diff > 0
    place = {"transform": ax.get_yaxis_transform(), "color": colour}
    ax.plot(0.98 if right else 0.02, row, ">" if right else "<", markersize=9, **place)
    diff, low, high = (
        signed(100 * value, "+.1f") for value in (line.diff, line.diff_low, line.diff_high)
    )
    ax.text(
        *(0.95 if right else 0.05, row, f"{diff} [{low}, {high}]"),
        ha="right" if right else "left",
        va="center",
        **place,
    )


@style()
def pareto(points: pd.DataFrame, *, title: str) -> Figure:
    """Macro-F1 against latency; the area of a disc is the megabytes that would be shipped.

    Columns: variant, macro_f1, latency_ms_p50, size_mb; optional ci_low, ci_high, and runtime
    (torch round, ONNX Runtime square). Latency has a logarithmic axis.
    """
    figure, (ax,) = panels(1, title, height=6.2)
    largest = points["size_mb"].max()
    area = 1_400 * points["size_mb"] / largest
    onnx = column(points, "runtime", "torch").str.contains("onnx", case=False)
    for marker, chosen in (("o", ~onnx), ("s", onnx)):
        some = points[chosen]
        # A square of the same area as the disc: scatter's s is the side's square.
        size = area[chosen] * (1 if marker == "o" else np.pi / 4)
        colours = [COLOURS[family(name)] for name in some["variant"]]
        ax.scatter(
            some["latency_ms_p50"], some["macro_f1"], s=size, c=colours, marker=marker, alpha=0.35,
            linewidths=0,
        )  # fmt: skip
        ax.scatter(some["latency_ms_p50"], some["macro_f1"], s=16, c=colours, marker=marker)
    if "ci_low" in points:
        for line in points.itertuples():
            ax.plot(
                [line.latency_ms_p50] * 2, [line.ci_low, line.ci_high],
                color=COLOURS[family(line.variant)], linewidth=1, alpha=0.6,
            )  # fmt: skip
    low, high = points["latency_ms_p50"].min() / 1.6, points["latency_ms_p50"].max() * 1.9
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_xticks(log_ticks(low, high))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(
        xlabel="median latency of one sentence, ms (log scale)", ylabel="macro-F1 (95 % interval)"
    )
    ax.margins(y=0.12)
    handles = family_handles(points["variant"])
    if onnx.any():
        shape = {"o": "torch", "s": "ONNX Runtime"}
        handles += [
            Line2D([], [], color="#666", marker=m, linestyle="", label=n) for m, n in shape.items()
        ]
    legend = f"area: MB shipped (largest {largest:.0f} MB)"
    handles.append(Line2D([], [], linestyle="", label=legend))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handletextpad=0.4)
    _place_labels(ax, points, "latency_ms_p50", "macro_f1", np.sqrt(area / np.pi))
    return figure


@style()
def speedups(points: pd.DataFrame, *, title: str) -> Figure:
    """Measured speed-up against the one that arithmetic promises; the dashed line is equality.

    Columns: variant, predicted_speedup, speedup, runtime (torch round, ONNX Runtime square).
    """
    figure, (ax,) = panels(1, title, height=6.2)
    onnx = points["runtime"].str.contains("onnx", case=False)
    for marker, some in (("o", points[~onnx]), ("s", points[onnx])):
        colours = [COLOURS[family(name)] for name in some["variant"]]
        ax.scatter(some["predicted_speedup"], some["speedup"], c=colours, marker=marker, alpha=0.7)
    ax.margins(0.12)
    ax.axline((1, 1), slope=1, color="#888", linestyle="--", linewidth=1)
    ax.set_xlabel("times fewer multiply-accumulates than the teacher")
    ax.set_ylabel("times as fast as the teacher, same runtime")
    _place_labels(ax, points, "predicted_speedup", "speedup")
    return figure


@style()
def conditions(grid: pd.DataFrame, *, title: str) -> Figure:
    """Milliseconds a sentence, one panel a batch and length, one mark a number of threads.

    Columns: variant, threads, batch (sentences at a time), tokens ("own", or what they are padded
    to), ms_per_sentence_p50. All panels have the same logarithmic axis: equal distances are equal
    ratios. The number beside a line says how often the most threads beat the fewest.
    """
    names, counts = list(dict.fromkeys(grid["variant"])), sorted(grid["threads"].unique())
    parts = list(grid.sort_values("threads").groupby(["batch", "tokens"], sort=False))
    parts.sort(key=lambda part: (part[0][0], part[0][1] != "own"))
    height = 1.3 + -(-len(parts) // 2) * (0.7 + 0.27 * len(names))
    figure, axes = panels(len(parts), title, height=height, per_row=2, sharex=True, sharey=True)
    for ax, ((batch, tokens), part) in zip(axes, parts, strict=True):
        for name, line in part.groupby("variant"):
            row, ms, colour = names.index(name), line["ms_per_sentence_p50"], COLOURS[family(name)]
            ax.plot(ms, [row] * len(ms), color=colour)
            for count, value in zip(line["threads"], ms, strict=True):
                ax.plot(value, row, color=colour, **_thread_mark(counts.index(count)))
            if len(ms) > 1:
                gain, beside = f"×{ms.iloc[0] / ms.iloc[-1]:.2f}", {"textcoords": "offset points"}
                at = (ms.max(), row)
                ax.annotate(gain, at, (8, 0), va="center", fontsize=9, color="#444", **beside)
        rows(ax, names)
        length = "own lengths" if tokens == "own" else f"{tokens} tokens"
        ax.set_title(f"{'one' if batch == 1 else batch} at a time, {length}", fontsize=10.5)
    low, high = grid["ms_per_sentence_p50"].min(), grid["ms_per_sentence_p50"].max()
    room = max(2, high / low) ** 0.05
    low, high = low / room, high * room**5
    axes[0].set(xscale="log", xlim=(low, high), xticks=log_ticks(low, high))
    axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes[0].xaxis.set_minor_locator(NullLocator())
    for ax in axes[-2:]:
        ax.set_xlabel("median ms a sentence (log scale)")
    handles = [
        Line2D([], [], color="#666", linestyle="", label=_counted(count), **_thread_mark(number))
        for number, count in enumerate(counts)
    ]
    if len(counts) > 1:
        handles.append(Line2D([], [], linestyle="", label="×: times as fast"))
    handles += family_handles(names)
    figure.legend(handles=handles, loc="outside lower center", ncols=6, handletextpad=0.2)
    return figure


def _thread_mark(number: int) -> dict[str, object]:
    """The look of the thread count with this number: the fewest is hollow."""
    hollow = {"markerfacecolor": "white"} if number == 0 else {}
    return {"marker": MARKERS[max(0, number - 1) % len(MARKERS)], "markersize": 6.5} | hollow


def _counted(threads: int) -> str:
    return f"{threads} thread" + ("s" if threads > 1 else "")


def _floor(pooled: pd.DataFrame) -> float:
    """Where the axis starts: a majority class far below the models would flatten the rest."""
    models = pooled[pooled["variant"].map(family) != "baseline"]
    if models.empty:
        return 0.0
    span = models["ci_high"].max() - models["ci_low"].min()
    return models["ci_low"].min() - max(span, 0.02)


def _place_labels(
    ax: Axes, points: pd.DataFrame, x: str, y: str, radii: Sequence[float] | float = 4
) -> None:
    """Name each point near its disc, where the name covers no other name and least of the discs.

    Greedy: a point takes the best of many places around it, nearest first; a far one gets a line.
    To be called last, when nothing else moves.

    Args:
        points: columns variant, `x` and `y`.
        radii: of the discs, in points (1/72 inch).
    """
    # Boxes are rows of left, bottom, right, top in pixels.
    figure = ax.figure
    figure.draw_without_rendering()  # the layout must be final before anything is measured
    figure.set_layout_engine("none")
    renderer, dots = figure.canvas.get_renderer(), figure.dpi / 72
    centres = ax.transData.transform(points[[x, y]].to_numpy(dtype=float))
    reach = 0.75 * np.broadcast_to(radii, len(points))[:, None] * dots
    discs = np.hstack([centres - reach, centres + reach])
    marks = np.hstack([centres - 4 * dots, centres + 4 * dots])
    frame, taken = ax.get_window_extent(renderer).extents[None], np.empty((0, 4))
    near, around = np.array([2, 8, 16, 28, 42, 60, 80]), np.deg2rad(np.arange(0, 360, 30))
    away, angle = (grid.ravel() for grid in np.meshgrid(near, around, indexing="ij"))
    for index in np.argsort(centres[:, 1]):
        variant = points["variant"].iloc[index]
        colour = tuple(0.75 * np.array(to_rgb(COLOURS[family(variant)])))
        label = ax.text(0, 0, variant, fontsize=9.5, color=colour)
        label.set_path_effects([withStroke(linewidth=2.5, foreground="#ffffffcc")])
        half = np.array(label.get_window_extent(renderer).size) / 2
        directions = np.column_stack([np.cos(angle), np.sin(angle)])
        middles = centres[index] + directions * (reach[index] + away[:, None] * dots + half)
        boxes = np.hstack([middles - half, middles + half])
        others = np.delete(discs, index, axis=0) + 5 * dots * np.array([-1, -1, 1, 1])
        near_others = _covered(boxes, others)
        cost = away + 400 * _covered(boxes, taken) + 150 * _covered(boxes, marks)
        cost += 60 * near_others + 25 * _covered(boxes, discs[[index]])
        # Nearer to a neighbour than to its own point, a name would be read as the neighbour's.
        cost += 30 * (near_others > 0) + 1e4 * (1 - _covered(boxes, frame))
        best = int(cost.argmin())
        taken = np.vstack([taken, boxes[best] + 1.5 * dots * np.array([-1, -1, 1, 1])])
        to_data = ax.transData.inverted()
        label.set(position=to_data.transform(middles[best]), ha="center", va="center")
        if away[best] > 8:
            edge = np.clip(centres[index], boxes[best, :2], boxes[best, 2:])
            line = to_data.transform([centres[index], edge])
            ax.plot(*line.T, color=colour, linewidth=0.7, zorder=1.5)


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each of `boxes` (n, 4): the sum of the shares of it that `others` (m, 4) cover."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas = (high - low).clip(0).prod(-1).sum(-1)
    return areas / (boxes[:, 2:] - boxes[:, :2]).prod(-1)
