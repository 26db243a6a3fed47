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
# # 5b. What do the heads do, and which of them are missed?
#
# The first part of this chapter removed heads and counted errors. This part takes one fold and
# looks closer: at each head by itself, at each layer, at the point where pruning breaks the model,
# at gates that learn which heads to close, and at the clock. Each section settles one claim or
# explains one.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, `teacher-continued` of chapter 5 |
# | writes | sweeps over layers, the cliff and gates; findings; one record; no model |
# | takes | many short trainings; runs on fold 0 alone |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/05b_heads.ipynb)

# %% [markdown]
# ## What is expected
#
# * Michel et al. (2019): most heads can be left out one at a time without loss, and in most layers
#   one head is enough. Kovaleva et al. (2019): attention replaced by a constant $1/n$ sometimes
#   *improves* a model.
# * The seed study: early layers are the redundant ones; there is a sharp cliff, which iterating
#   defers; a pruned model's latency stays about the same.
# * Raganato et al. (2020): all heads of a layer but one may follow fixed patterns.
# * Voita et al. (2019): gates that learn to close keep the heads with a role, positional or for rare
#   words, to the last.
#
# A prediction from arithmetic: half of the heads of BERT-base are 13 M of its 110 M parameters, but
# attention is a larger share of its *operations* outside of the embeddings. So removed heads must
# show on the clock, if only heads that are really removed.

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
import torch.nn.functional as F
import transformers
from IPython.display import Markdown
from scipy.stats import spearmanr
from torch import nn

from headcount import bench, chapter, curves, models, plots, prune, records, stats, train
from headcount.data import collate
from headcount.prune import SCORES, patterns, roles

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
cliff_percents = [20, 40, 60, 70, 80, 90, 95]
cliff_criterion = "entropy"
cliff_epochs = 1
gate_weights = [0.001, 0.003, 0.01, 0.03]
gate_epochs = 3
fixed_rounds = 3
dropouts = [0.2, 0.3]
weight_decays = [0.1, 1.0]
timed_shares = [0.3, 0.5]
timed_lengths = [16, 32, 64, 128]
timed_layers = 12  # of the random model of BERT's shape
timed_hidden = 768
timed = 300
max_seconds = 30.0
# Fixed
gate_learning_rate = 0.05
recovery_epochs = 3
recovery_learning_rate = 1e-5
batch_size = 32

# %%
run = chapter.begin("05b_heads", globals())
parts, teacher = run.split(), run.load("teacher")
tokens = run.tokenize(parts.validation)
total, layers = models.sizes(teacher)["heads_total"], models.sizes(teacher)["layers"]
every = [(layer, head) for layer, heads in enumerate(prune.alive(teacher)) for head in heads]

# %% [markdown]
# ## Leave one out
#
# The most direct question to a head: what happens without it? Each is silenced by itself, and the
# cross-entropy on the validation part read off. This is what every criterion tries to predict from
# one pass, and it costs a pass a head.


# %%
def cross_entropy(logits, frame):
    """Of each sentence, in nats."""
    labels = torch.tensor(frame["label"].to_numpy())
    return F.cross_entropy(torch.from_numpy(logits), labels, reduction="none").numpy()


def rises(context):
    """Rise of each validation sentence's cross-entropy, (heads, sentences), head by head."""
    found = []
    for head in every:
        with context(head):
            found.append(cross_entropy(run.predict(teacher, parts.validation), parts.validation))
    return np.stack(found) - intact


intact = cross_entropy(run.predict(teacher, parts.validation), parts.validation)
left_out = rises(lambda head: prune.masked(teacher, [head]))
constant = rises(lambda head: prune.replaced(teacher, {head: patterns.constant}))

# %%
alone = pd.DataFrame(every, columns=["layer", "head"])
alone = alone.assign(rise=left_out.mean(1), constant=constant.mean(1))
run.table(alone, "left-out")
run.figure(
    plots.head_map(
        alone.assign(score=alone["rise"]), title="Left out, one at a time", label="rise, nats"
    ),
    "left-out",
    "Heat map of layers by heads: the rise in cross-entropy when that head alone is silenced",
    alone[["layer", "head", "rise"]],
)

