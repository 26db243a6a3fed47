"""Checks of what the user gives, light enough to run before anything heavy is imported."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headcount.errors import InputError

DATA_VARIABLE = "HEADCOUNT_DATA"
"""Environment variable that stands for a ``data_dir`` that is not given."""
BACKUP_VARIABLE = "HEADCOUNT_BACKUP"
"""Environment variable that stands for a ``--backup`` that is not given."""
LOG_VARIABLE = "HEADCOUNT_LOG"
"""Environment variable with the file of a study's progress; set where a study runs a chapter."""


def literals(source: str) -> dict[str, Any]:
    """Names that ``source`` assigns literals to, with their values; {} where it is no Python."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell with a magic
        return {}
    found = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                continue
    return found


def known(name: str, names: Iterable[str], what: str) -> str:
    """Return ``name`` if it is one of ``names``.

    Raises:
        InputError: it is not; ``what`` begins the line, which names the nearest or all of them.
    """
    names = sorted(names)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"{what} {name!r}: {hint}it is one of {', '.join(names)}")


def check_names(given: Iterable[str], declared: Iterable[str], where: str) -> None:
    """Refuse a parameter that does not exist: a typo must not run with the defaults."""
    declared = list(declared)
    for name in given:
        known(name, declared, f"{where} has no parameter")


def check_type(name: str, value: Any, default: Any, where: str) -> None:
    """Refuse a value of another type than the default's (an int may stand for a float)."""
    if default is None or value is None or type(value) is type(default):
        return
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return
    raise InputError(
        f"{where}: parameter {name}={value!r} is of type {type(value).__name__}, "
        f"give one of type {type(default).__name__} such as {default!r}"
    )


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written, before any work is done for it."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): choose another output folder or mend "
            "its permissions"
        ) from None
