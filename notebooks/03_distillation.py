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
# # 3. Does a student learn more from a teacher than from the labels?
#
# Chapter 2 left a teacher. The seed study gave its answers to a smaller network with random
# weights, lost nine to twelve points on its validation part, and concluded that distillation is
# expensive. It never trained the same student on the labels alone, nor from better initial weights,
# and the term that was to teach attention made up about two ten-thousandths of its loss. So it cannot
# say what was expensive: the smaller network, the random start, or the teacher's advice. This
# chapter takes them apart, one at a time.
#
# | taught by | from random weights | from the teacher's layers |
# |---|---|---|
# | labels | `student-hard` | `student-hard-init` |
# | labels, in the right-hand column's network | `student-hard-scratch` | |
# | labels, smoothed | `student-smooth` | `student-smooth-init` |
# | labels and teacher | `student-kd` | `student-kd-init` |
# | labels and the teacher's answer to *another* sentence | `student-shuffled` | `student-shuffled-init` |
# | the same as `student-kd`, without T² | `student-kd-no-t2` | |
# | also hidden states and attention, as the seed study had it | `student-intermediate` | |
# | also hidden states and attention, as TinyBERT has it | `student-tinybert` | |
# | the one of the two that chapter 3b chose, weights tuned | `student-intermediate-tuned` | |
# | the same, layers mapped upside down | `student-map-reversed` | |
# | the best recipe of chapter 3b, which may be labels alone | | `student-small`, `student-tiny` |
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2, the recipes that chapter 3b chose |
# | writes | the students, their records and predictions |
# | takes | a training a student; a cell near the end says how long they were here |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/03_distillation.ipynb)

# %% [markdown]
# ## What to expect
#
# Hinton, Vinyals and Dean (2015) distil ensembles on speech and recover most of their gain from
# soft targets. For BERT, DistilBERT (Sanh et al. 2019) keeps 97 % of the score with half of the
# layers, **and** it starts from every second layer of its teacher. TinyBERT (Jiao et al. 2020) adds
# hidden states and attention scores. The seed study's student, with random weights, reached a macro-F1
# of 0.802 on validation, against its teacher's 0.888, and 0.771 on test; with hidden states and
# attention 0.771 and 0.788. So:
#
# - from random weights we expect **0.70 to 0.80**, ten points or more below the teacher;
# - from the teacher's layers, **two points below it at most**;
# - from soft labels instead of hard ones, **no loss, and two points more at most**, in either column;
# - the teacher's answer to another sentence, **no better than smoothed labels**: if it were as good
#   as its answer to this one, what helps would be the softness and not the advice. It is also the
#   control of matched strength: smoothing softens less than a high temperature does;
# - `student-small`, half of the teacher's layers or fewer, **within one point** of it, and
#   `student-tiny`, two layers, **within three**.
#
# Within a column all students have the same initial weights, the same batches in the same order, the
# same number of steps and the same schedule, the last line apart; only the loss differs. Between the
# columns stands `student-hard-scratch`: the shape of the right one, trained like the left one.

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
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import scipy.special
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from matplotlib.figure import Figure

from headcount import chapter, claims, data, distill, models, plots, records, stats, train
from headcount.chapter import in_points, within
from headcount.errors import InputError
from headcount.parameters import check_names, known

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
students = [
    "student-hard",
    "student-hard-scratch",
    "student-smooth",
    "student-kd",
    "student-shuffled",
    "student-kd-no-t2",
    "student-intermediate",
    "student-tinybert",
    "student-intermediate-tuned",
    "student-map-reversed",
    "student-hard-init",
    "student-smooth-init",
    "student-kd-init",
    "student-shuffled-init",
    "student-small",
    "student-tiny",
]
temperature = 4.0
alpha = 0.5
label_smoothing = 0.1
# The seed study's student
layers = 4
hidden = 384
heads = 6
ffn = 1536
student_epochs = 10
student_learning_rate = 3e-4
# A student that starts from the teacher's layers: the teacher's own recipe, somewhat longer
init_layers = 3  # of `student-small` too
tiny_layers = 2
init_epochs = 6
init_learning_rate = 5e-5
seed_weight = 0.1  # of both layer losses, as in the seed study
# What chapter 3b chose for `minilm`; where it is part of the study, its choices there are taken
layer_losses = "tinybert"
throughout = False  # whether the prediction loss is on in all steps
hidden_weight = 0.11
attention_weight = 0.039
embedding_weight = 0.12
transfer_sentences = 5000  # of the mixed text
small_start = "first"
small_temperature = 8.0
small_objective = "kd"  # or "hard": the labels alone
small_epochs = 18
small_transfer = "none"  # unlabelled text: "domain", "mixed" or "none"
small_hidden_weight = 0.0
small_attention_weight = 0.0
tiny_start = "first"
tiny_temperature = 4.0
tiny_objective = "kd"
tiny_epochs = 6
tiny_transfer = "mixed"
tiny_hidden_weight = 0.0
tiny_attention_weight = 0.0
# Where all three weights of `layer_losses` are 0: the share of each of its losses in the beginning
loss_share = 0.3
# Fixed
batch_size = 32

