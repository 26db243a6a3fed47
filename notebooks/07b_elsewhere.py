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
# # 7b. Do the verdicts hold elsewhere?
#
# All chapters so far tested on sentences like those that they trained on: news and company reports.
# Who ships a small model will show it other sentences. This chapter shows the models of three primary
# contrasts, and those worth shipping, the tweets of traders, labelled by other people for another
# purpose, and asks the three questions once more.
#
# | | |
# |---|---|
# | reads | what models of chapters 3 to 5 answered to the sentences of another domain, the teacher |
# | writes | the answers of the teacher and of a bag of words, the verdicts on C18; no model |
# | takes | less than a minute a fold; nothing is trained |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/minilm/notebooks/fold0/07b_elsewhere.ipynb)

# %% [markdown]
# ## What to expect
#
# FinBERT (Araci 2019) was scored on the sources that it trained on, and so was the seed study. Other
# sources bring other words, and other ideas of a label: a tweet that PhraseBank's annotators would call
# neutral may be bullish to a trader. We guess that **every model's score falls by 15 points or more**,
# and that the *differences* between models of one teacher **stay where they were, to within a point**:
# both sides of a difference meet the same strange sentences.

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
from types import SimpleNamespace

import numpy as np
import pandas as pd
from IPython.display import Markdown

from headcount import chapter, claims, data, models, plots, records, stats
from headcount.chapter import in_points, within
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
variants = [
    "teacher",
    "teacher-int8",
    "student-hard-init",
    "student-kd-init",
    "student-small",
    "student-small-int8",
    "student-small-trimmed-int8",
    "student-small-trimmed-int8-e4",
    "student-tiny",
    "student-tiny-trimmed-int8",
    "teacher-continued-15",
    "heads-entropy-50",
    "heads-random-50",
]

# %%
run = chapter.begin("07b_elsewhere", globals())
if "teacher" not in variants:
    raise InputError(f"variants {variants}: leave teacher among them")
parts, outside = run.split(), run.elsewhere()
labels, groups = outside["label"].to_numpy(), outside["group"].to_numpy()

# %% [markdown]
# ## The other sentences
#
# Of the real ones, none is a near-duplicate of a sentence that any model here has trained on. The
# synthetic corpus has no other domain; its place is taken by the sentences that its annotators agreed
# on least.

# %%
for row in outside.iloc[[0, -1]].itertuples():
    print(f"[{row.source}, {data.LABELS[row.label]}] {row.text}")
shares = {"at home": parts.test["label"], "elsewhere": outside["label"]}
table = pd.DataFrame({where: given.value_counts(normalize=True) for where, given in shares.items()})
table.rename(index=dict(enumerate(data.LABELS))).sort_index().map("{:.0%}".format)

# %% [markdown]
# Classes in other proportions change macro-F1 by themselves, which is one more reason to compare
# models with each other and not with their own scores at home.
#
# The unlabelled text that chapter 3b may have chosen for the two best students can hold *other* tweets
# of the same collection.

# %%
tweets = {}
for size in ("small", "tiny"):
    if run.has(f"student-{size}"):
        recipe = run.record(f"student-{size}").provenance.config
        if recipe.get(f"{size}_transfer") == "mixed":
            others = data.load(run.artifacts / "data", "others")
            text = data.transfer(others, run.sentences(), recipe["transfer_sentences"])
            tweets[f"student-{size}"] = int(text["source"].str.startswith("twitter").sum())
tweets = {student: n for student, n in tweets.items() if n}
Markdown(
    "\n".join(
        f"* `{student}`, with all that was made of it, was taught with the teacher's answers to {n:,} "
        "other tweets: to it, these sentences are **not** of another domain."
        for student, n in tweets.items()
    )
    or "No model here was taught with tweets."
)

# %% [markdown]
# ## Everybody has answered
#
# Each chapter asked its models while they were at hand; here their answers meet. The teacher is asked
# now, and so is the control: a bag of words, which has no pretraining to carry from one domain to
# another.

# %%
teacher = run.load("teacher")
bag = models.bag_of_words().fit(parts.train["text"], parts.train["label"])
controls = {"tfidf": bag.predict_log_proba(outside["text"])}
controls |= {"teacher": run.predict(teacher, outside)}
run.sweep("elsewhere-controls", controls, outside, teacher)
guesses = {}
for sweep in records.read_sweeps(run.work, "elsewhere-*", fold=run.fold):
    answered = records.sweep(run.work, sweep.name, fold=run.fold).query("seed == @run.seed")
    answered = answered.set_index("id").loc[outside["id"]]
    guesses |= {variant: answered[variant].to_numpy() for variant in sweep.points}
there = [variant for variant in variants if variant in guesses]


# %%
def at_home(variant):
    """The score on this fold's test part, of the model that answers elsewhere, and its interval."""
    answered = records.predictions(run.work, variant, fold=run.fold)
    answered = answered[answered["seed"] == run.record(variant).seed]
    guesses = answered[records.PROBABILITIES].to_numpy().argmax(1)
    return stats.with_interval(answered["label"].to_numpy(), guesses, answered["group"].to_numpy())


rows = []
for variant in ["tfidf", *there]:
    home = at_home(variant)
    row = {"variant": variant} | stats.with_interval(labels, guesses[variant], groups)
    row |= {"at home": home["macro_f1"]}
    rows.append(row | {"home_low": home["ci_low"], "home_high": home["ci_high"]})
