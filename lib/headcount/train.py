"""One way to train, for teachers, students and recovery after pruning; and to predict.

transformers' ``Trainer`` runs the steps, with an objective passed in (:mod:`headcount.distill`).
What is ours is what makes runs comparable and safe to kill: batches that depend on the seed and
the epoch alone, a checkpoint after each epoch that counts only once it is whole, and a fingerprint
of all that a training depends on, so that a finished one is never run again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from headcount import distill, first_token, records, stats
from headcount.data import Tokenized, collate
from headcount.dropout import quick_dropout
from headcount.errors import InputError
from headcount.models import weights_sha256

log = logging.getLogger("headcount")

LOG_EVERY = 10  # steps between two points of the learning curve
WHOLE = "whole"  # the file that says that a checkpoint was written to its end


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, linear warm-up and decay, gradients clipped at 1.

    Attributes:
        rates: learning rates of their own for parameters whose name has a given part, without
            weight decay; warmed up and decayed alike.
        precision: ``bf16``, ``fp16`` or ``fp32``; by default the device's own (:func:`precision`).
        first_token: compute the last layer at the first token alone (:mod:`headcount.first_token`);
            for objectives that read logits and nothing else.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 32
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.01
    seed: int = 0
    rates: dict[str, float] = field(default_factory=dict, hash=False)
    precision: str | None = None
    first_token: bool = False


@dataclass
class Fitted:
    """A finished training.

    Attributes:
        model: the trained model, in evaluation mode.
        history: one row a logged point: step, epoch, loss and the objective's other terms (means
            since the last point); validation_loss and validation_macro_f1 after each epoch.
        seconds: time spent in training steps, validation left out.
        steps: optimiser steps.
        weights_sha256: of the trained model.
    """

    model: PreTrainedModel
    history: pd.DataFrame
    seconds: float
    steps: int
    weights_sha256: str


def together(fits: Sequence[Fitted]) -> Fitted:
    """Several rounds of one model as one training: the last one's model, all steps and seconds.

    Steps and epochs of the history count on from one round to the next.
    """
    histories, steps, epochs = [], 0, 0.0
    for fit in fits:
        counted = {"step": fit.history["step"] + steps, "epoch": fit.history["epoch"] + epochs}
        histories.append(fit.history.assign(**counted))
        steps, epochs = steps + fit.steps, float(histories[-1]["epoch"].max())
    return replace(
        fits[-1],
        history=pd.concat(histories, ignore_index=True),
        seconds=sum(fit.seconds for fit in fits),
        steps=steps,
    )


# --- where and how precisely --------------------------------------------------------------------


def device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(device: str) -> str:
    """Training precision: ``bf16`` where the hardware has it, ``fp16`` on older GPUs, else fp32.

    BF16 autocast on a CPU without BF16 instructions is emulated, and slower than FP32.
    """
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    flags = set()
    if platform.system() == "Linux":
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    return "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "fp32"


# --- batches ------------------------------------------------------------------------------------


class LikeLengthBatches(Sampler[list[int]]):
    """Batches of sentences of like length, so that little is padding.

    The sentences are shuffled, cut into pools of 50 batches, sorted by length within a pool, and
    the batches shuffled. With smaller pools more is padding; chance decides who meets whom even
    where one pool holds all, for many sentences are equally long. The order depends on the seed and
    the epoch alone: trainings with equal seeds see equal batches in equal order, however they got
    to that epoch.
    """

    POOL = 50

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths))
        pool = self.POOL * self.batch_size
        batches = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [
                rows[i : i + self.batch_size].tolist() for i in range(0, len(rows), self.batch_size)
            ]
        generator.shuffle(batches)
        return iter(batches)


# --- training -----------------------------------------------------------------------------------


class _Trainer(transformers.Trainer):
    """Trainer with an objective, our batches and rates; stops at a loss that is not finite."""

    def __init__(
        self, *, objective: distill.Objective, seed: int, rates: dict[str, float], **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.objective, self.data_seed, self.rates = objective, seed, rates
        self.sums: dict[str, torch.Tensor] = {}
        self.summed = 0  # steps in the sums
        self.bad_step = torch.tensor(-1, device=self.args.device)

    def get_train_dataloader(self) -> DataLoader:
        batches = LikeLengthBatches(
            self.train_dataset.lengths, self.args.per_device_train_batch_size, self.data_seed
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.device.type == "cuda",  # so that copies do not hold the step up
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        for part, rate in self.rates.items():
            # Not a set: a checkpoint knows parameters by their order alone.
            own = dict.fromkeys(p for name, p in self.model.named_parameters() if part in name)
            if not own:
                raise InputError(f"no parameter's name has {part!r} in it: mend the recipe's rates")
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p not in own]
            optimizer.add_param_group({"params": list(own), "lr": rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> torch.Tensor:
        progress = self.state.global_step / self.state.max_steps
        terms = self.objective(model, {**inputs, "progress": progress})
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.summed += 1
        step = torch.full_like(self.bad_step, self.state.global_step + 1)
        bad = ~torch.isfinite(terms["loss"].detach())
        self.bad_step = torch.where((self.bad_step < 0) & bad, step, self.bad_step)
        if self.args.device.type == "cpu":  # on a GPU, looking at every step would hold it up
            self.check_finite()
        return terms["loss"]

    def check_finite(self) -> None:
        """Stop if any loss so far was NaN or infinite; the last checkpoint is older than that."""
        if (step := int(self.bad_step)) < 0:
            return
        kept = last_checkpoint(Path(self.args.output_dir))
        raise InputError(
            f"{self.args.run_name}: the loss is not finite at step {step} of "
            f"{self.state.max_steps}; "
            + (f"the last good checkpoint is {kept}" if kept else "no epoch was finished before")
            + "; lower the learning rate or look at the sentences of that batch"
        )

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        if "loss" in logs:  # Trainer's own mean is rounded; ours has all the objective's terms
            logs |= self.take_terms()
        super().log(logs, *arguments, **keywords)

    def take_terms(self) -> dict[str, float]:
        """Means of the objective's terms since the last call; empty if there was no step."""
        self.check_finite()
        means = {name: float(total) / self.summed for name, total in self.sums.items()}
        self.sums, self.summed = {}, 0
        return means


