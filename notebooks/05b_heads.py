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
# and at gates that learn which heads to close. Each section settles one claim or explains one.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, records of chapter 5 |
# | writes | sweeps over layers, the cliff and gates; findings; two records; no model |
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
#   defers.
# * Raganato et al. (2020): all heads of a layer but one may follow fixed patterns.
# * Voita et al. (2019): gates that learn to close keep the heads with a role, positional or for rare
#   words, to the last.

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

import numpy as np
import pandas as pd
import torch.nn.functional as F
from IPython.display import Markdown
from scipy.stats import spearmanr
from torch import nn

from headcount import chapter, claims, curves, models, plots, prune, records, stats, train
from headcount.errors import InputError
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
cliff_percents = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95]
cliff_criterion = "entropy"
cliff_epochs = 1
gate_weights = [0.005, 0.01, 0.02, 0.05]  # found on the validation part of fold 0
gate_epochs = 3
fixed_rounds = 3
removal = "heads-gradient-50"  # of chapter 5, whose order of removal the roles are held against
dropouts = [0.2, 0.3]
weight_decays = [10.0, 100.0]  # at 1e-5, AdamW's usual 0.01 moves nothing in a few hundred steps
# Fixed
gate_learning_rate = 0.1
recovery_epochs = 3
recovery_learning_rate = 1e-5
batch_size = 32

# %%
run = chapter.begin("05b_heads", globals())
if len(cliff_percents) < 6:
    raise InputError(f"cliff_percents {cliff_percents}: give six or more, or no knee can be told")
went = {(layer, head): n for n, layer, head in run.record(removal).provenance.config["removed"]}
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
def rises(context):
    """Rise of each validation sentence's cross-entropy, (heads, sentences), head by head."""
    found = []
    for head in every:
        with context(head):
            found.append(run.losses(teacher, parts.validation))
    return np.stack(found) - intact


intact = run.losses(teacher, parts.validation)
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
def clearly(rises):
    """Heads whose mean rise lies more than two standard errors above 0, and below it."""
    bound = 1.96 * rises.std(1, ddof=1) / np.sqrt(rises.shape[1])
    return int((rises.mean(1) > bound).sum()), int((rises.mean(1) < -bound).sum())


missed, harmful = clearly(left_out)
missed_views, _ = clearly(constant)

# %%
Markdown(
    f"The mean cross-entropy is {intact.mean():.3f} nats, and the head that is missed most adds "
    f"{alone['rise'].max():.3f}. Of {total} heads {missed} are clearly missed, {harmful} are clearly "
    "better away, and of the others these sentences cannot tell. With constant attention in their "
    f"place (Kovaleva) {missed_views} are: those are heads whose own choice of words matters, and not "
    "only what they pass on. What the map does not show is redundancy: two heads may each be "
    "dispensable because of the other."
)

# %% [markdown]
# ## Which criterion finds the heads that are missed?
#
# Even a perfect criterion could not correlate fully with so noisy a quantity. So the sentences are
# cut into two halves, by groups of near-duplicates. How far the rises of the halves agree, $r$, says
# how far any criterion can agree with all of them: $\sqrt{2r / (1 + r)}$ (Spearman and Brown). And
# since a criterion may share the noise of the very sentences that it is compared on, each is also
# computed on one half and compared on the other. Last, a criterion may tell how much a head matters
# and not in which direction: the absolute value of a gradient has no sign. So each is also compared
# with the size of the change, rise or fall.

# %%
everyone = np.arange(len(tokens))
batches = run.batches(tokens)
scores = prune.score_all(teacher, batches)
criteria = [name for name in SCORES if name != "random"]

# %%
codes = pd.factorize(parts.validation["group"])[0]
halves = [everyone[codes % 2 == half] for half in (0, 1)]
rises_of = [left_out[:, half].mean(1) for half in halves]
scores_of = [prune.score_all(teacher, run.batches(tokens, half)) for half in halves]
agreement = curves.rank_correlation(*rises_of)
ceiling = np.sqrt(2 * max(agreement[0], 0) / (1 + max(agreement[0], 0)))

