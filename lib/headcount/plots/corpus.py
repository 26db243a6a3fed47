"""What the sentences are like."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import (
    PercentFormatter,
)

from headcount.plots.style import (
    CLASS_COLOURS,
    CLASSES,
    panels,
    rows,
    style,
)


@style()
def lengths(tokens: pd.DataFrame, *, title: str, padded_to: int | None = None) -> Figure:
    """How long sentences are, in tokens. Columns: tokens, and source where there are several.

    `padded_to` draws the length that fixed padding would give to all of them.
    """
    figure, (ax,) = panels(1, title, height=3.8)
    source = "source" if "source" in tokens and tokens["source"].nunique() > 1 else None
    palette = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
    edges = np.arange(0, tokens["tokens"].max() + 4, 2)
    sns.histplot(
        tokens, x="tokens", hue=source, bins=edges, multiple="stack", edgecolor="white",
        linewidth=0.4, alpha=0.85, ax=ax,
        **({"palette": palette[: tokens[source].nunique()]} if source else {"color": palette[0]}),
    )  # fmt: skip
    if source:
        handles = ax.get_legend().legend_handles
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        ax.get_legend().remove()
        figure.legend(handles, names, loc="outside lower center", ncols=4)
    middle, top = tokens["tokens"].median(), ax.get_ylim()[1]
    ax.set_ylim(0, top * 1.12)
    ax.axvline(middle, color="#222", linewidth=1.2)
    ax.text(middle, top * 1.05, f"  median {middle:.0f}", ha="left")
    if padded_to:
        ax.axvline(padded_to, color="#222", linewidth=1.2, linestyle="--")
        ax.text(padded_to, top * 1.05, f"padded to {padded_to}  ", ha="right")
    ax.set(xlabel="tokens in the sentence, [CLS] and [SEP] included", ylabel="sentences")
    return figure


@style()
def class_shares(counts: pd.DataFrame, *, title: str) -> Figure:
    """Shares of the three classes, one bar a source. Columns: source, label (name or id), n."""
    named = counts.replace({"label": dict(enumerate(CLASSES))})
    table = named.pivot_table(
        index="source", columns="label", values="n", aggfunc="sum", sort=False, observed=True
    ).reindex(columns=CLASSES).fillna(0)  # fmt: skip
    shares = table.div(table.sum(axis=1), axis=0)
    figure, (ax,) = panels(1, title, height=1.7 + 0.5 * len(shares))
    left = np.zeros(len(shares))
    for name in CLASSES:
        bars = ax.barh(
            range(len(shares)), shares[name], left=left, color=CLASS_COLOURS[name], label=name,
            edgecolor="white", height=0.7,
        )  # fmt: skip
        text = [f"{share:.0%}" if share >= 0.04 else "" for share in shares[name]]
        ax.bar_label(bars, text, label_type="center", fontsize=10)
        left += shares[name].to_numpy()
    rows(ax, [f"{source} ({n:,.0f})" for source, n in table.sum(axis=1).items()])
    ax.set(xlim=(0, 1), xlabel="share of the sentences (number of them beside the name)")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside lower center", ncols=3)
    return figure
