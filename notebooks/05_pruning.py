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
# # 5. Can half of the attention heads go, and is the model better for it?
#
# Chapters 3 and 4 made the teacher smaller as a whole. This chapter opens it up: a BERT layer
# runs several attention heads side by side, and we ask whether all of them are needed. The seed
# study, [FinCompress](https://github.com/Rohanjain2312/FinCompress), says that half of FinBERT's
# heads went and that the model *improved*. An improvement needs an explanation, and there are
# three suspects: fewer heads, more training, and a loop that removed fewer heads than it said.
#
# | | |
# |---|---|
# | reads | sentences and tokenizer of chapter 1, the teacher's weights and record of chapter 2 |
# | writes | a sweep over masked heads; records and weights of each arm; one model as ONNX |
# | takes | round after round of recovery training; chapter 8 says how long that was |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/05_pruning.ipynb)

# %% [markdown]
# ## What is expected
#
# * The seed study reports validation macro-F1 rising from 0.8876 to 0.8966 as heads go, +0.9
#   points at 50 % (FinCompress, commit 442af31). Its pruned models had 9 and 15 epochs of further
#   fine-tuning; the teacher they were compared with had none.
# * Michel et al. (2019) remove 20 to 40 % of the heads of BERT and of a translation model with
#   little loss, choosing by gradient and without retraining.
# * Fardeen (2022) says that measures of attention (entropy, sparsity, distribution, and the three
#   combined) beat magnitude and chance up to about half of the heads.
# * Budhraja et al. (2020) remove heads of BERT *at random*, fine-tune, and find little difference
#   to any clever choice.
#
# The last two need not contradict each other: without retraining the choice may matter, and with
# it not. So both are tried. Beforehand we say: (a) the pruned model equals a teacher that was
# trained on for as many epochs, within the interval; (b) after recovery, heads drawn at random do
# as well. And two predictions of our own, one from reading code and one from counting: (c) the
# seed study's loop silences one round's worth of heads, whatever it reports; (d) the file shrinks
# far less than "half of the heads" suggests.

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
import math
from functools import partial

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from headcount import chapter, claims, curves, export, models, plots, prune, records, stats, train
from headcount.data import LABELS
from headcount.errors import InputError
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
percents = [10, 20, 30, 40, 50, 60, 70, 80, 90]
random_draws = 5
arms = ["entropy", "entropy-reversed", "gradient", "random", "seedloop"]
rounds = 5
share = 0.1
reported_rounds = [3, 5]
trainings = 3  # of the control and of entropy, with a seed each
# Fixed: the seed study's values
recovery_epochs = 3
recovery_learning_rate = 1e-5
batch_size = 32

# %%
run = chapter.begin("05_pruning", globals())
if not set(reported_rounds) <= set(range(1, rounds + 1)):
    raise InputError(f"reported_rounds {reported_rounds}: choose from rounds 1 to {rounds}")
if random_draws < 1 or not percents:
    raise InputError(
        "one-shot curves need a random draw and a percent at least: raise random_draws"
    )
if not {"entropy", "random"} <= set(arms):
    raise InputError(f"arms {arms}: leave entropy and random among them, the others' controls")

# %% [markdown]
# ## The teacher and its sentences
#
# Heads are scored, and recovery is watched, on the validation part alone. The test part is
# predicted once for each model that is reported, and it chooses nothing.

# %%
parts, teacher = run.split(), run.load("teacher")
assert models.weights_sha256(teacher) == run.record("teacher").weights_sha256
sizes = models.sizes(teacher)
for row in parts.validation.head(2).itertuples():
    print(f"{LABELS[row.label]:>8}  {row.text}")

# %%
total = sizes["heads_total"]
shares = [share * number for number in range(1, rounds + 1)]
gone_after = [prune.target(total, each) for each in shares]

# %%
Markdown(
    f"The teacher has {sizes['layers']} layers and {total} heads in {sizes['params'] / 1e6:.1f} M "
    f"parameters. After its {rounds} rounds {', '.join(map(str, gone_after))} heads are to be gone. "
    f"Validation: {len(parts.validation):,} sentences; test: {len(parts.test):,}."
)

# %% [markdown]
# ## The idea, small: entropy
#
# A head turns each token into a row of weights over all tokens, summing to 1. If a row is spread
# evenly, the head takes an average and looks at nothing in particular. Entropy measures the
# spread, and dividing by its greatest possible value makes sentences of unlike length comparable:
#
# $$\text{importance}(h) = 1 - \frac{1}{n}\sum_{i=1}^{n} \frac{H(A^h_i)}{\log n},\qquad
# H(a) = -\sum_j a_j \log a_j$$
#
# It is 0 for a head that looks everywhere alike, 1 for one that always looks at a single token.
# The lowest go first. In slow motion, for one head and one sentence:


