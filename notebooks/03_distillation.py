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
# so it cannot say what was expensive: the smaller network, the random start, or the teacher's
# advice. This chapter takes the three apart with four students.
#
# | | from random weights | from the teacher's layers |
# |---|---|---|
# | **labels only** | `student-hard` | `student-hard-init` |
# | **labels and teacher** | `student-kd` | `student-kd-init` |
#
# | | |
# |---|---|
# | reads | sentences of chapter 1, the teacher of chapter 2 |
# | writes | four students, their records and predictions |
# | takes | four trainings; the last cell says how long they were here |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/03_distillation.ipynb)

# %% [markdown]
# ## What to expect
#
# Hinton, Vinyals and Dean (2015) distil ensembles on speech and recover most of their gain from
# soft targets. For BERT, DistilBERT (Sanh et al. 2019) keeps 97 % of the score with half of the
# layers, **and** it starts from every second layer of its teacher. The seed study's student, with
# random weights, reached a macro-F1 of 0.802 on validation, against its teacher's 0.888, and of 0.771
# on test. So:
#
# - from random weights we expect **0.70 to 0.80**, ten points or more below the teacher;
# - from the teacher's layers, **within two points** of it;
# - and between the rows of the table, soft labels against hard ones, **a point or two** at most.
#
# The control is the upper row. Both rows have the same initial weights, the same batches in the
# same order, and the same number of steps; only the loss differs.

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
import scipy.special
import torch
import torch.nn.functional as F
from IPython.display import Markdown

from headcount import chapter, data, distill, models, plots, stats, train

# %% tags=["parameters"]
# where
profile = "offline"
work = "work/offline"
artifacts = "artifacts/offline"
data_dir = None
fold = 0
seed = 0
threads = 2
# studied
temperature = 4.0
alpha = 0.5
# the seed study's student
layers = 4
hidden = 384
heads = 6
ffn = 1536
epochs = 10
learning_rate = 3e-4
# the student that starts from the teacher's layers: the teacher's own recipe, somewhat longer
init_layers = 3
init_epochs = 6
init_learning_rate = 5e-5
# fixed
batch_size = 32

# %%
run = chapter.begin("03_distillation", globals())

# %%
parts = run.split()
teacher = run.load("teacher")
baseline = run.record("teacher")
assert models.weights_sha256(teacher) == baseline.weights_sha256
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
        print(
            f"    T = {T:g}:",
            dict(zip(data.LABELS, scipy.special.softmax(z / T).round(3).tolist(), strict=True)),
        )

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
# Why T²? The gradient of the bare divergence is (σ(s/T) − σ(z/T)) / T, and for a high T the two
# softmaxes differ by about (s − z) / 3T. Together that is 1/T², which the factor takes back, so
# that T changes *what* is taught without changing how loudly. Measured on the same two sentences:

# %%
rows = []
for T in (1.0, 2.0, 4.0, 8.0):
    (gradient,) = torch.autograd.grad(distill.distillation_loss(s, z, T), s)
    closed_form = T * (F.softmax(s / T, -1) - F.softmax(z / T, -1)) / len(z)
    assert torch.allclose(gradient, closed_form, atol=1e-6)
    rows.append(
        {
            "T": T,
            "gradient norm with T²": gradient.norm().item(),
            "without": gradient.norm().item() / T**2,
        }
    )
pd.DataFrame(rows).round(4)

# %% [markdown]
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


pd.DataFrame(
    {
        "teacher": models.sizes(teacher),
        "from random weights": models.sizes(random_student()),
        f"from layers {', '.join(map(str, kept))}": models.sizes(initialised_student()),
    }
).drop(index="nonzero_params").map("{:,}".format)

# %%
from_random = train.Recipe(epochs, learning_rate, batch_size, seed=run.seed)
from_layers = train.Recipe(init_epochs, init_learning_rate, batch_size, seed=run.seed)
kd = distill.VanillaKD(teacher_logits, temperature, alpha)
students = {
    "student-hard": (random_student, from_random, distill.HardLabels()),
    "student-kd": (random_student, from_random, kd),
    "student-hard-init": (initialised_student, from_layers, distill.HardLabels()),
    "student-kd-init": (initialised_student, from_layers, kd),
}

# %% [markdown]
# The network below the teacher's own layers, before any training, is the honest starting point of
# the right-hand column. It has the teacher's classifier on top of the wrong number of layers.

