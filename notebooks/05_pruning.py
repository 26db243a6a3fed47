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
# heads went and that the model *improved*. An improvement needs an explanation; here two are
# tried against each other: fewer heads, or simply more training.
#
# | | |
# |---|---|
# | reads | sentences and tokenizer of chapter 1, the teacher's weights and record of chapter 2 |
# | writes | records, predictions and weights of six models; one of them as ONNX |
# | takes | fifteen rounds of recovery training; the last cell says how long that was here |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/05_pruning.ipynb)

# %% [markdown]
# ## What is expected
#
# * The seed study reports validation macro-F1 rising from 0.8876 to 0.8966 as heads go, +0.9
#   points at 50 % (FinCompress, commit 442af31). Its pruned models had 9 and 15 epochs of further fine-tuning;
#   the teacher they were compared with had none.
# * Michel et al. (2019) remove 20 to 40 % of the heads of BERT and of a translation model with
#   little loss, choosing by gradient and without retraining.
# * Budhraja et al. (2020) remove heads of BERT *at random*, fine-tune, and find little difference
#   to any clever choice.
#
# If the second and the third are right, then here (a) the pruned model equals a teacher that was
# trained on for as many epochs, within the interval; (b) heads chosen at random do as well. And a
# prediction of our own, from counting: heads hold a small share of a small model's weights, so
# the file will shrink far less than "half of the heads" suggests.

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
from IPython.display import Markdown
from matplotlib.figure import Figure

from headcount import chapter, export, models, plots, prune, records, stats, train
from headcount.data import LABELS, collate
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
rounds = 5
share = 0.1
reported_rounds = [3, 5]
# Fixed: the seed study's values
recovery_epochs = 3
recovery_learning_rate = 1e-5
batch_size = 32

# %%
run = chapter.begin("05_pruning", globals())
if not set(reported_rounds) <= set(range(1, rounds + 1)):
    raise InputError(f"reported_rounds {reported_rounds}: choose from rounds 1 to {rounds}")

# %% [markdown]
# ## The teacher and its sentences
#
# Heads are scored, and curves drawn, on the validation part alone. The test part is predicted
# once for each model that is reported, at the end of its training.

# %%
parts, teacher = run.split(), run.load("teacher")
assert models.weights_sha256(teacher) == run.record("teacher").weights_sha256
sizes = models.sizes(teacher)
for row in parts.validation.head(2).itertuples():
    print(f"{LABELS[row.label]:>8}  {row.text}")

# %%
total = sizes["heads_total"]
per_round = [
    prune.target(total, r, share) - prune.target(total, r - 1, share) for r in range(1, rounds + 1)
]

# %%
Markdown(
    f"The teacher has {sizes['layers']} layers and {total} heads in {sizes['params'] / 1e6:.1f} M "
    f"parameters. {rounds} rounds will remove {', '.join(map(str, per_round))} heads. Validation: "
    f"{len(parts.validation):,} sentences; test: {len(parts.test):,}."
)

# %% [markdown]
# ## The control
#
# Three arms start from the same weights and go through the same restarts: in every round the
# same sentences in the same order, a fresh optimiser, a fresh learning-rate schedule. Only what
# is cut differs.
#
# | arm | cut in each round | answers |
# |---|---|---|
# | `teacher-continued` | nothing | what does the extra training do by itself? |
# | `heads-entropy` | the lowest-scoring heads | what does pruning add to that? |
# | `heads-random` | heads drawn by lot | does the choice matter? |


# %%
def variant(arm, number):
    """The name of an arm's model after some rounds: epochs for the control, else % of the heads."""
    continued = arm == "teacher-continued"
    return f"{arm}-{number * recovery_epochs if continued else round(100 * share * number)}"


ARMS = ["teacher-continued", "heads-entropy", "heads-random"]
plan = pd.DataFrame(
    {
        "variant": variant(arm, number),
        "heads gone": 0 if arm == ARMS[0] else prune.target(total, number, share),
        "extra epochs": number * recovery_epochs,
        "baseline": "teacher" if arm == ARMS[0] else variant(ARMS[0], number),
    }
    for arm in ARMS
    for number in reported_rounds
)
plan

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
# ## The idea, real: every head, on the validation part

