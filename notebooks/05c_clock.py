# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5c. What does a removed head save?
#
# A pruned head is counted in three ways: as a head, as parameters, as time. Chapter 5 counted the
# first two. This part asks the clock, with the machine to itself: is a model faster whose heads
# were zeroed, is one whose heads were cut out, and does it depend on the model's size?
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2 |
# | writes | a finding on C13, tables of times; no model |
# | takes | minutes on a CPU, alone on the machine; nothing is trained; runs on fold 0 alone |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/05c_clock.ipynb)

# %% [markdown]
# ## What is expected
#
# The seed study says that a pruned model's latency stays about the same, and of the models that it
# made that must be true: its heads are zeroed, and zeros are multiplied at full price (FinCompress,
# commit 442af31).
#
# A prediction from arithmetic: a head of BERT-base is 196,800 parameters, so half of its 144 heads are
# 14.2 M of 110 M. Of the embeddings' 24 M one sentence reads next to nothing, and so attention is a
# larger share of the *operations* than of the file. Removed heads should therefore show on the clock
# more than on the disk; zeroed ones on neither. The four projections of attention are a third of the
# multiplications of a layer, of MiniLM-L6 as of BERT-base, so half of the heads are a sixth. We expect
# **half of the heads to be 10 to 25 % of the time** in both.

# %% tags=["colab", "not-in-report"]
# On Colab: clone the study and install what Colab lacks; its torch stays. Elsewhere: nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules and "HEADCOUNT_LOG" not in os.environ:
    address = "https://github.com/-owner-/headcount"
    if not os.path.exists("Snakefile"):
        if not os.path.exists("headcount"):
            clone = ["git", "clone", "--quiet", "--depth=1", address, "headcount"]
            subprocess.run(clone, check=True)
        os.chdir("headcount")
    sys.path.insert(0, os.path.abspath("lib"))
    from headcount import colab

    colab.set_up()

# %%
import copy

import numpy as np
import pandas as pd
import torch
import transformers
from IPython.display import Markdown

from headcount import bench, chapter, curves, models, plots, prune, stats
from headcount.chapter import within
from headcount.prune import SCORES

# %% tags=["parameters"]
# Where and what
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# Studied
timed_shares = [0.3, 0.5]
timed_lengths = [16, 32, 64, 128]
timed_layers = 12  # of the random model of BERT's shape
timed_hidden = 768
# The clock
timed = 200
max_seconds = 30.0

# %%
run = chapter.begin("05c_clock", globals())
parts = run.split()
sentences = run.tokenize(parts.test)
print(f"{len(sentences)} test sentences of {sentences.lengths.mean():.1f} tokens on average")

# %% [markdown]
# ## Zeroed or removed
#
# Zeroing multiplies zeros, at full price. Removing makes the matrices smaller. Two models of equal
# answers take turns on the same sentences, one at a time, on the CPU; their ratio is the saving. Which
# heads go is drawn by lot: the clock does not ask.


# %%
def two_ways(model, share):
    """One model with a share of its heads zeroed, and one with them removed."""
    heads = [head for layer in prune.alive(model) for head in layer]
    chosen = SCORES["random"](model, seed=(2, run.seed))
    gone = prune.select(chosen, prune.target(len(heads), share))
    zeroed, removed = copy.deepcopy(model), copy.deepcopy(model)
    prune.zero(zeroed, gone)
    prune.remove(removed, gone)
    return {"zeroed": zeroed, "removed": removed}


def ratio(both, sentences):
    """Latency of removed over zeroed: (ratio, low, high), and the zeroed one's seconds."""
    scorers = {name: bench.torch_scorer(model, run.threads) for name, model in both.items()}
    taken = bench.time_in_turns(
        scorers, bench.singles(sentences), warmup=20, timed=timed, max_seconds=max_seconds
    )
    removed, zeroed = taken["removed"].seconds, taken["zeroed"].seconds
    n = min(len(removed), len(zeroed))
    return curves.ratio_of_medians(removed[:n], zeroed[:n]), zeroed[:n]


# %% [markdown]
# Two models stand for two sizes: this teacher, and one of BERT's shape with random weights:
# architecture alone, which has a size and a speed and no accuracy.

