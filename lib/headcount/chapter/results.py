"""What a chapter leaves: records, sweeps and findings, figures, tables, folders to deploy."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
import transformers
from IPython.display import Image, display

from headcount import bench, claims, curves, export, models, plots, records, stats, train
from headcount.chapter import machine
from headcount.chapter.trainings import Trainings
from headcount.errors import InputError

log = logging.getLogger("headcount")
LARGE_BYTES = 100_000  # a table above is packed


class Results(Trainings):
    """What is written down, and what is read off it on this fold alone."""

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
            device=machine.device_name(self.device) if runtime in ("torch", "simulated") else "cpu",
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

    def ask_elsewhere(self, name: str, variants: Sequence[str]) -> None:
        """Keep what models of this fold answer to sentences of another domain, as sweep ``name``.

        Each answers in the runtime that it is shipped in. Chapter 7b reads the sweeps: so it needs
        no model, and a model need not outlive its chapter.
        """
        outside = self.elsewhere()
        answers = {variant: self._answer(variant, outside) for variant in variants}
        self.sweep(name, answers, outside, self.load("teacher"))

    def _answer(self, variant: str, frame: pd.DataFrame) -> np.ndarray:
        record = self.record(variant)
        if record.runtime == "torch":
            return self.predict(self.load(variant), frame)
        # As texts: the folder's own tokenizer may know fewer words than the study's.
        folder = self.model_folder(variant, seed=record.seed)
        return export.OnnxClassifier(folder, self.threads).logits([*frame["text"]])

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
            commit=machine.commit(),
            versions=machine.versions(),
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
        """Keep a table as CSV, packed if it is large (pandas reads either); returns its path."""
        plain = self.work / "tables" / f"fold{self.fold}" / f"{self.chapter}-{name}.csv"
        packed = plain.with_suffix(".csv.gz")
        content = frame.to_csv(index=False, float_format="%.6g").encode("utf-8")
        path, other = plain, packed
        if len(content) > LARGE_BYTES:
            # No time and no name: the same table is the same file.
            path, other, content = packed, plain, gzip.compress(content, mtime=0)
        records.write_bytes(path, content)
        other.unlink(missing_ok=True)
        self._files.append(path)
        return path

    def finish(self) -> None:
        """Say which files the chapter left, and mark it as finished.

        What an earlier run of this chapter, fold and seed had recorded and this one has not, with
        other parameters for instance, is removed: it would be pooled with what it does not fit.
        """
        mine = [
            one
            for one in records.left_by(self.work, self.chapter, self.fold)
            # The seed that the chapter ran with: it may have trained with others besides.
            if one.provenance.config["seed"] == self.seed
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
        records.write_json(done, {"commit": machine.commit(), "files": sorted(set(written))})
