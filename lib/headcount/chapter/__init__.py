"""What every chapter does in the same way: open, find its inputs, leave its results, close.

A chapter knows nothing of the others' variables. It reads what they left in two folders, and so
does the report:

- ``work/<profile>``: records, predictions, figures, tables; published as they stand.
- ``artifacts/<profile>``: sentences and models; never in git.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import torch
import transformers

from headcount import colab, stats, train
from headcount.chapter import machine
from headcount.chapter.results import Results
from headcount.errors import InputError
from headcount.parameters import (
    DATA_VARIABLE,
    LOG_VARIABLE,
    check_names,
    check_type,
    check_writable,
    literals,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

log = logging.getLogger("headcount")

COMMON = ("profile", "work", "artifacts", "data_dir", "fold", "seed", "threads")
"""Parameters that every chapter has."""


class Run(Results):
    """One chapter on one fold with one seed; made by :func:`begin`."""


def told(name: str, expected: str, found: str, holds: bool | None) -> str:
    """A line of a chapter's answer: what was expected, what was found, and whether it fits.

    ``holds`` is None where what was found leaves it open.
    """
    outcome = {True: "inside", False: "outside", None: "undecided"}[holds]
    return f"* {name}: expected {expected}, found {found}, **{outcome}**."


def within(difference: stats.Difference, low: float, high: float = np.inf) -> bool | None:
    """Whether a difference lies from ``low`` to ``high``, by its interval; None where it may."""
    if low <= difference.low and difference.high <= high:
        return True
    return False if difference.high < low or high < difference.low else None


def all_above(lows: ArrayLike, highs: ArrayLike, bound: float) -> bool | None:
    """Whether several differences all lie above ``bound``, by their intervals; None if it is open.

    Of several intervals one may lie below it by chance, so that it takes two to deny it.
    """
    lows, highs = np.asarray(lows), np.asarray(highs)
    if (highs < bound).sum() > 1:
        return False
    return True if (lows >= bound).all() else None


def in_points(difference: stats.Difference) -> str:
    """A difference in macro-F1 and its interval, in points: ``-0.31 (-0.92 to +0.27)``."""
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*rounded_points(difference, 2))


def rounded_points(difference: stats.Difference, digits: int) -> list[float]:
    """A difference in macro-F1 and its interval, in points, rounded; none of them is -0.0."""
    values = (difference.diff, difference.low, difference.high)
    return [round(100 * value, digits) + 0.0 for value in values]


def contrast_table(found: Mapping[tuple[str, str], stats.Difference]) -> pd.DataFrame:
    """Differences by (variant, baseline), as tables keep and `plots.differences` draws them."""
    return pd.DataFrame(
        {"variant": variant, "baseline": baseline, "diff": d.diff}
        | {"diff_low": d.low, "diff_high": d.high, "p": d.p}
        for (variant, baseline), d in found.items()
    )


def begin(chapter: str, namespace: dict[str, Any]) -> Run:
    """Open a chapter: check its parameters, set threads and seeds, print what it runs on.

    Args:
        chapter: the name of the notebook, such as ``"05_pruning"``.
        namespace: the notebook's ``globals()``, its parameters assigned.

    Raises:
        InputError: a parameter that the chapter does not have (papermill alone only warns), a
            value of the wrong type, a negative fold, a folder that cannot be written, or a study
            that another kind of machine began.
    """
    parameters = _parameters(chapter, namespace)
    if parameters["fold"] < 0 or parameters["seed"] < 0 or parameters["threads"] < 1:
        raise InputError(
            f"{chapter}: fold and seed count from 0 and threads from 1, not "
            f"fold={parameters['fold']}, seed={parameters['seed']}, "
            f"threads={parameters['threads']}: mend the parameters"
        )
    folders = {name: Path(parameters[name]) for name in ("work", "artifacts")}
    for folder in folders.values():
        check_writable(folder)
    if LOG_VARIABLE not in os.environ:
        # By hand: what a study had executed is replaced, with parameters that it may not know. It
        # runs the chapter again where its notebook is gone.
        executed = folders["work"] / "notebooks" / f"fold{parameters['fold']}" / f"{chapter}.ipynb"
        executed.unlink(missing_ok=True)
    if colab.opened_alone():
        colab.run_inputs(chapter, parameters["profile"], parameters["fold"])
    _quieten()
    _log_progress(parameters["fold"])
    torch.set_num_threads(parameters["threads"])
    transformers.set_seed(parameters["seed"])
    device = train.device()
    data_dir = parameters["data_dir"] or os.environ.get(DATA_VARIABLE)
    run = Run(
        chapter=chapter,
        parameters=parameters,
        profile=parameters["profile"],
        **folders,
        data_dir=Path(data_dir) if data_dir else None,
        fold=parameters["fold"],
        seed=parameters["seed"],
        threads=parameters["threads"],
        device=device,
        precision=train.precision(device),
    )
    run.check_machine()
    log.info("%s begins", chapter)
    print(
        f"Headcount, chapter {chapter}, profile {run.profile}, fold {run.fold}, seed {run.seed}, "
        f"commit {machine.commit()[:12]}"
    )
    print(
        f"{machine.device_name(device)}, {run.threads} threads, training precision {run.precision}"
    )
    print(", ".join(f"{name} {version}" for name, version in machine.versions().items()))
    for caveat in run.caveats:
        print(caveat)
    return run


def _parameters(chapter: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Values of the chapter's parameters; what was injected beside them is refused."""
    declared: dict[str, Any] = {}
    injected: set[str] = set()
    for source in namespace.get("In", ()):
        assigned = literals(source)
        if not declared and set(COMMON) <= set(assigned):
            declared = assigned
        elif declared and source.startswith("# Parameters"):
            injected |= set(assigned)
    if not declared:
        raise InputError(
            f"{chapter}: no cell assigns {', '.join(COMMON)}: run it as a notebook, with the cell "
            "of its parameters"
        )
    check_names(injected, declared, chapter)
    values = {name: namespace[name] for name in declared}
    for name, value in values.items():
        check_type(name, value, declared[name], chapter)
    return values


def _quieten() -> None:
    """Keep out of notebooks what a reader cannot act on; errors and our own warnings stay."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"(transformers|torch|accelerate|onnx.*)(\..*)?")


def _log_progress(fold: int) -> None:
    """Send progress to the file named by HEADCOUNT_LOG, which the study runner shows.

    On Colab a chapter that is opened by itself shows it under the cell that runs.
    """
    path, handler = os.environ.get(LOG_VARIABLE), None
    if path:
        handler = logging.FileHandler(path, encoding="utf-8")
    elif colab.opened_alone():
        handler = logging.StreamHandler(sys.stdout)
    if handler:
        handler.setFormatter(logging.Formatter(f"%(asctime)s fold {fold} %(message)s", "%H:%M:%S"))
        log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