# %%
def slow_importance(rows):
    """1 - mean entropy of a head's n rows of n weights, in units of log n."""
    entropies = []
    for row in rows:
        entropy = 0.0
        for weight in row:
            if weight > 0:
                entropy -= weight * math.log(weight)
        entropies.append(entropy / math.log(len(row)))
    return 1 - sum(entropies) / len(entropies)


# %% [markdown]
# The library does the same for all heads in one pass over batches, and leaves padding out both as
# a key and as a query. On one sentence the two must agree.

# %%
tokens = run.tokenize(parts.validation)
sentence = parts.validation["text"][tokens.lengths <= 24].iloc[0]  # so that its words can be read
encoded = run.tokenizer()(sentence, return_tensors="pt").to(run.device)
teacher.set_attn_implementation("eager")
with torch.no_grad():
    maps = torch.stack(teacher(**encoded, output_attentions=True).attentions)[:, 0].cpu()
teacher.set_attn_implementation("sdpa")

slow = np.array([[slow_importance(head.tolist()) for head in layer] for layer in maps])
fast = SCORES["entropy"](teacher, [encoded])
np.testing.assert_allclose(fast, slow, atol=1e-5)

# %%
ends = {"most uniform": int(slow.argmin()), "most focused": int(slow.argmax())}
words = run.tokenizer().convert_ids_to_tokens(encoded["input_ids"][0])
looks = []
with plots.style():
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    for ax, (name, flat) in zip(figure.subplots(1, 2), ends.items(), strict=True):
        layer, head = divmod(flat, slow.shape[1])
        image = ax.imshow(maps[layer, head], cmap="viridis", vmin=0, vmax=1)
        ax.set_title(f"{name}, {slow.flat[flat]:.2f}: layer {layer}, head {head}", fontsize=10)
        ax.set_xticks(range(len(words)), words, rotation=90, fontsize=7)
        ax.set_yticks(range(len(words)), words, fontsize=7)
        ax.set(xlabel="looked at", ylabel="looking")
        ax.grid(False)
        looks.append(pd.DataFrame(maps[layer, head].numpy(), words, words).assign(head=name))
    figure.colorbar(image, ax=figure.axes, label="attention weight", shrink=0.7)
run.figure(
    figure,
    "two-heads",
    "Attention maps of two heads on one sentence: one spread over all words, one on single words",
    pd.concat(looks).reset_index(names="looking"),
)

# %% [markdown]
# Notice how evenly the left-hand rows are spread, and how far the right-hand ones prefer single
# words; the number above each is its importance. What the picture does not show is whether
# averaging is useless: a mean over the sentence may be what a layer needs, and looking at the
# previous word may not matter. That entropy finds the dispensable heads is an assumption, and
# `heads-random` tests it.

# %% [markdown]
# ## The idea, real: every head, by every criterion
#
# Entropy is one answer to "which heads matter?". The literature has others, and each is a function
# that gives every head a number; the lowest go first.
#
# | criterion | a head matters if | source |
# |---|---|---|
# | `entropy` | its rows are focused | Fardeen 2022, the seed study |
# | `entropy-reversed` | its rows are spread: the opposite bet | control |
# | `sparsity` | its rows are sparse (Hoyer) | Fardeen 2022 |
# | `distribution` | its largest weights are large, [SEP] aside | Fardeen 2022, Voita 2019 |
# | `combined` | the three together, by mean rank | Fardeen 2022 |
# | `magnitude` | its value and output weights are large | Fardeen's baseline |
# | `gradient` | the loss reacts when its output is turned down | Michel 2019 |
# | `random` | it was not drawn | control |
#
# Those that read attention share one pass, and no map outlives its batch.

# %%
batches = run.batches(tokens)
scores = prune.score_all(teacher, batches)
entropy = partial(SCORES["entropy"], batches=batches)
first = scores["entropy"]

# %%
run.figure(
    plots.head_map(prune.tidy(first), title="How focused is each head?", label="1 − entropy"),
    "head-map",
    "Heat map of layers by heads, coloured by importance from entropy",
    prune.tidy(first),
)

# %%
gone_first = prune.select(first, gone_after[0])
between_layers = first.mean(1).var() / first.var()

