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
# # 3b. How should a student be taught?
#
# Chapter 3 compares students by how they were taught. Each way has knobs: a temperature, weights of
# the terms of its loss, which of the teacher's layers speaks to which of the student's, where the
# student's first weights come from, and how much text it reads. A method whose knobs nobody turned
# loses to one whose author did. So this chapter turns them all, on sentences that no test part
# holds, and leaves one recipe each for three students of chapter 3: `student-intermediate-tuned`,
# `student-small` and `student-tiny`.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the recipe of chapter 2's teacher |
# | writes | the table of chosen parameters that chapter 3 of every fold reads; one sweep; no model |
# | takes | some forty trainings, on fold 0 alone |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/03b_recipes.ipynb)

# %% [markdown]
# ## What to expect
#
# * Hinton, Vinyals and Dean (2015) find lower temperatures better for small students, and multiply
#   the soft term by T², which the seed study calls "not optional". An arithmetic further down says
#   what it does here.
# * TinyBERT (Jiao et al. 2020) loses most without its layer losses, and finds an even layer map
#   better than the top or the bottom. Its students read far more text than ours.
# * DistilBERT (Sanh et al. 2019): without the teacher's layers as initial weights it loses several
#   points.
# * Turc et al. (2019): a student gains most from unlabelled text of its task's domain.
#
# In order of effect, then, we expect **initial weights, text, losses, and last the temperature**.
# The tune part is small: the first table says how small a difference it can show.

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
import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

from headcount import chapter, data, distill, models, plots, stats, train
from headcount.errors import InputError

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
temperatures = [1.0, 2.0, 4.0, 8.0]
loss_shares = [0.1, 0.3, 1.0]
layer_maps = ["last", "first", "reversed"]
transfer_sentences = 5000
init_layers = 3  # of `student-small`
tiny_layers = 2
# The seed study's student
layers = 4
hidden = 384
heads = 6
ffn = 1536
student_epochs = 10
student_learning_rate = 3e-4
# A student that starts from the teacher's layers
init_epochs = 6
init_learning_rate = 5e-5
# Fixed
temperature = 4.0
alpha = 0.5
batch_size = 32

# %%
run = chapter.begin("03b_recipes", globals())
if temperature not in temperatures or temperature == 1:
    raise InputError(f"temperatures {temperatures}: put temperature={temperature}, above 1, in")

# %% [markdown]
# ## Sentences to choose on
#
# The tune part is a tenth of the groups of near-duplicates and lies in no test part of any fold. Here
# nothing trains on it. That includes the teacher: chapter 2's has read it, so another one is
# trained, by the same recipe, without it.

# %%
parts = data.tuning_split(run.sentences(), run.fold)
spent = run.record("teacher").provenance.config
teacher = run.fit(
    "recipes-teacher",
    models.load_pretrained(
        run.facts["model"],
        tokenizer=run.tokenizer(),
        revision=run.facts["model_revision"],
        seed=run.seed,
    ).to(run.device),
    train.Recipe(spent["epochs"], spent["learning_rate"], batch_size, seed=run.seed),
    frame=parts.train,
    validation=parts.validation,
).model

# %%
labels, groups = parts.validation["label"].to_numpy(), parts.validation["group"].to_numpy()
answers = {"teacher": run.predict(teacher, parts.validation)}
low, high = stats.bootstrap_macro_f1(labels, answers["teacher"].argmax(1), groups)
Markdown(
    f"{len(parts.train):,} sentences to train on, {len(labels)} to choose on. The teacher reaches "
    f"{stats.macro_f1(labels, answers['teacher'].argmax(1)):.3f} there, 95 % interval {low:.3f} to "
    f"{high:.3f}: {100 * (high - low) / 2:.1f} points to each side. Arms of a grid that lie closer "
    "than about half of that are not told apart here, and the choice between them is a lot drawn "
    "in the open."
)

# %% [markdown]
# ## One way to try
#
# An arm is a model, a recipe, an objective and the sentences to train on. Its last step is scored on
# the tune part. Whatever is studied, the other three stay as they are.

