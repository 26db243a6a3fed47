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
# the terms of its loss, which of the teacher's layers speaks to which of the student's, which of them
# the student starts from, what text it reads, and whether it asks the teacher at all. A method whose
# knobs nobody turned loses to one whose author did. So this chapter turns them, one after the other, on
# sentences that no test part holds, and leaves one recipe each for three students of chapter 3:
# `student-intermediate-tuned`, `student-small` and `student-tiny`.
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the recipe of chapter 2's teacher |
# | writes | the table of chosen parameters that chapter 3 of every fold reads; two sweeps of answers; no model |
# | takes | a training an arm, on fold 0 alone; the answer counts them; it may run beside other jobs, so its seconds are rough |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/03b_recipes.ipynb)

# %% [markdown]
# ## What to expect
#
# * Hinton, Vinyals and Dean (2015) multiply the soft term by T², which the seed study calls "not
#   optional"; an arithmetic further down says what it does. Their smallest networks did best at
#   middling temperatures.
# * TinyBERT (Jiao et al. 2020) loses most without its layer losses, and finds an even layer map
#   better than the top or the bottom. Its students read far more text than ours.
# * DistilBERT (Sanh et al. 2019) starts from every second layer of its teacher.
# * Turc et al. (2019) distil on unlabelled text of the task's domain; what helps their students most
#   is to have been pretrained, which ours are by their teacher's layers.
#
# In order of effect, then, we expect **which layers a student starts from, text, layer losses, the
# temperature last**. The tune part is small: the first figures say how small a difference it shows.

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
import math
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
transfer_sentences = 5000  # of the mixed text; the domain's own are all read; 0: no text at all
more_seeds = 2  # to see how much luck there is
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
if run.fold != 0 or run.facts["protocol"] != "folds":
    raise InputError("one choice serves all folds: run this chapter on fold 0, protocol 'folds'")
if temperature not in temperatures or temperature == 1:
    raise InputError(f"temperatures {temperatures}: put temperature={temperature}, above 1, in")

# %% [markdown]
# ## Sentences to choose on
#
# The tune part is a tenth of the groups of near-duplicates and lies in no test part of any fold. Here
# nothing trains on it. That includes the teacher: chapter 2's has read it, so another one is
# trained, by the same recipe, without it. What the arms do train on is fold 0's training part, which
# holds the test sentences of the other folds: their labels teach here, and choose nothing.

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
of_teacher = stats.with_interval(labels, answers["teacher"].argmax(1), groups)
Markdown(
    f"{len(parts.train):,} sentences to train on, {len(labels)} to choose on. The teacher reaches "
    f"{of_teacher['macro_f1']:.3f} there, 95 % interval {of_teacher['ci_low']:.3f} to "
    f"{of_teacher['ci_high']:.3f}. The tables below have a 95 % interval for each difference from their "
    "first line. Where it holds 0 the choice is a lot drawn in the open."
)

# %% [markdown]
# ## One way to try
#
# An arm is a model, a recipe, an objective and the sentences to train on. Its last step is scored on
# the tune part. Whatever is studied, the other three stay as they are.

# %%
TUNE_PART = "of the tune part"
teacher_layers = teacher.config.num_hidden_layers
from_random = train.Recipe(student_epochs, student_learning_rate, batch_size, seed=run.seed)
from_layers = train.Recipe(init_epochs, init_learning_rate, batch_size, seed=run.seed)
teacher_logits = run.predict(teacher, parts.train)
kd = distill.VanillaKD(teacher_logits, temperature, alpha)
seconds, steps, histories = {}, {}, {}


def random_student(seed=run.seed):
    shape = (run.tokenizer().vocab_size, layers, hidden, heads, ffn)
    return models.student(*shape, seed=seed).to(run.device)


# %%
def seeded(arm, at):
    """The name of an arm, with the seed where it is not this run's."""
    return arm if at.seed == run.seed else f"seed{at.seed}-{arm}"