# %%
Markdown(
    f"The mean cross-entropy is {intact.mean():.3f} nats, and the head that is missed most adds "
    f"{alone['rise'].max():.3f}. {(alone['rise'] <= 0).mean():.0%} of the heads are not missed "
    f"at all, and {(alone['constant'] <= 0).mean():.0%} could look at everything alike (Kovaleva). "
    "What the map does not show is redundancy: two heads may each be dispensable because of the "
    "other."
)

# %% [markdown]
# ## Which criterion finds the heads that are missed?
#
# Even a perfect criterion could not correlate fully with such a noisy quantity. So the sentences
# are cut into two halves, and the correlation of one half's rises with the other's is the ceiling.

# %%
pad = run.tokenizer().pad_token_id
order = train.LikeLengthBatches(tokens.lengths, batch_size, seed=0)
batches = [collate([tokens[i] for i in rows], pad) for rows in order]
scores = prune.score_all(teacher, batches)
criteria = [name for name in SCORES if name != "random"]
ceiling = curves.rank_correlation(left_out[:, ::2].mean(1), left_out[:, 1::2].mean(1))

# %%
found = {name: curves.rank_correlation(scores[name].ravel(), alone["rise"]) for name in criteria}
found |= {"(one half of the sentences)": ceiling}
correlations = pd.DataFrame(found, index=["rho", "low", "high"]).T
run.table(correlations.reset_index(names="criterion"), "correlations")
correlations.round(2)

# %%
scattered = pd.concat(
    alone[["layer", "rise"]].assign(
        criterion=name,
        rank=pd.Series(scores[name].ravel()).rank(),
        rho=correlations.loc[name, "rho"],
    )
    for name in criteria
)
run.figure(
    plots.rank_scatter(scattered, title="Rank by each criterion against the rise without the head"),
    "criteria",
    "Small multiples: rank of each head by a criterion against the rise in cross-entropy without it",
    scattered,
)

# %%
best = correlations.drop("(one half of the sentences)")["rho"].idxmax()
Markdown(
    f"The ceiling is {ceiling[0]:.2f}; the closest criterion, `{best}`, reaches "
    f"{correlations.loc[best, 'rho']:.2f}, and `entropy` {correlations.loc['entropy', 'rho']:+.2f} "
    f"({correlations.loc['entropy', 'low']:+.2f} to {correlations.loc['entropy', 'high']:+.2f}). "
    "A criterion whose interval holds 0 does not find the heads that are missed one at a time. "
    "Notice also how few heads carry the rise: most of a rank correlation is about the order of "
    "heads that hardly matter."
)

# %% [markdown]
# ## Padding that votes
#
# The seed study pads every sentence to 128 tokens, counts the rows of the padding as if they were
# words, and divides by $\log 128$ whatever the sentence's length. Which heads would it choose?

# %%
wide = [
    {
        "input_ids": F.pad(batch["input_ids"], (0, 128 - batch["input_ids"].shape[1]), value=pad),
        "attention_mask": F.pad(batch["attention_mask"], (0, 128 - batch["input_ids"].shape[1])),
    }
    for batch in batches
]
ways = {
    "real rows, log n": scores["entropy"],
    "padding rows too, log n": prune.entropy(teacher, wide, padded_queries=True),
    "real rows, log 128": prune.entropy(teacher, batches, base=128),
    "padding rows too, log 128": prune.entropy(teacher, wide, padded_queries=True, base=128),
}

# %%
ours = ways["real rows, log n"]
chosen = {
    k: {name: set(prune.select(way, k)) for name, way in ways.items()}
    for k in (prune.target(total, 0.1), prune.target(total, 0.5))
}
padding = pd.DataFrame(
    {
        "entropies": name,
        "rank correlation with ours": spearmanr(way.ravel(), ours.ravel()).statistic,
        **{
            f"of the first {k}, others": len(by_way[name] - by_way["real rows, log n"])
            for k, by_way in chosen.items()
        },
    }
    for name, way in ways.items()
)
run.table(padding, "padding")
padding.round(3)

# %% [markdown]
# The last row is the seed study's arithmetic. Where it changes whom to remove, the choice was made
# by the padding; how much that matters for the score is bounded by how much the choice does.
#
# ## Layer by layer
#
# "Early layers are the redundant ones." So each layer loses all its heads at once; or keeps the one
# that the validation part would miss least to keep alone; or all its heads look at everything alike.
# No retraining. The last layers, says Kovaleva, are those that a task has shaped.