# %%
Markdown(
    f"The first {len(gone_first)} to go come from layer "
    f"{', '.join(map(str, sorted({layer for layer, _ in gone_first})))}. Notice that the layer alone "
    f"explains {between_layers:.0%} of the variance between heads: the least focused on average is "
    f"layer {first.mean(1).argmin()}, the most focused layer {first.mean(1).argmax()}. The map says "
    "how heads look at words, not how much the answer depends on them."
)

# %% [markdown]
# If the criteria measured one thing, "importance", they would put the heads into much the same
# order. Do they?

# %%
criteria = [name for name in SCORES if name != "random"]
ranks = pd.DataFrame({name: scores[name].ravel() for name in criteria})
agreement = ranks.corr("spearman")
run.figure(
    plots.agreement(agreement, title="Do the criteria agree? Spearman's correlation over heads"),
    "agreement",
    "Heat map of rank correlations between criteria, over all heads of the teacher",
    agreement.reset_index(names="criterion"),
)

# %%
outsider = agreement.loc["gradient"].drop(["gradient", "entropy-reversed"])
Markdown(
    "Those that read attention resemble one another by construction. Notice the row of `gradient`, "
    "the only one that asks the loss: its correlations with the others (the mirror image of "
    f"`entropy` left out) run from {outsider.min():+.2f} to {outsider.max():+.2f}. Agreement would "
    "not make a criterion right, and two that disagree cannot both be."
)

# %% [markdown]
# ### An attempt to break it: half of the sentences
#
# A score that depends on which sentences it was computed from would be noise. So each is computed
# twice, on two halves of the validation part. If it is a property of the head, the halves agree on
# whom to remove; if not, the method would be random removal under another name.

# %%
halves = [prune.score_all(teacher, batches[i::2]) for i in (0, 1)]
half = gone_after[-1]


def in_common(name, k):
    """Share of the k heads that both halves of the sentences choose."""
    chosen = [set(prune.select(each[name], k)) for each in halves]
    return len(chosen[0] & chosen[1]) / k


stability = pd.DataFrame(
    {
        "criterion": name,
        "rank correlation": ranks_of_halves.iloc[0, 1],
        f"of the first {gone_after[0]}, both choose": in_common(name, gone_after[0]),
        f"of {half}": in_common(name, half),
    }
    for name in criteria
    for ranks_of_halves in [pd.DataFrame([h[name].ravel() for h in halves]).T.corr("spearman")]
)
run.table(stability, "stability")
stability.round(3)

# %% [markdown]
# A stable score is not yet a right one: `magnitude` does not look at sentences at all, and cannot
# but agree with itself.
#
# ## One shot: take heads out and change nothing else
#
# Here is the cheapest experiment: silence the lowest heads, do not retrain, predict the test part.
# No training means no luck of training, and every criterion can be tried at every share. Several
# random draws in each fold say what choosing is worth.

# %%
lots = {
    f"random{draw}": SCORES["random"](teacher, seed=(1, run.seed, run.fold, draw))
    for draw in range(random_draws)
}
rankings = {name: scores[name] for name in criteria} | lots


# %%
def without(heads):
    """Logits of the test part with some heads' outputs set to zero."""
    with prune.masked(teacher, heads):
        return run.predict(teacher, parts.test)


answers = {"whole": without([])} | {
    f"{name}@{percent}": without(prune.select(ranking, prune.target(total, percent / 100)))
    for name, ranking in rankings.items()
    for percent in percents
}
one_shot = run.sweep("one-shot", answers, parts.test, teacher)

# %%
lines = curves.lines(one_shot)
whole = one_shot.set_index("series")["score"]["whole"]
run.figure(
    plots.sparsity_curves(lines, title="One shot, no recovery", reference=whole),
    "one-shot",
    "Macro-F1 on the test part against the share of heads removed, for each criterion, with the "
    "band of the random draws",
    lines,
)

# %% [markdown]
# Notice the grey band, from the lowest to the highest of the draws: it is what luck alone can do. A
# curve below the band is worse than chance, and whoever reverses such a criterion has found a
# better one. What the picture does not show is recovery: heads that are missed at once may be
# replaced with a little training.
#
# The area under a curve sums it up, as its mean height in macro-F1. Here it is against the mean of
# the draws, over the same sentences; the interval has the luck of the draws in it.

# %%
guesses = records.sweep(run.work, "one-shot", fold=run.fold)


def against_chance(name):
    """The area under a criterion's curve minus the mean area of the random draws."""
    return curves.contrast(
        guesses, lambda points: claims.area(points, name) - claims.area(points, "random")
    )


