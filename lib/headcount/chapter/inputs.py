"""What a chapter finds: the study's facts and sentences, others' models and records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import transformers

from headcount import data, models, records
from headcount.errors import InputError
from headcount.parameters import check_names


@dataclass
class Inputs:
    """One chapter on one fold with one seed, and all that it reads."""

    chapter: str
    parameters: dict[str, Any]
    profile: str
    work: Path
    artifacts: Path
    data_dir: Path | None
    fold: int
    seed: int
    threads: int
    device: str
    precision: str
    _files: list[Path] = field(default_factory=list)
    _scored: set[str] = field(default_factory=set)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What chapter 1 settled for the whole study (see :func:`headcount.data.save`)."""
        return data.load_facts(self.artifacts / "data")

    @property
    def caveats(self) -> list[str]:
        """What has to be said wherever this study's numbers stand."""
        told = {
            "The sentences are synthetic: a grammar made them.": self.mark,
            "The pretrained teacher may have seen the test sentences: its scores are no verdict on "
            "anything.": self._settled.get("teacher_saw_test"),
        }
        return [caveat for caveat, holds in told.items() if holds]

    @property
    def mark(self) -> str:
        """What titles and verdicts about synthetic sentences end with; else nothing."""
        corpus = self.parameters.get("corpus", self._settled.get("corpus"))  # chapter 1 chooses it
        return " (synthetic corpus)" if corpus == "synthetic" else ""

    @cached_property
    def _settled(self) -> dict[str, Any]:
        """The facts; empty where a report is made of records alone."""
        return data.load_facts(self.artifacts / "data", missing_ok=True)

    def check_machine(self) -> None:
        """Refuse to go on with a study that another kind of machine began.

        Its records could not be pooled, which would be found when the report is made. Whoever
        begins a fold anew may, and the report is made of records wherever it is.

        Raises:
            InputError: other folds, or this one's teacher, were trained on another kind of device,
                or in another precision.
        """
        teachers = records.read(self.work, variant="teacher")
        if self.chapter in ("01_data", "08_report"):
            teachers = []
        elif self.chapter == "02_teacher":
            teachers = [one for one in teachers if one.fold != self.fold]
        records.check_trained_on(
            self.work,
            teachers,
            (self.device, self.precision),
            f"go on where it began, or remove {self.work} and {self.artifacts} and begin again",
        )

    def sentences(self) -> pd.DataFrame:
        """All labelled sentences with their groups and folds, as chapter 1 left them."""
        return data.load(self.artifacts / "data")

    def elsewhere(self) -> pd.DataFrame:
        """Labelled sentences from outside the study's domain, near none of those within."""
        found = data.elsewhere(data.load(self.artifacts / "data", "others"))
        if self.mark:  # all synthetic sentences are of a few families
            return found
        return found[~found["group"].isin(self.sentences()["group"])]

    def domain_texts(self) -> list[str]:
        """Sentences of the domain on which no model of this fold is judged.

        They are its training part, and of `data.beside` those that are not Twitter's.
        """
        others = data.beside(data.load(self.artifacts / "data", "others"), self.sentences())
        others = others[~others["source"].str.startswith("twitter")]
        return [*self.split().train["text"], *others["text"]]

    def split(self) -> data.Split:
        """Train, validation and test part of this run's fold."""
        return self._parts

    @cached_property
    def _parts(self) -> data.Split:
        return data.split(self.sentences(), self.fold, protocol=self.facts["protocol"])

    def tokenizer(self) -> transformers.PreTrainedTokenizerBase:
        """The study's tokenizer, as chapter 1 left it."""
        return models.load_tokenizer(self.artifacts / "data" / "tokenizer")

    def tokenize(
        self, frame: pd.DataFrame, tokenizer: transformers.PreTrainedTokenizerBase | None = None
    ) -> data.Tokenized:
        """Tokenise a part, with the study's tokenizer by default, cut at its greatest length."""
        tokenizer = tokenizer or self.tokenizer()
        return data.tokenize(frame["text"], frame["label"], tokenizer, self.facts["max_length"])

    def model_folder(self, variant: str, *, seed: int | None = None) -> Path:
        """Where the model of ``variant`` of this fold and seed (this run's by default) is kept."""
        seed = self.seed if seed is None else seed
        name = variant if seed == 0 else f"{variant}.seed{seed}"
        return self.artifacts / f"fold{self.fold}" / name

    def load(self, variant: str) -> transformers.PreTrainedModel:
        """Load the model of ``variant`` of this fold, of this run's seed or else of seed 0.

        Raises:
            InputError: there is none, or its weights are not those that its record names.
        """
        record = self.record(variant)
        folder = self.model_folder(variant, seed=record.seed)
        if not folder.exists():  # lost, or its record was taken as published
            done = self.artifacts / f"fold{self.fold}" / f"{record.chapter}.done"
            raise InputError(f"{folder} is not here: remove {done}, and run the study again")
        model, _ = models.load(folder)
        if models.weights_sha256(model) != record.weights_sha256:
            raise InputError(
                f"{folder} holds other weights than its record in {self.work} names: run chapter "
                f"{record.chapter} of fold {self.fold} again"
            )
        return model.to(self.device)

    def record(self, variant: str, *, seed: int | None = None) -> records.Record:
        """The record of ``variant`` of this fold.

        By default of this run's seed, else of the chapter's own, else of 0.
        """
        own = [self.seed, self.parameters["seed"], 0]
        for number in dict.fromkeys(own if seed is None else [seed]):
            if found := records.read(self.work, variant=variant, fold=self.fold, seed=number):
                return found[0]
        raise InputError(
            f"no record of {variant} for fold {self.fold} in {self.work}: run its chapter first"
        )

    def has(self, variant: str) -> bool:
        """Whether there is a record of ``variant`` for this fold."""
        return bool(records.read(self.work, variant=variant, fold=self.fold))

    def chosen(self, chapter: str) -> dict[str, Any]:
        """This run's parameters, with those that ``chapter`` chose for all folds in their place.

        Where it has not run, they are as they are. Records name what was used.

        Raises:
            InputError: it chose what this chapter does not have, or has run and chose nothing.
        """
        if (self.artifacts / "fold0" / f"{chapter}.done").exists():
            values = records.chosen(self.work, chapter)
            if not values:
                raise InputError(f"{self.work} does not say what {chapter} chose: run it again")
            check_names(values, self.parameters, f"what {chapter} chose: {self.chapter}")
            self.parameters |= values
        return self.parameters

    def at(self, seed: int) -> Self:
        """This run with another seed for its trainings; what it writes counts as this one's."""
        return dataclasses.replace(self, seed=seed)
