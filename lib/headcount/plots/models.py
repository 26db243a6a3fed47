"""What a model does and holds: curves, errors, calibration, weights."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    FuncFormatter,
    MaxNLocator,
    NullLocator,
)

from headcount.plots.style import (
    CLASSES,
    COLOURS,
    MARKERS,
    SERIES,
    panels,
    set_title,
    shades,
    style,
)


@style()
def learning_curve(history: pd.DataFrame, *, title: str) -> Figure:
    """Loss and validation macro-F1 over epochs, as a training logged them.

    Columns: epoch, loss, validation_loss, validation_macro_f1 (missing where nothing was logged),
    and variant where there are several; then colours tell the variants.
    """
    figure, (left, right) = panels(2, title, height=3.9)
    history = history if "variant" in history else history.assign(variant="")
    names = list(dict.fromkeys(history["variant"]))
    colours = shades(names) if len(names) > 1 else {names[0]: COLOURS["distillation"]}
    markers = dict(zip(names, itertools.cycle(MARKERS)))
    curves = [(left, "loss"), (left, "validation_loss"), (right, "validation_macro_f1")]
    for (name, line), (ax, metric) in itertools.product(
        history.groupby("variant", sort=False), curves
    ):
        known = line.dropna(subset=metric)
        ax.plot(
            known["epoch"], known[metric], color=colours[name], markersize=5,
            **({"linestyle": "--"} if metric == "loss" else {"marker": markers[name]}),
        )  # fmt: skip
    left.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="macro-F1 on the validation part")
    handles = [Line2D([], [], color=colours[n], marker=markers[n], label=n) for n in names if n]
    for part, dashes in (("training", "--"), ("validation", "-")):
        handles.append(Line2D([], [], color="#666", linestyle=dashes, label=part))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


@style()
def loss_shares(shares: pd.DataFrame, *, title: str, off: float = 0.01) -> Figure:
    """How much of a loss each weighted term is, over epochs, on a logarithmic axis.

    One panel a variant. Columns: variant, epoch, term, share (of the loss, 0 to 1). Below `off`,
    drawn as a line, a term counts as switched off.
    """
    variants = list(dict.fromkeys(shares["variant"]))
    per_row = 2 if len(variants) in (2, 4) else 3
    figure, axes = panels(
        len(variants), title, height=1.3 + 2.4 * -(-len(variants) // per_row), per_row=per_row,
        sharex=True, sharey=True,
    )  # fmt: skip
    terms = list(dict.fromkeys(shares["term"]))
    looks = {term: (SERIES[i], MARKERS[i]) for i, term in enumerate(terms)}
    for index, (ax, variant) in enumerate(zip(axes, variants, strict=True)):
        ax.axhline(off, color="#888", linewidth=1, linestyle="--", zorder=1)
        for term, line in shares[shares["variant"] == variant].groupby("term", sort=False):
            colour, marker = looks[term]
            ax.plot(
                line["epoch"], line["share"], color=colour, marker=marker, markersize=4,
                markevery=max(1, len(line) // 6),
            )  # fmt: skip
        ax.set_title(variant, fontsize=10, pad=4)
        if index + per_row >= len(variants):
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("epoch")
    smallest = shares["share"][shares["share"] > 0].min()
    axes[0].set_yscale("log")
    axes[0].set_ylim(min(smallest, off) / 2, 1.5)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supylabel("share of the loss", fontsize=10.5)
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=term)
        for term, (colour, marker) in looks.items()
    ]
    handles.append(
        Line2D([], [], color="#888", linestyle="--", label=f"below {100 * off:g} %: off in effect")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
    return figure


@style()
def confusion_matrix(counts: pd.DataFrame, *, title: str) -> Figure:
    """Labels against predictions; each cell says the count and its share of the label's row.

    Columns: label, prediction (class names or ids), n.
    """
    named = counts.replace(
        {"label": dict(enumerate(CLASSES)), "prediction": dict(enumerate(CLASSES))}
    )
    table = named.pivot_table(
        index="label", columns="prediction", values="n", aggfunc="sum", fill_value=0, observed=True
    ).reindex(index=CLASSES, columns=CLASSES, fill_value=0)
    shares = table.div(table.sum(axis=1).clip(lower=1), axis=0)
    text = table.map("{:,.0f}".format) + "\n" + shares.map("{:.0%}".format)
    figure, (ax,) = panels(1, title, height=4.4, width=5.2)
    sns.heatmap(
        shares, annot=text, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=ax, linewidths=2,
        linecolor="white", annot_kws={"fontsize": 11},
    )  # fmt: skip
    ax.set(xlabel="predicted", ylabel="label")
    ax.tick_params(axis="y", rotation=0)
    return figure


@style()
def reliability(table: pd.DataFrame, *, title: str, ece: float | None = None) -> Figure:
    """Accuracy against confidence, and how many sentences each bin holds.

    `table` as `stats.reliability` returns it: low, high, n, confidence, accuracy.
    """
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    filled = table[table["n"] > 0]
    top.plot([0, 1], [0, 1], color="#888", linestyle="--", linewidth=1.2)
    top.text(0.04, 0.09, "calibrated", color="#666", rotation=36, rotation_mode="anchor")
    ends = (
        filled[["confidence", "accuracy"]].min(axis=1),
        filled[["confidence", "accuracy"]].max(axis=1),
    )
    top.vlines(filled["confidence"], *ends, color=COLOURS["quantization"], alpha=0.5)
    top.plot(filled["confidence"], filled["accuracy"], "o-", color=COLOURS["teacher"], markersize=5)
    top.set(ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1.02))
    if ece is not None:
        top.text(0.03, 0.93, f"ECE {ece:.3f}", transform=top.transAxes)
    bottom.bar(
        table["low"], table["n"], table["high"] - table["low"], align="edge",
        color=COLOURS["teacher"], alpha=0.65, edgecolor="white",
    )  # fmt: skip
    bottom.set(xlabel="confidence (probability of the predicted class)", ylabel="sentences")
    bottom.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    set_title(figure, title)
    return figure


@style()
def weight_histogram(weights: pd.DataFrame, *, title: str, bits: int = 8) -> Figure:
    """Weights on the grid that symmetric quantization gives them: one bar a level.

    Column weight: those that share one scale, max |w| / (2^(bits-1) - 1). The line is the same
    weights before rounding, so that what rounding merges can be seen.
    """
    values = weights["weight"].to_numpy(dtype=float)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(values).max() / top
    levels, n = np.unique(np.round(values / scale).astype(int), return_counts=True)
    figure, (ax,) = panels(1, title, height=3.8)
    colour = COLOURS["quantization"]
    ax.bar(
        levels * scale,
        n,
        width=scale * (0.8 if bits < 8 else 1),
        color=colour,
        alpha=0.75,
        linewidth=0,
    )
    density, edges = np.histogram(values, bins=int(np.clip(np.sqrt(len(values)) / 2, 20, 200)))
    expected = density * scale / np.diff(edges)
    ax.plot((edges[:-1] + edges[1:]) / 2, expected, color=COLOURS["teacher"], linewidth=1)
    ax.set(xlabel="weight", ylabel="weights in a level")
    ax.text(
        0.02, 0.96,
        f"int{bits}: {len(levels)} of {2 * top + 1} levels used\nstep {scale:.2g}",
        transform=ax.transAxes, va="top",
    )  # fmt: skip
    handles = [
        Rectangle((0, 0), 1, 1, color=colour, alpha=0.75, label="after rounding"),
        Line2D([], [], color=COLOURS["teacher"], linewidth=1, label="before, at the same scale"),
    ]
    ax.legend(handles=handles, loc="upper right")
    return figure