areas = {name: against_chance(name) for name in criteria}
areas = pd.DataFrame(
    {
        "variant": f"heads-{name}",
        "label": name,
        "diff": d.diff,
        "diff_low": d.low,
        "diff_high": d.high,
    }
    for name, d in areas.items()
)
run.table(areas, "areas")
areas.drop(columns="variant").round(4)

# %%
run.figure(
    plots.differences(
        areas,
        title="Mean height of the curve, criterion minus chance",
        xlabel="area under the curve, points of macro-F1 (95 % paired interval)",
    ),
    "areas",
    "Forest plot: the area under each criterion's curve minus the mean of the random draws",
    areas,
)

# %%
better = areas.loc[areas["diff_low"] > 0, "label"].tolist()
worse = areas.loc[areas["diff_high"] < 0, "label"].tolist()
Markdown(
    f"Better than chance on this fold: {', '.join(better) or 'none'}. "
    f"Worse: {', '.join(worse) or 'none'}. The report pools the folds, and {random_draws} other "
    "draws come with each."
)

# %% [markdown]
# ## Zeroed is not removed
#
# The seed study does recover after each removal, but it sets a head's weights to zero and leaves
# them in place. That has a consequence which is easy to miss: a zeroed head scores every token
# alike, so its attention is *uniform*, its importance 0, and the next round selects it again. Its
# gradients are zero as well, so training never revives it. `prune.seed_loop` keeps that loop as
# written, and below it runs with its training, as one of the arms.
#
# Ours cuts the head out: rows of $W_Q$, $W_K$, $W_V$ and columns of $W_O$. It has to compute
# exactly what the full model computes when the head's output is forced to zero. That is checked
# on real sentences, with the heads that the first round removes.

# %%
smaller = copy.deepcopy(teacher)
prune.remove(smaller, gone_first)
with prune.masked(teacher, gone_first):
    masked = run.predict(teacher, parts.validation)
removed, intact = (run.predict(model, parts.validation) for model in (smaller, teacher))
np.testing.assert_allclose(removed, masked, atol=1e-4)

# %%
Markdown(
    f"Largest difference of a logit, removed against masked: {np.abs(removed - masked).max():.1g}; "
    f"removed against the whole teacher: {np.abs(removed - intact).max():.2f}."
)

# %% [markdown]
# The first number says that the cut is exact; the second, that there was something to get wrong.
#
# Now predict what that is worth. A head of size $d$ in a model of width $H$ owns $3d(H+1)$
# parameters of the three projections and $Hd$ of $W_O$, each 4 bytes in the file.

# %%
one_head = prune.parameters_per_head(teacher)
assert sizes["params"] - models.sizes(smaller)["params"] == len(gone_first) * one_head

# %%
Markdown(
    f"One head is {one_head:,} parameters. **Prediction:** without {half} of {total} heads the "
    f"model has {(sizes['params'] - half * one_head) / 1e6:.2f} M parameters, "
    f"{half * one_head / sizes['params']:.1%} fewer, and its file is "
    f"{4 * half * one_head / 1e6:.2f} MB smaller."
)

# %% [markdown]
# ## The control
#
# Every arm starts from the same weights and goes through the same restarts: in every round the
# same sentences in the same order, a fresh optimiser, a fresh learning-rate schedule. Only what
# is cut differs.
#
# | arm | cut in each round | answers |
# |---|---|---|
# | `teacher-continued` | nothing | what does the extra training do by itself? |
# | `heads-entropy` | the least focused heads | what does pruning add to that? |
# | `heads-entropy-reversed` | the most focused heads | is it entropy, or is it pruning? |
# | `heads-gradient` | those the loss reacts to least | does a better criterion do better? |
# | `heads-random` | heads drawn at random | does the choice matter? |
# | `heads-seedloop` | zeroed by entropy, dead heads scored again | what did the seed study measure? |
#
# The parameters above say which of them run here. Each fold has a random draw of its own, so that
# the folds together say something of random heads and not of one unlucky draw.

# %%
drawn = partial(SCORES["random"], seed=(run.seed, run.fold))
choices = {
    "entropy": entropy,
    "entropy-reversed": partial(SCORES["entropy-reversed"], batches=batches),
    "gradient": partial(SCORES["gradient"], batches=batches),
    "random": drawn,
}
loops = {"teacher-continued": partial(prune.iterate, score=drawn, shares=[0.0] * rounds)}
loops |= {
    f"heads-{name}": partial(prune.iterate, score=choice, shares=shares)
    for name, choice in choices.items()
    if name in arms
}
if "seedloop" in arms:
    loops["heads-seedloop"] = partial(prune.seed_loop, score=entropy, rounds=rounds, share=share)