# %%
found = {name: curves.rank_correlation(scores[name].ravel(), alone["rise"]) for name in criteria}
correlations = pd.DataFrame(found, index=["rho", "low", "high"]).T
correlations["across halves"] = [
    np.mean(
        [spearmanr(scores_of[half][name].ravel(), rises_of[1 - half]).statistic for half in (0, 1)]
    )
    for name in criteria
]
either_way = {
    name: curves.rank_correlation(scores[name].ravel(), alone["rise"].abs()) for name in criteria
}
correlations["either way"] = [either_way[name][0] for name in criteria]
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
best, surest = correlations["rho"].idxmax(), correlations["either way"].idxmax()
largest = alone["rise"].clip(lower=0).sort_values(ascending=False)
carried = largest.head(prune.target(total, 0.1)).sum() / largest.sum()
Markdown(
    f"The halves agree to {agreement[0]:+.2f} ({agreement[1]:+.2f} to {agreement[2]:+.2f}), so that "
    f"about {ceiling:.2f} is the most that a criterion can reach. The closest, `{best}`, reaches "
    f"{correlations.loc[best, 'rho']:+.2f}, and `entropy` {correlations.loc['entropy', 'rho']:+.2f} "
    f"({correlations.loc['entropy', 'low']:+.2f} to {correlations.loc['entropy', 'high']:+.2f}). "
    "Where an interval holds 0, the criterion has not been shown to find the heads that are missed. "
    f"`gradient`, which knows no sign, has {correlations.loc['gradient', 'rho']:+.2f} with the rise, and "
    f"{either_way['gradient'][0]:+.2f} ({either_way['gradient'][1]:+.2f} to "
    f"{either_way['gradient'][2]:+.2f}) with the size of the change, rise or fall; there the closest is "
    f"`{surest}`. "
    f"Of all rises above 0 together, the tenth of the heads with the largest carry {carried:.0%}: the "
    "more, the more of a rank correlation is about the order of heads that hardly matter."
)

# %% [markdown]
# ## Padding that votes
#
# The seed study pads every sentence to 128 tokens, counts the rows of the padding as if they were
# words, and divides by $\log 128$ whatever the sentence's length. Which heads would it choose?

# %%
longest = max(128, tokens.lengths.max())


def padded(batch):
    """The batch as the seed study has it, every sentence padded to 128 tokens."""
    more = (0, longest - batch["input_ids"].shape[1])
    ids = F.pad(batch["input_ids"], more, value=run.tokenizer().pad_token_id)
    return {"input_ids": ids, "attention_mask": F.pad(batch["attention_mask"], more)}


wide = [padded(batch) for batch in batches]
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
# The last row is the seed study's arithmetic, and the two before it change one thing each: whose rows
# count, and what they are divided by. Whether other heads matter for the score is another question:
# chapter 5 shows how much choosing matters at all.
#
# ## Layer by layer
#
# "Early layers are the redundant ones." So each layer loses all its heads at once; or keeps the one
# head that alone leaves the lowest validation loss; or all its heads look at everything alike.
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
            costs[kept] = run.losses(teacher, parts.validation).mean()
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


def early_minus_late(name, without=None):
    """C4's difference by another treatment of the layers, or without one of them, for a reader."""
    if without is not None and layers < 4:
        return "not to be told from so few layers"
    asked = [point for point in guesses if point.startswith(f"{name}@")]
    d = curves.contrast(
        guesses[[*curves.KEYS, *asked]],
        lambda at: claims.early_minus_late(at, name, without),
    )
    return f"{100 * d.diff:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f})"


# %%
Markdown(
    f"The dearest layer is {off.idxmax()} ({100 * off.max():.1f} points), the cheapest "
    f"{off.idxmin()} ({100 * off.min():.1f}). First half minus second half: "
    f"{100 * early_late.diff:+.1f} points, 95 % interval {100 * early_late.low:+.1f} to "
    f"{100 * early_late.high:+.1f}. Verdict on C4 here: **{run.verdict('C4', early_late)}**. "
    f"The two last layers alone: {100 * off.iloc[-2:].mean():.1f} points on average. How much of this "
    f"is one layer? Without layer {off.idxmax()}, early minus late is "
    f"{early_minus_late('off', off.idxmax())}; with constant attention in place of silence, "
    f"{early_minus_late('constant')}. What this does not show is what a little training would restore."
)