# %%
shape = transformers.BertConfig(
    num_hidden_layers=timed_layers, hidden_size=timed_hidden, intermediate_size=4 * timed_hidden,
    num_attention_heads=max(1, timed_hidden // 64), num_labels=3,
)  # fmt: skip
torch.manual_seed(run.seed)
large = f"{timed_layers} layers of {timed_hidden}, random weights"
contenders = {
    "this teacher": run.load("teacher").cpu(),
    large: transformers.BertForSequenceClassification(shape).eval(),
}
pairs = {(name, s): two_ways(one, s) for name, one in contenders.items() for s in timed_shares}

# %%
mean_tokens = round(run.facts["mean_tokens"])
rows = []
for (name, share), both in pairs.items():
    counted = {way: models.sizes(one)["params"] for way, one in both.items()}
    macs = {way: models.macs(one, mean_tokens) for way, one in both.items()}
    rows.append(
        {
            "model": name,
            "heads off": f"{share:.0%}",
            "MB zeroed": 4e-6 * counted["zeroed"],
            "MB removed": 4e-6 * counted["removed"],
            "parameters saved, M": (counted["zeroed"] - counted["removed"]) / 1e6,
            "parameters left": counted["removed"] / counted["zeroed"],
            "operations left": macs["removed"] / macs["zeroed"],
        }
    )
counted = pd.DataFrame(rows)
run.table(counted, "counted")
counted.round(3)

# %% [markdown]
# (Four bytes a parameter; operations are multiply-accumulates at the sentences' mean length.) Now the
# clock, on test sentences at their own lengths:

# %%
rows, deepest = [], max(timed_shares)
for (name, share), both in pairs.items():
    (times, low, high), zeroed = ratio(both, sentences.input_ids)
    rows.append((name, share, 1000 * np.median(zeroed), times, low, high, len(zeroed)))
columns = ["model", "share", "zeroed, ms", "removed / zeroed", "low", "high", "sentences"]
clocked = pd.DataFrame(rows, columns=columns)
run.table(clocked, "clock-own-lengths")
clocked.round(3)

# %%
ours = clocked.query("model == 'this teacher' and share == @deepest").iloc[0]
timing = (ours[name] - 1 for name in ("removed / zeroed", "low", "high"))
n = int(ours["sentences"])
run.finding(
    "C13", stats.Difference(*timing, p=np.nan, n=n, groups=n),
    variant=f"heads removed, {deepest:.0%}, median latency", baseline="the same heads zeroed",
    unit="%", n_unit="sentences",
)  # fmt: skip
operations = counted.set_index(["model", "heads off"])["operations left"]
Markdown(
    f"With {deepest:.0%} of its heads removed, this teacher takes {ours['removed / zeroed']:.2f} of "
    f"the zeroed one's time ({ours['low']:.2f} to {ours['high']:.2f}), where counting operations "
    f"says {operations['this teacher', f'{deepest:.0%}']:.2f}. Verdict on C13 here: "
    f"**{run.verdicts(['C13'])['verdict here'].iloc[0]}**."
)

# %% [markdown]
# And by length, with random words:

# %%
generator = np.random.default_rng(run.seed)
rows = []
for (name, share), both in pairs.items():
    for length in timed_lengths:
        words = generator.integers(5, both["zeroed"].config.vocab_size, (32, length))
        found, zeroed = ratio(both, list(words))
        rows.append((name, share, length, *found, 1000 * np.median(zeroed)))
columns = ["model", "share", "tokens", "ratio", "low", "high", "zeroed_ms"]
by_length = pd.DataFrame(rows, columns=columns)
run.table(by_length, "clock-by-length")
by_length.round(3)

# %%
run.figure(
    plots.removal_times(by_length, title="Time of the removed model over the zeroed one"),
    "clock",
    "Latency of removed over zeroed heads against sentence length, for two models and two shares",
    by_length,
)

# %%
deep = by_length[by_length["share"] == deepest].groupby("model")["ratio"].agg(["min", "max"])
ranges = "; ".join(f"{name}: {low:.2f} to {high:.2f}" for name, low, high in deep.itertuples())
Markdown(
    f"With {deepest:.0%} of the heads removed: {ranges} of the zeroed model's time, over the lengths. "
    "What the picture does not show is other runtimes and processors: chapter 7 has ONNX Runtime."
)

# %% [markdown]
# ## The answer

# %%
verdicts = run.verdicts(["C13"])
run.table(verdicts, "verdicts")
verdicts.round(2)

# %%
at_half = clocked[clocked["share"] == deepest].set_index("model")
lines = []
for name, row in at_half.iterrows():
    saved = stats.Difference(
        1 - row["removed / zeroed"], 1 - row["high"], 1 - row["low"], np.nan, n, n
    )
    lines.append(
        chapter.told(
            f"{deepest:.0%} of the heads, {name}",
            "10 to 25 % of the time",
            f"{saved.diff:.1%} ({saved.low:.1%} to {saved.high:.1%})",
            within(saved, 0.10, 0.25),
        )
    )
Markdown("\n".join(lines))

# %% [markdown]
# **When not to count on it:** in another runtime, in large batches, on a GPU, where the matrices of a
# layer may be too small for its speed to depend on them. A file of half the heads is not half a file.
#
# **Next.** Chapter 7 puts every model on the ruler, and chapter 8 the verdicts on one page.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - FinCompress, the seed study, at commit 442af31. https://github.com/Rohanjain2312/FinCompress
# - Michel, Levy and Neubig (2019). Are sixteen heads really better than one? NeurIPS.
#   arXiv:1905.10650.