# %%
TUNE_PART = "of the tune part"
teacher_layers = teacher.config.num_hidden_layers
vocabulary = run.tokenizer().vocab_size
from_random = train.Recipe(student_epochs, student_learning_rate, batch_size, seed=run.seed)
from_layers = train.Recipe(init_epochs, init_learning_rate, batch_size, seed=run.seed)
tokens = run.tokenize(parts.train)
teacher_logits = run.predict(teacher, parts.train)
kd = distill.VanillaKD(teacher_logits, temperature, alpha)
seconds, histories = {}, {}


def random_student():
    return models.student(vocabulary, layers, hidden, heads, ffn, seed=run.seed).to(run.device)


def tried(arm, model, recipe, objective, frame=parts.train):
    """Train one arm and score it on the tune part."""
    fitted = run.distil(
        f"recipes-{arm}", model, recipe, objective, frame=frame, validation=parts.validation
    )
    answers[arm], seconds[arm] = run.predict(fitted.model, parts.validation), fitted.seconds
    histories[arm] = fitted.history
    return fitted.model


def standings(arms):
    """Macro-F1 of arms on the tune part with its interval, and the difference from the first."""
    guesses = {arm: answers[arm].argmax(1) for arm in arms}
    rows = []
    for arm in arms:
        low, high = stats.bootstrap_macro_f1(labels, guesses[arm], groups)
        d = stats.paired_difference(labels, guesses[arm], guesses[arms[0]], groups)
        name = arm if arm == "teacher" else f"student-{arm}"
        row = {"arm": arm, "variant": name, "macro_f1": stats.macro_f1(labels, guesses[arm])}
        row |= {"ci_low": low, "ci_high": high, "diff": d.diff, "diff_low": d.low}
        rows.append(row | {"diff_high": d.high, "seconds": seconds.get(arm)})
    return pd.DataFrame(rows)


def best(arms):
    """The arm with the highest macro-F1 on the tune part; the first of equals."""
    return max(arms, key=lambda arm: stats.macro_f1(labels, answers[arm].argmax(1)))


# %% [markdown]
# ## Is T² optional?
#
# $$L = \alpha\,\mathrm{CE} + (1-\alpha)\,T^2\,\mathrm{KL}_T$$
#
# Leave T² out, and multiply what is left by $T^2 / (\alpha T^2 + 1 - \alpha)$, which a loss may be
# without changing its minimum:
#
# $$\frac{T^2\,(\alpha\,\mathrm{CE} + (1-\alpha)\,\mathrm{KL}_T)}{\alpha T^2 + 1 - \alpha}
# = \alpha'\,\mathrm{CE} + (1-\alpha')\,T^2\,\mathrm{KL}_T,
# \qquad \alpha' = \frac{\alpha T^2}{\alpha T^2 + 1 - \alpha}.$$
#
# So leaving T² out *is* another α, and nothing else: at T = 4 and α = 0.5 it is α = 0.94, in which
# the teacher hardly speaks. First the two terms' gradients, then the grid, then the identity itself.

# %%
probe = run.batches(tokens)[:8]


def moved(batch):
    return {name: tensor.to(run.device) for name, tensor in batch.items()}


def gradient_norms(model, T):
    """Norms of the gradients of both terms with respect to a student's logits, a mean of batches."""
    norms = []
    for batch in probe:
        with torch.no_grad():
            logits = distill.student_logits(model, moved(batch)).cpu()
        s = logits.float().requires_grad_()
        z = torch.from_numpy(teacher_logits[batch["index"].numpy()])
        losses = F.cross_entropy(s, batch["labels"]), distill.distillation_loss(s, z, T)
        norms.append([torch.autograd.grad(loss, s)[0].norm().item() for loss in losses])
    return np.mean(norms, axis=0)


# %%
tried("hard", random_student(), from_random, distill.HardLabels())
trained = {}
for T in temperatures:
    with_square = replace(kd, temperature=T)
    trained[T] = tried(f"squared@{T:g}", random_student(), from_random, with_square)
    if T > 1:  # at T = 1 there is nothing to leave out
        without = replace(with_square, squared=False)
        tried(f"unscaled@{T:g}", random_student(), from_random, without)

# %%
rows = []
for when, model in (("before training", random_student()), ("after it", trained[temperature])):
    for T in temperatures:
        hard, soft = gradient_norms(model, T)
        row = {"student": when, "T": T, "cross-entropy": hard, "divergence with T²": soft}
        rows.append(row | {"divergence without": soft / T**2})
