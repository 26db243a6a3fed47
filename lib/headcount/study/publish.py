"""Copy what a finished study leaves from ``work/<profile>`` into ``reports/<profile>``."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

from headcount import records
from headcount.colab.cells import repointed
from headcount.errors import InputError

REPORTS = Path("reports")
LIMIT_BYTES = 25_000_000
# By a table's folder, that of its JSON.
VOUCHING = {tables: records.FOLDERS[kind] for kind, tables in records.TABLES.items()}
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
    "figures/fold0/*.png",  # nor do these; what they show is kept of every fold
    "figures/fold*/*.csv",
    "tables/fold*/*.csv*",
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
    files = dict(published(path, work) for path in complete(work))
    size = sum(map(len, files.values()))
    if others + size > LIMIT_BYTES:
        large = max(files, key=lambda name: len(files[name]))
        raise InputError(
            f"{work} would bring {reports} to {(others + size) / 1e6:.1f} MB, more than the "
            f"{LIMIT_BYTES / 1e6:.0f} MB that git keeps (largest: {large}): make its files smaller"
        )
    new, old = (reports / f".{work.name}.{state}" for state in ("new", "old"))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    for name, content in files.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(content)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target


def published(path: Path, work: Path) -> tuple[Path, bytes]:
    """Where in its folder a file of ``work`` is published, and its content there.

    Tables of sentences are packed (pandas reads ``.csv.gz`` as it reads ``.csv``). Notebooks open
    their own study's copy on Colab, and leave out what libraries said on standard error: warnings
    that name files of this machine.
    """
    name, content = path.relative_to(work), path.read_bytes()
    if name.parent.name in VOUCHING and path.suffix == ".csv":
        # No time and no name: the same table is the same file.
        return name.with_name(f"{name.name}.gz"), gzip.compress(content, mtime=0)
    if path.suffix == ".ipynb":
        notebook = json.loads(repointed(content.decode("utf-8"), work.name))
        for cell in notebook["cells"]:
            if "outputs" in cell:
                cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]
        content = (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
    return name, content


def complete(work: Path) -> list[Path]:
    """Files of ``work`` that are results."""
    return [
        path
        for pattern in KEPT
        for path in sorted(work.glob(pattern))
        if path.is_file()
        if not path.name.startswith(".") and not path.name.endswith(".partial.ipynb")
        if path.parent.name not in VOUCHING
        or (work / VOUCHING[path.parent.name] / f"{path.stem}.json").exists()
    ]