# %%
def answers(context):
    """Logits of the test part within a context."""
    with context:
        return run.predict(teacher, parts.test)


def best_alone(layer):
    """The head of a layer that, kept alone, leaves the lowest validation cross-entropy."""
    heads = prune.alive(teacher)[layer]
    costs = {}
    for kept in heads:
        with prune.masked(teacher, [(layer, head) for head in heads if head != kept]):
            logits = run.predict(teacher, parts.validation)
        costs[kept] = cross_entropy(logits, parts.validation).mean()
    return min(costs, key=costs.get)


# %%
points = {"whole": run.predict(teacher, parts.test)}
for layer, heads in enumerate(prune.alive(teacher)):
    here = [(layer, head) for head in heads]
    kept = (layer, best_alone(layer))
    others = [head for head in here if head != kept]
    points[f"off@{layer}"] = answers(prune.masked(teacher, here))
    points[f"one@{layer}"] = answers(prune.masked(teacher, others))
    uniform = dict.fromkeys(here, patterns.constant)
    points[f"constant@{layer}"] = answers(prune.replaced(teacher, uniform))
layered = run.sweep("layers", points, parts.test, teacher)

# %%
names = {"off": "all heads off", "one": "one head kept", "constant": "constant attention"}
guesses = records.sweep(run.work, "layers", fold=run.fold)
lost = []
for name, layer in layered[["series", "percent"]].query("series in @names").itertuples(index=False):
    point = f"{name}@{layer:.0f}"
    loss = curves.contrast(
        guesses[[*curves.KEYS, "whole", point]], lambda at, point=point: at["whole"] - at[point]
    )
    lost.append((int(layer), names[name], loss.diff, loss.low, loss.high))
lost = pd.DataFrame(lost, columns=["layer", "treatment", "loss", "low", "high"])

# %%
run.figure(
    plots.layer_bars(lost, title="What a layer's attention is worth, without retraining"),
    "layers",
    "Loss of macro-F1 when a layer loses its heads, keeps one, or attends to everything alike",
    lost,
)

# %%
off = lost[lost["treatment"] == names["off"]].set_index("layer")["loss"]
early_late = run.settle("C4")
Markdown(
    f"The dearest layer is {off.idxmax()} ({100 * off.max():.1f} points), the cheapest "
    f"{off.idxmin()} ({100 * off.min():.1f}). First half minus second half: "
    f"{100 * early_late.diff:+.1f} points, 95 % interval {100 * early_late.low:+.1f} to "
    f"{100 * early_late.high:+.1f}. Verdict on C4 here: **{run.verdict('C4', early_late)}**. "
    f"The two last layers alone: {100 * off.iloc[-2:].mean():.1f} points on average. What this does "
    "not show is what a little training would restore."
)

# %% [markdown]
# ## Fixed patterns
#
# With training, attention may not even have to be computed: every head but one of each layer gets a
# fixed pattern (its own token, the previous one, the next, ...) and the model is fine-tuned for as
# many steps as `teacher-continued` was.

# %%
fixed = {
    head: pattern
    for layer in range(layers)
    for head, pattern in prune.fixed_but_one(teacher, layer).items()
}


def recovered(name, model, number, epochs=recovery_epochs, **changes):
    """One round of training, as chapter 5's arms have it."""
    settings = {"seed": 1000 * run.seed + number} | changes
    recipe = train.Recipe(epochs, recovery_learning_rate, batch_size, **settings)
    return run.fit(f"{name}-round{number}", model, recipe)


# %%
model = run.load("teacher")
control = f"teacher-continued-{fixed_rounds * recovery_epochs}"
with prune.replaced(model, fixed):
    at_once = run.predict(model, parts.validation)
    fits = [recovered("heads-fixed", model, number) for number in range(1, fixed_rounds + 1)]
    logits = run.predict(model, parts.test)
last = fits[-1]
last.steps, last.seconds = sum(fit.steps for fit in fits), sum(fit.seconds for fit in fits)
scored = run.score(
    "heads-fixed", logits, parts.test, model=model, baseline=control if run.has(control) else None,
    fitted=last, config={"patterns": [[*head, p.__name__] for head, p in fixed.items()]},
)  # fmt: skip