# %%
pad = run.tokenizer().pad_token_id
order = train.LikeLengthBatches(tokens.lengths, batch_size, seed=0)
batches = [collate([tokens[i] for i in rows], pad) for rows in order]
entropy = partial(SCORES["entropy"], batches=batches)
first = entropy(teacher)
run.figure(
    plots.head_map(prune.tidy(first), title="How focused is each head?", label="1 − entropy"),
    "head-map",
    "Heat map of layers by heads, coloured by importance from entropy",
    prune.tidy(first),
)

# %%
gone_first = prune.select(first, per_round[0])
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
# ### An attempt to break it: half of the sentences
#
# A score that depends on which sentences it was computed from would be noise. So it is computed
# twice, on two halves of the validation part. If the score is a property of the head, the halves
# agree on whom to remove first; if not, the method would be random removal under another name.

# %%
halves = [SCORES["entropy"](teacher, batches[i::2]) for i in (0, 1)]
chosen = [set(prune.select(half, per_round[0])) for half in halves]
rank_correlation = pd.Series(halves[0].ravel()).corr(pd.Series(halves[1].ravel()), "spearman")

# %%
Markdown(
    f"The halves choose {len(chosen[0] & chosen[1])} of {per_round[0]} heads in common; over all "
    f"heads the rank correlation is {rank_correlation:.3f}. A stable score is not yet a right one."
)

# %% [markdown]
# ## Zeroed is not removed
#
# The seed study sets a head's weights to zero and leaves them in place. That has a consequence
# which is easy to miss: a zeroed head scores every token alike, so its attention is *uniform*,
# its importance 0, and the next round selects it again. Its gradients are zero as well, so
# training never revives it. Here is that loop on our teacher:


# %%
def zero(model, heads):
    """Set all the weights of some heads to zero, as the seed study does."""
    layers = prune.attention_layers(model)
    for index, head in heads:
        layer, block = layers[index], layers[index].block(head)
        for linear in (layer.query, layer.key, layer.value):
            linear.weight.data[block] = 0
            linear.bias.data[block] = 0
        layer.output.weight.data[:, block] = 0


# %%
looped, zeroed = copy.deepcopy(teacher), set()
loop = [(0, total, "claimed"), (0, total, "live")]
for number in range(1, rounds + 1):
    again = prune.select(entropy(looped), per_round[0])
    zero(looped, again)
    zeroed |= set(again)
    loop += [
        (number, total - number * per_round[0], "claimed"),
        (number, total - len(zeroed), "live"),
    ]
assert models.sizes(looped)["params"] == sizes["params"]

# %%
loop = pd.DataFrame(loop, columns=["round", "heads", "kind"])
run.figure(
    plots.heads_alive(loop, title="A loop that zeroes, and counts its own orders", total=total),
    "zeroing-loop",
    "Heads alive after each round: the claimed number falls, the counted one stops falling",
    loop,
)

# %%
Markdown(
    f"The loop claims {rounds * per_round[0]} heads and has silenced {len(zeroed)}. Notice that "
    "nothing in its log would tell. The figure leaves training out, which changes the live heads' "
    "scores between rounds but not the dead ones'."
)

# %% [markdown]
# Ours cuts the head out: rows of $W_Q$, $W_K$, $W_V$ and columns of $W_O$. It has to compute
# exactly what the full model computes when the head's output is forced to zero. That is checked
# on real sentences, with the heads that the first round removes.

# %%
cut = copy.deepcopy(teacher)
prune.remove(cut, gone_first)
with prune.masked(teacher, gone_first):
    masked = run.predict(teacher, parts.validation)
removed, whole = (run.predict(model, parts.validation) for model in (cut, teacher))
np.testing.assert_allclose(removed, masked, atol=1e-4)

# %%
Markdown(
    f"Largest difference of a logit, removed against masked: {np.abs(removed - masked).max():.1g}; "
    f"removed against the whole teacher: {np.abs(removed - whole).max():.2f}."
)

# %% [markdown]
# The two numbers say that the cut is exact, and that it is not exact for want of an effect.
#
# Now predict what that is worth. A head of size $d$ in a model of width $H$ owns $3d(H+1)$
# parameters of the three projections and $Hd$ of $W_O$, each 4 bytes in the file.