# %%
run = chapter.begin("03_distillation", globals())
basic = {f"student-{name}{end}" for name in ("hard", "kd") for end in ("", "-init")}
if not basic <= set(students):
    raise InputError(f"students {students}: leave {', '.join(sorted(basic))} among them")
tuned = run.chosen("03b_recipes")
for size in ("small", "tiny"):
    if f"student-{size}" in students:  # too few sentences are better known before any training
        run.transfer(tuned[f"{size}_transfer"], tuned["transfer_sentences"])

# %%
parts = run.split()
teacher = run.load("teacher")
baseline = run.record("teacher")
teacher_layers = teacher.config.num_hidden_layers
print(
    f"teacher of fold {run.fold}: macro-F1 {baseline.macro_f1:.3f}, {baseline.params:,} parameters"
)

# %% [markdown]
# ## The idea, small
#
# A label says which class is right. A teacher says, too, how wrong the other two would be. At
# temperature 1 that advice is hard to see wherever the teacher is nearly certain; dividing its
# logits by T before the softmax brings it out.

# %%
pair = parts.train.iloc[[0, -1]]
pair_logits = run.predict(teacher, pair)
for row, z in zip(pair.itertuples(), pair_logits, strict=True):
    print(f"[{row.source}, {data.LABELS[row.label]}] {row.text}")
    for T in (1.0, temperature):
        p = scipy.special.softmax(z.astype(float) / T).round(3).tolist()
        print(f"    T = {T:g}:", dict(zip(data.LABELS, p, strict=True)))

# %% [markdown]
# Student and teacher are compared by the Kullback-Leibler divergence of the softened
# distributions, and the labels keep a share α:
#
# $$L = \alpha\,\mathrm{CE}(s, y) + (1-\alpha)\,T^2\,
# \mathrm{KL}\big(\sigma(z/T)\,\|\,\sigma(s/T)\big).$$
#
# The divergence in three lines, for a student that has no idea yet, against the library's:

# %%
z = torch.from_numpy(pair_logits)
s = torch.zeros_like(z, requires_grad=True)
p, q = F.softmax(z / temperature, -1), F.softmax(s / temperature, -1)
slow = temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
fast = distill.distillation_loss(s, z, temperature)
assert torch.allclose(slow, fast, atol=1e-6)
assert distill.distillation_loss(z, z, temperature).abs() < 1e-6  # equal logits: nothing to learn
print(f"KL term: {fast.item():.4f}")

# %% [markdown]
# T² gives the gradient of the softened term back, to first order, what softening takes from it.
# Chapter 3b shows what happens without it; `student-kd-no-t2` puts it on trial.
#
# ## The teacher is asked once
#
# Its weights do not change, so neither do its answers. They are computed once for all training
# sentences and looked up afterwards; an epoch with a teacher should then cost what one without it
# costs.

# %%
teacher_logits = run.predict(teacher, parts.train)
soft = scipy.special.softmax(teacher_logits / temperature, axis=1)
train_labels = parts.train["label"].to_numpy()
Markdown(
    f"On its own training sentences the teacher is right in "
    f"{(teacher_logits.argmax(1) == train_labels).mean():.1%}. At T = {temperature:g} it still gives "
    f"{1 - soft.max(1).mean():.2f} of the probability to classes other than its first, on average: "
    "that, and where it is wrong, is the news it has beyond the labels."
)