class _Epochs(TrainerCallback):
    """Times each epoch, scores the validation part after it, and vouches for checkpoints."""

    def __init__(self, validation: Tokenized | None, tokenizer: PreTrainedTokenizerBase) -> None:
        self.validation, self.tokenizer = validation, tokenizer
        self.trainer: _Trainer | None = None

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        # What was summed is told here, so that a resumed training's curve is the same; and before
        # the clock is read, since on a GPU it waits for the last step.
        terms = self.trainer.take_terms()
        row = {"epoch_seconds": time.perf_counter() - self.started}
        if self.validation is not None:
            row |= validate(model, self.validation, self.tokenizer)
            model.train()
        self.trainer.log(row | terms)
        told = "".join(
            f", {name.replace('_', ' ')} {row[name]:.4f}"
            for name in ("validation_loss", "validation_macro_f1")
            if name in row
        )
        log.info(
            "%s: epoch %d of %d in %.0f s%s",
            args.run_name,
            round(state.epoch),
            args.num_train_epochs,
            row["epoch_seconds"],
            told,
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        records.write_text(checkpoint / WHOLE, "")


def validate(
    model: PreTrainedModel, data: Tokenized, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """``validation_loss`` (cross-entropy) and ``validation_macro_f1`` on ``data``."""
    logits = predict(model, data, tokenizer)
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(data.labels))
    return {
        "validation_loss": float(loss),
        "validation_macro_f1": float(stats.macro_f1(data.labels, logits.argmax(1))),
    }


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that was written to its end."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def training_code(objective: distill.Objective) -> list[Path]:
    """Files with the code of a training: ours, dropout's, the logits', the objective's class's own.

    With the objective's come those of the objects that it is made of. Other objectives are left
    out, so that a change of one of them leaves this training as it is.
    """
    names = [__name__, quick_dropout.__module__, distill.student_logits.__module__]
    names += [parent.__module__ for parent in type(objective).__mro__]
    made_of = (type(part).__module__ for part in vars(objective).values())
    names += [name for name in made_of if name.startswith(f"{__package__}.")]
    # A class may come from where there is no file: from Python itself, or from a notebook.
    files = [getattr(sys.modules.get(name), "__file__", None) for name in names]
    return [Path(file) for file in dict.fromkeys(files) if file]


def fingerprint(
    model: PreTrainedModel,
    data: Tokenized,
    validation: Tokenized | None,
    recipe: Recipe,
    objective: distill.Objective,
) -> str:
    """SHA-256 over all that a training's result depends on, the code that trains included."""
    where = device()
    code = training_code(objective)
    if recipe.first_token:
        code.append(Path(first_token.__file__))
    parts = {
        "recipe": asdict(recipe),
        "objective": objective.describe(),
        "weights": weights_sha256(model),
        "config": model.config.to_diff_dict(),
        "data": [part.sha256() for part in (data, validation) if part is not None],
        "device": [where, precision(where)],
        "versions": [version("torch"), version("transformers"), version("accelerate")],
        "code": [path.read_text("utf-8") for path in code],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def fit(
    model: PreTrainedModel,
    data: Tokenized,
    recipe: Recipe,
    folder: Path,
    *,
    tokenizer: PreTrainedTokenizerBase,
    objective: distill.Objective | None = None,
    validation: Tokenized | None = None,
    name: str = "training",
) -> Fitted:
    """Train ``model`` in place to the last step of ``recipe``; the last step is the model.

    May be killed at any moment and called again: a finished training is loaded from ``folder``, an
    interrupted one goes on from the last whole epoch, and either way the weights are those of an
    undisturbed run (on a GPU, up to kernels that add in no fixed order). Work kept by a training
    that differed in anything is dropped.

    Args:
        data: the training part.
        objective: what to minimise; cross-entropy with the labels by default.
        validation: scored after each epoch for the curves; it chooses nothing.
        name: how the log calls this training.

    Raises:
        InputError: the loss stopped being finite; names the step and the last good checkpoint.
    """
    objective = objective or distill.HardLabels()
    digest = fingerprint(model, data, validation, recipe, objective)
    finished = folder / "finished.json"
    if (kept := _read_state(folder / "started.json")) != digest:
        if kept is not None:
            log.info("%s: something has changed since it was last trained, starting over", name)
        shutil.rmtree(folder, ignore_errors=True)
        records.write_json(folder / "started.json", digest)
    if (state := _read_state(finished)) is not None:
        load_model(model, folder / "model.safetensors")
        log.info("%s: trained already", name)
        return _fitted(model, state)
    state = _train(model, data, recipe, folder, tokenizer, objective, validation, name)
    save_model(model, str(folder / "model.safetensors"))
    records.write_json(finished, state)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return _fitted(model, state)


def _read_state(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _fitted(model: PreTrainedModel, state: dict[str, Any]) -> Fitted:
    history = pd.DataFrame(state["history"]).sort_index(axis=1)
    seconds = float(history["epoch_seconds"].sum())
    return Fitted(model.eval(), history, seconds, state["steps"], weights_sha256(model))


def _train(
    model: PreTrainedModel,
    data: Tokenized,
    recipe: Recipe,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    objective: distill.Objective,
    validation: Tokenized | None,
    name: str,
) -> dict[str, Any]:
    where = device()
    wanted = recipe.precision or precision(where)
    resumed = last_checkpoint(folder)
    steps = math.ceil(len(data) / recipe.batch_size) * recipe.epochs
    log.info(
        "%s: %d steps, %s", name, steps, f"going on from {resumed.name}" if resumed else "from 0"
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        run_name=name,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(recipe.warmup * steps),
        seed=recipe.seed,
        use_cpu=where == "cpu",
        bf16=wanted == "bf16",
        fp16=wanted == "fp16",
        logging_steps=LOG_EVERY,
        logging_nan_inf_filter=False,
        save_strategy="epoch",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cache=getattr(model.config, "use_cache", False),  # else the model's config is changed
        remove_unused_columns=False,
        accelerator_config={"non_blocking": True},
    )
    callback = _Epochs(validation, tokenizer)
    trainer = _Trainer(
        model=model,
        args=arguments,
        objective=objective,
        seed=recipe.seed,
        rates=recipe.rates,
        train_dataset=data,
        data_collator=partial(collate, pad_token_id=tokenizer.pad_token_id),
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    callback.trainer = trainer
    last_layer = first_token.alone(model) if recipe.first_token else nullcontext()
    with quick_dropout(model), last_layer:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    # Accelerate's autocast (see full_precision), and the mark that would keep it off a later round.
    for left in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(left, None)
    rows = [row for row in trainer.state.log_history if "train_runtime" not in row]
    return {"history": rows, "steps": trainer.state.global_step}


# --- prediction ---------------------------------------------------------------------------------


@contextmanager
def full_precision(model: PreTrainedModel) -> Iterator[None]:
    """Take the training's autocast off the model for a while.

    Accelerate puts it around ``model.forward`` in place, and leaves it there.
    """
    autocast = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if autocast is not None:
            model.forward = autocast


@torch.inference_mode()
def predict(
    model: PreTrainedModel,
    data: Tokenized,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 32,
) -> np.ndarray:
    """Logits in FP32, float32 (n, 3), in the order of ``data``; batches of like length."""
    model.eval()
    order = np.argsort(data.lengths, kind="stable")
    logits = np.empty((len(data), model.config.num_labels), dtype=np.float32)
    with full_precision(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([data[int(i)] for i in rows], tokenizer.pad_token_id)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            logits[rows] = distill.student_logits(model, batch).cpu().numpy()
    return logits