# %% [markdown]
# ## Fixed patterns
#
# With training, attention may not even have to be computed: every head but one of each layer gets a
# fixed pattern (its own token, the previous one, the next, ...) and the model is fine-tuned for as
# many steps as `teacher-continued` was. Two controls: that one, and a model from which the same heads
# are removed, for perhaps the patterns do nothing.

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
def reported(name, model, fits, baseline, **config):
    """Record the scores of a model that was trained for several rounds."""
    return run.score(
        name, run.predict(model, parts.test), parts.test, model=model, baseline=baseline,
        fitted=train.together(fits), config=config,
    )  # fmt: skip


def trained(name, model):
    """All rounds, one after the other."""
    return [recovered(name, model, number) for number in range(1, fixed_rounds + 1)]


# %%
control = f"teacher-continued-{fixed_rounds * recovery_epochs}"
model = run.load("teacher")
prune.remove(model, fixed)
reported(
    "heads-one-a-layer", model, trained("heads-one-a-layer", model),
    control if run.has(control) else "teacher", removed=[list(head) for head in fixed],
)  # fmt: skip
model = run.load("teacher")
with prune.replaced(model, fixed):
    at_once = run.predict(model, parts.validation)
    fits = trained("heads-fixed", model)
    names = [[*head, pattern.__name__] for head, pattern in fixed.items()]
    scored = reported("heads-fixed", model, fits, "heads-one-a-layer", patterns=names)

# %%
before = stats.macro_f1(parts.validation["label"], at_once.argmax(1))
after = fits[-1].history["validation_macro_f1"].dropna().iloc[-1]
others = ["heads-one-a-layer", *([control] if run.has(control) else [])]
differences = {other: run.contrast("heads-fixed", other) for other in others}

# %%
Markdown(
    f"{len(fixed)} of {total} heads now look where they always look. Validation macro-F1 is "
    f"{before:.3f} at once and {after:.3f} after training; on the test part it is "
    f"{scored.macro_f1:.3f}. "
    + " ".join(
        f"Minus `{other}`: {100 * d.diff:+.1f} points ({100 * d.low:+.1f} to {100 * d.high:+.1f})."
        for other, d in differences.items()
    )
)

# %% [markdown]
# ## Is there a cliff, and does iterating defer it?
#
# Two ways to the same share of heads, by the same criterion and with the same number of recovery
# epochs: step by step, each tenth with its recovery; or all at once, and then all the recovery.
# A third line has no recovery at all. And since epochs alone change a model, a fourth line is the
# whole model after as many: two points are lost when an arm lies two points below that one.

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
steps = sorted({percent / 100 for percent in cliff_percents})
points = {"whole": run.predict(teacher, parts.test)}
for percent, logits in pruned("steps", steps).items():
    points[f"steps@{percent}"] = logits
for number, percent in enumerate(cliff_percents, start=1):
    points[f"once@{percent}"] = pruned(f"once{percent}", [percent / 100] * number)[percent]
    heads = prune.select(scores[cliff_criterion], prune.target(total, percent / 100))
    points[f"bare@{percent}"] = answers(prune.masked(teacher, heads))
model = run.load("teacher")
for number, percent in enumerate(cliff_percents, start=1):
    model = recovered("unpruned", model, number, cliff_epochs).model
    points[f"continued@{percent}"] = run.predict(model, parts.test)
cliff = run.sweep("cliff", points, parts.test, teacher)

# %%
titles = {"steps": "step by step", "once": "at once", "bare": "at once, no recovery"}
titles |= {"continued": "nothing removed"}
lines = curves.lines(cliff).replace({"series": titles})
arms = lines[lines["series"] != titles["continued"]].groupby("series", sort=False)
bends = {title: curves.two_segments(arm["percent"], arm["score"]) for title, arm in arms}
knees = {title: bend.knee for title, bend in bends.items() if bend.aicc_gain > 0}