# %%
before = stats.macro_f1(parts.validation["label"], at_once.argmax(1))
after = last.history["validation_macro_f1"].dropna().iloc[-1]
text = (
    f"{len(fixed)} of {total} heads no longer look at anything: validation macro-F1 falls to "
    f"{before:.3f} and training brings it to {after:.3f}; on the test part it has "
    f"{scored.macro_f1:.3f}. "
)
if run.has(control):
    d = run.contrast("heads-fixed", control)
    text += f"Minus `{control}`, paired: {100 * d.diff:+.1f} points "
    text += f"({100 * d.low:+.1f} to {100 * d.high:+.1f})."
Markdown(text)

# %% [markdown]
# ## Is there a cliff, and does iterating defer it?
#
# Two ways to the same share of heads, by the same criterion and with the same number of recovery
# epochs: step by step, each tenth with its recovery; or all at once, and then all the recovery.
# A third line has no recovery at all.

# %%
score = SCORES[cliff_criterion]


def by_criterion(model):
    """Scores of the model as it is now."""
    return score(model, batches)


def pruned(name, shares):
    """Logits of the test part after each round, for the share that is gone then."""
    seen = {}

    def recover(model, number):
        return recovered(name, model, number, cliff_epochs).model

    def on_round(number, model, *_):
        seen[round(100 * shares[number - 1])] = run.predict(model, parts.test)

    prune.iterate(run.load("teacher"), by_criterion, recover, shares, on_round)
    return seen


# %%
steps = sorted(
    {percent / 100 for percent in [*range(10, max(cliff_percents), 10), *cliff_percents]}
)
points = {"whole": run.predict(teacher, parts.test)}
stepped = pruned("steps", steps)
points |= {f"steps@{percent}": stepped[percent] for percent in cliff_percents}
for percent in cliff_percents:
    rounds = steps.index(percent / 100) + 1
    points[f"once@{percent}"] = pruned(f"once{percent}", [percent / 100] * rounds)[percent]
    heads = prune.select(scores[cliff_criterion], prune.target(total, percent / 100))
    points[f"bare@{percent}"] = answers(prune.masked(teacher, heads))
cliff = run.sweep("cliff", points, parts.test, teacher)

# %%
titles = {"steps": "step by step", "once": "at once", "bare": "at once, no recovery"}
start = cliff.query("series == 'whole'")["score"].iloc[0]
bends = {}
for name, title in titles.items():
    line = cliff[cliff["series"] == name].sort_values("percent")
    x, y = [0.0, *line["percent"]], [start, *line["score"]]
    bends[title] = curves.two_segments(x, y)
knees = {title: bend.knee for title, bend in bends.items() if bend.aicc_gain > 0}

# %%
lines = cliff[cliff["series"] != "whole"].replace({"series": titles})
origins = [{"series": title, "percent": 0.0, "score": start} for title in titles.values()]
lines = pd.concat([pd.DataFrame(origins), lines])
run.figure(
    plots.sparsity_curves(
        lines, title="At once or step by step, at equal epochs", reference=start, knees=knees
    ),
    "cliff",
    "Macro-F1 against the share of heads removed: step by step, at once, and without recovery",
    lines,
)

# %%
table = pd.DataFrame(
    {
        "way": title,
        "knee, %": bend.knee,
        "points a tenth before": 1000 * bend.slopes[0],
        "points a tenth after": 1000 * bend.slopes[1],
        "AICc gain over one line": bend.aicc_gain,
    }
    for title, bend in bends.items()
)
run.table(table, "knees")
table.round(1)

# %%
deferred = run.settle("C5")
Markdown(
    "A line with a knee has two parameters more; a gain above 0 says that they are worth it, and "
    "the slopes whether the knee is a cliff. The share of the heads at which two points are lost, "
    f"step by step minus at once: {100 * deferred.diff:+.0f} % (95 % interval "
    f"{100 * deferred.low:+.0f} to {100 * deferred.high:+.0f}). Verdict on C5 here: "
    f"**{run.verdict('C5', deferred)}**. Both ways are one training each."
)