norms = pd.DataFrame(rows)
run.table(norms, "gradient-norms")
norms.round(4)

# %% [markdown]
# The gradient of the bare divergence is (σ(s/T) − σ(z/T)) / T, and for a high T the two softmaxes
# differ by about (s − z) / 3T: together 1/T², which the factor takes back. Without it the last column
# falls away from the first, and the labels do the teaching.

# %%
temperature_arms = [arm for arm in answers if arm not in ("teacher",)]
by_temperature = standings(temperature_arms)
run.table(by_temperature, "temperature")
run.figure(
    plots.scores(
        by_temperature, title="With and without T squared", reference="student-hard", part=TUNE_PART
    ),
    "temperature",
    "Macro-F1 on the tune part of students taught at several temperatures, with and without T squared",
    by_temperature,
)

# %%
share = alpha * temperature**2 / (alpha * temperature**2 + 1 - alpha)
tried("same-alpha", random_student(), from_random, replace(kd, alpha=share))
alike = {
    arm: (answers[arm].argmax(1) == answers[f"unscaled@{temperature:g}"].argmax(1)).mean()
    for arm in ("same-alpha", f"squared@{temperature:g}")
}
Markdown(
    f"Trained with T² at α = {share:.3f}, a student gives the answer of the one without T² at "
    f"α = {alpha:g} to {alike['same-alpha']:.1%} of the sentences; the one with T² at α = {alpha:g} does "
    f"so for {alike[f'squared@{temperature:g}']:.1%}. What keeps the first from 100 % is that gradients are "
    "clipped and that AdamW's denominator has a constant, neither of which scales with the loss."
)

# %% [markdown]
# ## How loud should a layer speak?
#
# The seed study gave both of its layer losses the weight 0.1, and one of them came out four orders
# below the rest. Here weights are set by what they weigh: each term starts as a given share of the
# prediction loss. Two forms of the losses, several shares; the teacher's side is looked up.

# %%
even = distill.layer_map("even", layers, teacher_layers)
weighted = {}
for kind in ("seed", "tinybert"):
    with run.states(teacher, parts.train, even.values(), kind) as states:
        for loss_share in loss_shares:
            arm = f"{kind}-{loss_share:g}"
            plain = distill.LayerLosses(kd, states, even, kind, 1.0, 1.0, float(kind == "tinybert"))
            student = random_student()
            distill.attach_projections(student, states.width, even, embeddings=True, seed=run.seed)
            weighted[arm] = distill.balanced(plain, student, probe, loss_share)
            tried(arm, random_student(), from_random, weighted[arm])

# %%
alone = f"squared@{temperature:g}"
by_loss = standings([alone, *weighted])
run.table(by_loss, "layer-losses")
run.figure(
    plots.scores(
        by_loss,
        title="Layer losses of two forms",
        reference=f"student-{alone}",
        part=TUNE_PART,
    ),
    "layer-losses",
    "Macro-F1 on the tune part of students taught hidden states and attention at several weights",
    by_loss,
)

# %%
chosen_losses = best(weighted)
objective = weighted[chosen_losses]
parts_of_loss = pd.concat(
    distill.shares(histories[arm], weighted[arm]).assign(variant=arm) for arm in weighted
)
run.figure(
    plots.loss_shares(parts_of_loss, title="What the loss is made of"),
    "terms",
    "Small multiples: share of each weighted term in the loss by epoch, one panel an arm",
    parts_of_loss,
)

# %%
d = by_loss.set_index("arm").loc[chosen_losses]
lowest = parts_of_loss[parts_of_loss["variant"] == chosen_losses]
lowest = lowest.groupby("term")["share"].median()
Markdown(
    f"Chosen: `{chosen_losses}`, with weights {objective.hidden_weight:g} (hidden states), "
    f"{objective.attention_weight:g} (attention) and {objective.embedding_weight:g} (embeddings). It is "
    f"{100 * d['diff']:+.1f} points ({100 * d['diff_low']:+.1f} to {100 * d['diff_high']:+.1f}) from the "
    f"same student without layer losses. Its smallest term, {lowest.idxmin()}, makes up {lowest.min():.1%} "
    "of its loss, by the median over the training."
)

