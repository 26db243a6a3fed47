"""Copy what a finished study leaves from ``work/<profile>`` into ``reports/<profile>``."""

from __future__ import annotations

import shutil
from pathlib import Path

from headcount.colab.cells import repointed
from headcount.errors import InputError

REPORTS = Path("reports")
LIMIT_BYTES = 25_000_000
KEPT = (
    "report.html",
    "report.md",
    "results.csv",
    "pooled.csv",
    "records/*.json",
    "predictions/*.csv",
    "sweeps/*.json",
    "sweeps/*.csv",
    "findings/*.json",
    "measures/*.json",
    "figures/fold*/*",
    "tables/fold*/*.csv",
    "parameters/*.yaml",
    "chapters/*.tsv",
    "notebooks/fold0/*.ipynb",  # the other folds' differ in their numbers alone
)


def publish(work: Path, reports: Path = REPORTS) -> Path:
    """Replace ``reports/<profile>`` by what of ``work`` is complete; returns the folder.

    Readers find the old folder or the new one, never half of one. Predictions without a record
    and a sweep's table without its JSON are left out, as are notebooks that stopped.

    Raises:
        InputError: all reports together would be larger than 25 MB, the most that git keeps.
    """
    target = reports / work.name
    others = sum(
        path.stat().st_size
        for path in reports.rglob("*")
        if path.is_file() and target not in path.parents
    )
    files = complete(work)
    size = sum(path.stat().st_size for path in files)
    if others + size > LIMIT_BYTES:
        large = max(files, key=lambda path: path.stat().st_size)
        raise InputError(
            f"{work} would bring {reports} to {(others + size) / 1e6:.1f} MB, more than the "
            f"{LIMIT_BYTES / 1e6:.0f} MB that git keeps (largest: {large}): make its files smaller"
        )
    new, old = (reports / f".{work.name}.{state}" for state in ("new", "old"))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    for path in files:
        copy = new / path.relative_to(work)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            copy.write_text(repointed(path.read_text(encoding="utf-8"), work.name), "utf-8")
        else:
            shutil.copyfile(path, copy)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def complete(work: Path) -> list[Path]:
    """Files of ``work`` that are results."""
    vouching = {"predictions": "records", "sweeps": "sweeps"}  # where a file's JSON is
    return [
        path
        for pattern in KEPT
        for path in sorted(work.glob(pattern))
        if path.is_file()
        if not path.name.startswith(".") and not path.name.endswith(".partial.ipynb")
        if path.parent.name not in vouching
        or (work / vouching[path.parent.name] / f"{path.stem}.json").exists()
    ]
