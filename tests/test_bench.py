"""The ruler, held against sleeps of known length, numpy, and the kernel's own figures."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from headcount import bench, export, models, quantize, records
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


def test_bad_input_is_told_in_one_line(tmp_path):
    nothing = bench.Contender("student-kd", tmp_path / "student-kd")
    with pytest.raises(InputError, match="run the chapter that makes student-kd"):
        bench.measure([nothing], [[1, 2]], threads=1)
    with pytest.raises(InputError, match=r"memory of student-kd could not be measured .*missing"):
        bench.memory(nothing, [[1, 2]], threads=1)
    with pytest.raises(InputError, match="needs a contender and a sentence"):
        bench.measure([], [[1, 2]], threads=1)


def test_cpu_names_the_processor():
    name, flags = bench.cpu()
    assert name
    info = Path("/proc/cpuinfo")
    if info.exists() and "avx2" in info.read_text():
        assert "avx2" in flags
