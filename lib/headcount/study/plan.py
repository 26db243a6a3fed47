"""What a study will run: a profile, the command line and the chapters' own parameters, checked."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import yaml

from headcount.errors import InputError
from headcount.parameters import DATA_VARIABLE, check_names, check_type, check_writable, known
from headcount.parameters import literals as assigned
from headcount.records import write_text
from headcount.study import graph

NOTEBOOKS = Path("notebooks")
PROFILES = NOTEBOOKS / "profiles"
# The runner's own to give, and how to say it.
RESERVED = {
    "profile": "--profile",
    "fold": "--folds",
    "data_dir": "--data",
    "threads": "--cores",
    "work": "--profile",
    "artifacts": "--profile",
}

NEED_TUNE_PART = {"03b_recipes"}  # the seed study's split has none
READ_IN_EVERY_FOLD = {"03b_recipes": "03_distillation"}  # runs once: by whom it is read


@dataclass(frozen=True)
class Plan:
    """A study, checked.

    Attributes:
        chapters: by chapter, the parameters that the profile or the command line sets.
        values: by chapter, all its parameters, those left at their defaults included.
        data: a folder with the publishers' files, or None for the Hub.
        jobs: chapters that run at the same time; the cores are divided among them.
    """

    profile: str
    folds: list[int]
    chapters: dict[str, dict[str, Any]]
    values: dict[str, dict[str, Any]]
    data: str | None
    cores: int
    jobs: int

    @property
    def work(self) -> Path:
        """Where the results grow."""
        return Path("work") / self.profile

    @property
    def artifacts(self) -> Path:
        """Where sentences, models and checkpoints are kept."""
        return Path("artifacts") / self.profile

    @property
    def pairs(self) -> list[graph.Job]:
        """Every chapter on every fold that it runs on."""
        return graph.jobs(self.chapters, self.folds)

    def parameters(self, chapter: str) -> dict[str, Any]:
        """What papermill is given for ``chapter``, fold and machine apart."""
        places = {"work": self.work.as_posix(), "artifacts": self.artifacts.as_posix()}
        return {"profile": self.profile} | places | self.chapters[chapter]

    def text(self, chapter: str) -> str:
        """The parameters file of ``chapter``, as YAML."""
        return yaml.safe_dump(self.parameters(chapter), sort_keys=False, allow_unicode=True)

    def config(self) -> str:
        """What the Snakefile needs to know, as YAML."""
        study = {"profile": self.profile, "folds": self.folds, "chapters": list(self.chapters)}
        study |= {"jobs": self.jobs}
        return yaml.safe_dump(study, sort_keys=False)


def make(
    profile: str,
    *,
    folds: list[int] | None = None,
    data: str | None = None,
    cores: int = 1,
    jobs: int = 1,
    given: dict[str, str] | None = None,
    without: list[str] | None = None,
) -> Plan:
    """Read a profile and check all that can be checked without data or model.

    Args:
        folds: instead of the profile's.
        data: a folder with the publishers' files; HEADCOUNT_DATA stands for one that is not given.
        given: parameters from the command line, as typed; they beat the profile's.
        without: chapters that do not run, besides those that the profile leaves out.

    Raises:
        InputError: an unknown profile, part, parameter or fold, or a value of a wrong type.
    """
    declared = declared_parameters()
    parts = read_profile(profile, declared)
    where = f"profile {profile}"
    study = parts.pop("study", {})
    check_names(study, ["folds", "without"], f"{where}, part study,")
    everywhere = parts.pop("all", {})
    check_all(everywhere, declared, f"{where}, part all,")
    given = {name: yaml.safe_load(text) for name, text in (given or {}).items()}
    check_all(given, declared, "-p: the study")

    source = "--data"
    if data is None:  # as for the chapters, so that what is checked is what they will read
        source, data = DATA_VARIABLE, os.environ.get(DATA_VARIABLE) or None
    left_out = study.get("without", [])
    chosen = [
        part["protocol"] for part in (given, everywhere, *parts.values()) if "protocol" in part
    ]
    if not isinstance(left_out, list):
        raise InputError(f"{where}, part study, without {left_out!r}: give a list of chapters")
    for place, names in {
        f"{where}, part study, without": left_out,
        "--without": without or [],
    }.items():
        for chapter in names:
            known(chapter, list(declared), f"{place}: unknown chapter")
    left_out = {*left_out, *(without or [])}
    chapters, values = {}, {}
    for chapter, defaults in declared.items():
        own = parts.get(chapter, {})
        check_all(own, {chapter: defaults}, f"{where}, part {chapter},")
        if chapter in left_out or (chapter in NEED_TUNE_PART and chosen[:1] == ["seed"]):
            continue
        merged = {
            name: typed(name, value, defaults[name], "-p" if name in given else where)
            for name, value in (everywhere | own | given).items()
            if name in defaults
        }
        chapters[chapter] = merged
        values[chapter] = defaults | merged | {"data_dir": data}
    folds = check_folds(study.get("folds", [0]) if folds is None else folds, values)
    if cores < 1:
        raise InputError(f"--cores {cores}: a study needs one core or more")
    if not 1 <= jobs <= cores:
        raise InputError(f"--jobs {jobs}: give 1 to {cores}, the number of cores")
    if data is not None and not Path(data).is_dir():
        raise InputError(f"{source} {data}: there is no such folder; give the publishers' files'")
    return Plan(profile, folds, chapters, values, data, cores, jobs)


def declared_parameters(folder: Path = NOTEBOOKS) -> dict[str, dict[str, Any]]:
    """By chapter, the names and defaults in its cell tagged ``parameters``."""
    sources = sorted(folder.glob("[0-9][0-9]*_*.py"))
    if not sources or not Path("Snakefile").exists():
        raise InputError("no Snakefile and chapters here: run this in the repository's root")
    found = {}
    for source in sources:
        cells = [
            c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", ())
        ]
        if len(cells) != 1 or not (names := assigned(cells[0].source)):
            raise InputError(
                f"{source}: {len(cells)} cells are tagged parameters: tag the one that assigns them"
            )
        found[source.stem] = names
    return found


def profiles() -> list[str]:
    """Names of the profiles there are."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def read_profile(name: str, chapters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parts of a profile: ``study``, ``all`` and chapters."""
    known(name, profiles(), "unknown profile")
    path = PROFILES / f"{name}.yaml"
    try:
        parts = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path} is no YAML: {line}: mend it") from None
    if not isinstance(parts, dict):
        raise InputError(f"{path}: write parts such as `all:` with names and values in them")
    for part, names in parts.items():
        known(str(part), ["study", "all", *chapters], f"{path}: unknown part")
        if not isinstance(names, dict):
            raise InputError(f"{path}, part {part}: write `name: value` lines in it")
    return parts


