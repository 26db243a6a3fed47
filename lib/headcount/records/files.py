"""Results as files: each written whole or not at all, and checked when it is read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from headcount import curves, stats
from headcount.errors import InputError
from headcount.records.kinds import (
    FOLDERS,
    PROBABILITIES,
    SENTENCE_COLUMNS,
    TABLES,
    Finding,
    Measure,
    Record,
    Result,
    Sweep,
)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` whole or not at all: a killed run leaves no half file under this name."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` as :func:`write_text` writes text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


Kind = TypeVar("Kind", bound=BaseModel)


def write(folder: Path, record: Record, predictions: pd.DataFrame) -> None:
    """Write the predictions, then the record that vouches for them.

    ``predictions`` has the columns id, group, source, label, p_negative, p_neutral, p_positive.

    Raises:
        InputError: the record's baseline is known in this fold and its weights are others than
            those that ``record.baseline_sha256`` names.
    """
    if record.baseline is not None:
        check_baseline(folder, record, read(folder, variant=record.baseline, fold=record.fold))
    columns = [*SENTENCE_COLUMNS, *PROBABILITIES]
    table = predictions[columns].to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_text(folder / "predictions" / f"{record.stem}.csv", table)
    write_text(folder / "records" / f"{record.stem}.json", record.model_dump_json(indent=1) + "\n")


def check_baseline(folder: Path, record: Record, others: list[Record]) -> None:
    """Refuse a record that was made from other weights than its baseline's in ``others`` are."""
    known = [
        one.weights_sha256
        for one in others
        if (one.variant, one.fold) == (record.baseline, record.fold) and one.weights_sha256
    ]
    if known and record.baseline_sha256 and record.baseline_sha256 not in known:
        raise InputError(
            f"{record.variant} (fold {record.fold}) was made from {record.baseline} with weights "
            f"{record.baseline_sha256[:12]}, but the record of {record.baseline} in {folder} names "
            f"{known[0][:12]}: run the chapter of {record.variant} again"
        )


def read(
    folder: Path, *, variant: str = "*", fold: int | str = "*", seed: int | str = "*"
) -> list[Record]:
    """Read the records below ``folder``, in the order of their names.

    Raises:
        InputError: a file is no record.
    """
    return _parsed(Record, (folder / "records").glob(f"{variant}.fold{fold}.seed{seed}.json"))


def write_sweep(folder: Path, sweep: Sweep, table: pd.DataFrame) -> None:
    """Write a sweep's table, then the JSON that vouches for it.

    ``table`` has the columns id, group, source, label and one for each point: the predicted class.

    Raises:
        InputError: columns, rows or classes are not those of a sweep.
    """
    columns = [*SENTENCE_COLUMNS, *sweep.points]
    if len({*curves.KEYS, *sweep.points}) < len(curves.KEYS) + len(sweep.points):
        raise InputError(
            f"sweep {sweep.stem} names a point twice, or like a column that is none "
            f"({', '.join(curves.KEYS)}): name each point once"
        )
    if sorted(table.columns) != sorted(columns) or len(table) != sweep.n:
        differ = sorted(set(table.columns) ^ set(columns))
        raise InputError(
            f"sweep {sweep.stem} names {sweep.n} sentences, its table has {len(table)} (columns "
            f"that only one of them has: {', '.join(differ) or 'none'}): pass them as they are"
        )
    classes = table[["label", *sweep.points]]
    if not classes.isin(range(stats.CLASSES)).all(axis=None):
        raise InputError(f"sweep {sweep.stem} holds a class that is not 0, 1 or 2: pass class ids")
    whole = table[columns].astype(dict.fromkeys(classes, int))
    text = whole.to_csv(index=False, lineterminator="\n")
    write_text(folder / "sweeps" / f"{sweep.stem}.csv", text)
    write_text(folder / "sweeps" / f"{sweep.stem}.json", sweep.model_dump_json(indent=1) + "\n")


def read_sweeps(folder: Path, name: str = "*", fold: int | str = "*") -> list[Sweep]:
    """Read the sweeps below ``folder``, in the order of their names.

    Raises:
        InputError: a file is no sweep.
    """
    return _parsed(Sweep, (folder / "sweeps").glob(f"{name}.fold{fold}.seed*.json"))


def write_finding(folder: Path, finding: Finding) -> None:
    """Write what was found on a claim, in place of what this fold had found before."""
    path = folder / "findings" / f"{finding.stem}.json"
    write_text(path, finding.model_dump_json(indent=1) + "\n")


def read_findings(folder: Path, claim: str = "*", fold: int | str = "*") -> list[Finding]:
    """Read the findings below ``folder``, in the order of their names.

    Raises:
        InputError: a file is no finding.
    """
    return _parsed(Finding, (folder / "findings").glob(f"{claim}.fold{fold}.json"))


def write_measures(folder: Path, read_off: Iterable[Measure]) -> None:
    """Write what the ruler read, one file a variant, in place of all that it had read before."""
    texts = {f"{one.variant}.json": one.model_dump_json(indent=1) + "\n" for one in read_off}
    for path in (folder / "measures").glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        write_text(folder / "measures" / name, text)


def left_by(folder: Path, chapter: str, fold: int) -> list[Result]:
    """Records, sweeps and findings that a chapter left on a fold."""
    every = (read, read_sweeps, read_findings)
    return [one for kind in every for one in kind(folder, fold=fold) if one.chapter == chapter]


def chosen(folder: Path, chapter: str) -> dict[str, Any]:
    """Parameters that ``chapter`` chose for all folds, by name; empty where it left none.

    They are the table `chosen` of fold 0: columns parameter, value as JSON.
    """
    path = folder / "tables" / "fold0" / f"{chapter}-chosen.csv"
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype=str)
    return {name: json.loads(text) for name, text in table[["parameter", "value"]].to_numpy()}


def measures(folder: Path) -> pd.DataFrame:
    """What the ruler read, one row a variant; empty before chapter 7 has run."""
    rows = [
        Measure.model_validate_json(path.read_text(encoding="utf-8")).model_dump()
        for path in sorted((folder / "measures").glob("*.json"))
    ]
    return pd.DataFrame(rows, columns=list(Measure.model_fields))


def remove(folder: Path, result: Result) -> None:
    """Remove a record, a sweep or a finding, and the table that it vouches for."""
    kind = type(result)
    (folder / FOLDERS[kind] / f"{result.stem}.json").unlink()
    if kind in TABLES:
        (folder / TABLES[kind] / f"{result.stem}.csv").unlink(missing_ok=True)


def read_table(path: Path, chapter: str) -> pd.DataFrame:
    """A table of sentences, as it was written or as `headcount.study.publish` packs it."""
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and not packed.exists():
        raise InputError(f"{path} is missing: run chapter {chapter} again")
    table = pd.read_csv(path if path.exists() else packed, dtype={"id": str, "source": str})
    return table.copy()  # in one block: a column for each of many points makes as many


def _parsed(kind: type[Kind], paths: Iterable[Path]) -> list[Kind]:
    found = []
    for path in sorted(paths):
        try:
            found.append(kind.model_validate_json(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{path} is no {kind.__name__.lower()} "
                f"({'.'.join(map(str, first['loc']))}: {first['msg']}): "
                "delete it and run its chapter again"
            ) from None
    return found