# %% [markdown]
# ## Two students
#
# One is the seed study's network, whatever its teacher looks like, with random weights. The other
# keeps the teacher's width, embeddings and classifier, and evenly spaced layers, last to last.

# %%
vocabulary = run.tokenizer().vocab_size
kept = models.even_layers(teacher.config.num_hidden_layers, init_layers)


def random_student():
    return models.student(vocabulary, layers, hidden, heads, ffn, seed=run.seed).to(run.device)


def initialised_student():
    return models.student_from_layers(teacher, kept)


def scratch_student():
    """The shape of `initialised_student`, random weights."""
    c = teacher.config
    shape = (init_layers, c.hidden_size, c.num_attention_heads, c.intermediate_size)
    return models.student(vocabulary, *shape, seed=run.seed).to(run.device)


pd.DataFrame(
    {
        "teacher": models.sizes(teacher),
        "from random weights": models.sizes(random_student()),
        f"from layers {', '.join(map(str, kept))}": models.sizes(initialised_student()),
        "the same, random": models.sizes(scratch_student()),
    }
).drop(index="nonzero_params").map("{:,}".format)


# %% [markdown]
# ## What else a teacher has
#
# Its hidden states and its attention, layer by layer. The seed study pulls a student's hidden states
# $H_j$ towards those of the teacher's layer $m(j)$, and its attention probabilities, averaged over
# heads, towards the teacher's; TinyBERT takes the attention *scores* before the softmax, head by
# head, adds the embeddings' output $E$, and learns from layers before it learns from predictions
# (here: in the first half of the steps, so that the number of steps is everybody's; predictions are
# then learned at a falling rate, and chapter 3b tries them throughout as well):
#
# $$L = L_\text{prediction} + \lambda_h\,\overline{\mathrm{MSE}}(P_j H_j, H^T_{m(j)})
# + \lambda_a\,\overline{\mathrm{MSE}}(A_j, A^T_{m(j)}) + \lambda_e\,\mathrm{MSE}(P E, E^T),$$
#
# over real tokens alone, with a learned $P$ where widths differ. The hidden term by hand, for the
# two sentences, and for one layer of the teacher against the next:

# %%
batch = data.collate([run.tokenize(pair)[i] for i in (0, 1)], run.tokenizer().pad_token_id)
inputs = {name: batch[name].to(run.device) for name in ("input_ids", "attention_mask")}
with torch.no_grad():
    own, others = teacher(**inputs, output_hidden_states=True).hidden_states[1:3]
real = inputs["attention_mask"].bool()
slow = ((own - others)[real] ** 2).mean()
assert torch.allclose(slow, distill.hidden_loss(own, others, inputs["attention_mask"]), rtol=1e-5)
print(f"layers 0 and 1 of the teacher differ by {slow.item():.3f} on {real.sum()} real tokens")

# %% [markdown]
# ## The students
#
# Each is a model, a recipe, an objective, and the sentences that it reads, put together when its turn
# comes. Of the first eight, those from random weights differ in their labels alone, and so do those
# from the teacher's layers.

# %%
from_random = train.Recipe(student_epochs, student_learning_rate, batch_size, seed=run.seed)
from_layers = train.Recipe(init_epochs, init_learning_rate, batch_size, seed=run.seed)
kd = distill.VanillaKD(teacher_logits, temperature, alpha)
others = distill.shuffled_within(teacher_logits, train_labels, run.seed)
label_losses = {
    "hard": distill.HardLabels(),
    "smooth": distill.HardLabels(label_smoothing),
    "kd": kd,
    "shuffled": replace(kd, teacher_logits=others),
}
plans = {}
for name, loss in label_losses.items():
    plans[f"student-{name}"] = (random_student, from_random, loss)
    plans[f"student-{name}-init"] = (initialised_student, from_layers, loss)
by_labels = list(plans)
plans["student-hard-scratch"] = (scratch_student, from_random, label_losses["hard"])
plans["student-kd-no-t2"] = (random_student, from_random, replace(kd, squared=False))

