"""How fast training is: ours against a plain ``Trainer``, and what first principles say of a T4.

::

    python -m headcount.speed --data FOLDER reports/speed

A file for this device goes into that folder, and a README with a table of all devices so far.

A model of BERT-base's size with random weights is trained on the study's own sentences for a few
steps: fine-tuned and distilled as the chapters do it, and as the seed study does it, by ``Trainer``
on sentences padded to 128 tokens in FP32. All in one process, each after a warm-up epoch.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers

from headcount import bench, data, distill, models, records, train
from headcount.errors import InputError, run_command
from headcount.parameters import check_writable

log = logging.getLogger("headcount")

SHAPES = {  # layers, hidden, heads, FFN
    "bert-base": (12, 768, 12, 3072),
    "minilm": (6, 384, 12, 1536),
}
PADDED_TO = 128
BATCH = 32
TRAINING_SHARE = (1 - 0.9 / 5) * 0.85
"""Of all sentences, those that a fold trains on: a tenth is in no test part, the rest in five."""

# NVIDIA, T4 datasheet (2019): tensor cores at FP16, and plain FP32.
T4_PEAK_TFLOPS = {"fp16": 65.0, "fp32": 8.1}
# What of a peak a training of this size reaches. Assumed: nothing of ours has run on a T4.
T4_SHARES = {"fp16": (0.2, 0.4), "fp32": (0.5, 0.8)}
EPOCHS_OF_A_FOLD = 4 + 2 * 10 + 2 * 6 + 3 * 15
"""The seed study's pipeline with its controls, an upper bound: the teacher, four students taken for
as large as it, three arms of recovery. Chapter 5's other criteria and trainings come on top."""


@dataclass(frozen=True)
class Speed:
    """One way to train on one device.

    Attributes:
        seconds: of the timed epoch.
        tokens: real ones in it, special tokens included.
        positions: those that were computed, padding included.
        flops: of it, forward and backward, from first principles (:func:`training_flops`).
        peak_gb: 10^9 bytes, the most that the GPU's allocator held; None on a CPU.
    """

    way: str
    precision: str
    steps: int
    seconds: float
    tokens: int
    positions: int
    flops: float
    peak_gb: float | None


def training_flops(model: transformers.PreTrainedModel, widths: np.ndarray) -> float:
    """Floating-point operations of one pass, forward and backward, over sentences of ``widths``.

    Two for each multiply-accumulate of :func:`headcount.models.macs`; the backward pass computes
    every product twice, for its inputs and for its weights (Kaplan et al. 2020, section 2.1).
    """
    counts = pd.Series(widths).value_counts()
    return float(sum(6 * models.macs(model, int(t)) * n for t, n in counts.items()))


def measure(sentences: data.Tokenized, shape: str = "bert-base", steps: int = 20) -> list[Speed]:
    """Time a few steps of each way to train on this machine's device.

    Args:
        sentences: as the study tokenised them; ``steps`` batches of them are drawn.
    """
    rows = np.random.default_rng(0).permutation(len(sentences))[: steps * BATCH]
    if len(rows) < steps * BATCH:
        raise InputError(
            f"{len(sentences)} sentences make no {steps} batches: ask for fewer --steps"
        )
    ids = [sentences.input_ids[i][:PADDED_TO] for i in rows]
    part = data.Tokenized(ids, sentences.labels[rows])
    vocab = 1 + max(max(sentence) for sentence in sentences.input_ids)
    layers, hidden, heads, ffn = SHAPES[shape]
    teacher_logits = np.random.default_rng(0).normal(size=(len(part), 3)).astype(np.float32)
    where, found = train.device(), []

    def timed(way: str, run: Callable[[Any], float], precision: str, widths: np.ndarray) -> None:
        model = models.student(vocab, layers, hidden, heads, ffn)
        flops = training_flops(model, widths)
        if where == "cuda":
            gc.collect()  # the trainer before, with its optimiser's state, is a cycle
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = run(model)
        peak = torch.cuda.max_memory_allocated() / 1e9 if where == "cuda" else None
        tokens, positions = int(part.lengths.sum()), int(widths.sum())
        found.append(Speed(way, precision, steps, seconds, tokens, positions, flops, peak))
        log.info("%s: %.0f tokens a second", way, tokens / seconds)

    own = _own_widths(part)
    for way, objective in (
        ("fine-tuning, ours", distill.HardLabels()),
        ("distillation, ours", distill.VanillaKD(teacher_logits)),
    ):
        timed(way, lambda m, o=objective: _ours(m, part, o), train.precision(where), own)
    padded = np.full(len(part), PADDED_TO)
    timed("fine-tuning, plain Trainer", lambda m: _plain(m, part), "fp32", padded)
    return found


def _own_widths(part: data.Tokenized) -> np.ndarray:
    """Positions that each sentence takes in our batches of the timed epoch."""
    batches = train.LikeLengthBatches(part.lengths, BATCH, seed=0)
    batches.set_epoch(1)
    return np.concatenate([np.full(len(b), part.lengths[b].max()) for b in batches])


class _Tokenizer:
    pad_token_id = 0


