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
# # A whole study on Colab
#
# Runs every chapter of one profile with papermill, on Colab's own Python, and shows the report.
# Choose a GPU in the menu *Runtime*, then *Run all*. A runtime that Colab takes away costs the
# chapter under way: open this notebook again, run all of it, and it goes on from the copy on Drive.
#
# | profile | what it is |
# |---|---|
# | `offline` | synthetic sentences, MiniLM: a first look |
# | `minilm` | Financial PhraseBank and FiQA, MiniLM |
# | `minilm-students` | the same sentences, students and INT8 alone |
# | `minilm-short` | the same again, and only what ends in models to ship |
# | `finbert` | the same with the seed study's teacher, which had seen most of the test sentences |
# | `finbert-clean` | the same with a teacher of its size that had not |

# %% [markdown] tags=["colab", "not-in-report"]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/-owner-/headcount/blob/main/reports/colab.ipynb)

# %% tags=["parameters"]
profile = "minilm"
folds = "0"  # such as "0,1,2,3,4"; more folds decide more and take as much longer
keep_on_drive = True  # asks for permission to use your Drive

# %% [markdown]
# The copy holds finished chapters with their models, a dozen files as large as the teacher a fold, in
# the folder `headcount` of your Drive.

# %%
import sys

if keep_on_drive and "google.colab" in sys.modules:
    from google.colab import drive

    drive.mount("/content/drive")

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

# %% [markdown]
# Each line below is a chapter that starts, an epoch that ends or a model that was scored.

# %%
from headcount import colab

colab.run_study(profile, folds)

# %%
from pathlib import Path

from IPython.display import HTML

HTML(Path(f"reports/{profile}/report.html").read_text(encoding="utf-8"))