# %% [markdown]
# Those with layer losses need the teacher's side of them, which is kept on disk while they train. A
# map upside down has the weights of the map in order, which were tuned for that one.


# %%
def layered(prediction, frame, depth, kind, weights, start, throughout=False):
    """An objective with layer losses, even map; where no weight is given, they are balanced."""
    even = distill.layer_map("even", depth, teacher_layers)
    states = run.states(teacher, frame, even.values(), kind)
    given = weights if any(weights) else (1.0, 1.0, float(kind == "tinybert"))
    loss = distill.LayerLosses(prediction, states, even, kind, *given, throughout=throughout)
    return loss if any(weights) else run.balanced(loss, start(), frame, loss_share)


def with_layer_losses(kind, *weights, throughout=False):
    loss = layered(kd, parts.train, layers, kind, weights, random_student, throughout)
    return random_student, from_random, loss


def as_chosen(layer_map):
    weights = [tuned[f"{term}_weight"] for term in ("hidden", "attention", "embedding")]
    build, recipe, loss = with_layer_losses(
        tuned["layer_losses"], *weights, throughout=tuned["throughout"]
    )
    mapped = distill.layer_map(layer_map, layers, teacher_layers)
    return build, recipe, replace(loss, layer_map=mapped)


plans |= {
    "student-intermediate": lambda: with_layer_losses("seed", seed_weight, seed_weight),
    "student-tinybert": lambda: with_layer_losses("tinybert", 1.0, 1.0, 1.0),
    "student-intermediate-tuned": lambda: as_chosen("even"),
    "student-map-reversed": lambda: as_chosen("reversed"),
}


# %%
def best_recipe(size, depth):
    """The model, recipe, objective and sentences that chapter 3b chose for a size."""
    names = ("start", "objective", "epochs", "transfer")
    start, taught, epochs, text = (tuned[f"{size}_{name}"] for name in names)
    kept = [*distill.layer_map(start, depth, teacher_layers).values()]
    build = partial(models.student_from_layers, teacher, kept)
    frame, answers = run.with_transfer(
        parts.train, teacher_logits, teacher, text, tuned["transfer_sentences"]
    )
    soft = replace(kd, teacher_logits=answers, temperature=tuned[f"{size}_temperature"])
    losses = {"kd": soft, "hard": distill.HardLabels()}
    loss = losses[known(taught, losses, f"unknown {size}_objective")]
    weights = [tuned[f"{size}_{term}_weight"] for term in ("hidden", "attention")]
    if any(weights):
        kind, throughout = tuned["layer_losses"], tuned["throughout"]
        loss = layered(loss, frame, depth, kind, weights, build, throughout)
    return build, replace(from_layers, epochs=epochs), loss, frame


plans["student-small"] = lambda: best_recipe("small", init_layers)
plans["student-tiny"] = lambda: best_recipe("tiny", tiny_layers)
check_names(students, plans, "students:")

# %% [markdown]
# Before any training, a network cut from the teacher is the honest starting point of the right-hand
# column: the teacher's classifier on top of fewer layers than it was trained with.

# %%
untrained = run.predict(initialised_student(), parts.validation).argmax(1)
Markdown(
    "Cut from the teacher and not trained at all, it scores "
    f"{stats.macro_f1(parts.validation['label'], untrained):.3f} on the validation part."
)

# %% [markdown]
# ## The trainings

# %%
fitted, logits, prepared, kept_mb = {}, {}, {}, {}
for variant in students:
    plan, began = plans[variant], time.perf_counter()
    build, recipe, objective, *frame = plan() if callable(plan) else plan
    prepared[variant] = time.perf_counter() - began
    fitted[variant] = run.distil(variant, build(), recipe, objective, *frame)
    if isinstance(objective, distill.LayerLosses):
        kept_mb[variant] = objective.states.size_mb
        objective.states.close()
    logits[variant] = run.predict(fitted[variant].model, parts.test)
    run.score(
        variant,
        logits[variant],
        parts.test,
        model=fitted[variant].model,
        folder=run.save(variant, fitted[variant].model),
        fitted=fitted[variant],
        baseline="teacher",
        config={"objective": objective.describe()},
    )