def _ours(model: Any, part: data.Tokenized, objective: distill.Objective) -> float:
    recipe = train.Recipe(epochs=2, learning_rate=2e-5, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        fitted = train.fit(
            model, part, recipe, Path(folder), tokenizer=_Tokenizer(), objective=objective
        )
    return float(fitted.history["epoch_seconds"].dropna().iloc[-1])


def _plain(model: Any, part: data.Tokenized) -> float:
    """The seed's way: every sentence padded to 128 tokens, FP32, ``Trainer`` as it comes."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = bench.pad([row["input_ids"] for row in rows], PADDED_TO)
        labels = torch.tensor([int(row["label"]) for row in rows])
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)} | {
            "labels": labels
        }

    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=2,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=train.device() == "cpu",
        )
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=part, data_collator=collate,
            callbacks=[clock],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return clock.epochs[-1]


class _Clock(transformers.TrainerCallback):
    """Seconds of each epoch, to the end of its last kernel."""

    def __init__(self) -> None:
        self.epochs: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.epochs.append(time.perf_counter() - self.began)


# --- a T4, from first principles ----------------------------------------------------------------


def t4_minutes(found: list[Speed], sentences: int) -> dict[str, tuple[float, float]]:
    """Minutes of all trainings of one fold on a T4, by way: (least, most).

    Time = operations / (published peak x assumed share), for an epoch of ``sentences`` sentences,
    EPOCHS_OF_A_FOLD times. Exports, predictions and the start of each chapter are left out.
    """
    minutes = {}
    for speed in found:
        if speed.way.startswith("distillation"):
            continue
        precision = "fp32" if "plain" in speed.way else "fp16"
        flops = speed.flops * sentences / (speed.steps * BATCH) * EPOCHS_OF_A_FOLD
        low, high = T4_SHARES[precision]
        peak = T4_PEAK_TFLOPS[precision] * 1e12
        minutes[speed.way] = (flops / peak / high / 60, flops / peak / low / 60)
    return minutes


# --- kept and shown -----------------------------------------------------------------------------


def write(folder: Path, shape: str, found: list[Speed], sentences: int) -> Path:
    """Keep what was measured as ``folder``/<device>-<shape>.json; returns the path."""
    where = train.device()
    name = torch.cuda.get_device_name() if where == "cuda" else bench.cpu()[0]
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{shape}.json"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    records.write_json(
        path,
        {
            "device": name,
            "threads": torch.get_num_threads() if where == "cpu" else None,
            "model": shape,
            "batch_size": BATCH,
            "sentences_of_an_epoch": sentences,
            "versions": versions,
            "speeds": [asdict(speed) for speed in found],
        },
    )
    return path


def table(folder: Path) -> str:
    """All that was measured, and the model of the T4, in Markdown.

    Raises:
        InputError: nothing was measured.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no measurements: run python -m headcount.speed {folder}")
    lines = ["| device | model | training | precision | tokens/s | against plain | peak GB |"]
    lines += ["|:--|:--|:--|:--|--:|--:|--:|"]
    for path in paths:
        kept = json.loads(path.read_text(encoding="utf-8"))
        speeds = [Speed(**speed) for speed in kept["speeds"]]
        rates = {speed.way: speed.tokens / speed.seconds for speed in speeds}
        plain = next(rate for way, rate in rates.items() if "plain" in way)
        for speed in speeds:
            peak = "–" if speed.peak_gb is None else f"{speed.peak_gb:.1f}"
            lines.append(
                f"| {kept['device']} | {kept['model']} | {speed.way} | {speed.precision} "
                f"| {rates[speed.way]:,.0f} | {rates[speed.way] / plain:.1f} × | {peak} |"
            )
    if base := next((p for p in paths if p.stem.endswith("bert-base")), None):
        kept = json.loads(base.read_text(encoding="utf-8"))
        speeds = [Speed(**speed) for speed in kept["speeds"]]
        told = [
            f"{way}: {low:.0f} to {high:.0f} minutes"
            for way, (low, high) in t4_minutes(speeds, kept["sentences_of_an_epoch"]).items()
        ]
        shares = {p: f"{low:.0%} to {high:.0%}" for p, (low, high) in T4_SHARES.items()}
        lines += [
            "",
            "On a T4, computed and not measured, the seed study's pipeline with its controls on "
            f"one fold, {EPOCHS_OF_A_FOLD} epochs at BERT-base's size, should take: "
            f"{'; '.join(told)}. Assumed: {shares['fp16']} of {T4_PEAK_TFLOPS['fp16']:.0f} TFLOP/s "
            f"in FP16 for ours, {shares['fp32']} of {T4_PEAK_TFLOPS['fp32']} in FP32 for the plain "
            "one.",
        ]
    return "\n".join(lines)


# --- command line -------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, show; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m headcount.speed", allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=sorted(SHAPES), default="bert-base")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--data", type=Path, help="folder with the publishers' files, or the Hub")
    parser.set_defaults(command=run)
    return run_command(parser, arguments)


def run(options: argparse.Namespace) -> int:
    """The command."""
    check_writable(options.folder)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    labelled = data.assemble("phrasebank-fiqa", data_dir=options.data).labelled
    tokenizer = models.pretrained_tokenizer("minilm")  # BERT's own vocabulary
    sentences = data.tokenize(labelled["text"], labelled["label"], tokenizer, PADDED_TO)
    found = measure(sentences, options.model, options.steps)
    epoch = round(len(labelled) * TRAINING_SHARE)
    print(write(options.folder, options.model, found, epoch))
    shown = table(options.folder)
    records.write_text(options.folder / "README.md", f"# Training speed\n\n{shown}\n")
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
