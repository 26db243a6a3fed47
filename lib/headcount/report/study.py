"""What a folder of records says about the study as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headcount import records
from headcount.errors import InputError

SOURCES = {
    "phrasebank": "Financial PhraseBank",
    "fiqa": "FiQA 2018",
    "twitter": "Twitter financial news",
    "synthetic": "the synthetic corpus",
}


@dataclass(frozen=True)
class Study:
    """Facts about one study, all of them read from its records.

    Attributes:
        name: the profile.
        model: the teacher's name, as the chapters' parameter `model` has it.
        sources: where the test sentences come from, in words.
        synthetic: whether a grammar made the test sentences.
        sentences: distinct test sentences.
    """

    name: str
    model: str
    sources: str
    synthetic: bool
    teacher_saw_test: bool
    folds: tuple[int, ...]
    sentences: int
    records: tuple[records.Record, ...]

    @property
    def mark(self) -> str:
        """What every title and heading about synthetic sentences ends with; else nothing."""
        return " (synthetic corpus)" if self.synthetic else ""

    @property
    def line(self) -> str:
        """The study in one sentence, for the top of a page."""
        folds = f"folds {', '.join(map(str, self.folds))}" if len(self.folds) > 1 else "one fold"
        text = (
            f"Profile `{self.name}`: teacher `{self.model}`, {self.sentences:,} test sentences of "
            f"{self.sources}, {folds}."
        )
        if self.synthetic:
            text += " **The sentences are synthetic**: a grammar made them, so these numbers say "
            text += "nothing about real financial text."
        if self.teacher_saw_test:
            text += " **The teacher had seen test sentences in its training**: no verdict rests on "
            text += "these rows."
        return text


def describe(folder: Path) -> Study:
    """Read the facts of the study in `folder`.

    Raises:
        InputError: there are no test records, or they belong to several studies.
    """
    found = [record for record in records.read(folder) if record.split == "test"]
    names = sorted({record.study for record in found})
    records.check_one_study(folder, found)
    if len(names) != 1:
        what = f"records of {len(names)} studies ({', '.join(names)})" if names else "no records"
        raise InputError(f"{folder} holds {what}: name the folder of one study that has run")
    if not (model := found[0].provenance.config.get("model")):
        raise InputError(f"{folder} holds records that do not name their teacher: run it again")
    tested = records.predictions(folder, _widest(found))
    sources = sorted(set(tested["source"]), key=[*SOURCES, *set(tested["source"])].index)
    return Study(
        name=names[0],
        model=model,
        sources=" and ".join(SOURCES.get(source, source) for source in sources),
        synthetic="synthetic" in sources,
        teacher_saw_test=any(record.teacher_saw_test for record in found),
        folds=tuple(sorted({record.fold for record in found})),
        sentences=tested["id"].nunique(),
        records=tuple(found),
    )


def _widest(found: list[records.Record]) -> str:
    """A variant that was scored on as many folds as any."""
    folds: dict[str, set[int]] = {}
    for record in found:
        folds.setdefault(record.variant, set()).add(record.fold)
    return max(folds, key=lambda variant: len(folds[variant]))