# %%
curves = pd.concat(
    [f.history.assign(variant=variant) for variant, f in fitted.items()], ignore_index=True
)
run.table(curves, "curves")
shown = curves[curves["variant"].isin(by_labels)]
ends = {"": "from random weights", "-init": "from the teacher's layers"}
with plots.style():
    figure = Figure(figsize=(plots.WIDTH, 5.8), layout="constrained")
    axes, lines = figure.subplots(2, 2, sharex="col", sharey="row"), {}
    for column, (end, title) in enumerate(ends.items()):
        for name, colour, marker in zip(label_losses, plots.SERIES, "os^D", strict=False):
            some = shown[shown["variant"] == f"student-{name}{end}"]
            some = some.dropna(subset="validation_loss")
            look = {"color": colour, "marker": marker, "markersize": 5}
            axes[0, column].plot(some["epoch"], some["validation_loss"], **look)
            if len(some):
                (lines[name],) = axes[1, column].plot(
                    some["epoch"], some["validation_macro_f1"], **look
                )
        axes[0, column].set_title(title, fontsize=10.5)
        axes[1, column].set_xlabel("epoch")
        axes[1, column].xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("validation loss")
    axes[1, 0].set_ylabel("validation macro-F1")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines))
    figure.suptitle("Students learn", x=0.01, ha="left", fontsize=12, fontweight="bold")
run.figure(
    figure,
    "learning-curves",
    "Validation loss and validation macro-F1 by epoch, of the students that differ in what their "
    "labels are: one column of panels from random weights, one from the teacher's layers",
    shown,
)

# %% [markdown]
# What to notice: where each column starts, and where it ends. All validation losses are cross-entropy
# with the labels. Training losses are not drawn, since some contain the divergence. The curves do not
# show whether longer training would help.
#
# ## Is every term on?
#
# A layer loss that makes up less than a hundredth of the whole is switched off in effect, which is
# what befell the attention term of the seed study.

# %%
termed = [v for v in students if v == "student-kd" or "hidden" in fitted[v].history]
parts_of_loss = pd.concat(distill.shares(fitted[v].history).assign(variant=v) for v in termed)
run.figure(
    plots.loss_shares(parts_of_loss, title="What the loss is made of"),
    "terms",
    "Small multiples: share of each weighted term in the loss by epoch, one panel a student",
    parts_of_loss,
)

# %%
off = [
    f"{term} of `{variant}` ({share:.2%})"
    for variant in termed
    for term, share in distill.typical_shares(fitted[variant].history).items()
    if share < 0.01
]
Markdown(f"Switched off in effect, by the median over the training: {', '.join(off) or 'none'}.")

# %% [markdown]
# ## What teaching costs

# %%
# The median epoch helps against what is shorter than half of a training.
per_step = {
    name: 1000 * f.history["epoch_seconds"].median() * f.history["epoch"].max() / f.steps
    for name, f in fitted.items()
}
costs = pd.DataFrame(
    {
        "steps": {n: f.steps for n, f in fitted.items()},
        "ms per step": per_step,
        "seconds": {n: f.seconds for n, f in fitted.items()},
        "seconds before": prepared,
        "MB on disk": kept_mb,
    }
).reindex(students)
run.table(costs.rename_axis("variant").reset_index(), "cost")
costs.style.format("{:,.1f}", na_rep="").format("{:,}", subset="steps")

# %%
dearer = {
    f"student-{name}{end}": per_step[f"student-{name}{end}"] / per_step[f"student-hard{end}"]
    for name in ("kd", "intermediate", "tinybert", "intermediate-tuned")
    for end in ("", "-init")
    if {f"student-{name}{end}", f"student-hard{end}"} <= set(students)
}
Markdown(
    "Against the same student on labels alone, a step takes "
    + ", ".join(f"{ratio:.2f} times as long (`{name}`)" for name, ratio in dearer.items())
    + ". That leaves out what the teacher computes for one student before it trains, its states for "
    f"layer losses or its answers to more text: {max(prepared.values()):.1f} s and "
    f"{max(kept_mb.values(), default=0):,.0f} MB of disk at most. Times of a step are those of the "
    "median epoch, and rough: trainings ran one after the other, beside whatever else the machine did, "
    "another chapter of the study for instance. A student that learns from answers alone computes its last layer for the first "
    "token only, which changes no gradient; hidden states and attention need it whole, and that is "
    "part of what they cost."
)