def check_all(given: dict[str, Any], declared: dict[str, dict[str, Any]], where: str) -> None:
    """Refuse names that no chapter has, and those that are the runner's own."""
    for name in given:
        if name in RESERVED:
            raise InputError(f"{where} does not take {name!r}: use {RESERVED[name]}")
    check_names(given, {n for names in declared.values() for n in names} - set(RESERVED), where)


def typed(name: str, value: Any, default: Any, where: str) -> Any:
    """``value`` if it has the default's type; YAML's 5e-5, a string by its rules, is a float."""
    if isinstance(default, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(default, str) and isinstance(value, (int, float)):
        value = str(value)
    check_type(name, value, default, where)
    return value


def check_folds(folds: Any, values: dict[str, dict[str, Any]]) -> list[int]:
    """Folds in order, without repeats.

    Raises:
        InputError: not whole numbers, out of range, or without fold 0, on which the benchmark and
            the published notebooks rest.
    """
    n_folds = next((v["n_folds"] for v in values.values() if "n_folds" in v), 5)
    if any(v.get("protocol") == "seed" for v in values.values()):
        n_folds = 1  # the seed study's own split
    if not isinstance(folds, list) or not all(type(fold) is int for fold in folds):
        raise InputError(f"folds {folds!r}: give whole numbers such as [0, 1]")
    for fold in folds:
        if not 0 <= fold < n_folds:
            raise InputError(f"fold {fold} is out of range: choose from 0 to {n_folds - 1}")
    if 0 not in folds:
        raise InputError(f"folds {folds}: add fold 0, which is benchmarked and published")
    return sorted(set(folds))


def check_inputs(plan: Plan) -> None:
    """Refuse a study whose folders, data or weights are not to be had, before it trains."""
    for folder in (plan.work, plan.artifacts, Path("reports")):
        check_writable(folder)
    for values in plan.values.values():
        if "corpus" in values:
            from headcount import data

            data.check(values)
            break
    for values in plan.values.values():
        if "model" in values:
            from headcount import models

            models.check(values)
            break


def write(plan: Plan) -> None:
    """Write the parameters files whose content changes, and the Snakefile's configuration.

    Raises:
        InputError: a fold that is not part of this run was made with other parameters: the report
            would pool what cannot be pooled. A chapter that runs once and that others read in every
            fold counts for every fold.
    """
    folder = plan.work / "parameters"
    texts = {folder / f"{chapter}.yaml": plan.text(chapter) for chapter in plan.chapters}
    changed = {
        path: text
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    readers = {next(iter(plan.chapters)): "*"} | READ_IN_EVERY_FOLD
    for path in changed:
        made = plan.artifacts.glob(f"fold*/{readers.get(path.stem, path.stem)}.done")
        folds = {int(done.parent.name.removeprefix("fold")) for done in made}
        left = sorted(folds - set(plan.folds))
        if left and path.exists():
            raise InputError(
                f"fold {', '.join(map(str, left))} was run with other parameters of {path.stem}: "
                f"run these folds too (--folds), or remove {plan.work} and {plan.artifacts}, and "
                "the copy of the study if there is one (--backup)"
            )
    for path, text in changed.items():
        write_text(path, text)
    write_text(plan.work / "study.yaml", plan.config())
