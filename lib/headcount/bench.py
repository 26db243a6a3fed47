"""The ruler: bytes, memory, latency and throughput of models that it knows nothing else about.

A contender is a name, a folder that holds a model, and a loader: a function, named as
``module:function``, that turns the folder and a number of threads into a scorer. A scorer takes
``input_ids`` and ``attention_mask``, int64 arrays (batch, sequence), and returns logits. All of
them get the same sentences; one whose vocabulary is another than the others' brings its own ids.

Contenders are timed in one process, in turns of a few sentences, there and back (A B B A), so that
a machine that slows down slows all of them alike. Times are not comparable between machines;
ratios to a reference of the same run are, roughly (:func:`ratios`). Memory is read in a fresh
process for each contender::

    python -m headcount.bench memory FOLDER --loader MODULE:FUNCTION --threads 2 < sentences.json
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from headcount.errors import InputError

if TYPE_CHECKING:  # what a contender does not need must not count as its memory
    import pandas as pd
    from numpy.typing import ArrayLike

log = logging.getLogger("headcount")

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
Batch = tuple[np.ndarray, np.ndarray]
Sentences = Sequence[Sequence[int]]  # token ids, unpadded

TORCH = "headcount.bench:load_torch"
ONNXRUNTIME = "headcount.bench:load_onnxruntime"
PLAIN_SESSION = "headcount.bench:load_plain_session"
LIBRARIES = {TORCH: "headcount.models", ONNXRUNTIME: "headcount.predict"}
"""The module whose import brings a loader's libraries, where that is not the loader's own."""

TURN = 25  # sentences that a contender scores before the next one has its turn
FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni")
FLAGS += ("avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


@dataclass(frozen=True)
class Contender:
    """What is measured: the model in ``folder``, as ``loader`` loads it.

    ``size_mb`` overrides the size of the model file where that is not what would be shipped.
    ``sentences`` are the measured sentences, all of them and in their order, as token ids of this
    model's own vocabulary; they are given where the others' ids are not its own.
    """

    name: str
    folder: Path
    loader: str = TORCH
    runtime: str = "torch"
    size_mb: float | None = None
    sentences: Sentences | None = field(default=None, repr=False, compare=False)


# --- loaders ------------------------------------------------------------------------------------


def load_torch(folder: Path, threads: int) -> Scorer:
    """A scorer for a folder that :func:`headcount.models.save` wrote; CPU, FP32."""
    from headcount import models

    model, _ = models.load(folder)
    return torch_scorer(model, threads)


def torch_scorer(model: Any, threads: int) -> Scorer:
    """A scorer for a torch classifier in memory."""
    import torch

    torch.set_num_threads(threads)
    model.eval()

    def score(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = map(torch.from_numpy, (input_ids, attention_mask))
            return model(**dict(zip(("input_ids", "attention_mask"), inputs, strict=True))).logits

    return score


def load_onnxruntime(folder: Path, threads: int) -> Scorer:
    """A scorer for a deployable folder of :mod:`headcount.export`; imports no torch."""
    from headcount.predict import OnnxClassifier

    return OnnxClassifier(folder, threads).run


def load_plain_session(folder: Path, threads: int) -> Scorer:
    """The same folder in a session of default options: INT8 sums may be cut to 16 bits there.

    Where they are (:func:`exact_int8`), its answers are others than the shipped script's.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(folder / "model.onnx", options)

    def score(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return session.run(["logits"], inputs)[0]

    return score


def load(contender: Contender, threads: int) -> Scorer:
    """Call the contender's loader on its folder.

    Raises:
        InputError: the folder is not there.
    """
    _check(contender)
    module, _, function = contender.loader.partition(":")
    return getattr(importlib.import_module(module), function)(contender.folder, threads)


def _check(contender: Contender) -> None:
    if not contender.folder.is_dir():
        raise InputError(
            f"{contender.folder} is missing: run the chapter that makes {contender.name} first"
        )


# --- inputs -------------------------------------------------------------------------------------


def singles(sentences: Sentences, pad_to: int | None = None) -> list[Batch]:
    """Batches of one sentence, at its own length or padded to ``pad_to`` tokens."""
    return in_batches(sentences, 1, pad_to)


def in_batches(sentences: Sentences, size: int, pad_to: int | None = None) -> list[Batch]:
    """Batches of ``size`` sentences as they come, padded to ``pad_to`` or each to its longest.

    All have that size: what remains is left out, unless there are fewer sentences than ``size``.
    """
    starts = range(0, max(1, len(sentences) - size + 1), size)
    return [pad(sentences[start : start + size], pad_to) for start in starts]


def pad(sentences: Sentences, pad_to: int | None = None) -> Batch:
    """``input_ids`` and ``attention_mask`` of a batch, padded with 0 to its longest sentence."""
    width = pad_to or max(map(len, sentences))
    input_ids = np.zeros((len(sentences), width), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, sentence in enumerate(sentences):
        input_ids[row, : len(sentence)] = sentence[:width]
        attention_mask[row, : len(sentence)] = 1
    return input_ids, attention_mask


def _ids(contenders: Sequence[Contender], sentences: Sentences) -> dict[str, Sentences]:
    """The sentences as each contender's own token ids."""
    if not contenders or not sentences:
        raise InputError("the ruler needs a contender and a sentence: run the earlier chapters")
    own = {c.name: sentences if c.sentences is None else c.sentences for c in contenders}
    for name, ids in own.items():
        if len(ids) != len(sentences):
            raise InputError(
                f"{name} brings its own ids of {len(ids):,} sentences where {len(sentences):,} are "
                "measured: tokenise the same ones for it"
            )
    return own


# --- time ---------------------------------------------------------------------------------------


class Timing(NamedTuple):
    """Untimed calls before the first timed one, and the seconds of each timed one."""

    warmup: int
    seconds: np.ndarray


def time_in_turns(
    scorers: Mapping[str, Scorer],
    batches: Sequence[Batch] | Mapping[str, Sequence[Batch]],
    *,
    warmup: int,
    timed: int,
    max_seconds: float,
    turn: int = TURN,
) -> dict[str, Timing]:
    """Seconds of each timed call, and how many went before, by contender.

    Each contender first scores ``warmup`` batches untimed (fewer where they would take more than a
    tenth of ``max_seconds``), then ``timed`` ones, or as many as fit into ``max_seconds`` at the
    warm-up's median; always from the first batch on, and over again where there are fewer.
    ``batches`` are the same for all, or given by contender where token ids differ. Contenders take
    turns of about ``turn`` calls, there and back. A turn opens with one call more, untimed:
    the caches hold another model's weights, and its threads may still be spinning.
    """
    if not isinstance(batches, Mapping):
        batches = dict.fromkeys(scorers, batches)
    warm, calls = {}, {}
    for name, scorer in scorers.items():
        warm[name] = _warm(scorer, batches[name], warmup, max_seconds / 10)
        fit = max_seconds / max(np.median(warm[name]), 1e-9)
        calls[name] = int(np.clip(fit, min(timed, turn), timed))
    turns = -(-timed // turn)
    taken: dict[str, list[float]] = {name: [] for name in scorers}
    for position, name in enumerate(there_and_back(list(scorers), turns)):
        own = batches[name]
        start, end = len(taken[name]), (position // len(scorers) + 1) * calls[name] // turns
        if end > start:
            scorers[name](*own[start % len(own)])
        for call in range(start, end):
            taken[name].append(_seconds(scorers[name], own[call % len(own)]))
    return {name: Timing(len(warm[name]), np.array(taken[name])) for name in scorers}


def there_and_back(names: Sequence[str], turns: int) -> list[str]:
    """``turns`` turns for each name: A B, B A, A B, ..."""
    order = [names if i % 2 == 0 else names[::-1] for i in range(turns)]
    return [name for once in order for name in once]


def _warm(scorer: Scorer, batches: Sequence[Batch], warmup: int, budget: float) -> list[float]:
    taken: list[float] = []
    while not taken or (len(taken) < warmup and sum(taken) < budget):
        taken.append(_seconds(scorer, batches[len(taken) % len(batches)]))
    return taken


def _seconds(scorer: Scorer, batch: Batch) -> float:
    start = time.perf_counter()
    scorer(*batch)
    return time.perf_counter() - start


def percentiles(seconds: np.ndarray, prefix: str) -> dict[str, float]:
    """Median, 95th and 99th percentile in ms (linear interpolation), as ``{prefix}_ms_p50``..."""
    values = np.percentile(seconds * 1e3, (50, 95, 99))
    return {f"{prefix}_ms_p{p}": float(v) for p, v in zip((50, 95, 99), values, strict=True)}


# --- memory -------------------------------------------------------------------------------------


def memory(contender: Contender, sentences: Sentences, threads: int) -> dict[str, float]:
    """Resident memory of a fresh process that loads the contender and scores, in 10^6 bytes.

    Returns ``libraries_mb`` (the interpreter and all that the loader imports), ``loaded_mb``,
    ``scored_mb`` (after scoring ``sentences`` one by one, or as many of the contender's own where
    it has some) and ``peak_rss_mb``.

    Raises:
        InputError: the process failed.
    """
    command = [sys.executable, "-m", "headcount.bench", "memory", str(contender.folder)]
    command += ["--loader", contender.loader, "--threads", str(threads)]
    if contender.sentences is not None:
        sentences = contender.sentences[: len(sentences)]
    ids = json.dumps([[int(token) for token in sentence] for sentence in sentences])
    return measured_apart(command, contender.name, "mend its model", input=ids)


def measured_apart(
    command: Sequence[str], name: str, mend: str, **process: Any
) -> dict[str, float]:
    """What a process that measures the memory of ``name`` prints as JSON.

    Args:
        mend: what to do where it fails.
        process: of `subprocess.run`: input, env.

    Raises:
        InputError: it failed.
    """
    done = subprocess.run(command, text=True, capture_output=True, check=False, **process)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"the memory of {name} could not be measured ({reason}): {mend}")
    return json.loads(done.stdout)


def _memory_main(contender: Contender, threads: int) -> dict[str, float]:
    _check(contender)
    sentences = json.load(sys.stdin)
    module = contender.loader.partition(":")[0]
    importlib.import_module(LIBRARIES.get(contender.loader, module))
    resident = {"libraries_mb": _resident_mb()}
    score = load(contender, threads)
    resident["loaded_mb"] = _resident_mb()
    for batch in singles(sentences):
        score(*batch)
    return resident | {"scored_mb": _resident_mb(), "peak_rss_mb": _peak_mb()}


def _resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        # Not getrusage where this is known: its maximum survives exec, so it can be the parent's.
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# --- all together -------------------------------------------------------------------------------


def measure(
    contenders: Sequence[Contender],
    sentences: Sentences,
    *,
    threads: int,
    warmup: int = 50,
    timed: int = 500,
    batches: int = 30,
    max_seconds: float = 60.0,
    pad_to: int = 128,
    batch_size: int = 32,
) -> list[dict[str, Any]]:
    """Everything the ruler reads, one dict a contender.

    The keys are the fields of ``records.Measure``, and those of :func:`memory`.

    Args:
        sentences: token ids, in an order of no meaning (each contender is timed on the first
            ``timed``, over again where there are fewer); a contender's own ids go before them.
            Throughput batches them as they come, padded to each batch's longest.
        warmup: sentences; batches are fewer by their size.
        timed: sentences, one at a time.
        batches: timed ones, where sentences come in batches.
        threads: of torch and of ONNX Runtime alike.
        max_seconds: per contender and mode (own lengths, padded, batches).

    Raises:
        InputError: there is nothing to measure, a contender's model is missing, or its own ids are
            of another number of sentences.
    """
    ids = _ids(contenders, sentences)
    scorers = {contender.name: load(contender, threads) for contender in contenders}
    few = {"warmup": warmup, "timed": timed, "batches": batches, "max_seconds": max_seconds}
    own = _time(scorers, ids, 1, None, **few)
    padded = _time(scorers, ids, 1, pad_to, **few)
    many = _time(scorers, ids, batch_size, None, **few)
    del scorers
    name_of_cpu, flags = cpu()
    log.info("ruler: memory, each in a process of its own")
    # Two at a time: what a process holds, unlike its time, does not depend on its neighbours.
    with ThreadPoolExecutor(2) as pool:
        held = list(pool.map(lambda c: memory(c, sentences[:100], threads), contenders))
    rows = []
    for contender, mb in zip(contenders, held, strict=True):
        name = contender.name
        scored = min(batch_size, len(sentences)) * len(many[name].seconds)
        rows.append(
            {"variant": name, "runtime": contender.runtime, "size_mb": size_mb(contender)}
            | percentiles(own[name].seconds, "latency")
            | percentiles(padded[name].seconds, "latency128")
            | {"throughput_sps": scored / float(many[name].seconds.sum())}
            | mb
            | {"warmup": own[name].warmup, "timed": len(own[name].seconds)}
            | {"timed128": len(padded[name].seconds)}
            | {"threads": threads, "cpu": name_of_cpu, "cpu_flags": flags}
        )
    return rows


def grid(
    contenders: Sequence[Contender],
    sentences: Sentences,
    *,
    threads: Sequence[int] = (1, 2),
    batch_sizes: Sequence[int] = (1, 32),
    pad_to: int = 128,
    warmup: int = 50,
    timed: int = 500,
    batches: int = 30,
    max_seconds: float = 20.0,
) -> pd.DataFrame:
    """Time of a sentence under every combination of threads, batch and length.

    Contenders take turns within each of them. Thread counts come one after the other, since torch
    has one for the whole process: it is left with the last of ``threads``. Differences between
    them are therefore less certain than those between contenders.

    Returns:
        one row a contender and condition: variant, runtime, threads, batch (sentences scored at a
        time), tokens ("own", padded to the batch's longest, or ``str(pad_to)``),
        ms_per_sentence_p50, ms_per_sentence_p95 (of calls, divided by the batch), timed (calls),
        cpu, cpu_flags (separated by spaces).

    Args:
        sentences: as :func:`measure` takes them.
        warmup, timed, batches: as :func:`measure` takes them.
        max_seconds: per contender and condition.

    Raises:
        InputError: as :func:`measure` does.
    """
    import pandas as pd

    ids = _ids(contenders, sentences)
    name_of_cpu, flags = cpu()
    few = {"warmup": warmup, "timed": timed, "batches": batches, "max_seconds": max_seconds}
    rows = []
    for count in threads:
        scorers = {contender.name: load(contender, count) for contender in contenders}
        for size, width in itertools.product(batch_sizes, (None, pad_to)):
            taken = _time(scorers, ids, size, width, **few)
            batch = min(size, len(sentences))
            for contender in contenders:
                seconds = taken[contender.name].seconds
                p50, p95 = np.percentile(seconds * 1e3 / batch, (50, 95))
                rows.append(
                    {"variant": contender.name, "runtime": contender.runtime, "threads": count}
                    | {"batch": batch, "tokens": "own" if width is None else str(width)}
                    | {"ms_per_sentence_p50": float(p50), "ms_per_sentence_p95": float(p95)}
                    | {"timed": len(seconds), "cpu": name_of_cpu, "cpu_flags": " ".join(flags)}
                )
        del scorers  # before the next are loaded: both at once would need twice the memory
    return pd.DataFrame(rows)


def _time(
    scorers: Mapping[str, Scorer],
    ids: Mapping[str, Sentences],
    size: int,
    pad_to: int | None,
    *,
    warmup: int,
    timed: int,
    batches: int,
    max_seconds: float,
) -> dict[str, Timing]:
    """Time ``timed`` single sentences, or ``batches`` of ``size``."""
    length = "own lengths" if pad_to is None else f"{pad_to} tokens"
    log.info("ruler: %d contenders, %d at a time, %s", len(scorers), size, length)
    return time_in_turns(
        scorers,
        {name: in_batches(own, size, pad_to) for name, own in ids.items()},
        warmup=-(-warmup // size),
        timed=timed if size == 1 else batches,
        max_seconds=max_seconds,
        turn=max(5, TURN // size),
    )


def size_mb(contender: Contender) -> float:
    """10^6 bytes of the file that would be shipped."""
    if contender.size_mb is not None:
        return contender.size_mb
    from headcount import models

    return models.size_mb(contender.folder)


def ratios(readings: pd.DataFrame, references: Sequence[str]) -> pd.DataFrame:
    """How often each variant beats each reference of the same run (1 = equal, 2 = twice as good).

    ``readings`` has the columns of ``records.Measure``. Columns of the result: variant, then for
    each reference and quantity ``{quantity}_vs_{reference}`` for smaller (size, memory) and
    faster (latency, latency128, throughput).
    """
    import pandas as pd

    rows = readings.set_index("variant")
    result = {}
    for reference in references:
        if reference not in rows.index:
            raise InputError(
                f"the ruler did not measure {reference!r}: choose among {', '.join(rows.index)}"
            )
        base = rows.loc[reference]
        for name, column in RATIOS.items():
            result[f"{name}_vs_{reference}"] = base[column] / rows[column]
        result[f"throughput_vs_{reference}"] = rows["throughput_sps"] / base["throughput_sps"]
    return pd.DataFrame(result).reset_index()


RATIOS = {
    "size": "size_mb",
    "memory": "peak_rss_mb",
    "latency": "latency_ms_p50",
    "latency128": "latency128_ms_p50",
}


def noise(ratios: ArrayLike) -> float:
    """The ruler's own error, by ratios of equal models, which should be 1: a share of a ratio.

    The largest factor by which one of them misses 1 to either side, less 1.
    """
    values = np.asarray(ratios, dtype=float)
    if not values.size or not (values > 0).all():
        raise InputError(f"noise: ratios {values.tolist()}: pass at least one, all above 0")
    return float(np.exp(np.abs(np.log(values)).max()) - 1)


def between(ratios: ArrayLike, noise: float, low: float = 0.0, high: float = np.inf) -> bool | None:
    """Whether measured ratios all lie from ``low`` to ``high``; None where they may.

    What was measured is taken to be off by a factor of up to 1 + ``noise`` to either side.
    """
    values = np.asarray(ratios, dtype=float)
    least, most = values / (1 + noise), values * (1 + noise)
    if (most < low).any() or (least > high).any():
        return False
    return True if (least >= low).all() and (most <= high).all() else None


# --- machine ------------------------------------------------------------------------------------


def cores() -> int:
    """Processor cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def cpu() -> tuple[str, list[str]]:
    """Name of the processor, and those of its instruction sets that decide speed and INT8."""
    info = Path("/proc/cpuinfo")
    fields = {}
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    has = set((fields.get("flags") or fields.get("Features") or "").split())
    return name, [flag for flag in FLAGS if flag in has]


def exact_int8() -> bool:
    """Whether ONNX Runtime's fast INT8 kernel adds in 32 bits here: VNNI, or no x86."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or any("vnni" in flag for flag in cpu()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m headcount.bench memory FOLDER``: print resident memory as JSON."""
    parser = argparse.ArgumentParser(prog="python -m headcount.bench")
    parser.add_argument("command", choices=["memory"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loader", default=TORCH, help="module:function")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    contender = Contender(given.folder.name, given.folder, given.loader)
    print(json.dumps(_memory_main(contender, given.threads)))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