def tried(arm, model, recipe, objective, frame=parts.train, at=run):
    """Train one arm, as the run `at`, and score it on the tune part."""
    fitted = at.distil(
        f"recipes-{arm}", model, recipe, objective, frame=frame, validation=parts.validation
    )
    name = seeded(arm, at)
    answers[name] = run.predict(fitted.model, parts.validation)
    seconds[name], steps[name], histories[name] = fitted.seconds, fitted.steps, fitted.history
    return fitted.model


def f1(arm):
    return stats.macro_f1(labels, answers[arm].argmax(1))


def best(arms):
    """The arm with the highest macro-F1 on the tune part; the first of equals."""
    return max(arms, key=f1)


# %%
def difference(arm, other):
    """Paired difference in macro-F1 on the tune part."""
    guesses = (answers[name].argmax(1) for name in (arm, other))
    return stats.paired_difference(labels, *guesses, groups)


def standings(arms):
    """Macro-F1 of arms on the tune part with its interval, and the difference from the first."""
    rows = []
    for arm in arms:
        d = difference(arm, arms[0])
        row = {"arm": arm, "variant": arm if arm == "teacher" else f"student-{arm}"}
        row |= stats.with_interval(labels, answers[arm].argmax(1), groups)
        row |= {"diff": d.diff, "diff_low": d.low, "diff_high": d.high}
        rows.append(row | {"steps": steps.get(arm), "seconds": seconds.get(arm)})
    return pd.DataFrame(rows)


def told(d):
    return "{:+.1f} points ({:+.1f} to {:+.1f})".format(*chapter.rounded_points(d, 1))


def shown(table):
    """A table for a reader: differences in points, and what the figure has already left out."""
    points = {"diff": "points", "diff_low": "low", "diff_high": "high"}
    table = table.drop(columns=["variant", "n", "ci_low", "ci_high", "seconds"], errors="ignore")
    table = table.assign(**{name: 100 * table[name] for name in points}).rename(columns=points)
    forms = {"macro_f1": "{:.3f}", "steps": "{:,.0f}"} | dict.fromkeys(points.values(), "{:+.1f}")
    forms = {name: form for name, form in forms.items() if name in table}
    return table.style.format(forms, na_rep="").hide(axis="index")


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
# So for the loss and its minimum, leaving T² out *is* another α: at T = 4 and α = 0.5, for instance,
# 16/17. Whether a training of ten epochs comes to the same student is another question. First the two
# terms' gradients, then the grid, then the two losses of the identity, each in a training of its own.

# %%
probe = run.batches(run.tokenize(parts.train))[:8]


def moved(batch):
    return {name: tensor.to(run.device) for name, tensor in batch.items()}


def gradient_norms(model, T):
    """Norms of the gradients of both terms with respect to a student's logits, a mean of batches."""
    norms = []
    model.eval()
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

# %%
without = norms.query("T == @temperature").set_index("student")
ratios = without["divergence without"] / without["cross-entropy"]
Markdown(
    "The gradient of the bare divergence is (σ(s/T) − σ(z/T)) / T, and for a high T the two softmaxes "
    "differ by about (s − z) / 3T: together 1/T², which the factor takes back, to first order. Without "
    f"it, at T = {temperature:g}, the teacher's gradient is {ratios['before training']:.2f} times as "
    f"large as that of the labels before training, and {ratios['after it']:.2f} times after it."
)

# %%
by_temperature = standings([arm for arm in answers if arm != "teacher"])
run.table(by_temperature, "temperature")
run.figure(
    plots.scores(
        by_temperature, title="With and without T squared", reference="student-hard", part=TUNE_PART
    ),
    "temperature",
    "Macro-F1 on the tune part of students taught at several temperatures, with and without T squared",
    by_temperature,
)
shown(by_temperature)

# %%
best_temperature = max(temperatures, key=lambda T: f1(f"squared@{T:g}"))
share = alpha * temperature**2 / (alpha * temperature**2 + 1 - alpha)
tried("same-alpha", random_student(), from_random, replace(kd, alpha=share))
plain, squared = f"unscaled@{temperature:g}", f"squared@{temperature:g}"
alike = {
    arm: (answers[arm].argmax(1) == answers[plain].argmax(1)).mean()
    for arm in ("same-alpha", squared)
}
Markdown(
    f"Trained with T² at α = {share:.3f}, a student gives the answer of the one without T² at "
    f"α = {alpha:g} to {alike['same-alpha']:.1%} of the sentences; the one with T² at α = {alpha:g} does "
    f"so for {alike[squared]:.1%}. The identity is exact for the loss and its minimum. It is not for the "
    "path there: gradients are clipped at a norm of 1, and AdamW's denominator has a constant, neither "
    "of which scales with the loss; whether that is all, nobody took apart. Further down is how far two "
    "seeds of one arm lie apart. With T² minus without: "
    f"{told(difference(squared, plain))}."
)

