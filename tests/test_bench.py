"""The ruler, held against sleeps of known length, numpy, and the kernel's own figures."""

import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from headcount import bench, export, models, quantize, records, vocabulary
from headcount.errors import InputError

TEXTS = ["Profit rose.", "Sales fell sharply in the third quarter of 2009.", "The deal closed."]
BALLAST_MB = 300


class Sleeper:
    """A scorer that notes whose turn it is and takes a known time."""

    def __init__(self, name, seconds, calls):
        self.name, self.seconds, self.calls = name, seconds, calls

    def __call__(self, input_ids, attention_mask):
        self.calls.append((self.name, input_ids.shape))
        time.sleep(self.seconds)


def sleepers(**seconds):
    calls = []
    return {name: Sleeper(name, s, calls) for name, s in seconds.items()}, calls


def test_contenders_take_turns_there_and_back():
    assert "".join(bench.there_and_back("AB", 4)) == "ABBAABBA"
    scorers, calls = sleepers(a=0, b=0)
    batches = bench.singles([[1] * n for n in range(2, 9)])
    taken = bench.time_in_turns(scorers, batches, warmup=3, timed=6, max_seconds=60, turn=2)
    names = "".join(name for name, _ in calls)
    assert names == "aaabbb" + "aaa" + "bbb" * 2 + "aaa" * 2 + "bbb"  # each turn: 1 untimed, 2
    assert {name: (t.warmup, len(t.seconds)) for name, t in taken.items()} == {
        "a": (3, 6),
        "b": (3, 6),
    }


def test_every_contender_is_timed_on_the_same_sentences_in_the_same_order():
    scorers, calls = sleepers(a=0, b=0.001)
    batches = bench.singles([[1] * n for n in range(2, 9)])
    bench.time_in_turns(scorers, batches, warmup=1, timed=10, max_seconds=60, turn=5)
    widths = {n: [shape[1] for name, shape in calls if name == n] for n in "ab"}
    # Warm-up, then two turns with their untimed opening; 7 sentences, so the eighth is the first.
    assert widths["a"] == widths["b"] == [2, 2, 2, 3, 4, 5, 6, 7, 7, 8, 2, 3, 4]


def test_a_contender_may_have_batches_of_its_own():
    scorers, calls = sleepers(a=0, b=0)
    batches = {"a": bench.singles([[1], [1, 2]]), "b": bench.singles([[3, 4, 5], [6]])}
    bench.time_in_turns(scorers, batches, warmup=1, timed=2, max_seconds=60, turn=2)
    assert [shape[1] for name, shape in calls if name == "a"] == [1, 1, 1, 2]
    assert [shape[1] for name, shape in calls if name == "b"] == [3, 3, 3, 1]


def test_times_are_those_of_the_contender():
    scorers, _ = sleepers(fast=0.002, slow=0.006)
    batches = bench.singles([[1, 2]])
    taken = bench.time_in_turns(scorers, batches, warmup=2, timed=20, max_seconds=60, turn=5)
    assert 0.002 <= np.median(taken["fast"].seconds) < 0.005
    assert 0.006 <= np.median(taken["slow"].seconds) < 0.012


def test_a_slow_contender_is_timed_less_often_over_the_whole_run():
    scorers, calls = sleepers(fast=0, slow=0.01)
    batches = bench.singles([[1, 2]])
    taken = bench.time_in_turns(scorers, batches, warmup=20, timed=40, max_seconds=0.2, turn=5)
    assert taken["fast"].warmup == 20
    assert len(taken["fast"].seconds) == 40
    assert taken["slow"].warmup <= 3  # a tenth of the time
    assert 5 <= len(taken["slow"].seconds) <= 20
    assert "slow" in {name for name, _ in calls[-20:]}


def test_percentiles_are_numpys():
    seconds = np.random.default_rng(0).gamma(2, 0.01, 500)
    found = bench.percentiles(seconds, "latency")
    assert found == {
        f"latency_ms_p{p}": pytest.approx(np.quantile(seconds, p / 100) * 1000)
        for p in (50, 95, 99)
    }