# %%
untrained = run.predict(initialised_student(), parts.validation).argmax(1)
Markdown(
    "Cut from the teacher and not trained at all, it scores "
    f"{stats.macro_f1(parts.validation['label'], untrained):.3f} on the validation part."
)

# %% [markdown]
# ## Four trainings

# %%
fitted, logits, curves = {}, {}, []
for variant, (build, recipe, objective) in students.items():
    fitted[variant] = run.fit(variant, build(), recipe, objective=objective)
    folder = run.save(variant, fitted[variant].model)
    logits[variant] = run.predict(fitted[variant].model, parts.test)
    run.score(
        variant,
        logits[variant],
        parts.test,
        model=fitted[variant].model,
        folder=folder,
        fitted=fitted[variant],
        baseline="teacher",
    )
    curves.append(fitted[variant].history.assign(variant=variant))

# %%
curves = pd.concat(curves, ignore_index=True)
run.figure(
    plots.learning_curve(curves, title="Four students learn"),
    "learning-curves",
    "Training and validation loss and validation macro-F1 of the four students by epoch",
    curves,
)

# %% [markdown]
# What to notice: where each pair starts, and where it ends. The training losses of the two rows are
# not comparable, since one of them contains the divergence; the validation losses are, both being
# cross-entropy with the labels. The curves do not show whether longer training would help.
#
# How large is each part of the loss? A term far below the others would be switched off in effect,
# which is what befell the attention term of the seed study's other objective.

# %%
terms = curves.dropna(subset=["soft"])
terms = terms.groupby("variant", sort=False)[["hard", "soft"]].agg(["first", "last"])
divergence = (1 - alpha) * terms["soft"]
divergence = divergence / (divergence + alpha * terms["hard"])
terms.columns = [f"{name}, {when} {train.LOG_EVERY} steps" for name, when in terms.columns]
terms.round(3)

# %%
Markdown(
    f"Weighted by α, the divergence makes up {divergence['first'].min():.0%} to "
    f"{divergence['first'].max():.0%} of the loss at first and {divergence['last'].min():.0%} to "
    f"{divergence['last'].max():.0%} in the end, the labels the rest."
)

# %% [markdown]
# Does the second term cost time? The steps with a teacher against those without:

# %%
per_step = {name: 1000 * f.seconds / f.steps for name, f in fitted.items()}
costs = pd.DataFrame(
    {"ms per step": per_step, "seconds": {n: f.seconds for n, f in fitted.items()}}
)
run.table(costs.rename_axis("variant").reset_index(), "cost")
costs.round(1)

# %%
dearer = [per_step[f"student-kd{end}"] / per_step[f"student-hard{end}"] for end in ("", "-init")]
Markdown(
    f"A step with the teacher takes {dearer[0]:.2f} times as long as one without it from random "
    f"weights, {dearer[1]:.2f} times from the teacher's layers. Whatever else the machine did is in "
    "these times."
)

# %% [markdown]
# ## What came out

# %%
standings = run.standings(["tfidf", *students, "teacher"])
run.table(standings, "standings")
run.figure(
    plots.scores(standings, title=f"Students and teacher, fold {run.fold}", reference="teacher"),
    "standings",
    "Macro-F1 with 95 percent intervals of the bag of words, four students and the teacher",
    standings,
)

# %%
pairs = [
    ("student-kd", "student-hard", "soft labels, random weights"),
    ("student-kd-init", "student-hard-init", "soft labels, teacher's layers"),
    ("student-hard-init", "student-hard", "initial weights (and fewer layers), hard labels"),
    ("student-kd-init", "teacher", "both, against the teacher"),
]
rows = []
for variant, against, label in pairs:
    d = run.contrast(variant, against)
    rows.append(
        {
            "label": label,
            "variant": variant,
            "baseline": against,
            "diff": d.diff,
            "diff_low": d.low,
            "diff_high": d.high,
            "p": d.p,
        }
    )
contrasts = pd.DataFrame(rows)
run.table(contrasts, "contrasts")
run.figure(
    plots.differences(contrasts, title=f"What makes the difference, fold {run.fold}"),
    "contrasts",
    "Paired differences in macro-F1 between students, with 95 percent intervals",
    contrasts,
)