# %%
def variant(arm, number):
    """The name of an arm's model after some rounds: epochs for the control, else % of the heads."""
    continued = arm == "teacher-continued"
    return f"{arm}-{number * recovery_epochs if continued else round(100 * share * number)}"


def gone(arm, number):
    """Heads that an arm has removed after some rounds; of the seed study's loop, what it claims."""
    if arm == "heads-seedloop":
        return number * int(share * total)
    return 0 if arm == "teacher-continued" else gone_after[number - 1]


plan = pd.DataFrame(
    {
        "variant": variant(arm, number),
        "heads gone": gone(arm, number),
        "extra epochs": number * recovery_epochs,
        "baseline": "teacher"
        if arm == "teacher-continued"
        else variant("teacher-continued", number),
    }
    for arm in loops
    for number in reported_rounds
)
plan

# %% [markdown]
# (Of `heads-seedloop`, "gone" is what that loop would claim.)
#
# ## The experiment
#
# `prune.iterate` is the whole method: score the live heads, cut the lowest, recover, repeat. The
# control is the same call with a share of nothing. A training that was interrupted goes on where
# it stopped, and one that was finished is not run again.


# %%
def experiment(arm, run):
    """Run one arm with the run's seed; returns its curves, and which heads it chose when."""
    fits, history, chosen, silenced = [], [], [], []

    def recover(model, number):
        before = (number - 1) * recovery_epochs
        recipe = train.Recipe(
            recovery_epochs, recovery_learning_rate, batch_size, seed=1000 * run.seed + number
        )
        start = {"epoch": before} | train.validate(model, tokens, run.tokenizer())
        fits.append(run.fit(f"{arm}-round{number}", model, recipe))
        after = fits[-1].history.assign(epoch=lambda row: row["epoch"] + before)
        history.extend([pd.DataFrame([start]), after])
        return fits[-1].model

    def on_round(number, model, heads, scores):
        chosen.extend({"layer": i, "head": h, "round": number} for i, h in heads)
        silenced.append(len(prune.silent(model)))
        if number in reported_rounds:
            report(run, variant(arm, number), model, fits, chosen, silenced[-1])

    loops[arm](run.load("teacher"), recover=recover, on_round=on_round)
    went = pd.DataFrame(chosen, columns=["layer", "head", "round"])
    return pd.concat(history).assign(variant=arm), went, silenced


# %% [markdown]
# What a reported model leaves behind: its weights, its predictions of the test part, and a record
# with steps and seconds summed over its rounds, the hash of its baseline's weights, and which
# head went when.


# %%
def report(run, name, model, fits, chosen, silenced):
    """Save a model and record its scores on the test part."""
    heads = [[head["round"], head["layer"], head["head"]] for head in chosen]
    run.score(
        name,
        run.predict(model, parts.test),
        parts.test,
        model=model,
        folder=run.save(name, model),
        baseline=plan.set_index("variant").loc[name, "baseline"],
        fitted=train.together(fits),
        config={"removed": heads, "silent_heads": silenced},
    )


# %% [markdown]
# The control comes first, because the others' records name its weights.

# %%
told = {arm: experiment(arm, run) for arm in loops}

# %% [markdown]
# One training is an anecdote. So the contrast that decides between "fewer heads" and "more
# training" is run again with other orders of the sentences, from the same teacher, as many times as
# the parameter `trainings` says.

# %%
for number in range(1, trainings):
    for arm in ("teacher-continued", "heads-entropy"):
        experiment(arm, run.at(run.seed + number))

# %% [markdown]
# ## What the seed study's loop did
#
# It takes the lowest of *all* heads, dead ones included, and adds up its own orders.

# %%
if "seedloop" in arms:
    silenced = told["heads-seedloop"][2]
    per_round = int(share * total)
    loop = [(0, total, kind) for kind in ("claimed", "live")]
    for number, dead in enumerate(silenced, start=1):
        loop += [(number, total - number * per_round, "claimed"), (number, total - dead, "live")]
    loop = pd.DataFrame(loop, columns=["round", "heads", "kind"])
    title = "A loop that zeroes, and counts its own orders"
    run.figure(
        plots.heads_alive(loop, title=title, total=total),
        "zeroing-loop",
        "Heads alive after each round: what the loop would claim, and what is counted in its model",
        loop,
    )

# %%
if "seedloop" in arms:
    seed_model = run.record(variant("heads-seedloop", max(reported_rounds)))
    display(
        Markdown(
            f"The loop reports {rounds * per_round} of {total} heads pruned "
            f"({rounds * per_round / total:.1%}), and {silenced[-1]} are silent "
            f"({silenced[-1] / total:.1%}). Its file has {seed_model.params:,} parameters, the "
            f"teacher {sizes['params']:,}. Nothing in such a loop's log tells the two numbers apart."
        )
    )