# %% [markdown]
# ## How loud should a layer speak?
#
# The seed study gave both of its layer losses the weight 0.1, and one of them came out four orders
# below the rest. Here weights are set by what they weigh: each term starts as a given share of the
# prediction loss. Two forms of the losses, several shares; the teacher's side is looked up.

# %%
even = distill.layer_map("even", layers, teacher_layers)
began = time.perf_counter()
with run.states(teacher, parts.train, even.values(), "tinybert") as kept:
    keeping, kept_mb = time.perf_counter() - began, kept.size_mb
    sources = {
        "computed again": distill.Recomputed(teacher, even.values(), "tinybert"),
        "looked up": kept,
    }
    paces = {name: [] for name in sources}
    for batch in [*probe[:2], *probe]:  # the first two warm up
        for name, source in sources.items():
            began = time.perf_counter()
            states = source(moved(batch))
            float(states.hidden[max(even.values())].sum())  # a GPU is waited for
            paces[name].append(1000 * (time.perf_counter() - began))
speed = pd.DataFrame(
    {name: np.median(taken[2:]) for name, taken in paces.items()}, index=["ms a batch"]
).T
speed["s before"], speed["MB on disk"] = [0.0, keeping], [0.0, kept_mb]
run.table(speed.rename_axis("teacher's states").reset_index(), "states")
speed.round(1)

# %%
again, looked_up = speed["ms a batch"]
an_epoch = math.ceil(len(parts.train) / batch_size) / 1000  # batches, and ms to s
saved = an_epoch * (again - looked_up)
whole = {"again": student_epochs * an_epoch * again}
whole["kept"] = keeping + student_epochs * an_epoch * looked_up
Markdown(
    "The teacher's hidden states and attention can be kept on disk in half precision, once for all "
    f"epochs, or computed again for every batch. Looking a batch up is {again / looked_up:.1f} times as "
    f"fast as computing it{'' if saved > 0 else ', which means slower, on this machine'}. But first a pass "
    f"over all sentences takes {keeping:.1f} s and {kept_mb:,.0f} MB of disk, which "
    + (f"pays after {keeping / saved:.1f} epochs" if saved > 0 else "never pays here")
    + f". Over {student_epochs} epochs the teacher's side would take {whole['kept']:.1f} s with that pass and "
    f"{whole['again']:.1f} s without: {whole['again'] / whole['kept']:.1f} times as fast. Looked up it is, "
    "everywhere, so that a study does not depend on what a clock said."
)

# %% [markdown]
# Arms of TinyBERT's kind get the prediction loss from half of the steps on, when the learning rate is
# already falling. One more arm, of the best share among them, has it throughout.

# %%
weighted, share_of = {}, {}
for kind in ("seed", "tinybert"):
    with run.states(teacher, parts.train, even.values(), kind) as states:
        for loss_share in loss_shares:
            arm = f"{kind}-{loss_share:g}"
            ones = (1.0, 1.0, float(kind == "tinybert"))
            equal = distill.LayerLosses(kd, states, even, kind, *ones)
            weighted[arm] = run.balanced(equal, random_student(), parts.train, loss_share)
            share_of[arm] = loss_share
            tried(arm, random_student(), from_random, weighted[arm])
        if kind == "tinybert":
            late = best([f"tinybert-{loss_share:g}" for loss_share in loss_shares])
            arm = f"{late}-throughout"
            weighted[arm], share_of[arm] = replace(weighted[late], throughout=True), share_of[late]
            tried(arm, random_student(), from_random, weighted[arm])

