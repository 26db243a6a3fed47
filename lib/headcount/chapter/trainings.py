"""What a chapter trains, and how its models are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

from headcount import data, distill, models, train
from headcount.chapter.inputs import Inputs
from headcount.parameters import known


class Trainings(Inputs):
    """What trains on this fold, predicts, and is saved."""

    def training_folder(self, variant: str) -> Path:
        """Where a training of this fold keeps its checkpoints."""
        return self.artifacts / f"fold{self.fold}" / "training" / self.model_folder(variant).name

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
        """Train a student: as `fit`, with projections for layer losses while it is trained.

        Where there are none, its last layer is computed at the first token alone: equal gradients,
        less to compute. (So could teachers be trained. They are not, as they would draw other
        dropout and end elsewhere, and results that stand are anchored by their hash.)
        """
        if isinstance(objective, distill.LayerLosses):
            self.project(model, objective)
        else:
            recipe = dataclasses.replace(recipe, first_token=True)
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

    def transfer(self, text: str, n: int) -> pd.DataFrame | None:
        """Unlabelled sentences to learn from a teacher; None where there are to be none.

        Args:
            text: ``none``; ``domain``, all that are not Twitter's; ``mixed``, ``n`` of them all.

        Raises:
            InputError: there is no such text, or there are not so many sentences.
        """
        if known(text, ("none", "domain", "mixed"), "unknown transfer text") == "none":
            return None
        others = data.load(self.artifacts / "data", "others")
        own = [source for source in others["source"].unique() if not source.startswith("twitter")]
        n, sources = (None, own) if text == "domain" else (n, None)
        more = data.transfer(others, self.sentences(), n, sources)
        return more.assign(label=distill.UNLABELLED)

    def with_transfer(
        self, frame: pd.DataFrame, logits: np.ndarray, teacher: Any, text: str, n: int
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """``frame`` and the teacher's logits of it, with those of :meth:`transfer` appended."""
        if (more := self.transfer(text, n)) is None:
            return frame, logits
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