# %% [markdown]
# ## Which heads go when
#
# Scores are computed afresh in every round, on the heads that are left. So the order need not be
# that of the first map: a head can become more focused as its neighbours go.

# %%
went = told["heads-entropy"][1]
when = prune.tidy(first).drop(columns=["score", "alive"]).merge(went, how="left")
when["score"] = when["round"]
run.figure(
    plots.head_map(when, title="The round in which a head goes (blank: it stays)", label="round"),
    "removal-order",
    "Heat map of layers by heads, coloured by the round of removal; heads that stay are blank",
    when[["layer", "head", "round"]],
)

# %%
pruned_model = run.load(variant("heads-entropy", max(reported_rounds)))
after = prune.tidy(entropy(pruned_model))
run.figure(
    plots.head_map(after, title="Afterwards: how focused?",
                   label="1 − entropy"),
    "head-map-after",
    "Heat map of layers by heads after pruning and recovery; removed heads are hatched",
    after,
)  # fmt: skip

# %%
at_once = set(prune.select(first, half))
same = len(at_once & set(went[["layer", "head"]].itertuples(index=False, name=None)))
left = prune.alive(pruned_model)

# %%
Markdown(
    f"Heads left in each layer at the end: {', '.join(str(len(heads)) for heads in left)}. Of the "
    f"{half} heads, {same} are those that the first map alone would have chosen; the others come "
    "from scoring again after each recovery. The map does not tell what the heads that stay had "
    "to take over."
)

# %% [markdown]
# ## What extra epochs do by themselves
#
# Curves on the validation part, round by round:

# %%
origin = {"epoch": 0.0} | train.validate(teacher, tokens, run.tokenizer())
pictured = ["teacher-continued", "heads-entropy", "heads-random"]
origins = pd.DataFrame([{"variant": arm} | origin for arm in pictured])
shown = ["variant", "epoch", "loss", "validation_loss", "validation_macro_f1"]
history = pd.concat([origins, *(told[arm][0] for arm in pictured)]).reindex(columns=shown)

# %%
run.figure(
    plots.learning_curve(
        history, title="Recovery, round by round, beside the same epochs unpruned"
    ),
    "curves",
    "Loss and validation macro-F1 over extra epochs, for the control and two ways of pruning",
    history,
)

# %% [markdown]
# A drop between rounds is a removal, before its recovery. Notice first what `teacher-continued` does
# by itself: that is the part of any "improvement" that has nothing to do with heads. The validation
# part is small and chose the heads, so the curves show how recovery goes, not which arm is better;
# the test part is for that.

# %% [markdown]
# ## On the test part
#
# Scores first, each with its own interval; where there are several trainings, they are together.

# %%
standings = run.standings(["teacher", *plan["variant"]])
run.table(standings, "standings")
run.figure(
    plots.scores(standings, title=f"Pruned or trained on, fold {run.fold}", reference="teacher"),
    "standings",
    "Macro-F1 with 95 percent intervals of the teacher, the control and the pruned models",
    standings,
)

# %% [markdown]
# Whether these intervals overlap says little: all the models see the same sentences, so what they
# find hard is the same. A paired difference takes that out. Its interval is a bootstrap over groups
# of near-duplicates, its p a paired permutation.

# %%
last = max(reported_rounds)
pruned, control, chance = (
    variant(arm, last) for arm in ("heads-entropy", "teacher-continued", "heads-random")
)
pairs = [(row.variant, row.baseline) for row in plan.itertuples()]
pairs += [(pruned, "teacher"), (pruned, chance)]

# %%
found = {pair: run.contrast(*pair) for pair in pairs}
table = pd.DataFrame(
    {
        "variant": name,
        "baseline": baseline,
        "macro_f1": run.record(name).macro_f1,
        "diff": result.diff,
        "diff_low": result.low,
        "diff_high": result.high,
        "p": result.p,
    }
    for (name, baseline), result in found.items()
)
run.table(table, "differences")
table.round(4)

# %%
run.figure(
    plots.differences(table, title="Paired differences on this fold's test part"),
    "differences",
    "Forest plot of paired differences in macro-F1 with 95 % intervals around zero",
    table,
)

# %% [markdown]
# Read the naive comparison (pruned minus `teacher`) beside the controlled one (pruned minus
# continued): only the second is about heads. The intervals hold for these trained models; another
# seed or fold moves them further, which the report's pooled table begins to show.
#
# ### Does pruning regularise?
#
# A weaker claim would be that pruning helps a model not to memorise. Then the gap between
# validation and training loss should be smaller than the control's, at equal steps.