# %%
by_loss = standings([squared, *weighted])
run.table(by_loss, "layer-losses")
run.figure(
    plots.scores(by_loss, title="Layer losses", reference=f"student-{squared}", part=TUNE_PART),
    "layer-losses",
    "Macro-F1 on the tune part of students taught hidden states and attention at several weights",
    by_loss,
)
shown(by_loss)

# %%
parts_of_loss = pd.concat(distill.shares(histories[arm]).assign(variant=arm) for arm in weighted)
run.figure(
    plots.loss_shares(parts_of_loss, title="What the loss is made of"),
    "terms",
    "Small multiples: share of each weighted term in the loss by epoch, one panel an arm",
    parts_of_loss,
)

# %% [markdown]
# A layer loss that is less than a hundredth of the whole counts as off, and an arm with such a term as
# not what it claims to be: it cannot be chosen. Epochs in which the prediction loss is off are left out
# of this count.


# %%
def on(arm, asked):
    """Whether an arm's layer losses, `asked` in number, are all there and count."""
    found = distill.typical_shares(histories[arm])  # without those that were switched off
    return len(found) == asked and found.min() >= 0.01


def terms_of(objective):
    """How many layer losses an objective has; TinyBERT's has one for the embeddings."""
    return 3 if objective.kind == "tinybert" else 2


able = [arm for arm, made in weighted.items() if on(arm, terms_of(made))]
chosen_losses = best(able or weighted)
objective, least = weighted[chosen_losses], distill.typical_shares(histories[chosen_losses])
best_squared = f"squared@{best_temperature:g}"
Markdown(
    f"With a term off: {', '.join(f'`{arm}`' for arm in weighted if arm not in able) or 'none'}. "
    + ("" if able else "None qualifies; the best of all is taken. ")
    + f"Chosen: `{chosen_losses}`, with weights {objective.hidden_weight:g} (hidden states), "
    f"{objective.attention_weight:g} (attention) and {objective.embedding_weight:g} (embeddings); its "
    f"smallest layer loss, {least.idxmin()}, is {least.min():.1%} of the whole. It is "
    f"{told(difference(chosen_losses, squared))} from the same student without layer losses, and "
    f"{told(difference(chosen_losses, best_squared))} from the one at the best temperature, "
    f"T = {best_temperature:g}: one best of several against another. The prediction loss throughout "
    f"instead of in the second half: {told(difference(f'{late}-throughout', late))}."
)

# %% [markdown]
# ## Which layer teaches which?

# %%
named = {"even": chosen_losses, "none": squared}
for name in layer_maps:
    layer_map = distill.layer_map(name, layers, teacher_layers)
    with run.states(teacher, parts.train, layer_map.values(), objective.kind) as states:
        mapped = replace(objective, states=states, layer_map=layer_map)
        named[name] = f"map-{name}"
        tried(named[name], random_student(), from_random, mapped)

# %%
by_map = standings([*named.values()]).assign(map=[*named])
by_map["variant"] = "student-map-" + by_map["map"]
run.table(by_map, "layer-maps")
run.figure(
    plots.scores(by_map, title="Layer maps", reference="student-map-even", part=TUNE_PART),
    "layer-maps",
    "Macro-F1 on the tune part of students whose layers learn from different layers of the teacher",
    by_map,
)
shown(by_map)

# %% [markdown]
# If a map upside down does as well as one in order, what helps is not that layers correspond. If it
# does worse, part of that may be the weights: they were tuned for the even map, and the others have
# them as they are.

# %%
terms, mapped_arms = terms_of(objective), [arm for name, arm in named.items() if name != "none"]
mapped_to = {
    name: [*distill.layer_map(name, layers, teacher_layers).values()]
    for name in ("even", *layer_maps)
}
Markdown(
    f"Of {teacher_layers} layers, those that teach the student's {layers} in turn: "
    + "; ".join(f"{name} {', '.join(map(str, taught))}" for name, taught in mapped_to.items())
    + ". With a term off: "
    + (", ".join(f"`{arm}`" for arm in mapped_arms if not on(arm, terms)) or "none of them")
    + "."
)