# %% [markdown]
# What to compare: the first two lines with the third. What the figure does not show:
# `student-hard-init` differs from `student-hard` in its width, depth, steps and learning rate
# besides its initial weights, because each has a recipe of its own. In the first two lines the loss
# alone differs.
#
# ## An attempt to break it
#
# If the students learn from the teacher rather than from the labels, they should share its
# *errors*. Among the test sentences that the teacher gets wrong, how often does each student give
# the teacher's own wrong answer? The labels-only students are the control: they have met the same
# hard sentences.

# %%
labels = parts.test["label"].to_numpy()
teacher_guesses = run.predict(teacher, parts.test).argmax(1)
missed = teacher_guesses != labels
rows = [
    {
        "variant": variant,
        "agrees with the teacher": (z.argmax(1) == teacher_guesses).mean(),
        "repeats the teacher's errors": (z.argmax(1) == teacher_guesses)[missed].mean(),
        "right where the teacher is wrong": (z.argmax(1) == labels)[missed].mean(),
    }
    for variant, z in logits.items()
]
agreement = pd.DataFrame(rows)
run.table(agreement, "agreement")
agreement.round(3)

# %% [markdown]
# Sentences that the teacher has right and its distilled student, cut from it, has wrong:

# %%
lost = (teacher_guesses == labels) & (logits["student-kd-init"].argmax(1) != labels)
for i in np.flatnonzero(lost)[:5]:
    row = parts.test.iloc[i]
    guess = data.LABELS[logits["student-kd-init"][i].argmax()]
    print(f"[{row['source']}] said {guess}, labelled {data.LABELS[labels[i]]}\n    {row['text']}\n")

# %% [markdown]
# ## The answer

# %%
soft_random, soft_init, start, against_teacher = (row for _, row in contrasts.iterrows())


def points(row):
    return f"{100 * row['diff']:+.1f} points (95 % interval {100 * row['diff_low']:+.1f} to {100 * row['diff_high']:+.1f})"


def told(row):
    if row["diff_low"] > 0 or row["diff_high"] < 0:
        return points(row)
    return points(row) + ", which one fold cannot tell from nothing"


Markdown(
    f"On this fold, soft labels instead of hard ones change a student with random weights by "
    f"{told(soft_random)}, and one made of the teacher's layers by {told(soft_init)}. The teacher's "
    f"layers instead of random weights change it by {told(start)}. With both, a student has "
    f"{run.record('student-kd-init').params / baseline.params:.0%} of its teacher's parameters and "
    f"differs from it by {told(against_teacher)}. All four trainings took "
    f"{sum(f.seconds for f in fitted.values()):.0f} s."
)

# %%
scores = np.array([run.record(variant).macro_f1 for variant in students])
gaps = 100 * (scores - baseline.macro_f1)
gains = 100 * np.array([soft_random["diff"], soft_init["diff"]])
low_enough = ((scores[:2] >= 0.7) & (scores[:2] <= 0.8) & (gaps[:2] <= -10)).all()
found = [low_enough, (np.abs(gaps[2:]) <= 2).all(), (np.abs(gains) <= 2).all()]
found = ["**inside**" if holds else "**outside**" for holds in found]
made_for = "\n\nAll three were expected of real sentences; these are synthetic."
Markdown(
    "* Expected from random weights: 0.70 to 0.80, ten points or more below the teacher; found: "
    f"{scores[0]:.3f} and {scores[1]:.3f}, {gaps[0]:+.1f} and {gaps[1]:+.1f} points from it, {found[0]}.\n"
    "* Expected from the teacher's layers: within two points of it; found: "
    f"{gaps[2]:+.1f} and {gaps[3]:+.1f}, {found[1]}.\n"
    "* Expected of soft labels: two points at most; found: "
    f"{gains[0]:+.1f} and {gains[1]:+.1f}, {found[2]}."
    + (made_for if run.facts["corpus"] == "synthetic" else "")
)

# %% [markdown]
# Do not distil where the teacher is no better than a small model trained on the labels: the
# labels-only student is one line of code and needs no teacher. What these four cannot tell is
# whether *other* things of the teacher, its hidden states or its attention, teach more; that is for
# the second part of this chapter.
#
# **Next:** all five models store four bytes a weight. Chapter 4 stores one.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Hinton, Vinyals and Dean (2015). Distilling the knowledge in a neural network. arXiv:1503.02531.
# - Sanh, Debut, Chaumond and Wolf (2019). DistilBERT, a distilled version of BERT: smaller, faster,
#   cheaper and lighter. arXiv:1910.01108.