# %% [markdown]
# ### Looked up or computed again?
#
# The teacher's hidden states can be kept on disk in half precision, or computed again in every step.
# The two differ by rounding, and by time:

# %%
with run.states(teacher, parts.train, even.values(), objective.kind) as kept:
    again = distill.Recomputed(teacher, even.values(), objective.kind)
    model, paces = random_student(), {}
    distill.attach_projections(model, kept.width, even, embeddings=True, seed=run.seed)
    for name, states in (("recomputed", again), ("kept on disk", kept)):
        loss = replace(objective, states=states)
        losses = []
        began = time.perf_counter()
        for batch in probe:
            losses.append(loss(model, moved(batch))["loss"].item())
        paces[name] = (1000 * (time.perf_counter() - began) / len(probe), np.mean(losses))
speed = pd.DataFrame(paces, index=["ms per batch, forward", "mean loss"]).T
run.table(speed.rename_axis("teacher's states").reset_index(), "states")
speed.round(4)

# %% [markdown]
# ## Which layer teaches which?

# %%
named = {"even": chosen_losses, "none": alone}
for name in layer_maps:
    layer_map = distill.layer_map(name, layers, teacher_layers)
    with run.states(teacher, parts.train, layer_map.values(), objective.kind) as states:
        arm = f"map-{name}"
        mapped = replace(objective, states=states, layer_map=layer_map)
        tried(arm, random_student(), from_random, mapped)
        named[name] = arm

# %%
by_map = standings([named["even"], *(arm for name, arm in named.items() if name != "even")])
run.table(by_map.assign(map=["even", *(n for n in named if n != "even")]), "layer-maps")
run.figure(
    plots.scores(by_map, title="Layer maps", reference=f"student-{chosen_losses}", part=TUNE_PART),
    "layer-maps",
    "Macro-F1 on the tune part of students whose layers learn from different layers of the teacher",
    by_map,
)

# %% [markdown]
# If a map upside down does as well as one in order, what helps is not that layers correspond.
#
# ## Where should a student start, and how much should it read?
#
# For two sizes, one after the other: first where the initial layers come from; then more text, which
# the teacher alone labels, against as many steps on the same sentences; last the layer losses on
# top of the best so far.

# %%
starts = ["even", "last", "first"]
sizes = {"small": init_layers, "tiny": tiny_layers}
texts, longer = {0: (parts.train, kd)}, from_layers
if transfer_sentences:
    unlabelled = run.transfer(transfer_sentences)
    wide = pd.concat([parts.train, unlabelled], ignore_index=True)
    wide_logits = np.concatenate([teacher_logits, run.predict(teacher, unlabelled)])
    texts[transfer_sentences] = (wide, replace(kd, teacher_logits=wide_logits))
    longer = replace(from_layers, epochs=round(init_epochs * len(wide) / len(parts.train)))
    display(unlabelled["source"].value_counts().to_frame("sentences"))


# %%
def start_of(size, name):
    """Layer of the teacher that each of the student's starts from."""
    return distill.layer_map(name, sizes[size], teacher_layers)


def cut(size, name):
    return models.student_from_layers(teacher, [*start_of(size, name).values()])


chosen_start, candidates = {}, {}
for size in sizes:
    for name in starts:
        tried(f"{size}-{name}", cut(size, name), from_layers, kd)
    start = best([f"{size}-{name}" for name in starts]).removeprefix(f"{size}-")
    chosen_start[size], candidates[size] = start, {f"{size}-{start}": (from_layers, 0)}
    if transfer_sentences:
        tried(f"{size}-longer", cut(size, start), longer, kd)
        candidates[size][f"{size}-longer"] = (longer, 0)
        frame, loss = texts[transfer_sentences]
        tried(f"{size}-transfer", cut(size, start), from_layers, loss, frame)
        candidates[size][f"{size}-transfer"] = (from_layers, transfer_sentences)