# %% [markdown]
# ## What came out

# %%
standings = run.standings(["tfidf", *students, "teacher"])
run.table(standings, "standings")
run.figure(
    plots.scores(standings, title=f"Students and teacher, fold {run.fold}", reference="teacher"),
    "standings",
    "Macro-F1 with 95 percent intervals of the bag of words, the students and the teacher",
    standings,
)

# %%
asked = {
    (variant, baseline): differs
    for variant, baseline, differs in claims.TEACHING
    if {variant, baseline} <= {*students, "teacher"}
}
contrasts = chapter.contrast_table({pair: run.contrast(*pair) for pair in asked})
contrasts.insert(0, "label", [*asked.values()])
run.table(contrasts, "contrasts")
run.figure(
    plots.differences(contrasts, title=f"What makes the difference, fold {run.fold}"),
    "contrasts",
    "Paired differences in macro-F1 between students, with 95 percent intervals",
    contrasts,
)

# %% [markdown]
# What to compare: the line of the teacher's layers with all lines above it. What the figure does not
# show: `student-hard-init` differs from `student-hard-scratch` in steps and learning rate besides its
# initial weights, because pretrained weights and random ones want different ones. In the lines from
# the first to the layer losses the loss alone differs, in the one of another shape the network alone.
# The best recipe is compared with students of as many layers; it may have others of the teacher's,
# more steps and more text.

# %%
verdicts = run.verdicts(["C6", "C7", "C8", "C9"])
run.table(verdicts, "verdicts")
verdicts.round(2)

# %%
width, others = teacher.config.hidden_size, teacher.config.num_attention_heads
text = ""
if "student-intermediate-tuned" in students:
    text = (
        f"C6 speaks of unlike architectures. Here student and teacher have {layers} and "
        f"{teacher_layers} layers, {heads} and {others} heads, and hidden states of width {hidden} and "
        f"{width}: "
        + (
            "equal, so that no projection is needed. The two are less unlike than the seed study's "
            "were. "
            if width == hidden
            else "the student's are projected. "
        )
    )
    if not any(tuned[f"{term}_weight"] for term in ("hidden", "attention")):
        text += "The weights of `student-intermediate-tuned` are balanced, not tuned. "
    elif records.chosen(run.work, "03b_recipes"):
        text += (
            "`student-intermediate-tuned` was the best of several on the tune part and `student-kd` was "
            "not tuned, which pushes against C6; chapter 3b has the best temperature beside it. "
        )
    else:
        text += (
            "The weights of `student-intermediate-tuned` were tuned in another study, `minilm`'s chapter "
            "3b, for its teacher; what others would do for this one is open. "
        )
if "student-map-reversed" in students:
    text += (
        "C9 is pushed the other way: `student-map-reversed` has the weights that were found for the map "
        "in order, and none of its own. "
    )
Markdown(
    text
    + "Every student was trained once, and these intervals do not hold what another seed would "
    "change; chapter 3b of the study `minilm` has a look at that, too."
)

# %% [markdown]
# ## An attempt to break it
#
# If the students learn from the teacher rather than from the labels, they should share its
# *errors*. Among the test sentences that the teacher gets wrong, how often does each student give
# the teacher's own wrong answer? The labels-only students are the control: they have met the same
# hard sentences. So are the shuffled ones, which had a teacher whose advice was about other
# sentences.

# %%
labels = parts.test["label"].to_numpy()
of_teacher = run.predict(teacher, parts.test)
teacher_guesses = of_teacher.argmax(1)
missed = teacher_guesses != labels
rows = [
    {
        "variant": variant,
        "agrees with the teacher": (z.argmax(1) == teacher_guesses).mean(),
        "repeats the teacher's errors": (z.argmax(1) == teacher_guesses)[missed].mean(),
        "right where the teacher is wrong": (z.argmax(1) == labels)[missed].mean(),
        "calibration error": run.record(variant).ece,
    }
    for variant, z in {"teacher": of_teacher, **logits}.items()
]
agreement = pd.DataFrame(rows)
run.table(agreement, "agreement")
agreement.round(3)