# %%
one_head = prune.parameters_per_head(teacher)
assert sizes["params"] - models.sizes(cut)["params"] == len(gone_first) * one_head
half = prune.target(total, rounds, share)

# %%
Markdown(
    f"One head is {one_head:,} parameters. **Prediction:** without {half} of {total} heads the "
    f"model has {(sizes['params'] - half * one_head) / 1e6:.2f} M parameters, "
    f"{half * one_head / sizes['params']:.1%} fewer, and its file is "
    f"{4 * half * one_head / 1e6:.2f} MB smaller."
)

# %% [markdown]
# ## The experiment
#
# `prune.iterate` is the whole method: score the live heads, cut the lowest, recover, repeat. The
# control is the same call with a share of nothing. A training that was interrupted goes on where
# it stopped, and one that was finished is not run again.


# %%
def experiment(arm, score, share):
    """Run one arm; record its models of the reported rounds; return curves and who went when."""
    fits, curves, gone = [], [], []

    def recover(model, number):
        before = (number - 1) * recovery_epochs
        recipe = train.Recipe(
            recovery_epochs, recovery_learning_rate, batch_size, seed=1000 * run.seed + number
        )
        curves.append(
            pd.DataFrame([{"epoch": before} | train.validate(model, tokens, run.tokenizer())])
        )
        fits.append(run.fit(f"{arm}-round{number}", model, recipe))
        curves.append(fits[-1].history.assign(epoch=lambda row: row["epoch"] + before))
        return fits[-1].model

    def on_round(number, model, heads, scores):
        gone.extend({"layer": i, "head": h, "round": number} for i, h in heads)
        if number in reported_rounds:
            report(variant(arm, number), model, fits, gone)

    prune.iterate(run.load("teacher"), score, recover, rounds, share, on_round)
    return pd.concat(curves).assign(variant=arm), pd.DataFrame(
        gone, columns=["layer", "head", "round"]
    )


# %% [markdown]
# What a reported model leaves behind: its weights, its predictions of the test part, and a record
# with steps and seconds summed over its rounds, the hash of its baseline's weights, and which
# head went when.


# %%
def report(name, model, fits, gone):
    """Save a model and record its scores on the test part."""
    spent = train.Fitted(
        model,
        fits[-1].history,
        seconds=sum(fit.seconds for fit in fits),
        steps=sum(fit.steps for fit in fits),
        weights_sha256=fits[-1].weights_sha256,
    )
    run.score(
        name,
        run.predict(model, parts.test),
        parts.test,
        model=model,
        folder=run.save(name, model),
        baseline=plan.set_index("variant").loc[name, "baseline"],
        fitted=spent,
        config={"removed": [[head["round"], head["layer"], head["head"]] for head in gone]},
    )


# %% [markdown]
# The control comes first, because the others' records name its weights. (It has a score like the
# others, and a share of nothing to use it on.) Each fold draws its own lot, so that the folds
# together say something of random heads and not of one unlucky draw.

# %%
lot = partial(SCORES["random"], seed=(run.seed, run.fold))
continued, _ = experiment("teacher-continued", lot, 0.0)
by_entropy, went = experiment("heads-entropy", entropy, share)
by_lot, _ = experiment("heads-random", lot, share)

# %% [markdown]
# ## Which heads go when
#
# Scores are computed afresh in every round, on the heads that are left. So the order need not be
# that of the first map: a head can become more focused as its neighbours go.

# %%
when = prune.tidy(first).drop(columns=["score", "alive"]).merge(went, how="left")
when["score"] = when["round"]
run.figure(
    plots.head_map(when, title="The round in which a head goes (blank: it stays)", label="round"),
    "removal-order",
    "Heat map of layers by heads, coloured by the round of removal; heads that stay are blank",
    when[["layer", "head", "round"]],
)

# %%
one_shot = set(prune.select(first, half))
same = len(one_shot & set(went[["layer", "head"]].itertuples(index=False, name=None)))
left = prune.alive(run.load(variant("heads-entropy", max(reported_rounds))))

# %%
Markdown(
    f"Heads left in each layer at the end: {', '.join(str(len(heads)) for heads in left)}. Of the "
    f"{half} heads, {same} are those that the first map alone would have chosen; the others come "
    "from scoring again after each recovery. The map does not tell what the heads that stay had "
    "to take over."
)