# %%
gaps = pd.concat(
    frame[["id", "group"]].assign(
        part=part,
        seed=at.seed,
        **{name: run.losses(at.load(name), frame) for name in ("teacher", pruned, control)},
    )
    for at in (run.at(run.seed + number) for number in range(trainings))
    for part, frame in {"train": parts.train, "validation": parts.validation}.items()
)
run.table(gaps, "losses")
means = gaps.groupby("part")[["teacher", pruned, control]].mean()
means.loc["gap"] = means.loc["validation"] - means.loc["train"]
means.round(3)

# %%
gap = run.verdicts(["C3"])
Markdown(
    "The claim's own variants have not run here."
    if gap.empty
    else "The pruned model's gap minus the control's: {difference:+.3f} nats, 95 % interval {low:+.3f} "
    "to {high:+.3f}.".format(**gap.iloc[0])
)

# %% [markdown]
# A smaller gap is not yet a better model: one that fits its training sentences less well has a
# smaller gap too, as the table's first row tells. So the claim needs C1 with it: a smaller gap, and
# a score that is no worse. Compare both with the teacher's, from which they set out.

# %% [markdown]
# ### On sentences of another domain
#
# While the models are at hand they also answer sentences from elsewhere. What they say decides
# nothing here: chapter 7b judges it, beside other chapters' models.

# %%
for number in range(trainings):
    run.at(run.seed + number).ask_elsewhere("elsewhere-heads", [control, pruned])
run.ask_elsewhere("elsewhere-chance", [chance])

# %% [markdown]
# ## What was really saved
#
# The prediction was made by counting, before any training. Parameters must come out exactly; the
# file also holds names and shapes, a few bytes of text.

# %%
before, after = run.record("teacher"), run.record(pruned)
saved = pd.DataFrame(
    {
        "predicted": [half * one_head, 4 * half * one_head / 1e6],
        "measured": [before.params - after.params, before.size_mb - after.size_mb],
        "share of the teacher's": [
            1 - after.params / before.params,
            1 - after.size_mb / before.size_mb,
        ],
    },
    index=["parameters", "file, MB"],
)
if last == rounds:
    assert before.params - after.params == half * one_head
run.table(saved.reset_index(names="what"), "saved")
saved

# %%
Markdown(
    f"Of the heads {1 - after.heads_alive / after.heads_total:.0%} went, of the parameters "
    f"{1 - after.params / before.params:.1%}, of the multiply-accumulates of a sentence of "
    f"average length {1 - after.macs / before.macs:.1%}. The rest sits in embeddings and "
    "feed-forward layers, which no head owns. What the clock says is the question of the second "
    "part of this chapter."
)

# %% [markdown]
# ## Where they disagree
#
# A score hides which sentences it is made of. Here are some of those on which the pruned model and
# its equally trained control give different answers, drawn by lot.

# %%
columns = ["id", *records.PROBABILITIES]
sides = [records.predictions(run.work, name, fold=run.fold) for name in (pruned, control)]
sides = [side.loc[side["seed"] == run.seed, columns] for side in sides]
sides = [
    s.assign(guess=s[records.PROBABILITIES].to_numpy().argmax(1))[["id", "guess"]] for s in sides
]
both = parts.test.merge(sides[0], on="id").merge(
    sides[1], on="id", suffixes=("_pruned", "_continued")
)
differ = both[both["guess_pruned"] != both["guess_continued"]]
test = stats.mcnemar(both["label"], both["guess_pruned"], both["guess_continued"])

# %%
for row in differ.sample(min(6, len(differ)), random_state=0).itertuples():
    print(f"[{row.source}] {row.text}")
    guesses = [LABELS[i] for i in (row.label, row.guess_pruned, row.guess_continued)]
    print("    label {}, pruned says {}, continued says {}\n".format(*guesses))

# %%
Markdown(
    f"They disagree on {len(differ)} of {len(both):,} sentences: the pruned model alone is right on "
    f"{test.only_first}, the continued one alone on {test.only_second} (exact McNemar "
    f"p = {test.p:.2g}). Models of equal score are still different models: whoever "
    "relies on single answers should know that some of them change."
)

# %% [markdown]
# ## It survives leaving the notebook
#
# Layers now have unlike numbers of heads, some perhaps none. Saved and loaded, and exported to
# ONNX and run without torch, the model must give the same answers (on the validation part: the
# test part has been used).