# %%
lines = []
for end, name in (("", "random weights"), ("-init", "the teacher's layers")):
    repeats = {
        taught: (logits[f"student-{taught}{end}"].argmax(1) == teacher_guesses)[missed].astype(int)
        for taught in ("kd", "hard", "shuffled")
        if f"student-{taught}{end}" in logits
    }
    controls = []
    for taught, told_by in {"hard": "on labels alone", "shuffled": "on shuffled advice"}.items():
        if taught in repeats:
            test = stats.mcnemar(np.ones(missed.sum(), int), repeats["kd"], repeats[taught])
            count = repeats[taught].sum()
            controls.append(f"the one {told_by} {count} (McNemar p = {test.p:.2g})")
    lines.append(
        f"* From {name}: of the teacher's {missed.sum()} errors the distilled student repeats "
        f"{repeats['kd'].sum()}, {', '.join(controls)}."
    )
Markdown("\n".join(lines))

# %% [markdown]
# Where do student and teacher part? By label, and by how sure the teacher was:

# %%
best = "student-small" if "student-small" in students else "student-kd-init"
surety = pd.Series(scipy.special.softmax(of_teacher.astype(float), axis=1).max(1)).rank()
parting = pd.DataFrame({"parts": logits[best].argmax(1) != teacher_guesses, "label": labels})
parting["label"] = parting["label"].map(dict(enumerate(data.LABELS)))
parting["the teacher is"] = pd.qcut(surety, 3, labels=["least sure", "between", "surest"])
parting = parting.pivot_table(
    index="label", columns="the teacher is", values="parts", aggfunc="mean", observed=False
)
run.table(parting.reset_index(), "parting")
parting.style.format("{:.1%}", na_rep="")

# %% [markdown]
# Is a probability what it says? A student that matches softened answers at T has its teacher's logits;
# read at T = 1 it is as sure as its teacher. Smoothing asks for less. The calibration error is the gap
# between confidence and accuracy, in bins:

# %%
of = {"teacher": of_teacher, **logits}
probabilities = {v: scipy.special.softmax(z.astype(float), axis=1) for v, z in of.items()}
compared = ["teacher", *(f"student-{name}{end}" for end in ends for name in label_losses)]
sure = pd.DataFrame(
    {
        "variant": variant,
        "confidence": probabilities[variant].max(1).mean(),
        "accuracy": (probabilities[variant].argmax(1) == labels).mean(),
        "calibration error": run.record(variant).ece,
    }
    for variant in compared
    if variant in probabilities
)
run.table(sure, "calibration")
sure.round(3)

# %%
for variant in ("teacher", best):
    reliability = stats.reliability(labels, probabilities[variant])
    run.figure(
        plots.reliability(
            reliability, title=f"Confidence of {variant}", ece=run.record(variant).ece
        ),
        f"reliability-{variant}",
        f"Reliability diagram of {variant} on the test part",
        reliability,
    )

# %% [markdown]
# What to compare: on which side of the diagonal the well-filled bins of either lie. What the diagrams
# do not show: whether the student is unsure of the sentences that its teacher is unsure of.
#
# Sentences that the teacher has right and its student has wrong:

# %%
lost = (teacher_guesses == labels) & (logits[best].argmax(1) != labels)
for i in np.flatnonzero(lost)[:5]:
    row = parts.test.iloc[i]
    guess = data.LABELS[logits[best][i].argmax()]
    print(f"[{row['source']}] said {guess}, labelled {data.LABELS[labels[i]]}\n    {row['text']}\n")

# %% [markdown]
# ### On sentences of another domain
#
# Those made of the teacher's layers also answer sentences from elsewhere. What they say decides nothing
# here: chapter 7b judges it, beside other chapters' models.

# %%
made_of_layers = ["student-hard-init", "student-kd-init", "student-small", "student-tiny"]
run.ask_elsewhere("elsewhere-students", [v for v in made_of_layers if v in students])

# %% [markdown]
# ## The answer