# %% [markdown]
# ## Curves on the validation part

# %%
origin = {"epoch": 0.0} | train.validate(teacher, tokens, run.tokenizer())
origins = pd.DataFrame([{"variant": arm} | origin for arm in ARMS])
shown = ["variant", "epoch", "loss", "validation_loss", "validation_macro_f1"]
curves = pd.concat([origins, continued, by_entropy, by_lot]).reindex(columns=shown)

# %%
run.figure(
    plots.learning_curve(curves, title="Recovery, round by round, beside the same epochs unpruned"),
    "curves",
    "Loss and validation macro-F1 over extra epochs, for the control and both ways of pruning",
    curves,
)

# %% [markdown]
# Each drop is a round's removal, before its recovery. Notice first what `teacher-continued` does
# by itself: that is the part of any "improvement" that has nothing to do with heads. The validation
# part is small and chose the heads, so the curves show how recovery goes, not which arm is better;
# the test part is for that.

# %% [markdown]
# ## On the test part
#
# Scores first, each with its own interval.

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
# The intervals overlap, which says little: all these models see the same sentences, so what they
# find hard is the same. A paired difference takes that out. Its interval is a bootstrap over groups
# of near-duplicates, its p a paired permutation.

# %%
last = max(reported_rounds)
pruned, control, drawn = (
    variant(arm, last) for arm in ("heads-entropy", "teacher-continued", "heads-random")
)
contrasts = [(row.variant, row.baseline) for row in plan.itertuples()]
contrasts += [(pruned, "teacher"), (pruned, drawn)]

# %%
found = {pair: run.contrast(*pair) for pair in contrasts}
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
    "feed-forward layers, which no head owns. Whether the clock notices is chapter 7's question."
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
# Claim C1, "half of the heads went and it got better", on this fold and this seed. Supported
# means that the interval lies above 0; refuted, that it lies below 0 or leaves out the +0.9
# points that were claimed.

# %%
naive, fair, chance = found[pruned, "teacher"], found[pruned, control], found[pruned, drawn]
points = "{:+.1f} points, 95 % interval {:+.1f} to {:+.1f}"


def told(result):
    """A difference in words."""
    return points.format(*(100 * x for x in (result.diff, result.low, result.high)))


verdict = run.verdict("C1", fair)

# %%
Markdown(
    f"* Pruned minus teacher, as the seed study compares: {told(naive)}.\n"
    f"* The extra epochs alone: {told(found[control, 'teacher'])}.\n"
    f"* Pruned minus equally trained (the claim's own contrast): {told(fair)}. "
    f"Verdict here: **{verdict}**.\n"
    f"* Entropy minus lot: {told(chance)}.\n"
    f"* The file: {before.size_mb - after.size_mb:.1f} MB of {before.size_mb:.1f} MB saved."
)

# %%
within = "holds" if fair.low <= 0 <= fair.high else "fails"
no_better = "holds" if chance.low <= 0 <= chance.high else "fails"

# %%
Markdown(
    f"Expectation (a), pruned equals continued within the interval, **{within}**; (b), the lot does "
    f"as well, **{no_better}**. A difference below about {100 * fair.detectable:.1f} points could "
    "not have been seen on so few sentences, so neither outcome proves equality."
)

# %% [markdown]
# **When not to prune heads:** when the file must be much smaller (embeddings and feed-forward
# layers hold most of it: distil or quantise), or when nobody can afford the recovery epochs.
#
# **Limits.** One criterion, one learning rate, one schedule, as the seed study has them; heads
# are scored on a few hundred sentences; one draw of random heads for each fold and seed.
#
# **Next.** Other criteria, one-shot curves, roles of heads come in the second part of this
# chapter. Chapter 7 puts the clock to what was removed, and chapter 8 pools the folds.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Budhraja, Pande, Nema, Kumar and Khapra (2020). On the weak link between importance and
#   prunability of attention heads. EMNLP. https://aclanthology.org/2020.emnlp-main.260
# - FinCompress, the seed study, at commit 442af31. https://github.com/Rohanjain2312/FinCompress
# - Michel, Levy and Neubig (2019). Are sixteen heads really better than one? NeurIPS.
#   arXiv:1905.10650.
