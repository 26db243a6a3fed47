"""Training speed: the arithmetic against torch's own count, the measurement on a small model."""

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from headcount import models, speed
from headcount.errors import InputError


def test_operations_are_those_that_torch_counts():
    """Forward and backward of a whole batch; torch counts no look-ups and no softmax either."""
    model = models.student(100, layers=3, hidden=64, heads=4, ffn=128)
    model.set_attn_implementation("eager")  # so that its products are counted one by one
    ids = torch.randint(5, 100, (4, 24))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    assert speed.training_flops(model, np.full(4, 24)) == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )


@pytest.fixture
def measured(sentences, monkeypatch, tmp_path):
    monkeypatch.setitem(speed.SHAPES, "bert-base", (2, 32, 4, 64))
    found = speed.measure(sentences(200), steps=3)
    speed.write(tmp_path, "bert-base", found, 1000)
    return found, tmp_path


def test_every_way_is_measured_on_the_same_sentences(measured):
    found, folder = measured
    assert [s.way for s in found] == [
        "fine-tuning, ours",
        "distillation, ours",
        "fine-tuning, plain Trainer",
    ]
    assert len({s.tokens for s in found}) == 1
    assert found[0].tokens <= found[0].positions < found[2].positions == 3 * 32 * 128
    assert all(s.seconds > 0 for s in found)
    kept = json.loads(next(folder.glob("*.json")).read_text())
    assert kept["speeds"][0]["way"] == found[0].way
    shown = speed.table(folder)
    assert "1.0 × |" in shown.splitlines()[4]
    assert "computed and not measured" in shown


def test_a_t4_by_hand():
    """10^15 operations an epoch at 40 % of 65 TFLOP/s take 38.5 s, and 81 epochs 52 minutes."""
    one = speed.Speed("fine-tuning, ours", "bf16", 20, 1.0, 1, 1, 1e15, None)
    low, high = speed.t4_minutes([one], 20 * 32)["fine-tuning, ours"]
    assert (low, high) == (pytest.approx(51.92, abs=0.01), pytest.approx(103.85, abs=0.01))


def test_nothing_measured_or_too_few_sentences(sentences, tmp_path):
    with pytest.raises(InputError, match="holds no measurements"):
        speed.table(tmp_path)
    with pytest.raises(InputError, match="make no 20 batches"):
        speed.measure(sentences(40))