# %% [markdown]
# ## Where should a student start, and what should it read?
#
# For two sizes, one after the other: first where the initial layers come from. Then the temperature once
# more, for the best above was that of a student from random weights. Then what teaches: the labels
# alone, or more text, which the teacher alone labels. Two texts: what is left of the domain, or a larger
# draw in which tweets are many; each against as many steps on the same sentences. Last the layer losses
# on top of the best so far.

# %%
starts = ["even", "last", "first"]
sizes = {"small": init_layers, "tiny": tiny_layers}
texts, longer = {"none": (parts.train, teacher_logits)}, {}
for name in ("domain", "mixed") if transfer_sentences else ():
    wide, logits = run.with_transfer(parts.train, teacher_logits, teacher, name, transfer_sentences)
    texts[name] = (wide, logits)
    longer[name] = replace(from_layers, epochs=round(init_epochs * len(wide) / len(parts.train)))
lines = []
for name in longer:
    counts = texts[name][0]["source"][len(parts.train) :].value_counts()
    made_of = " and ".join(f"{n:,} {source}" for source, n in counts.items())
    lines.append(
        f"* `{name}`: {made_of} sentences, {init_epochs} epochs; its control has {longer[name].epochs} "
        "epochs without them."
    )
Markdown("\n".join(lines) or "No unlabelled sentences were given.")


# %%
def cut(size, start):
    """A student made of some of the teacher's layers."""
    layers = distill.layer_map(start, sizes[size], teacher_layers)
    return models.student_from_layers(teacher, [*layers.values()])


def lesson(size, taught, text):
    """The sentences to read and the loss on a student's answers: `kd`, or `hard` for labels alone."""
    frame, logits = texts[text]
    soft = replace(kd, teacher_logits=logits, temperature=chosen_temperature[size])
    return frame, soft if taught == "kd" else distill.HardLabels()


# %% [markdown]
# An arm is what teaches, for how long, and with what text. Labels alone get the steps of the shortest
# one; if the best that the teacher taught has taken more, they get as many in a second arm.

# %%
chosen_start, chosen_temperature, at_temperatures = {}, {}, {}
candidates, there = {}, {}
outside = run.elsewhere()


def at_size(size, arm, taught, recipe, text):
    """Train one arm from the chosen layers; where texts are compared, ask it out of domain, too."""
    frame, loss = lesson(size, taught, text)
    model = tried(arm, cut(size, chosen_start[size]), recipe, loss, frame)
    candidates[size][arm] = (taught, recipe, text)
    if longer:
        there[arm] = run.predict(model, outside)


for size in sizes:
    for name in starts:
        tried(f"{size}-{name}", cut(size, name), from_layers, kd)
    first = best([f"{size}-{name}" for name in starts])
    chosen_start[size] = first.removeprefix(f"{size}-")
    at_temperatures[size] = {first: temperature}
    for T in temperatures:
        if temperature != T:
            arm, warmer = f"{first}@{T:g}", replace(kd, temperature=T)
            tried(arm, cut(size, chosen_start[size]), from_layers, warmer)
            at_temperatures[size][arm] = T
    first = best(at_temperatures[size])
    chosen_temperature[size] = at_temperatures[size][first]
    candidates[size] = {first: ("kd", from_layers, "none")}
    for name, recipe in longer.items():
        at_size(size, f"{size}-{name}-steps", "kd", recipe, "none")
        at_size(size, f"{size}-{name}", "kd", from_layers, name)
    _, recipe, text = candidates[size][best(candidates[size])]
    at_size(size, f"{size}-hard", "hard", from_layers, "none")
    recipe = longer.get(text, recipe)
    if recipe.epochs > init_epochs:
        at_size(size, f"{size}-hard-steps", "hard", recipe, "none")

# %% [markdown]
# The layer losses come last, on top of the best so far, of the kind and the share found above. They
# follow the even map wherever the student starts, for else a student cut from the lowest layers would
# never hear of the highest. Whether the prediction loss is on throughout is taken from above, too, where
# students had random weights: if it is not, these learn from predictions half as long, and that is in
# the difference. Here, too, an arm with a term off cannot be chosen.