# %% [markdown]
# ## Gates that learn to close
#
# Voita et al. put a random gate on each head, open or shut or between, and train the gates with the
# weights, with a price on every open one:
#
# $$L = \text{CE} + \lambda \sum_h P(g_h > 0)$$
#
# A higher price closes more. Each gated model is compared with iterative pruning by gradient that
# ends at the same number of heads after the same number of epochs.


# %%
def gated(weight):
    """Train gates at a price; the plain model that is left, its closed heads, and the gates."""
    model = run.load("teacher")
    gates = prune.attach_gates(model)
    recipe = train.Recipe(
        gate_epochs, recovery_learning_rate, batch_size, seed=1000 * run.seed + 1,
        rates={"head_gates": gate_learning_rate},
    )  # fmt: skip
    model = run.fit(f"gates-{weight:g}", model, recipe, objective=prune.L0(weight)).model
    gates = model.head_gates.log_alpha.detach().cpu().numpy().copy()
    return model, prune.settle_gates(model), gates


def by_gradient(heads):
    """Logits of the test part after iterative pruning of so many heads, an epoch a round."""

    def recover(model, number):
        return recovered(f"gradient-{heads}heads", model, number, 1).model

    shares = [heads / total * number / gate_epochs for number in range(1, gate_epochs + 1)]
    model = prune.iterate(
        run.load("teacher"), lambda model: SCORES["gradient"](model, batches), recover, shares
    )
    return run.predict(model, parts.test)


# %%
points, openness, rows = {"whole": run.predict(teacher, parts.test)}, {}, []
for weight in gate_weights:
    model, closed, openness[weight] = gated(weight)
    percent = round(100 * len(closed) / total)
    points[f"gates@{percent}"] = run.predict(model, parts.test)
    points[f"gradient@{percent}"] = by_gradient(len(closed))
    rows.append({"price": weight, "heads closed": len(closed), "percent": percent})
learned = run.sweep("gates", points, parts.test, teacher)

# %%
wide_table = learned.query("series != 'whole'").pivot(
    index="percent", columns="series", values="score"
)
prices = pd.DataFrame(rows).merge(wide_table.reset_index(), on="percent")
run.table(prices, "gates")
prices.round(4)

# %%
guesses = records.sweep(run.work, "gates", fold=run.fold)
shown = sorted({row["percent"] for row in rows})
mean = curves.contrast(
    guesses,
    lambda at: np.mean([at[f"gates@{p}"] - at[f"gradient@{p}"] for p in shown], axis=0),
)
Markdown(
    f"Gates minus iterative pruning, mean over these head counts: {100 * mean.diff:+.1f} points "
    f"({100 * mean.low:+.1f} to {100 * mean.high:+.1f}). The gates choose and train at once; the "
    "price has to be found by trying, and the number of heads is what comes out."
)

# %% [markdown]
# ## Roles, and who goes last
#
# Voita et al. say that heads with a role survive: *positional* ones, whose largest weight falls on
# a fixed offset, and ones that look at the sentence's *rarest word*. Each head gets a score for
# either, and the order of removal is the one that the gates learned: how open a gate is, averaged
# over the prices.

# %%
share, offset = roles.positional(teacher, batches)
counts = roles.token_counts(run.tokenize(parts.train).input_ids, teacher.config.vocab_size)
rarity = roles.rare(teacher, batches, counts)
survival = np.mean(list(openness.values()), axis=0)
rank = pd.DataFrame({"positional": share.ravel(), "rare words": rarity.ravel()}).rank(pct=True)
role_score = rank.max(axis=1)

# %%
closing = pd.Series(survival.ravel()).rank(method="first").astype(int)
role = np.where(share.ravel() >= roles.POSITIONAL, "positional", "other")
role = np.where((role == "other") & (rarity.ravel() > 0.1), "rare words", role)
seen = alone[["layer", "head"]].assign(
    role=role, when=closing, share=share.ravel(), offset=offset.ravel(), rarity=rarity.ravel()
)
run.figure(
    plots.head_roles(
        seen,
        title="What a head looks at, and when its gate closes",
        when="the order in which gates close",
    ),
    "roles",
    "Map of layers by heads, coloured by role, with each head's place in the order of closing",
    seen,
)