# %%
def told(variant, against):
    """A difference in words."""
    d = run.contrast(variant, against)
    diff, low, high = chapter.rounded_points(d, 1)
    text = f"{diff:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    clear = d.low > 0 or d.high < 0
    return text if clear else f"{text}, which one fold cannot tell from nothing"


small = run.record(best)
advice = [f"student-{name}{end}" for end in ends for name in ("kd", "shuffled")]
control = ""
if {*advice} <= {*students}:
    control = (
        " Its advice on this very sentence instead of another one, at equal softness: "
        f"{told(*advice[:2])} and {told(*advice[2:])}."
    )
start = "student-hard-scratch" if "student-hard-scratch" in students else "student-hard"
unlike = "" if start == "student-hard-scratch" else "shape, "
plainly = ""
if best == "student-small":
    plainly = (
        " From `student-kd-init`, which has as many of the teacher's layers, it differs by "
        f"{told(best, 'student-kd-init')}, and from `student-hard-init` by "
        f"{told(best, 'student-hard-init')}."
    )
Markdown(
    "On this fold, soft labels instead of hard ones change a student with random weights by "
    f"{told('student-kd', 'student-hard')}, and one made of the teacher's layers by "
    f"{told('student-kd-init', 'student-hard-init')}.{control} The teacher's layers instead of random "
    f"weights, each with its own {unlike}steps and learning rate, are worth "
    f"{told('student-hard-init', start)} on labels alone. `{best}` has "
    f"{small.params / baseline.params:.0%} of its teacher's parameters and differs from it by "
    f"{told(best, 'teacher')}.{plainly} All {len(students)} trainings took "
    f"{sum(f.seconds for f in fitted.values()) / 60:.0f} minutes."
)

# %%
scores = standings.set_index("variant").rename(columns={"ci_low": "low", "ci_high": "high"})
lines = []


def line(name, expected, variant, against, low, high=np.inf):
    """One expectation of a difference, judged by its interval."""
    d = run.contrast(variant, against)
    lines.append(chapter.told(name, expected, in_points(d), within(d, low, high)))


for variant in ("student-hard", "student-kd"):
    f1 = scores.loc[variant]
    found = f"{f1.macro_f1:.3f} ({f1.low:.3f} to {f1.high:.3f})"
    lines.append(chapter.told(f"`{variant}`", "0.70 to 0.80", found, within(f1, 0.7, 0.8)))
    line(
        f"`{variant}` against the teacher",
        "ten points lost or more",
        variant,
        "teacher",
        -np.inf,
        -0.1,
    )
for variant in ("student-hard-init", "student-kd-init"):
    line(f"`{variant}` against the teacher", "two points lost at most", variant, "teacher", -0.02)
for end, where in ends.items():
    pair = [f"student-kd{end}", f"student-hard{end}"]
    line(f"Soft labels, {where}", "no loss, and two points gained at most", *pair, 0, 0.02)
    pair = [f"student-shuffled{end}", f"student-smooth{end}"]
    if {*pair} <= {*students}:
        line(f"`{pair[0]}`", "no better than smoothed labels", *pair, -np.inf, 0)
for variant, expected, low in (
    ("student-small", "one point lost at most", -0.01),
    ("student-tiny", "three points lost at most", -0.03),
):
    if variant in students:
        line(f"`{variant}` against the teacher", expected, variant, "teacher", low)
made_for = "\n\nAll were expected of real sentences; these are synthetic."
Markdown("\n".join(lines) + (made_for if run.facts["corpus"] == "synthetic" else ""))

# %% [markdown]
# Do not distil where the teacher is no better than a small model trained on the labels: the
# labels-only student is one line of code and needs no teacher.
#
# **Next:** all these models store four bytes a weight. Chapter 4 stores one.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Hinton, Vinyals and Dean (2015). Distilling the knowledge in a neural network. arXiv:1503.02531.
# - Sanh, Debut, Chaumond and Wolf (2019). DistilBERT, a distilled version of BERT: smaller, faster,
#   cheaper and lighter. arXiv:1910.01108.
# - Jiao et al. (2020). TinyBERT: distilling BERT for natural language understanding.
#   arXiv:1909.10351.
# - Szegedy et al. (2016). Rethinking the Inception architecture for computer vision.
#   arXiv:1512.00567. (Label smoothing.)