# %%
recipes, so_far = {}, {}
for size, arms in candidates.items():
    so_far[size], arm = best(arms), f"{size}-layers"
    taught, recipe, text = arms[so_far[size]]
    frame, loss = lesson(size, taught, text)
    layer_map, kind = distill.layer_map("even", sizes[size], teacher_layers), objective.kind
    with run.states(teacher, frame, layer_map.values(), kind) as states:
        equal = distill.LayerLosses(
            loss, states, layer_map, kind, 1.0, 1.0, throughout=objective.throughout
        )
        start = cut(size, chosen_start[size])
        layered = run.balanced(equal, start, frame, share_of[chosen_losses])
        tried(arm, cut(size, chosen_start[size]), recipe, layered, frame)
    wins = on(arm, 2) and best([so_far[size], arm]) == arm
    recipes[size] = {
        "start": chosen_start[size],
        "temperature": chosen_temperature[size],
        "objective": taught,
        "epochs": recipe.epochs,
        "transfer": text,
        "hidden_weight": layered.hidden_weight if wins else 0.0,
        "attention_weight": layered.attention_weight if wins else 0.0,
    }

# %%
of_size = {size: [arm for arm in answers if arm.split("-")[0] == size] for size in sizes}
by_recipe = pd.concat([standings(arms) for arms in of_size.values()], ignore_index=True)
run.table(by_recipe, "recipes")
drawn = pd.concat([standings(["teacher"]), by_recipe], ignore_index=True)
run.figure(
    plots.scores(drawn, title="Starts, T, text, losses", reference="teacher", part=TUNE_PART),
    "recipes",
    "Macro-F1 on the tune part of students of two sizes by initial layers, temperature, text and losses",
    drawn,
)
for arms in of_size.values():
    display(shown(standings(arms)))

# %% [markdown]
# Each text is compared with as many steps, and once more on the labelled tweets of chapter 7b, which
# choose nothing: a text may be the best on the tune part and do harm there, and it is chosen all the
# same. To a student who has read the mixed text tweets are no other domain.

# %%
lines = []
if longer:
    run.sweep("recipes-elsewhere", there, outside, teacher)
for size in sizes:
    for name in longer:
        pair = [f"{size}-{name}", f"{size}-{name}-steps"]
        guesses = [there[arm].argmax(1) for arm in pair]
        away = stats.paired_difference(outside["label"], *guesses, outside["group"])
        lines.append(
            f"* `{size}`, `{name}` text ({steps[pair[0]]:,} steps) instead of more epochs "
            f"({steps[pair[1]]:,} steps): {told(difference(*pair))} on the tune part, {told(away)} on "
            "tweets."
        )
Markdown("\n".join(lines) or "No unlabelled sentences were given.")

# %% [markdown]
# ## Luck
#
# An interval over sentences takes each training as it came out. Another seed means other batches and
# another dropout, and for a student from random weights other weights. Three arms once more, which
# choose nothing here:

# %%
first = next(iter(candidates["small"]))
_, soft = lesson("small", "kd", "none")
others = [run.at(run.seed + number) for number in range(1, 1 + more_seeds)]
for at in others:
    tried(squared, random_student(at.seed), replace(from_random, seed=at.seed), kd, at=at)
    for arm, loss in ((first, soft), ("small-hard", distill.HardLabels())):
        student = cut("small", chosen_start["small"])
        tried(arm, student, replace(from_layers, seed=at.seed), loss, at=at)
repeated = [squared, first, "small-hard"]
luck = pd.DataFrame(
    {f"seed {at.seed}": {arm: f1(seeded(arm, at)) for arm in repeated} for at in (run, *others)}
)
luck["spread"] = luck.max(axis=1) - luck.min(axis=1)
run.table(luck.rename_axis("arm").reset_index(), "luck")
luck.round(3)

# %%
gaps = 100 * (luck.loc[first] - luck.loc["small-hard"]).drop("spread")
twice = [
    (answers[seeded(squared, at)].argmax(1) == answers[squared].argmax(1)).mean() for at in others
]
Markdown(
    f"From seed to seed `{luck['spread'].idxmax()}` moves the most, by "
    f"{100 * luck['spread'].max():.1f} points. `{first}` minus `small-hard`, soft labels minus hard ones: "
    + ", ".join(f"{gap:+.1f} ({name})" for name, gap in gaps.items())
    + ". No interval in these tables holds this."
    + (
        f" Another seed of `{squared}` gives its answer to {min(twice):.1%} to {max(twice):.1%} of the "
        f"sentences; the two students with losses that are equal up to a factor agreed on "
        f"{alike['same-alpha']:.1%}."
        if twice
        else ""
    )
)