# %%
last_to_go = curves.rank_correlation(role_score, survival.ravel())
apart = {name: curves.rank_correlation(rank[name], survival.ravel()) for name in rank}
p = float(spearmanr(role_score, survival.ravel()).pvalue)
difference = stats.Difference(*last_to_go, p=p, n=total, groups=total)
run.finding(
    "C17", difference, variant="role score of a head", baseline="how long its gate stays open",
    unit="rank correlation", n_unit="heads",
)  # fmt: skip

# %%
Markdown(
    f"{(role == 'positional').sum()} of {total} heads are positional, "
    f"{(role == 'rare words').sum()} look at the rarest word a tenth oftener than by chance. Rank "
    f"correlation of the role score with staying open: {last_to_go[0]:+.2f} "
    f"({last_to_go[1]:+.2f} to {last_to_go[2]:+.2f}); "
    + ", ".join(f"{name} alone {rho[0]:+.2f}" for name, rho in apart.items())
    + f". Verdict on C17 here: **{run.verdict('C17', difference)}**. Roles that need a parser are "
    "not looked for."
)

# %% [markdown]
# ## Would anything else regularise?
#
# If pruning helped by regularising, then so should dropout and weight decay, which cost nothing.
# The whole teacher is trained on for one round with each, at equal steps.


# %%
def trained_on(dropout=0.1, weight_decay=0.01):
    """Cross-entropies and macro-F1 of the teacher after one round with other regularisation."""
    model = run.load("teacher")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    model.config.hidden_dropout_prob = dropout
    name = f"regularised-{dropout:g}-{weight_decay:g}"
    model = recovered(name, model, 1, weight_decay=weight_decay).model
    train_loss = cross_entropy(run.predict(model, parts.train), parts.train).mean()
    logits = run.predict(model, parts.validation)
    validation_loss = cross_entropy(logits, parts.validation).mean()
    return {
        "dropout": dropout,
        "weight decay": weight_decay,
        "training loss": train_loss,
        "validation loss": validation_loss,
        "gap": validation_loss - train_loss,
        "validation macro-F1": stats.macro_f1(parts.validation["label"], logits.argmax(1)),
    }


# %%
settings = [{}, *({"dropout": d} for d in dropouts), *({"weight_decay": w} for w in weight_decays)]
regularised = pd.DataFrame([trained_on(**setting) for setting in settings])
run.table(regularised, "regularised")
regularised.round(3)

# %%
smallest = regularised.loc[regularised["gap"].idxmin()]
Markdown(
    f"The smallest gap, {smallest['gap']:.3f} nats, comes with dropout {smallest['dropout']:g} and "
    f"weight decay {smallest['weight decay']:g}; as the teacher was trained it is "
    f"{regularised['gap'].iloc[0]:.3f}. This is the validation part and one training each: a "
    "description, and nothing was chosen by it."
)

# %% [markdown]
# ## The clock: zeroed or removed
#
# Zeroing multiplies zeros, at full price. Removing makes the matrices smaller. Two models of equal
# answers take turns on the same sentences, one at a time, on the CPU; their ratio is the saving.


# %%
def two_ways(model, share):
    """One model with a share of its heads zeroed, and one with them removed."""
    heads = prune.select(
        SCORES["random"](model, seed=run.seed), prune.target(len(all_heads(model)), share)
    )
    zeroed, removed = copy.deepcopy(model), copy.deepcopy(model)
    prune.zero(zeroed, heads)
    prune.remove(removed, heads)
    return {"zeroed": zeroed, "removed": removed}


def all_heads(model):
    return [(layer, head) for layer, heads in enumerate(prune.alive(model)) for head in heads]


def ratio(model, share, sentences):
    """Latency of removed over zeroed: (ratio, low, high), seconds of both, models."""
    both = two_ways(model, share)
    scorers = {name: bench.torch_scorer(one, run.threads) for name, one in both.items()}
    taken = bench.time_in_turns(
        scorers, bench.singles(sentences), warmup=20, timed=timed, max_seconds=max_seconds
    )
    removed, zeroed = taken["removed"].seconds, taken["zeroed"].seconds
    n = min(len(removed), len(zeroed))
    return curves.ratio_of_medians(removed[:n], zeroed[:n]), zeroed, both