# %%
whole = cliff.set_index("series")["score"]["whole"]
run.figure(
    plots.sparsity_curves(
        lines, title="At once or step by step, at equal epochs", reference=whole, knees=knees
    ),
    "cliff",
    "Macro-F1 against the share of heads removed: step by step, at once, without recovery, and of "
    "the whole model after as many epochs",
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
deferred = run.verdicts(["C5"]).iloc[0]
Markdown(
    "A line with a knee has two parameters more. A gain above 0 says that they are worth it, and the "
    "slopes whether the knee is a cliff; with so few points only a sharp one can show. The share of "
    "the heads at which two points are lost, step by step minus at once: "
    f"{deferred['difference']:+.0f} % (95 % interval {deferred['low']:+.0f} to "
    f"{deferred['high']:+.0f}; an arm that never loses them counts with {max(cliff_percents)} %). "
    f"Verdict on C5 here: **{deferred['verdict here']}**. Each point is one training."
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
# ends at the same number of heads after the same number of epochs. (Not after the same schedule:
# gates are trained in one go, the rival starts afresh for each epoch, after each removal.)


# %%
def gated(weight):
    """Train gates at a price; the plain model that is left, and its closed heads."""
    model = run.load("teacher")
    prune.attach_gates(model)
    recipe = train.Recipe(
        gate_epochs, recovery_learning_rate, batch_size, seed=1000 * run.seed + 1,
        rates={"head_gates": gate_learning_rate},
    )  # fmt: skip
    model = run.fit(f"gates-{weight:g}", model, recipe, objective=prune.L0(weight)).model
    return model, prune.settle_gates(model)


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
points, closed_at, rows = {"whole": run.predict(teacher, parts.test)}, {}, []
for price in sorted(gate_weights):
    model, closed = gated(price)
    points[f"gates@{price:g}"] = run.predict(model, parts.test)
    points[f"gradient@{price:g}"] = by_gradient(len(closed))
    closed_at |= {head: price for head in closed if head not in closed_at}
    rows.append({"price": price, "heads closed": len(closed)})
learned = run.sweep("gates", points, parts.test, teacher)

# %%
by_price = learned.query("series != 'whole'").pivot(
    index="percent", columns="series", values="score"
)
prices = pd.DataFrame(rows).merge(by_price.reset_index(names="price"), on="price")
run.table(prices, "gates")
prices.round(4)

# %%
closing = [f"{row['price']:g}" for row in rows if row["heads closed"]]
text = "No price closed a head."
if closing:
    mean = curves.contrast(
        records.sweep(run.work, "gates", fold=run.fold),
        lambda at: np.mean([at[f"gates@{p}"] - at[f"gradient@{p}"] for p in closing], axis=0),
    )
    text = (
        f"Gates minus iterative pruning, mean over the {len(closing)} prices that closed any: "
        f"{100 * mean.diff:+.1f} points ({100 * mean.low:+.1f} to {100 * mean.high:+.1f})."
    )
Markdown(
    f"{text} The gates choose and train at once; the price has to be found by trying, and the number "
    "of heads is what comes out."
)

# %% [markdown]
# ## Roles, and who goes last
#
# Voita et al. say that heads with a role survive: *positional* ones, whose largest weight falls on
# a fixed offset, and ones that look at the sentence's *rarest word*. Each head gets a score for
# either (offsets from -2 to 2 are ours; they look at neighbours), which is held against the round in
# which chapter 5's iterative pruning by gradient took it. (By gradient, since entropy is itself a
# measure of how a head looks.) Beside it stands the order of the gates: the lowest price at which a
# head closes. Heads that stay, and those that no price closes, come last together.

# %%
share, offset = roles.positional(teacher, batches)
counts = roles.token_counts(run.tokenize(parts.train).input_ids, teacher.config.vocab_size)
rarity = roles.rare(teacher, batches, counts)
rank = pd.DataFrame({"positional": share.ravel(), "rare words": rarity.ravel()}).rank(pct=True)
role_score = rank.max(axis=1)
stays = pd.Series([went.get(head, np.inf) for head in every]).rank()
by_gates = pd.Series([closed_at.get(head, np.inf) for head in every]).rank()

# %%
role = np.where(share.ravel() >= roles.POSITIONAL, "positional", "other")
role = np.where((role == "other") & (rarity.ravel() > 0.1), "rare words", role)
seen = alone[["layer", "head"]].assign(
    role=role,
    when=[went.get(head, np.nan) for head in every],
    price=[closed_at.get(head, np.nan) for head in every],
    share=share.ravel(),
    offset=offset.ravel(),
    rarity=rarity.ravel(),
)
run.figure(
    plots.head_roles(seen, title="What a head looks at, and when it goes"),
    "roles",
    "Map of layers by heads, coloured by role, with the round in which each head is removed",
    seen,
)

# %%
last_to_go = curves.rank_correlation(role_score, stays)
run.finding(
    "C17",
    stats.Difference(
        *last_to_go, p=float(spearmanr(role_score, stays).pvalue), n=total, groups=total
    ),
    variant="heads' role score", baseline=f"how late {removal} removes them, rank correlation",
    unit="rank correlation", n_unit="heads",
)  # fmt: skip
layer = alone["layer"]
within = [x.rank() - x.rank().groupby(layer).transform("mean") for x in (role_score, stays)]
apart = ", ".join(f"{n} alone {spearmanr(rank[n], stays).statistic:+.2f}" for n in rank)
gates = "all heads close at one price, or none does: there is no order"
if by_gates.nunique() > 1:
    rho, low, high = curves.rank_correlation(role_score, by_gates)
    gates = f"{rho:+.2f} ({low:+.2f} to {high:+.2f})"

# %%
Markdown(
    f"{(role == 'positional').sum()} of {total} heads are positional; {(role == 'rare words').sum()} "
    "others look at the rarest word in more than 10 of 100 rows beyond chance. Rank correlation of the "
    f"role score with staying in `{removal}`: {last_to_go[0]:+.2f} ({last_to_go[1]:+.2f} to "
    f"{last_to_go[2]:+.2f}); {apart}; within layers {within[0].corr(within[1]):+.2f}. Verdict on C17 "
    f"here: **{run.verdicts(['C17'])['verdict here'].iloc[0]}**. With the gates' order: {gates}. The "
    "intervals take heads as independent, which those of one layer are not: the true ones are wider. "
    "Roles that need a parser are not looked for."
)

# %% [markdown]
# ## Would anything else regularise?
#
# If pruning helped by regularising, then dropout and weight decay should too, at no cost. The
# teacher is trained on for one round with each; beside them stands one round of pruning, a tenth of
# the heads by entropy. All have equal steps, and each is compared with the plain round.


# %%
def trained_on(name, heads=(), dropout=None, **changes):
    """Cross-entropy of each sentence after one round: (training part, validation part), macro-F1."""
    model = run.load("teacher")
    prune.remove(model, heads)
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        model.config.hidden_dropout_prob = dropout
    fit = recovered(f"regularised-{name}", model, 1, **changes)
    both = [run.losses(fit.model, part) for part in (parts.train, parts.validation)]
    return np.concatenate(both), fit.history["validation_macro_f1"].dropna().iloc[-1]


tenth = prune.select(scores["entropy"], prune.target(total, 0.1))
rounds = {"plain": trained_on("plain"), "a tenth of the heads off": trained_on("pruned", tenth)}
rounds |= {f"dropout {d:g}": trained_on(f"dropout{d:g}", dropout=d) for d in dropouts}
rounds |= {f"weight decay {w:g}": trained_on(f"decay{w:g}", weight_decay=w) for w in weight_decays}

# %%
both = pd.concat([parts.train, parts.validation])
held_out = np.arange(len(both)) >= len(parts.train)
rows = []
for name, (losses, score_there) in rounds.items():
    wider = curves.gap(losses - rounds["plain"][0], held_out, both["group"])
    rows.append(
        {
            "one round with": name,
            "training loss": losses[~held_out].mean(),
            "validation loss": losses[held_out].mean(),
            "gap minus plain": wider.diff,
            "low": wider.low,
            "high": wider.high,
            "validation macro-F1": score_there,
        }
    )
regularised = pd.DataFrame(rows)
run.table(regularised, "regularised")
regularised.round(3)

# %% [markdown]
# A gap below the plain round's, with its interval, is what regularisation would look like, and the
# training loss says whether it was bought by fitting less. This is the validation part and one
# training each: a description, by which nothing was chosen.

# %% [markdown]
# ## The answer

# %%
verdicts = run.verdicts(["C4", "C5", "C17"])
run.table(verdicts, "verdicts")
verdicts.round(2)

# %% [markdown]
# **When not to trust this chapter:** one fold, one teacher, one training where there is training.
# The sweeps chose nothing on the test part: which head a layer keeps, and all scores, come from the
# validation part.
#
# **Next.** Chapter 5c asks the clock what a removed head saves.

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