def test_padding():
    ids, mask = bench.pad([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert [batch[0].shape for batch in bench.singles([[1], [1, 2]], 128)] == [(1, 128)] * 2
    ids, mask = bench.singles([[1, 2, 3]], 2)[0]
    assert (ids.tolist(), mask.tolist()) == ([[1, 2]], [[1, 1]])


def test_batches_are_whole():
    sentences = [[1] * n for n in range(1, 8)]
    batches = bench.in_batches(sentences, 3)
    assert [ids.shape for ids, _ in batches] == [(3, 3), (3, 6)]
    assert [int(mask.sum()) for _, mask in batches] == [1 + 2 + 3, 4 + 5 + 6]
    assert [ids.shape for ids, _ in bench.in_batches(sentences, 9, pad_to=10)] == [(7, 10)]


@pytest.fixture(scope="module")
def tokenizer():
    return models.train_wordpiece(TEXTS * 3, vocab_size=200)


@pytest.fixture(scope="module")
def contenders(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = models.student(20_000, layers=1, hidden=256, heads=4, ffn=512).eval()
    models.save(model, tokenizer, folder / "teacher")
    export.deployable(folder / "teacher-onnx", model, tokenizer, int8=False, name="teacher-onnx")
    return [
        bench.Contender("teacher", folder / "teacher"),
        bench.Contender("teacher-onnx", folder / "teacher-onnx", bench.ONNXRUNTIME, "onnxruntime"),
        bench.Contender(
            "teacher-torch-int8",
            folder / "teacher",
            "headcount.quantize:load_torch_dynamic",
            "torch.ao",
            size_mb=quantize.serialized_mb(quantize.torch_dynamic(model)),
        ),
    ]


@pytest.fixture(scope="module")
def sentences(tokenizer):
    return [tokenizer(text)["input_ids"] for text in TEXTS * 20]


def test_loaders_agree(contenders, sentences):
    batch = bench.pad(sentences[:3])
    exact, onnx, int8 = (np.asarray(bench.load(c, 1)(*batch)) for c in contenders)
    np.testing.assert_allclose(onnx, exact, atol=1e-4)
    assert 0 < np.abs(int8 - exact).max() < 0.1


@pytest.fixture(scope="module")
def rows(contenders, sentences):
    threads = torch.get_num_threads()
    ballast = np.ones(BALLAST_MB * 1_000_000 // 8)  # must not count as a contender's memory
    try:
        return bench.measure(
            contenders[:2], sentences, threads=1, warmup=2, timed=30, max_seconds=2, pad_to=32
        )
    finally:
        torch.set_num_threads(threads)
        del ballast


def test_the_whole_ruler(contenders, rows):
    fields = records.Measure.model_fields
    readings = [
        records.Measure(**{name: value for name, value in row.items() if name in fields})
        for row in rows
    ]
    assert [r.variant for r in readings] == ["teacher", "teacher-onnx"]
    for reading, contender in zip(readings, contenders, strict=False):
        assert reading.timed == reading.timed128 == 30
        assert 0 < reading.latency_ms_p50 <= reading.latency_ms_p95 <= reading.latency_ms_p99
        assert reading.throughput_sps > 0
        assert reading.threads == 1
        assert reading.cpu
        assert reading.size_mb == models.size_mb(contender.folder)
    frame = pd.DataFrame(r.model_dump() for r in readings)
    ratio = bench.ratios(frame, ["teacher"]).set_index("variant")
    assert (ratio.loc["teacher"] == 1).all()
    first, second = readings
    by_hand = first.latency_ms_p50 / second.latency_ms_p50
    assert ratio.loc["teacher-onnx", "latency_vs_teacher"] == pytest.approx(by_hand)
    by_hand = second.throughput_sps / first.throughput_sps
    assert ratio.loc["teacher-onnx", "throughput_vs_teacher"] == pytest.approx(by_hand)
    with pytest.raises(InputError, match="did not measure 'student'"):
        bench.ratios(frame, ["student"])


def test_memory_is_that_of_a_fresh_process(rows):
    in_torch, found = rows
    assert found["peak_rss_mb"] < in_torch["peak_rss_mb"]
    for row in rows:
        assert row["libraries_mb"] < row["loaded_mb"] <= row["peak_rss_mb"] * 1.001
        # 20,000 x 256 embeddings alone are 20.5 MB.
        assert 20 < row["peak_rss_mb"] - row["libraries_mb"] < BALLAST_MB
    assert in_torch["libraries_mb"] > found["libraries_mb"] + 50  # torch was not imported there


def test_size_is_that_which_would_be_shipped(contenders):
    by_hand = contenders[2].size_mb
    assert bench.size_mb(contenders[2]) == by_hand
    assert 20.5 < by_hand < bench.size_mb(contenders[0])


@pytest.fixture(scope="module")
def trimmed(contenders, tokenizer, tmp_path_factory):
    """The teacher with the pieces of one sentence and single characters, torch and deployable."""
    folder = tmp_path_factory.mktemp("trimmed")
    model, _ = models.load(contenders[0].folder)
    small, own = vocabulary.trim(model, tokenizer, TEXTS[:1])
    models.save(small, own, folder / "torch")
    export.deployable(folder / "onnx", small, own, name="trimmed-onnx")
    ids = [own(text)["input_ids"] for text in TEXTS * 20]
    return [
        bench.Contender("trimmed", folder / "torch", sentences=ids),
        bench.Contender(
            "trimmed-onnx", folder / "onnx", bench.ONNXRUNTIME, "onnxruntime", None, ids
        ),
    ]


def test_a_trimmed_vocabulary_gets_the_same_sentences_as_its_own_ids(
    contenders, trimmed, sentences, threads
):
    # The first sentence is the one that was kept whole.
    logits = [
        bench.load(contender, 1)(*bench.pad(ids[:1]))
        for contender, ids in ((contenders[0], sentences), (trimmed[0], trimmed[0].sentences))
    ]
    assert torch.equal(*logits)
    few = {"threads": 1, "warmup": 1, "timed": 5, "max_seconds": 1, "pad_to": 64}
    (row,) = bench.measure(trimmed[1:], sentences, **few)
    assert row["timed"] == 5
    bare = [replace(contender, sentences=None) for contender in trimmed]
    assert bare == trimmed
    with pytest.raises(IndexError):  # the study's ids: no embedding of the trimmed model
        bench.measure(bare[:1], sentences, **few)


def test_memory_scores_as_many_of_the_contenders_own_sentences(trimmed, sentences, monkeypatch):
    given = []

    def run(command, input, **_):
        given.append(json.loads(input))
        return SimpleNamespace(returncode=0, stdout="{}")

    monkeypatch.setattr(bench.subprocess, "run", run)
    for contender in (trimmed[0], replace(trimmed[0], sentences=None)):
        bench.memory(contender, sentences[:4], threads=1)
    assert given == [trimmed[0].sentences[:4], sentences[:4]]


def test_the_grid_has_every_condition_one_thread_count_after_the_other(tmp_path, monkeypatch):
    calls, loaded = [], []

    def load(contender, threads):
        loaded.append((contender.name, threads))
        seconds = {"slow": 0.006, "fast": 0.003}[contender.name] / threads
        return Sleeper(f"{contender.name}{threads}", seconds, calls)

    monkeypatch.setattr(bench, "load", load)
    sentences = [[1] * (2 + n % 3) for n in range(10)]
    own = [[1, *sentence] for sentence in sentences]
    pair = [
        bench.Contender("slow", tmp_path),
        bench.Contender("fast", tmp_path, runtime="onnxruntime", sentences=own),
    ]
    few = {"warmup": 4, "timed": 12, "batches": 3, "max_seconds": 5}
    grid = bench.grid(pair, sentences, batch_sizes=(1, 4), pad_to=16, **few)
    assert loaded == [("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2)]
    assert list(grid) == [
        *("variant", "runtime", "threads", "batch", "tokens", "ms_per_sentence_p50"),
        *("ms_per_sentence_p95", "timed", "cpu", "cpu_flags"),
    ]
    conditions = grid[["threads", "batch", "tokens"]].drop_duplicates()
    assert conditions.to_numpy().tolist() == [
        [threads, batch, tokens]
        for threads in (1, 2)
        for batch in (1, 4)
        for tokens in ("own", "16")
    ]
    for row in grid.itertuples():
        alone = {"slow": 6, "fast": 3}[row.variant] / row.threads
        assert alone <= row.ms_per_sentence_p50 * row.batch < alone + 5
        assert row.ms_per_sentence_p50 <= row.ms_per_sentence_p95
        assert row.timed == {1: 12, 4: 3}[row.batch]
    assert set(grid["runtime"]) == {"torch", "onnxruntime"}
    assert grid["cpu"].iloc[0] == bench.cpu()[0]
    assert grid["cpu_flags"].iloc[0].split() == bench.cpu()[1]
    shapes = {name: {shape for who, shape in calls if who == name} for name, _ in calls}
    assert list(shapes) == ["slow1", "fast1", "slow2", "fast2"]
    assert shapes["slow1"] == {(1, 2), (1, 3), (1, 4), (4, 4), (1, 16), (4, 16)}
    assert shapes["fast2"] == {(1, 3), (1, 4), (1, 5), (4, 5), (1, 16), (4, 16)}
    kinds = [name for name, _ in calls]
    assert kinds.index("slow2") > max(i for i, name in enumerate(kinds) if name.endswith("1"))


def test_the_grid_of_real_models(contenders, trimmed, sentences, threads):
    grid = bench.grid(
        [*contenders[:2], trimmed[1]], sentences, warmup=1, timed=3, max_seconds=0.5, pad_to=32
    )
    assert len(grid) == 3 * 2 * 4
    assert (grid["ms_per_sentence_p50"] > 0).all()
    assert torch.get_num_threads() == 2


@pytest.fixture
def threads():
    """Leave torch's thread count, which is the process's, as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_noise_is_the_largest_miss_to_either_side():
    assert bench.noise([1.0, 1.0]) == 0
    assert bench.noise([1.02, 1.05, 0.99]) == pytest.approx(0.05)
    assert bench.noise([0.8, 1.2]) == pytest.approx(0.25)  # 0.8 times is 1.25 times, to the other
    for ratios in ([], [1.0, 0.0], [np.nan]):
        with pytest.raises(InputError, match="pass at least one, all above 0"):
            bench.noise(ratios)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        *[(1.5, True), (1.05, None), (0.95, None), (0.8, False), (1.9, None), (2.3, False)],
        *[([1.2, 1.7], True), ([1.2, 1.95], None), ([1.95, 0.5], False)],
    ],
)
def test_a_ratio_near_a_bound_is_undecided(ratios, expected):
    assert bench.between(ratios, noise=0.1, low=1, high=2) is expected


def test_bounds_may_be_open():
    assert bench.between([9.0, 12.0], noise=0.1, low=1) is True
    assert bench.between(1.7, noise=0.1, high=2) is True
    assert bench.between(10, noise=0, low=10) is True


def test_bad_input_is_told_in_one_line(tmp_path):
    nothing = bench.Contender("student-kd", tmp_path / "student-kd")
    other = replace(nothing, sentences=[[1, 2]] * 2)
    for ruler in (partial(bench.measure, threads=1), bench.grid):
        with pytest.raises(InputError, match=r"student-kd brings its own ids of 2 .* where 1 are"):
            ruler([other], [[1, 2]])
        with pytest.raises(InputError, match="run the chapter that makes student-kd"):
            ruler([nothing], [[1, 2]])
        with pytest.raises(InputError, match="needs a contender and a sentence"):
            ruler([], [[1, 2]])
    with pytest.raises(InputError, match=r"memory of student-kd could not be measured .*missing"):
        bench.memory(nothing, [[1, 2]], threads=1)


def test_cpu_names_the_processor():
    name, flags = bench.cpu()
    assert name
    info = Path("/proc/cpuinfo")
    if info.exists() and "avx2" in info.read_text():
        assert "avx2" in flags


def test_cores_are_those_that_the_process_may_use():
    assert 1 <= bench.cores() <= os.cpu_count()