# %%
again = run.load(pruned)
folder = run.deploy(f"{pruned}-onnx", again, int8=False)
in_torch = run.predict(again, parts.validation)
in_onnx = export.OnnxClassifier(folder, run.threads).logits(tokens.input_ids)
assert (in_torch.argmax(1) == in_onnx.argmax(1)).all()
np.testing.assert_allclose(in_onnx, in_torch, atol=1e-3)

# %%
Markdown(
    f"{len(tokens)} of {len(tokens)} predictions equal in ONNX Runtime, largest difference of a "
    f"logit {np.abs(in_torch - in_onnx).max():.1g}."
)

# %% [markdown]
# ## The answer
#
# Each claim has one contrast and one margin, fixed before any run. Supported means that the
# interval lies on the claim's side of the margin; refuted, that it lies on the other side, or
# leaves out what was claimed. This is one fold; the report pools them.

# %%
points = "{:+.1f} points, 95 % interval {:+.1f} to {:+.1f}"


def in_words(result):
    """A difference in points."""
    return points.format(*(100 * x for x in (result.diff, result.low, result.high)))


naive, fair, lucky = found[pruned, "teacher"], found[pruned, control], found[pruned, chance]
extra = found[control, "teacher"]
Markdown(
    f"* Pruned minus teacher, as the seed study compares: {in_words(naive)}.\n"
    f"* The extra epochs alone, `{control}` minus `teacher`: {in_words(extra)}.\n"
    f"* Pruned minus equally trained, `{pruned}` minus `{control}`: {in_words(fair)}.\n"
    f"* Entropy minus random draw, after recovery: {in_words(lucky)}.\n"
    f"* The file: {before.size_mb - after.size_mb:.1f} MB of {before.size_mb:.1f} MB saved."
)

# %%
verdicts = run.verdicts(["C1", "C2", "C3", "C15a", "C15b", "C16a", "C16b"])
run.table(verdicts, "verdicts")
verdicts.round(3)


# %%
def expected(holds):
    """An expectation's outcome, marked as everything from such sentences or such a teacher is."""
    if run.facts["teacher_saw_test"]:
        return claims.SAW_TEST
    return ("holds" if holds else "fails") + run.mark


within = expected(fair.low <= 0 <= fair.high)
no_better = expected(lucky.low <= 0 <= lucky.high)

# %%
Markdown(
    f"Expectation (a), pruned equals continued within the interval: **{within}**; (b), heads drawn "
    f"at random do as well: **{no_better}**. Neither outcome proves equality: a difference below "
    f"{100 * fair.detectable:.1f} points would have been missed in one study of five or more. The "
    f"naive {100 * naive.diff:+.1f} points are {100 * extra.diff:+.1f} from the epochs and "
    f"{100 * (naive.diff - extra.diff):+.1f} from the heads."
)

# %%
text = (
    f"Expectation (d): half of the heads are {1 - after.size_mb / before.size_mb:.1%} of the file."
)
if "seedloop" in arms and per_round:
    counted = expected(silenced[-1] == per_round)
    text += f" Expectation (c), the loop silences one round's worth of heads: **{counted}**."
Markdown(text)

# %% [markdown]
# **When not to prune heads:** when the file must be much smaller (embeddings and feed-forward
# layers hold most of it: distil or quantise), or when nobody can afford the recovery epochs.
#
# **Limits.** One learning rate and one schedule, as the seed study has them; heads are scored on a
# few hundred sentences; one training of every arm but those of the contrast of C1; one random draw
# a fold among the trained ones.
#
# **Next.** Chapter 5b, in the studies that have it, asks on fold 0 what the heads do and why the
# criteria disagree: each head left out, each layer, the cliff, learned gates. Chapter 5c times what a
# missing head saves. Chapter 8 pools the folds.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Budhraja, Pande, Nema, Kumar and Khapra (2020). On the weak link between importance and
#   prunability of attention heads. EMNLP. https://aclanthology.org/2020.emnlp-main.260
# - Fardeen (2022), whom the seed study cites for the measures of attention. We know the abstract
#   alone, and say in the library where a definition is ours.
# - FinCompress, the seed study, at commit 442af31. https://github.com/Rohanjain2312/FinCompress
# - Hoyer (2004). Non-negative matrix factorization with sparseness constraints. JMLR 5.
# - Michel, Levy and Neubig (2019). Are sixteen heads really better than one? NeurIPS.
#   arXiv:1905.10650.
# - Voita, Talbot, Moiseev, Sennrich and Titov (2019). Analyzing multi-head self-attention. ACL.
#   arXiv:1905.09418.