standings = pd.DataFrame(rows)
run.table(standings, "standings")
run.figure(
    plots.scores(
        standings, title=f"Elsewhere, fold {run.fold}", reference="teacher", part="from elsewhere"
    ),
    "standings",
    "Macro-F1 with 95 percent intervals on sentences of another domain, one line a variant",
    standings,
)

# %%
by_variant = standings.set_index("variant")
falls = 100 * (by_variant["at home"] - by_variant["macro_f1"])
over_bag = by_variant.loc["teacher", "macro_f1"] - by_variant.loc["tfidf", "macro_f1"]
Markdown(
    f"The models' scores fall by {falls[there].min():.1f} to {falls[there].max():.1f} points (below "
    f"zero: rise), that of the bag of words by {falls['tfidf']:.1f}. The teacher is "
    f"{100 * over_bag:+.1f} points from the bag of words. The figure cannot tell how much of a fall is "
    "harder sentences and how much is other people's idea of a label."
)

# %% [markdown]
# ## The three questions once more
#
# Soft labels against hard ones (C7), eight bits against 32 (C10), half of the heads against equally
# long training (C1); each on this fold's test part and on the other sentences, with the same models.
# Where chapter 5 trained the last pair several times, all of its trainings answer.

# %%
found, rows = {}, []
evidence = {name: claims.BY_ID[name].evidence for name in ("C18a", "C18b", "C18c")}
settled = {name: one.settle(run.work, fold=run.fold) for name, one in evidence.items()}
settled = {name: answer for name, answer in settled.items() if answer is not None}
for name, answer in settled.items():
    pair = evidence[name].variant, evidence[name].baseline
    found[pair] = {"at home": run.contrast(*pair), "elsewhere": answer[0]}
    for where, d in found[pair].items():
        row = {"label": f"{pair[0]}\n− {pair[1]}, {where}", "variant": pair[0], "baseline": pair[1]}
        row |= {"where": where, "diff": d.diff, "diff_low": d.low, "diff_high": d.high}
        rows.append(row)
contrasts = pd.DataFrame(rows)
run.table(contrasts, "contrasts")
contrasts.drop(columns="label", errors="ignore").round(4)

# %%
asked = {"C18a": "chapter 3", "C18b": "chapter 4", "C18c": "chapter 5"}
missing = [f"{name}, of {of}" for name, of in asked.items() if name not in settled]
Markdown(f"Not asked, since it has not run: {'; '.join(missing)}." if missing else "All are asked.")

# %%
if len(contrasts):
    run.figure(
        plots.differences(contrasts, title=f"At home and elsewhere, fold {run.fold}"),
        "contrasts",
        f"Paired differences in macro-F1 of {len(found)} pairs of models, at home and on another domain",
        contrasts,
    )

# %% [markdown]
# What to notice: whether the two lines of a pair lie on one side of zero. That they overlap says
# little: the change from one to the other is judged below, by an interval of its own. What the figure
# does not show: one fold's models are one draw. The report pools all folds, and there each of these
# sentences is answered once by every fold's model.
#
# ## The answer

# %%
verdicts = run.verdicts(["C18a", "C18b", "C18c"])
run.table(verdicts, "verdicts")
verdicts.round(2)

# %% [markdown]
# How far did a score or a difference move? The sentences elsewhere are others than those at home. So
# the errors of the two are independent, and the squares of their intervals' halves add up.


# %%
def moved(home, away):
    """`away` minus `home` with its 95 % interval; each of them (value, low, high)."""
    (here, here_low, here_high), (there, there_low, there_high) = home, away
    diff = there - here
    low = diff - np.hypot(there - there_low, here_high - here)
    high = diff + np.hypot(there_high - there, here - here_low)
    return SimpleNamespace(diff=diff, low=low, high=high)


insiders = [variant for variant in there if variant.startswith(tuple(tweets))]
least = falls[there].drop(insiders).idxmin()
model = by_variant.loc[least]
change = moved(
    model[["at home", "home_low", "home_high"]], model[["macro_f1", "ci_low", "ci_high"]]
)
lines = [
    chapter.told(
        f"Every model's score, here the one that falls least (`{least}`)",
        "a fall of 15 points or more",
        in_points(change),
        within(change, -np.inf, -0.15),
    )
]
if insiders:
    lines[0] += (
        f" Left out, for they were taught with tweets: {', '.join(f'`{v}`' for v in insiders)}."
    )
for (variant, baseline), both in found.items():
    home, away = ((d.diff, d.low, d.high) for d in (both["at home"], both["elsewhere"]))
    change = moved(home, away)
    lines.append(
        chapter.told(
            f"`{variant}` − `{baseline}`, elsewhere against at home",
            "a point of change at most",
            in_points(change),
            within(change, -0.01, 0.01),
        )
    )
lost = 100 * (by_variant.loc["teacher", "at home"] - by_variant.loc[there, "at home"])
Markdown(
    "\n".join(lines)
    + (
        f"\n\nAt home the furthest below the teacher is `{lost.idxmax()}`, by {lost.max():.1f} points"
        if lost.max() > 0
        else "\n\nAt home none of these models is below the teacher"
    )
    + f"; by changing the domain the teacher itself loses {falls['teacher']:.1f}."
)

# %% [markdown]
# Who deploys a model on another domain needs labelled sentences of it, if only to know by how much its
# score falls.
#
# **Next:** chapter 8 puts all folds together.

# %%
run.finish()

# %% [markdown]
# ## References
#
# - Araci (2019). FinBERT: financial sentiment analysis with pre-trained language models.
#   arXiv:1908.10063.
