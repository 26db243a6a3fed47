"""What a student is trained towards: objectives for :func:`headcount.train.fit`.

An objective is called with a model and a batch (see :func:`headcount.data.collate`) and returns
named scalar tensors, of which ``loss`` is minimised and all are logged. ``describe`` tells, in
JSON's types, all that the objective depends on: trainings with equal descriptions are the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Batch = dict[str, Any]

UNLABELLED = -100
"""Label of a sentence that has none: it learns from the teacher alone."""


class Objective(Protocol):
    """What :func:`headcount.train.fit` minimises."""

    def __call__(self, model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalar tensors by name, ``loss`` among them.

        In a training the batch has ``progress`` too: the share of the steps that are done, a float.
        """

    def describe(self) -> dict[str, Any]:
        """All that the objective depends on."""


def student_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Logits (b, 3) of a batch."""
    mask = batch["attention_mask"]
    if mask.is_cuda and model.config._attn_implementation == "sdpa":
        mask = keys_mask(mask)
    return model(input_ids=batch["input_ids"], attention_mask=mask).logits


def keys_mask(mask: Tensor) -> Tensor:
    """(b, t) ones and zeros as (b, 1, 1, t): which keys a query may see; for SDPA alone.

    transformers takes this one as it is (eager attention would add it to the scores). Of the other
    kind it first asks whether it is all ones, and on a GPU every step would wait for the answer.
    """
    return mask[:, None, None, :].bool()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z / T) || softmax(s / T)) of each row, (b,), in nats.

    Args:
        student: logits s, (b, c).
        teacher: logits z, (b, c).
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(z / T) || softmax(s / T)), mean over the batch (Hinton 2015, section 2).

    The gradient with respect to s shrinks as 1/T^2 when T grows; T^2 restores its size.

    Args:
        student: logits s, (b, c).
        teacher: logits z, (b, c).
    """
    return temperature**2 * divergence(student, teacher, temperature).mean()


def shuffled_within(logits: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The rows of ``logits`` (n, c), permuted at random among sentences of the same label.

    A control for a teacher: what it says about a class is kept, what it says about a sentence is
    lost. labels: (n,); sentences that are UNLABELLED are permuted like one class more.
    """
    generator, shuffled = np.random.default_rng(seed), logits.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shuffled[rows] = logits[generator.permutation(rows)]
    return shuffled


@dataclass(frozen=True)
class HardLabels:
    """Cross-entropy with the annotators' labels, mean over the batch.

    Args:
        label_smoothing: share of the target spread evenly over all classes (Szegedy 2016,
            section 7).
    """

    label_smoothing: float = 0.0

    def __call__(self, model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.from_logits(student_logits(model, batch), batch)

    def from_logits(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms, from the student's logits (b, 3)."""
        smoothing = self.label_smoothing
        return {"loss": F.cross_entropy(logits, batch["labels"], label_smoothing=smoothing)}

    def describe(self) -> dict[str, Any]:
        return {"objective": "hard-labels", "label_smoothing": self.label_smoothing}


@dataclass(frozen=True, eq=False)
class VanillaKD:
    """alpha CE(s, y) + (1 - alpha) T^2 KL(softmax(z/T) || softmax(s/T)) (Hinton 2015).

    Mean over the batch. A sentence that is UNLABELLED has the second term alone, at full weight.
    Its two terms are logged as ``hard`` and ``soft``, with their weights: they add up to the loss.

    Args:
        teacher_logits: float (n, 3), for the training sentences in their order: the teacher does
            not change, so it is asked once.
        temperature: T; the seed study's value by default.
        alpha: weight of the annotators' labels.
        squared: whether the second term has its factor T^2.
    """

    teacher_logits: np.ndarray
    temperature: float = 4.0
    alpha: float = 0.5
    squared: bool = True
    _moved: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.from_logits(student_logits(model, batch), batch)

    def from_logits(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms, from the student's logits (b, 3)."""
        labels = batch["labels"]
        labelled = labels != UNLABELLED
        teacher = self._teacher(logits.device)[batch["index"]].to(logits.dtype)
        hard = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="none")
        soft = divergence(logits, teacher, self.temperature)
        if self.squared:
            soft = self.temperature**2 * soft
        alpha = self.alpha * labelled.to(logits.dtype)
        hard, soft = (alpha * hard).mean(), ((1 - alpha) * soft).mean()
        return {"loss": hard + soft, "hard": hard.detach(), "soft": soft.detach()}

    def _teacher(self, device: torch.device) -> Tensor:
        """The teacher's logits where the student is: a step on a GPU must not wait for the host."""
        if device not in self._moved:
            self._moved[device] = torch.as_tensor(self.teacher_logits, device=device)
        return self._moved[device]

    def describe(self) -> dict[str, Any]:
        fields = {"temperature": self.temperature, "alpha": self.alpha, "squared": self.squared}
        logits = np.ascontiguousarray(self.teacher_logits, dtype=np.float32)
        digest = hashlib.sha256(logits.tobytes()).hexdigest()
        return {"objective": "vanilla-kd", "teacher_logits_sha256": digest} | fields