# %%
own = run.tokenize(parts.test).input_ids
on_cpu = run.load("teacher").cpu()
clock = {share: ratio(on_cpu, share, own) for share in timed_shares}
rows = []
for share, (times, zeroed, both) in clock.items():
    sizes = {name: models.sizes(one) for name, one in both.items()}
    rows.append(
        {
            "heads removed": f"{share:.0%}",
            "parameters saved, %": 100
            * (1 - sizes["removed"]["params"] / sizes["zeroed"]["params"]),
            "zeroed, ms": 1000 * np.median(zeroed),
            "removed / zeroed": times[0],
            "low": times[1],
            "high": times[2],
        }
    )
clocked = pd.DataFrame(rows)
run.table(clocked, "clock")
clocked.round(3)

# %%
times, zeroed, _ = clock[max(timed_shares)]
difference = stats.Difference(
    *(value - 1 for value in times), p=np.nan, n=len(zeroed), groups=len(zeroed)
)
run.finding(
    "C13", difference, variant=f"median latency, {max(timed_shares):.0%} of the heads removed",
    baseline="the same heads zeroed", unit="%", n_unit="sentences",
)  # fmt: skip
Markdown(
    f"At {max(timed_shares):.0%} of the heads, on sentences of their own lengths, the removed model "
    f"takes {times[0]:.2f} of the zeroed one's time ({times[1]:.2f} to {times[2]:.2f}). Verdict on "
    f"C13 here: **{run.verdict('C13', difference)}**."
)

# %% [markdown]
# The same by length, and for a model of BERT's shape with random weights: architecture alone, which
# has a speed and no accuracy.

# %%
shape = transformers.BertConfig(
    num_hidden_layers=timed_layers, hidden_size=timed_hidden, intermediate_size=4 * timed_hidden,
    num_attention_heads=max(1, timed_hidden // 64), num_labels=3,
)  # fmt: skip
torch.manual_seed(run.seed)
contenders = {
    "this teacher": on_cpu,
    f"{timed_layers} layers of {timed_hidden}, random weights": (
        transformers.BertForSequenceClassification(shape).eval()
    ),
}
generator = np.random.default_rng(run.seed)
rows = []
for name, one in contenders.items():
    for share in timed_shares:
        for length in timed_lengths:
            sentences = generator.integers(5, 1000, (32, length)).clip(
                max=one.config.vocab_size - 1
            )
            found, zeroed, _ = ratio(one, share, list(sentences))
            rows.append((name, share, length, *found, 1000 * np.median(zeroed)))
by_length = pd.DataFrame(
    rows, columns=["model", "share", "tokens", "ratio", "low", "high", "zeroed_ms"]
)
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
deep = by_length[by_length["share"] == max(timed_shares)].groupby("model")["ratio"]
Markdown(
    f"With {max(timed_shares):.0%} of the heads removed: "
    + "; ".join(
        f"{name}: {low:.2f} to {high:.2f}"
        for name, low, high in deep.agg(["min", "max"]).itertuples()
    )
    + " of the time, over the lengths. What the picture does not show is other runtimes and "
    "processors: chapter 7 has ONNX Runtime."
)

# %% [markdown]
# ## The answer

# %%
verdicts = run.verdicts(["C4", "C5", "C13", "C17"])
run.table(verdicts, "verdicts")
verdicts.round(2)

# %% [markdown]
# **When not to trust this chapter:** one fold, one teacher, one training where there is training.
# The sweeps chose nothing on the test part: which head a layer keeps, and all scores, come from the
# validation part.
#
# **Next.** Chapter 7 puts every model on the ruler, and chapter 8 the verdicts on one page.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Hurvich and Tsai (1989). Regression and time series model selection in small samples. Biometrika.
# - Kovaleva, Romanov, Rogers and Rumshisky (2019). Revealing the dark secrets of BERT. EMNLP.
#   arXiv:1908.08593.
# - Louizos, Welling and Kingma (2018). Learning sparse neural networks through L0 regularization.
#   ICLR. arXiv:1712.01312.
# - Michel, Levy and Neubig (2019). Are sixteen heads really better than one? NeurIPS.
#   arXiv:1905.10650.
# - Raganato, Scherrer and Tiedemann (2020). Fixed encoder self-attention patterns in
#   transformer-based machine translation. Findings of EMNLP. arXiv:2002.10260.
# - Voita, Talbot, Moiseev, Sennrich and Titov (2019). Analyzing multi-head self-attention. ACL.
#   arXiv:1905.09418.
