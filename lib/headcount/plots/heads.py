"""Attention heads: what criteria say of them, what their removal costs, and what they do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
)

from headcount.plots.style import (
    COLOURS,
    DASHES,
    MARKERS,
    SERIES,
    WIDTH,
    family,
    log_ticks,
    panels,
    shades,
    signed,
    style,
)

ROLES = {"positional": "#56B4E9", "rare words": "#E69F00", "other": "#e3e3e3"}


@style()
def head_map(scores: pd.DataFrame, *, title: str, label: str) -> Figure:
    """Layers x heads, coloured by a score; heads that are gone are grey and hatched.

    Columns: layer (0 is nearest to the words), head (from 0, the original indices), score, and
    alive (bool) where heads have been removed. `label` names the score and its unit.
    """
    layers, heads = scores["layer"].max() + 1, scores["head"].max() + 1
    grid = scores.pivot_table(index="layer", columns="head", values="score", dropna=False)
    grid = grid.reindex(index=range(layers), columns=range(heads))
    gone = pd.DataFrame(False, index=grid.index, columns=grid.columns)
    if "alive" in scores:
        living = scores[scores["alive"].astype(bool)]
        gone[:] = True
        for layer, head in living[["layer", "head"]].itertuples(index=False):
            gone.loc[layer, head] = False
    height = max(2.8, 1.7 + 0.36 * layers)
    figure, (ax,) = panels(1, title, height=height, width=min(WIDTH, max(4.8, 2.6 + 0.45 * heads)))
    ax.grid(False)
    sns.heatmap(
        grid, mask=gone | grid.isna(), cmap="viridis", ax=ax, square=True,
        linewidths=1.5, linecolor="white", cbar_kws={"label": label},
    )  # fmt: skip
    for row, column in np.argwhere(gone.to_numpy()):
        cell = ((column, row), 1, 1)
        ax.add_patch(Rectangle(*cell, facecolor="#e3e3e3", linewidth=0))
        ax.add_patch(Rectangle(*cell, fill=False, hatch="////", linewidth=0))
        ax.add_patch(Rectangle(*cell, fill=False, edgecolor="white", linewidth=3))
    kept = gone.size - int(gone.to_numpy().sum())
    note = f"head (hatched: removed; {kept} of {gone.size} left)" if gone.any(axis=None) else "head"
    ax.set(xlabel=note, ylabel="layer")
    ax.tick_params(axis="y", rotation=0)
    if (scores["score"].dropna() % 1 == 0).all():  # such as rounds
        ax.collections[0].colorbar.locator = MaxNLocator(integer=True)
    return figure


@style()
def heads_alive(rounds: pd.DataFrame, *, title: str, total: int) -> Figure:
    """Heads alive after each round: what a loop claims against what is counted in its model.

    Columns: round (0 is before the first), heads, kind ("claimed" or "live"), and variant where
    there are several.
    """
    figure, (ax,) = panels(1, title, height=3.9)
    rounds = rounds if "variant" in rounds else rounds.assign(variant="heads")
    names = rounds["variant"].nunique()
    colours = (
        shades(rounds["variant"]) if names > 1 else {rounds["variant"].iloc[0]: COLOURS["pruning"]}
    )
    ends = []
    for (variant, kind), line in rounds.groupby(["variant", "kind"], sort=False):
        claimed = kind == "claimed"
        ax.plot(
            line["round"], line["heads"], color=colours[variant], marker="s" if claimed else "o",
            linestyle=":" if claimed else "-", markersize=8 if claimed else 5,
            markerfacecolor="none" if claimed else None, zorder=3 if claimed else 2,
        )  # fmt: skip
        text = kind if names == 1 else f"{variant}, {kind}"
        ends.append((line["round"].iloc[-1], line["heads"].iloc[-1], text))
    ax.axhline(total, color="#bbb", linewidth=1)
    ax.set(xlabel="round", ylabel=f"attention heads (of {total})", ylim=(0, total * 1.06))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _end_labels(ax, ends)
    return figure


@style()
def sparsity_curves(
    curves: pd.DataFrame,
    *,
    title: str,
    reference: float | None = None,
    knees: Mapping[str, float] | None = None,
    xlabel: str = "attention heads removed, %",
    ylabel: str = "macro-F1",
) -> Figure:
    """Scores as more and more heads go; the legend is ordered by the area under the curve.

    Columns: series, percent (0 to 100), score; optional low and high, a light band, and draw: where
    a series has several draws, its line is their mean and its band reaches from the lowest to the
    highest. `random` is grey. `reference`: the score of the whole model. `knees`: for some series,
    the percentage at which they bend.
    """
    figure, (ax,) = panels(1, title, height=4.8)
    looks = _looks(dict.fromkeys(curves["series"]))
    lines, handles = {}, []
    for name, some in curves.groupby("series", sort=False):
        points = some.groupby("percent")
        line = lines[name] = points["score"].mean()
        draws = int(points.size().max())
        if draws > 1 or "low" in some:
            low, high = ("score", "score") if draws > 1 else ("low", "high")
            ax.fill_between(
                line.index, points[low].min(), points[high].max(), color=looks[name]["color"],
                alpha=0.3 if draws > 1 else 0.12, linewidth=0,
            )  # fmt: skip
        label = f"{name} ({draws} draws)" if draws > 1 else name
        handles += ax.plot(line.index, line, label=label, markersize=5, **looks[name])
    heights = [np.trapezoid(line, line.index) / np.ptp(line.index) for line in lines.values()]
    if reference is not None:
        label = f"whole model {reference:.3f}"
        look = {"color": COLOURS["teacher"], "linestyle": "--", "linewidth": 1.2}
        handles.append(ax.axhline(reference, label=label, zorder=1, **look))
        heights.append(reference)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.margins(x=0.03)
    _mark_knees(ax, knees or {}, lines, looks)
    # Where nearly all heads are gone all curves meet: names at their ends could not be told apart.
    figure.legend(
        handles=[handles[i] for i in np.argsort(heights)[::-1]], title="greatest area first",
        loc="outside right center", alignment="left", handlelength=3,
    )  # fmt: skip
    return figure


@style()
def agreement(correlations: pd.DataFrame, *, title: str) -> Figure:
    """How alike criteria rank the heads: a square table of Spearman's correlations.

    Index and columns: the criteria, in the same order.
    """
    text = correlations.map(lambda value: "" if pd.isna(value) else signed(value, "z.2f"))
    figure, (ax,) = panels(1, title, height=1.9 + 0.42 * len(correlations))
    sns.heatmap(
        correlations, annot=text, fmt="", cmap="RdBu", vmin=-1, vmax=1, ax=ax, linewidths=1.5,
        linecolor="white", annot_kws={"fontsize": 10},
        cbar_kws={"label": "Spearman’s ρ", "ticks": [-1, -0.5, 0, 0.5, 1]},
    )  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    for name in ax.get_xticklabels():
        name.set(rotation=35, ha="right", rotation_mode="anchor")
    return figure


@style()
def rank_scatter(points: pd.DataFrame, *, title: str) -> Figure:
    """What a criterion says of each head against what leaving out that head alone costs.

    One panel a criterion. Columns: criterion, rank (1 goes first), rise (of cross-entropy, when the
    head is left out), layer (0 is nearest to the words), rho (Spearman's, one value a criterion).
    """
    criteria = list(dict.fromkeys(points["criterion"]))
    figure, axes = panels(
        len(criteria), title, height=1.4 + 2 * -(-len(criteria) // 4), per_row=4,
        sharex=True, sharey=True,
    )  # fmt: skip
    layers = int(points["layer"].max()) + 1
    # Viridis without the end that is lost on white.
    colours = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.92, layers)))
    norm = BoundaryNorm(np.arange(layers + 1) - 0.5, layers)
    for index, (ax, name) in enumerate(zip(axes, criteria, strict=True)):
        some = points[points["criterion"] == name]
        ax.axhline(0, color="#888", linewidth=1, zorder=1)
        drawn = ax.scatter(
            some["rank"], some["rise"], c=some["layer"], cmap=colours, norm=norm, s=16, linewidths=0
        )
        rho = signed(some["rho"].iloc[0], "z.2f")
        ax.set_title(f"{name}\nρ = {rho}", fontsize=10, pad=4)
        if index + 4 >= len(criteria):
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("rank (1 goes first)")
    # Most heads cost next to nothing and a few a lot. Ranks, and so ρ, are the same on any scale.
    unit = max(points["rise"].abs().median(), 1e-6)
    axes[0].set_yscale("asinh", linear_width=unit)
    # Every other one, from the largest on: more would touch.
    ticks = sorted(log_ticks(unit, max(points["rise"].max(), 2 * unit))[::-2])
    below = [-tick for tick in ticks if -tick >= points["rise"].min()]
    axes[0].yaxis.set_major_locator(FixedLocator([*below, 0, *ticks]))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda rise, _: signed(rise, "g")))
    axes[0].yaxis.set_minor_locator(NullLocator())
    axes[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.supylabel("rise in cross-entropy when left out (asinh scale)", fontsize=10.5)
    figure.colorbar(drawn, ax=axes, label="layer", ticks=range(layers), pad=0.02, aspect=30)
    return figure


@style()
def layer_bars(losses: pd.DataFrame, *, title: str) -> Figure:
    """What it costs to treat one layer's attention in some way, layer by layer, in points.

    Columns: layer (0 is nearest to the words), treatment, loss (of macro-F1), low, high (its 95 %
    interval); all three are fractions.
    """
    figure, (ax,) = panels(1, title, height=4.2)
    treatments = list(dict.fromkeys(losses["treatment"]))
    layers = sorted(losses["layer"].unique())
    # The first colour is too dark for an interval to be seen on it.
    colours = dict(zip(treatments, itertools.cycle(SERIES[1:])))
    width = 0.8 / len(treatments)
    for number, name in enumerate(treatments):
        some = losses[losses["treatment"] == name]
        x = some["layer"].map(layers.index) + (number - (len(treatments) - 1) / 2) * width
        ax.bar(x, 100 * some["loss"], 0.92 * width, color=colours[name], label=name, zorder=2)
        ax.vlines(x, 100 * some["low"], 100 * some["high"], color="#222", linewidth=1.2, zorder=3)
    ax.axhline(0, color="#444", linewidth=1.2, zorder=2.5)
    ax.grid(False, axis="x")
    ax.set_xticks(range(len(layers)), layers)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set(
        xlabel="layer (0 is nearest to the words)", ylabel="macro-F1 lost, points (95 % interval)"
    )
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@style()
def removal_times(times: pd.DataFrame, *, title: str) -> Figure:
    """Latency of a model whose heads are removed over that of the same model with them masked.

    One panel a model. Columns: tokens (in the sentence), share (of the heads that is gone, a
    fraction), model, ratio (removed / zeroed), low, high (its 95 % interval).
    """
    names = list(dict.fromkeys(times["model"]))
    shares, lengths = sorted(times["share"].unique()), sorted(times["tokens"].unique())
    dark_last = shades(f"heads-{share}" for share in reversed(shares)).values()
    colours = dict(zip(reversed(shares), dark_last, strict=True))
    figure, axes = panels(len(names), title, height=4.2, sharey=True)
    ends = {name: [] for name in names}
    for (name, share), line in times.sort_values("tokens").groupby(["model", "share"]):
        ax, number = axes[names.index(name)], shares.index(share)
        # Side by side, so that no interval hides another.
        x = line["tokens"] * 1.06 ** (number - (len(shares) - 1) / 2)
        ax.vlines(x, line["low"], line["high"], color=colours[share], linewidth=1.4)
        ax.plot(x, line["ratio"], color=colours[share], marker=MARKERS[number], markersize=6)
        ends[name].append((x.iloc[-1], line["ratio"].iloc[-1], f"{100 * share:.0f} % gone"))
    for ax, name in zip(axes, names, strict=True):
        ax.axhspan(0.95, 1.05, color="#ececec", linewidth=0, zorder=0)
        ax.axhline(1, color="#444", linewidth=1.2, zorder=1)
        ax.set_xscale("log", base=2)
        ax.set_xticks(lengths, lengths)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(name, fontsize=10.5)
        ax.set_xlabel("tokens in the sentence")
        _end_labels(ax, ends[name])
    axes[0].set_ylabel("latency, removed / zeroed")
    lines = [Line2D([], [], color="#666", linewidth=1.4, label="95 % interval")]
    band = Rectangle((0, 0), 1, 1, color="#ececec", label="less than 5 % apart")
    figure.legend(handles=[*lines, band], loc="outside lower center", ncols=2)
    return figure


@style()
def head_roles(
    roles: pd.DataFrame, *, title: str, when: str = "the round in which it goes"
) -> Figure:
    """Layers x heads, coloured by what a head does; the number in a cell is when the head goes.

    Columns: layer (0 is nearest to the words), head (from 0, the original indices), role
    ("positional", "rare words" or "other"), when (missing where the head stays: no number). `when`
    says what the numbers are.
    """
    layers, heads = roles["layer"].max() + 1, roles["head"].max() + 1
    figure, (ax,) = panels(1, title, height=max(3.0, 2.0 + 0.36 * layers))
    ax.grid(False)
    for row in roles.itertuples():
        cell = {"facecolor": ROLES[row.role], "edgecolor": "white", "linewidth": 3}
        ax.add_patch(Rectangle((row.head, row.layer), 1, 1, **cell))
        if not pd.isna(row.when):
            ax.text(row.head + 0.5, row.layer + 0.5, f"{row.when:g}", ha="center", va="center")
    ax.set(xlim=(0, heads), ylim=(layers, 0), aspect="equal", ylabel="layer")
    ax.set_xlabel(f"head (number: {when}; none: it stays)")
    ax.set_xticks(np.arange(heads) + 0.5, range(heads))
    ax.set_yticks(np.arange(layers) + 0.5, range(layers))
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    n = roles["role"].value_counts()
    handles = [
        Rectangle((0, 0), 1, 1, color=colour, label=f"{role} ({n.get(role, 0)})")
        for role, colour in ROLES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(ROLES))
    return figure


def _end_labels(ax: Axes, ends: list[tuple[float, float, str]]) -> None:
    """Name lines at their right ends, pushed apart where they would overlap."""
    low, high = ax.get_ylim()
    gap, last = 0.06 * (high - low), -np.inf
    for x, y, text in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + gap)
        ax.annotate(text, (x, last), (8, 0), textcoords="offset points", va="center")


def _looks(series: Iterable[str]) -> dict[str, dict]:
    """Colour, marker and dashes of each line, in the order given; chance is plain grey."""
    chosen = zip(itertools.cycle(SERIES), itertools.cycle(MARKERS), itertools.cycle(DASHES))
    looks = {}
    for name in series:
        if family(name) == "random":
            looks[name] = {"color": COLOURS["random"]}
        else:
            looks[name] = dict(zip(("color", "marker", "linestyle"), next(chosen), strict=True))
    return looks


def _mark_knees(
    ax: Axes,
    knees: Mapping[str, float],
    lines: Mapping[str, pd.Series],
    looks: Mapping[str, dict],
) -> None:
    """A tick across each line where it bends, and its percentage beside the tick."""
    for name, percent in knees.items():
        heights = {key: np.interp(percent, line.index, line) for key, line in lines.items()}
        at, look = (percent, heights[name]), {"color": looks[name]["color"], "zorder": 4}
        top = heights[name] == max(heights.values())
        ax.plot(*at, marker="|", markersize=20, markeredgewidth=2.2, **look)
        note = ax.annotate(
            f"knee {percent:.0f} %", at, (5, 9) if top else (-5, -9), textcoords="offset points",
            ha="left" if top else "right", va="bottom" if top else "top", **look,
        )  # fmt: skip
        note.set_path_effects([withStroke(linewidth=2.5, foreground="#ffffffcc")])