# %%
recipes = {}
for size, arms in candidates.items():
    start, so_far = chosen_start[size], best(arms)
    recipe, text = arms[so_far]
    frame, loss = texts[text]
    layer_map = start_of(size, start)
    with run.states(teacher, frame, layer_map.values(), "tinybert") as states:
        plain = distill.LayerLosses(loss, states, layer_map, "tinybert", 1.0, 1.0)
        taught = distill.balanced(plain, cut(size, start), probe, loss_shares[0])
        tried(f"{size}-layers", cut(size, start), recipe, taught, frame)
    layered = best([so_far, f"{size}-layers"]) == f"{size}-layers"
    recipes[size] = {"start": start, "epochs": recipe.epochs, "transfer": text}
    recipes[size]["hidden_weight"] = taught.hidden_weight if layered else 0.0
    recipes[size]["attention_weight"] = taught.attention_weight if layered else 0.0

# %%
by_recipe = standings(["teacher", *(arm for arm in answers if arm.split("-")[0] in sizes)])
run.table(by_recipe, "recipes")
run.figure(
    plots.scores(by_recipe, title="Starts, text, losses", reference="teacher", part=TUNE_PART),
    "recipes",
    "Macro-F1 on the tune part of students of two sizes by initial layers, text and losses",
    by_recipe,
)

# %%
lines = []
for size in sizes if transfer_sentences else ():
    table = standings([f"{size}-longer", f"{size}-transfer"]).set_index("arm")
    d = 100 * table.loc[f"{size}-transfer", ["diff", "diff_low", "diff_high"]].astype(float)
    lines.append(
        f"* {sizes[size]} layers: {transfer_sentences:,} unlabelled sentences change the score by "
        f"{d['diff']:+.1f} points ({d['diff_low']:+.1f} to {d['diff_high']:+.1f}) against as many "
        "steps on the labelled ones alone."
    )
Markdown("\n".join(lines))

# %% [markdown]
# ## The choices
#
# What chapter 3 of every fold reads. The highest score on the tune part decides, and nothing else.

# %%
chosen = {
    "layer_losses": objective.kind,
    "hidden_weight": objective.hidden_weight,
    "attention_weight": objective.attention_weight,
    "embedding_weight": objective.embedding_weight,
}
chosen |= {f"{size}_{name}": v for size, recipe in recipes.items() for name, v in recipe.items()}
table = pd.DataFrame({"parameter": chosen.keys(), "value": map(json.dumps, chosen.values())})
run.table(table, "chosen")
run.sweep("recipes", answers, parts.validation, teacher)
table

# %% [markdown]
# ## The answer

# %%
f1 = {arm: 100 * stats.macro_f1(labels, z.argmax(1)) for arm, z in answers.items()}


def spread(arms):
    return max(f1[arm] for arm in arms) - min(f1[arm] for arm in arms)


effects = {
    "initial layers": np.mean([spread([f"{s}-{n}" for n in starts]) for s in sizes]),
    "layer losses": spread([alone, *weighted]),
    "layer map": spread(named.values()),
    "temperature": spread([f"squared@{T:g}" for T in temperatures]),
}
if transfer_sentences:
    effects["text"] = np.mean([spread([f"{s}-longer", f"{s}-transfer"]) for s in sizes])
order = sorted(effects, key=effects.get, reverse=True)
Markdown(
    "Expected order of effects: initial weights, text, losses, temperature. Found, as the range of "
    f"scores within each grid: {', '.join(f'{name} {effects[name]:.1f}' for name in order)} points. "
    f"One arm's interval is {100 * (high - low):.1f} points wide, so that a range within "
    f"{100 * (high - low) / 2:.0f} points or so may be luck. All {len(seconds)} arms took "
    f"{sum(seconds.values()) / 60:.0f} minutes of training."
)

# %% [markdown]
# A recipe found here fits this teacher and these sentences. Who has another should turn the knobs
# that moved, in that order, and leave the others alone.
#
# **Next:** chapter 4 takes the students to eight bits.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Hinton, Vinyals and Dean (2015). Distilling the knowledge in a neural network. arXiv:1503.02531.
# - Sanh, Debut, Chaumond and Wolf (2019). DistilBERT, a distilled version of BERT: smaller, faster,
#   cheaper and lighter. arXiv:1910.01108.
# - Turc, Chang, Lee and Toutanova (2019). Well-read students learn better: on the importance of
#   pre-training compact models. arXiv:1908.08962.
# - Jiao et al. (2020). TinyBERT: distilling BERT for natural language understanding.
#   arXiv:1909.10351.