# %% [markdown]
# ## The choices
#
# What chapter 3 of every fold reads. Within each grid the highest score on the tune part has decided.

# %%
chosen = {
    "layer_losses": objective.kind,
    "throughout": objective.throughout,
    "hidden_weight": objective.hidden_weight,
    "attention_weight": objective.attention_weight,
    "embedding_weight": objective.embedding_weight,
}
chosen["transfer_sentences"] = transfer_sentences
chosen |= {f"{size}_{name}": v for size, recipe in recipes.items() for name, v in recipe.items()}
table = pd.DataFrame({"parameter": chosen.keys(), "value": map(json.dumps, chosen.values())})
run.table(table, "chosen")
run.sweep("recipes", answers, parts.validation, teacher)
table

# %% [markdown]
# ## The answer

# %%
knobs = {
    "temperature, random weights": [f"squared@{T:g}" for T in temperatures],
    "layer losses, random weights": [squared, *weighted],
    "layer map, random weights": mapped_arms,
}
for size in sizes:
    knobs[f"layers to start from, {size}"] = [f"{size}-{name}" for name in starts]
    knobs[f"temperature, {size}"] = [*at_temperatures[size]]
    as_long = next(iter(candidates[size]))
    knobs[f"labels or teacher, {size}"] = [as_long, f"{size}-hard"]
    if longer:
        knobs[f"epochs, {size}"] = [as_long, *(f"{size}-{name}-steps" for name in longer)]
    for name in longer:
        knobs[f"{name} text, {size}"] = [f"{size}-{name}-steps", f"{size}-{name}"]
    knobs[f"layer losses, {size}"] = [so_far[size], f"{size}-layers"]
rows = []
for knob, arms in knobs.items():
    top, bottom = best(arms), min(arms, key=f1)
    if top != bottom:
        d = difference(top, bottom)
        row = {"knob": knob, "settings": len(arms), "best": top, "worst": bottom, "diff": d.diff}
        rows.append(row | {"diff_low": d.low, "diff_high": d.high})
columns = ["knob", "settings", "best", "worst", "diff", "diff_low", "diff_high"]
effects = pd.DataFrame(rows, columns=columns).sort_values("diff", ascending=False)
run.table(effects, "knobs")
run.figure(
    plots.differences(
        effects.assign(variant="student-" + effects["best"], label=effects["knob"]),
        title="What each knob moves",
        xlabel="best minus worst setting in macro-F1, points (95 % paired interval)",
    ),
    "knobs",
    "Paired differences in macro-F1 on the tune part between the best and the worst setting of each knob",
    effects,
)
shown(effects)

# %%
clear = effects.loc[effects["diff_low"] > 0, "knob"]
alike = [knob for knob in knobs if knob not in set(effects["knob"])]
Markdown(
    "Expected, in order of effect: layers to start from, text, layer losses, temperature. Found, best "
    "minus worst setting: "
    + "; ".join(
        f"{r.knob} {100 * r.diff:.1f} (`{r.best}` over `{r.worst}`)" for r in effects.itertuples()
    )
    + " points. With an interval above 0, blind to the choice and to other seeds: "
    f"{'; '.join(clear) or 'none'}. "
    + (f"No setting differs: {'; '.join(alike)}. " if alike else "")
    + "Best minus worst is flattered by the choice, the more so the more settings a knob has, and a "
    "student from random weights has more room to move than one of the teacher's layers: the order "
    "holds within a student. All "
    f"{len(seconds)} trainings of students took {sum(seconds.values()) / 60:.0f} minutes."
)

# %% [markdown]
# A recipe found here fits this teacher and these sentences. Initial *weights* are no knob here: both
# sizes start from the teacher's layers. Chapter 3 has a student of the same shape from random weights.
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
