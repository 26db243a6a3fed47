"""What every chapter does in the same way: open, find its inputs, leave its results, close.

A chapter knows nothing of the others' variables. It reads what they left in two folders, and so
does the report:

- ``work/<profile>``: records, predictions, figures, tables; published as they stand.
- ``artifacts/<profile>``: sentences and models; never in git.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import scipy.special
import torch
import transformers
from IPython.display import Image, display

from headcount import (
    bench,
    claims,
    colab,
    curves,
    data,
    distill,
    export,
    models,
    plots,
    records,
    stats,
    train,
)
from headcount.errors import InputError
from headcount.parameters import (
    DATA_VARIABLE,
    LOG_VARIABLE,
    check_names,
    check_type,
    check_writable,
    literals,
)

log = logging.getLogger("headcount")

COMMON = ("profile", "work", "artifacts", "data_dir", "fold", "seed", "threads")
"""Parameters that every chapter has."""


@dataclass
class Run:
    """One chapter on one fold with one seed; made by :func:`begin`."""

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

    def training_folder(self, variant: str) -> Path:
        """Where a training of this fold keeps its checkpoints."""
        return self.artifacts / f"fold{self.fold}" / "training" / self.model_folder(variant).name

    def load(self, variant: str) -> transformers.PreTrainedModel:
        """Load the model of ``variant`` of this fold, of this run's seed or else of seed 0.

        Raises:
            InputError: there is none, or its weights are not those that its record names.
        """
        record = self.record(variant)
        folder = self.model_folder(variant, seed=record.seed)
        model, _ = models.load(folder)
        if models.weights_sha256(model) != record.weights_sha256:
            raise InputError(
                f"{folder} holds other weights than its record in {self.work} names: run chapter "
                f"{record.chapter} of fold {self.fold} again"
            )
        return model.to(self.device)

    def save(
        self,
        variant: str,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
    ) -> Path:
        """Save a model with its tokenizer, the study's by default; returns the folder."""
        folder = self.model_folder(variant)
        models.save(model, tokenizer or self.tokenizer(), folder)
        return folder

    def deploy(
        self,
        variant: str,
        model: transformers.PreTrainedModel,
        *,
        int8: bool = False,
        precision: str | None = None,
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
        onnx_file: Path | None = None,
    ) -> Path:
        """Write a model as a folder that runs without torch: see `export.deployable`."""
        return export.deployable(
            self.model_folder(variant),
            model.cpu(),
            tokenizer or self.tokenizer(),
            int8=int8,
            precision=precision,
            name=variant,
            max_length=self.facts["max_length"],
            onnx_file=onnx_file,
        )

    def fit(
        self,
        variant: str,
        model: transformers.PreTrainedModel,
        recipe: train.Recipe,
        *,
        objective: distill.Objective | None = None,
        frame: pd.DataFrame | None = None,
        validation: pd.DataFrame | None = None,
    ) -> train.Fitted:
        """Train on this fold's training part, or on ``frame``; see :func:`headcount.train.fit`.

        This fold's validation part, or ``validation``, is scored after each epoch, for the curves.
        """
        parts = self.split()
        return train.fit(
            model,
            self.tokenize(parts.train if frame is None else frame),
            recipe,
            self.training_folder(variant),
            tokenizer=self.tokenizer(),
            objective=objective,
            validation=self.tokenize(parts.validation if validation is None else validation),
            name=variant,
        )

    def distil(
        self,
        variant: str,
        model: transformers.PreTrainedModel,
        recipe: train.Recipe,
        objective: distill.Objective,
        frame: pd.DataFrame | None = None,
        validation: pd.DataFrame | None = None,
    ) -> train.Fitted:
        """Train a student: as `fit`, with projections for layer losses while it is trained."""
        if isinstance(objective, distill.LayerLosses):
            self.project(model, objective)
        fitted = self.fit(
            variant, model, recipe, objective=objective, frame=frame, validation=validation
        )
        distill.detach_projections(fitted.model)
        return dataclasses.replace(fitted, weights_sha256=models.weights_sha256(fitted.model))

    def project(self, model: transformers.PreTrainedModel, objective: distill.LayerLosses) -> None:
        """Give a student the projections that layer losses need where widths differ."""
        distill.attach_projections(
            model,
            objective.states.width,
            objective.layer_map,
            embeddings=objective.embedding_weight > 0,
            seed=self.seed,
        )

    def balanced(
        self,
        objective: distill.LayerLosses,
        model: transformers.PreTrainedModel,
        frame: pd.DataFrame,
        share: float,
    ) -> distill.LayerLosses:
        """The objective with weights so that each term starts as ``share`` of the prediction loss.

        Measured on eight batches of ``frame``, for ``model``, which is not trained and not needed
        afterwards; see :func:`headcount.distill.balanced`.
        """
        self.project(model, objective)
        probe = self.batches(self.tokenize(frame))[:8]
        return distill.balanced(objective, model, probe, share)

    def with_transfer(
        self, frame: pd.DataFrame, logits: np.ndarray, teacher: Any, n: int
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """``frame`` and the teacher's logits of it, with ``n`` unlabelled sentences appended."""
        if not n:
            return frame, logits
        others = data.load(self.artifacts / "data", "others")
        more = data.transfer(others, self.sentences(), n).assign(label=distill.UNLABELLED)
        both = pd.concat([frame, more], ignore_index=True)
        return both, np.concatenate([logits, self.predict(teacher, more)])

    def states(
        self,
        teacher: transformers.PreTrainedModel,
        frame: pd.DataFrame,
        layers: Iterable[int],
        kind: str,
    ) -> distill.Cached:
        """The teacher's side of layer losses on ``frame``, kept on disk until it is closed."""
        folder = self.artifacts / f"fold{self.fold}" / "training"
        return distill.Cached(teacher, self.tokenize(frame), layers, kind, folder)

    def batches(
        self, tokens: data.Tokenized, rows: np.ndarray | None = None
    ) -> list[dict[str, torch.Tensor]]:
        """Batches of like length of a tokenised part, or of some of its rows, to score heads on."""
        rows = np.arange(len(tokens)) if rows is None else rows
        order = train.LikeLengthBatches(tokens.lengths[rows], self.parameters["batch_size"], seed=0)
        pad = self.tokenizer().pad_token_id
        return [data.collate([tokens[int(rows[i])] for i in chosen], pad) for chosen in order]

    def losses(self, model: transformers.PreTrainedModel, frame: pd.DataFrame) -> np.ndarray:
        """Cross-entropy of each of ``frame``'s sentences, in nats, float32 (n,)."""
        logits = torch.from_numpy(self.predict(model, frame))
        labels = torch.tensor(frame["label"].to_numpy())
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()

    def predict(
        self,
        model: transformers.PreTrainedModel,
        frame: pd.DataFrame,
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
    ) -> np.ndarray:
        """Logits (n, 3) of ``frame``'s sentences, in its order."""
        tokenizer = tokenizer or self.tokenizer()
        return train.predict(model, self.tokenize(frame, tokenizer), tokenizer)

    def score(
        self,
        variant: str,
        logits: np.ndarray,
        frame: pd.DataFrame,
        *,
        model: transformers.PreTrainedModel | None = None,
        folder: Path | None = None,
        sizes: dict[str, int] | None = None,
        size_mb: float | None = None,
        baseline: str | None = None,
        baseline_sha256: str | None = None,
        fitted: train.Fitted | None = None,
        runtime: str = "torch",
        precision: str = "fp32",
        split: str = "test",
        config: dict[str, Any] | None = None,
    ) -> records.Record:
        """Write the record and the predictions of one variant; returns the record.

        Args:
            logits: (n, 3), in the order of ``frame``.
            frame: the scored part, with the columns id, group, source and label.
            model: tells parameters, heads, MACs and the weights' hash.
            folder: the model as it would be shipped; tells the size.
            sizes: parameters and heads where there is no ``model`` (ONNX).
            size_mb: 10^6 bytes where there is no ``folder``.
            baseline: the variant that this one is compared with.
            baseline_sha256: its weights as used here; by default those of its record.
            fitted: tells seconds and steps.
        """
        if len(logits) != len(frame):
            raise ValueError(f"{variant}: {len(logits)} predictions for {len(frame)} sentences")
        logits = np.asarray(logits, dtype=np.float64)
        if not np.isfinite(logits).all():
            raise ValueError(f"{variant}: a prediction is not finite")
        probabilities = scipy.special.softmax(logits, axis=1)
        if model is not None:
            sizes = models.sizes(model) | {
                "macs": models.macs(model, round(self.facts["mean_tokens"]))
            }
        if folder is not None:
            size_mb = models.size_mb(folder)
        if baseline is not None and baseline_sha256 is None:
            baseline_sha256 = self.record(baseline).weights_sha256
        record = records.Record(
            study=self.profile,
            chapter=self.chapter,
            variant=variant,
            baseline=baseline,
            fold=self.fold,
            seed=self.seed,
            split=split,
            n=len(frame),
            **records.scores(frame["label"].to_numpy(), probabilities),
            **(sizes or {}),
            size_mb=size_mb,
            train_seconds=None if fitted is None else fitted.seconds,
            steps=None if fitted is None else fitted.steps,
            device=device_name(self.device) if runtime in ("torch", "simulated") else "cpu",
            precision=precision,
            runtime=runtime,
            teacher_saw_test=self.facts["teacher_saw_test"],
            weights_sha256=None if model is None else models.weights_sha256(model),
            baseline_sha256=baseline_sha256,
            provenance=self.provenance(config),
        )
        predictions = frame[["id", "group", "source", "label"]].assign(
            **dict(zip(records.PROBABILITIES, probabilities.T, strict=True))
        )
        records.write(self.work, record, predictions)
        self._scored.add(record.stem)
        log.info("%s: %s macro-F1 %.4f", variant, split, record.macro_f1)
        return record

    def ship(
        self,
        variant: str,
        model: transformers.PreTrainedModel,
        precision: str,
        *,
        baseline: str,
        tokenizer: transformers.PreTrainedTokenizerBase | None = None,
        onnx_file: Path | None = None,
        fitted: train.Fitted | None = None,
        config: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Deploy a model, and score and record it on the test part as its folder answers.

        The folder's README gets what was measured. Returns its logits (n, 3).

        Args:
            precision: one of `export.PRECISIONS`.
            baseline, fitted, config: as in `score`.
        """
        test = self.split().test
        folder = self.deploy(
            variant, model, precision=precision, tokenizer=tokenizer, onnx_file=onnx_file
        )
        ids = self.tokenize(test, tokenizer).input_ids
        logits = export.OnnxClassifier(folder, self.threads).logits(ids)
        sizes = models.sizes(model) | {"macs": models.macs(model, round(self.facts["mean_tokens"]))}
        self.score(
            variant,
            logits,
            test,
            folder=folder,
            sizes=sizes,
            baseline=baseline,
            fitted=fitted,
            runtime="onnxruntime",
            precision=precision.partition("-")[0],  # int8-weights is int8
            config=config,
        )
        self.describe(variant, logits, self.record(baseline))
        return logits

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

    def standings(self, variants: Sequence[str] | None = None) -> pd.DataFrame:
        """Test macro-F1 of this fold with its 95 % interval: of ``variants``, or of all so far.

        Columns: variant, n, macro_f1, ci_low, ci_high, params, size_mb.
        """
        rows = []
        for record in records.read(self.work, fold=self.fold, seed=self.seed):
            if record.split == "test" and (variants is None or record.variant in variants):
                row = {"variant": record.variant, "params": record.params}
                row |= {"size_mb": record.size_mb}
                rows.append(row | records.interval(self.work, record.variant, fold=self.fold))
        frame = pd.DataFrame(rows)[
            ["variant", "n", "macro_f1", "ci_low", "ci_high", "params", "size_mb"]
        ]
        if variants is not None:
            return frame.set_index("variant").loc[list(variants)].reset_index()
        return frame.sort_values("macro_f1", ignore_index=True)

    def contrast(self, variant: str, baseline: str) -> stats.Difference:
        """Paired difference in macro-F1 on this fold's test part, ``variant`` minus ``baseline``.

        One fold decides little; the report pools them all.
        """
        return records.contrast(self.work, variant, baseline, fold=self.fold)

    def verdict(self, claim: str, difference: stats.Difference) -> str:
        """The verdict on a claim, by its id, on this fold alone."""
        saw_test = self.facts["teacher_saw_test"]
        return claims.verdict(claims.BY_ID[claim], difference, saw_test=saw_test) + self.mark

    def settle(self, claim: str) -> stats.Difference:
        """What the evidence of a claim says on this fold alone.

        Raises:
            InputError: it has not run here.
        """
        settled = self._settled_claim(claims.BY_ID[claim])
        if settled is None:
            raise InputError(f"{claim} cannot be judged in {self.work}: its evidence has not run")
        return settled[0]

    def _settled_claim(self, claim: claims.Claim) -> claims.Settled | None:
        saw_test = self.facts["teacher_saw_test"]
        return claims.settle(claim, self.work, saw_test=saw_test, fold=self.fold)

    def verdicts(self, ids: Sequence[str]) -> pd.DataFrame:
        """Verdicts on this fold alone, of those claims whose evidence has run.

        Columns: claim, verdict here, difference, low, high (95 %), unit.
        """
        rows = []
        for claim in (claims.BY_ID[name] for name in ids):
            if (settled := self._settled_claim(claim)) is None:
                continue
            difference, named = settled
            scale = claims.SCALES[named["unit"]]
            rows.append(
                {
                    "claim": f"{claim.id}: {claim.text}",
                    "verdict here": named["verdict"] + self.mark,
                    "difference": scale * difference.diff,
                    "low": scale * difference.low,
                    "high": scale * difference.high,
                    "unit": named["unit"],
                }
            )
        columns = ["claim", "verdict here", "difference", "low", "high", "unit"]
        return pd.DataFrame(rows, columns=columns)

    def chosen(self, chapter: str) -> dict[str, Any]:
        """This run's parameters, with those that ``chapter`` chose for all folds in their place.

        Read from the table `chosen` that it left on fold 0 (columns parameter, value as JSON);
        where it has not run, they are as they are. Records name what was used.
        """
        path = self.work / "tables" / "fold0" / f"{chapter}-chosen.csv"
        if (self.artifacts / "fold0" / f"{chapter}.done").exists():
            table = pd.read_csv(path, dtype=str)
            values = {p: json.loads(v) for p, v in table[["parameter", "value"]].to_numpy()}
            check_names(values, self.parameters, f"{path}: {self.chapter}")
            self.parameters |= values
        return self.parameters

    def at(self, seed: int) -> Run:
        """This run with another seed for its trainings; what it writes counts as this one's."""
        return dataclasses.replace(self, seed=seed)

    def sweep(
        self,
        name: str,
        logits: Mapping[str, np.ndarray],
        frame: pd.DataFrame,
        model: transformers.PreTrainedModel,
    ) -> pd.DataFrame:
        """Keep what many models that were made from ``model`` answer; returns `curves.scores`.

        Args:
            logits: by point, such as ``entropy@30``: (n, 3), in the order of ``frame``.
        """
        guesses = {point: given.argmax(1) for point, given in logits.items()}
        sweep = records.Sweep(
            study=self.profile,
            chapter=self.chapter,
            name=name,
            fold=self.fold,
            seed=self.seed,
            n=len(frame),
            points=list(guesses),
            weights_sha256=models.weights_sha256(model),
            teacher_saw_test=self.facts["teacher_saw_test"],
            provenance=self.provenance(),
        )
        known = frame[["id", "group", "source", "label"]]
        table = pd.concat([known, pd.DataFrame(guesses, index=frame.index)], axis=1)
        records.write_sweep(self.work, sweep, table)
        self._scored.add(sweep.stem)
        return curves.scores(table)

    def finding(
        self,
        claim: str,
        difference: stats.Difference,
        *,
        variant: str,
        baseline: str,
        unit: str,
        n_unit: str,
    ) -> None:
        """Write down what this chapter measured for a claim, on this fold.

        Args:
            variant, baseline: what is compared, in words.
            unit: of the difference, one of `claims.SCALES`.
            n_unit: what ``difference.n`` counts.
        """
        found = records.Finding(
            study=self.profile,
            chapter=self.chapter,
            claim=claim,
            fold=self.fold,
            variant=variant,
            baseline=baseline,
            unit=unit,
            diff=difference.diff,
            low=difference.low,
            high=difference.high,
            p=None if np.isnan(difference.p) else difference.p,
            n=difference.n,
            n_unit=n_unit,
            detectable=difference.detectable,
            teacher_saw_test=self.facts["teacher_saw_test"],
            provenance=self.provenance(),
        )
        records.write_finding(self.work, found)
        self._scored.add(found.stem)

    def describe(self, variant: str, logits: np.ndarray, record: records.Record) -> None:
        """Write into the README of ``variant``'s deployable folder what is known of its model.

        Args:
            logits: its own, (n, 3), of this fold's test part.
            record: of what it is compared with.
        """
        test = self.split().test
        labels, guesses = test["label"].to_numpy(), logits.argmax(1)
        low, high = stats.bootstrap_macro_f1(labels, guesses, test["group"].to_numpy())
        score = f"{stats.macro_f1(labels, guesses):.3f} (95 % interval {low:.3f} to {high:.3f})"
        before = records.predictions(self.work, record.variant, fold=self.fold)
        before = before[before["seed"] == record.seed].set_index("id").loc[test["id"]]
        same = (before[records.PROBABILITIES].to_numpy().argmax(1) == guesses).mean()
        facts = {
            "pretrained model": self.facts["model"],
            "sentences": self.facts["corpus"],
            "macro-F1 on test sentences": score,
            "test sentences": f"{len(test):,}, fold {self.fold}, none of them trained on here",
            f"same label as {record.variant} ({record.precision}, {record.runtime})": f"{same:.1%}",
        }
        if self.caveats:
            facts["note"] = " ".join(self.caveats)
        export.describe(self.model_folder(variant), facts)

    def _study_settings(self) -> dict[str, Any]:
        """What chapter 1 settled that a record has to name."""
        names = ("model", "model_revision", "model_commit", "corpus", "protocol")
        return {name: self.facts[name] for name in names} | {"training_precision": self.precision}

    def provenance(self, config: dict[str, Any] | None = None) -> records.Provenance:
        """Where a record of this run comes from."""
        cpu, flags = bench.cpu()
        places = {"work", "artifacts", "data_dir"}  # where, not what: they differ between machines
        parameters = {k: v for k, v in self.parameters.items() if k not in places}
        return records.Provenance(
            config=parameters | self._study_settings() | (config or {}),
            data_sha256=self.facts["data_sha256"],
            commit=commit(),
            versions=versions(),
            threads=self.threads,
            batch_size=self.parameters.get("batch_size"),
            max_length=self.facts["max_length"],
            cpu=cpu,
            cpu_flags=flags,
        )

    def figure(self, figure: Any, name: str, alt: str, data: pd.DataFrame | None = None) -> None:
        """Show a matplotlib figure and keep it as PNG, with what it plots beside it as CSV.

        Figures about synthetic sentences say so, if their text does not say it already.
        """
        if self.mark and "synthetic" not in alt:
            alt += self.mark
            plots.annotate(figure, self.mark.strip(" ()"))
        path = self.work / "figures" / f"fold{self.fold}" / f"{self.chapter}-{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.save(figure, path)
        self._files.append(path)
        if data is not None:
            csv = path.with_suffix(".csv")
            records.write_text(csv, data.to_csv(index=False, float_format="%.6g"))
            self._files.append(csv)
        display(Image(filename=str(path), metadata={"alt": alt}))  # Colab's IPython has no alt=

    def table(self, frame: pd.DataFrame, name: str) -> Path:
        """Keep a table as CSV; returns its path."""
        path = self.work / "tables" / f"fold{self.fold}" / f"{self.chapter}-{name}.csv"
        records.write_text(path, frame.to_csv(index=False, float_format="%.6g"))
        self._files.append(path)
        return path

    def finish(self) -> None:
        """Say which files the chapter left, and mark it as finished.

        What an earlier run of this chapter, fold and seed had recorded and this one has not, with
        other parameters for instance, is removed: it would be pooled with what it does not fit.
        """
        kept = [
            *records.read(self.work, fold=self.fold),
            *records.read_sweeps(self.work, fold=self.fold),
            *records.read_findings(self.work, fold=self.fold),
        ]
        mine = [
            one
            for one in kept
            # The seed that the chapter ran with: it may have trained with others besides.
            if one.chapter == self.chapter and one.provenance.config["seed"] == self.seed
        ]
        for one in mine:
            if one.stem not in self._scored:
                records.remove(self.work, one)
        written = sorted(
            f"{records.FOLDERS[type(one)]}/{one.stem}.json"
            for one in mine
            if one.stem in self._scored
        )
        written += [path.relative_to(self.work).as_posix() for path in self._files]
        print(f"{len(written)} files in {self.work}:")
        print("\n".join(f"  {name}" for name in dict.fromkeys(written)))
        done = self.artifacts / f"fold{self.fold}" / f"{self.chapter}.done"
        records.write_json(done, {"commit": commit(), "files": sorted(set(written))})


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


def in_points(difference: stats.Difference) -> str:
    """A difference in macro-F1 and its interval, in points: ``-0.31 (-0.92 to +0.27)``."""
    values = (difference.diff, difference.low, difference.high)
    return "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * value + 0.0 for value in values))


def begin(chapter: str, namespace: dict[str, Any]) -> Run:
    """Open a chapter: check its parameters, set threads and seeds, print what it runs on.

    Args:
        chapter: the name of the notebook, such as ``"05_pruning"``.
        namespace: the notebook's ``globals()``, its parameters assigned.

    Raises:
        InputError: a parameter that the chapter does not have (papermill alone only warns), a
            value of the wrong type, a negative fold, or a folder that cannot be written.
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
    log.info("%s begins", chapter)
    print(
        f"Headcount, chapter {chapter}, profile {run.profile}, fold {run.fold}, seed {run.seed}, "
        f"commit {commit()[:12]}"
    )
    print(f"{device_name(device)}, {run.threads} threads, training precision {run.precision}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
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


@cache
def commit() -> str:
    """The commit of the code that runs, ``-dirty`` where lib/ or notebooks/ differ from it."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head, root = git("rev-parse", "HEAD"), git("rev-parse", "--show-toplevel")
        paths = [f"{root}/{name}" for name in ("lib", "notebooks")]
        return f"{head}-dirty" if git("status", "--porcelain", "--", *paths) else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "transformers", "onnxruntime", "scikit-learn")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def device_name(device: str) -> str:
    """The card's name, or ``cpu``."""
    return torch.cuda.get_device_name() if device == "cuda" else device
