import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headcount import distill, models, train
from headcount.errors import InputError

RECIPE = train.Recipe(epochs=3, learning_rate=1e-3, batch_size=8)


def fit(tiny, sentences, tokenizer, folder, recipe=RECIPE, **arguments):
    arguments = {"validation": sentences(20, seed=1)} | arguments
    return train.fit(tiny(), sentences(), recipe, folder, tokenizer=tokenizer, **arguments)


# --- batches ------------------------------------------------------------------------------------


def test_batches_hold_each_sentence_once_and_little_padding():
    lengths = np.random.default_rng(0).integers(5, 100, 1000)
    batches = list(train.LikeLengthBatches(lengths, 32, seed=0))
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()


def test_batches_depend_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(5, 100, 300)
    orders = {}
    for seed, epoch in [(0, 0), (0, 1), (1, 0)]:
        sampler = train.LikeLengthBatches(lengths, 32, seed)
        sampler.set_epoch(epoch)
        torch.manual_seed(epoch + 10 * seed)
        orders[seed, epoch] = list(sampler)
        assert list(sampler) == orders[seed, epoch]
    assert orders[0, 0] != orders[0, 1] != orders[1, 0]


# --- training -----------------------------------------------------------------------------------


def test_it_learns_and_is_the_same_every_time(tiny, sentences, word_pieces, tmp_path):
    one = fit(tiny, sentences, word_pieces, tmp_path / "one")
    same = fit(tiny, sentences, word_pieces, tmp_path / "same")
    assert one.weights_sha256 == same.weights_sha256 != models.weights_sha256(tiny())
    assert one.model.config.use_cache is tiny().config.use_cache  # Trainer would change it
    assert one.steps == 15
    assert one.history["validation_macro_f1"].notna().sum() == 3
    longer = train.Recipe(epochs=20, learning_rate=3e-3, batch_size=8)
    learnt = fit(tiny, sentences, word_pieces, tmp_path / "longer", longer).history["loss"].dropna()
    assert learnt.iloc[-1] < 0.5 * learnt.iloc[0]


class KilledError(Exception):
    pass


class StopsAt:
    """Hard labels, until a step at which the process would be killed."""

    __module__ = distill.HardLabels.__module__  # it counts as what it stands for

    def __init__(self, step):
        self.step, self.calls = step, 0

    def __call__(self, model, batch):
        self.calls += 1
        if self.calls == self.step:
            raise KilledError
        return distill.HardLabels()(model, batch)

    def describe(self):
        return distill.HardLabels().describe()


@pytest.mark.parametrize("step", [3, 6, 14])
def test_a_killed_training_goes_on_and_ends_the_same(tiny, sentences, word_pieces, tmp_path, step):
    undisturbed = fit(tiny, sentences, word_pieces, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(tiny, sentences, word_pieces, tmp_path / "cut", objective=StopsAt(step))
    counted = StopsAt(10_000)
    resumed = fit(tiny, sentences, word_pieces, tmp_path / "cut", objective=counted)
    assert counted.calls == 15 - 5 * ((step - 1) // 5)  # whole epochs are not run again
    assert resumed.weights_sha256 == undisturbed.weights_sha256
    columns = ["step", "loss", "validation_loss", "validation_macro_f1"]
    assert resumed.history[columns].equals(undisturbed.history[columns])


def test_half_a_checkpoint_does_not_count(tiny, sentences, word_pieces, tmp_path):
    undisturbed = fit(tiny, sentences, word_pieces, tmp_path / "whole")
    with pytest.raises(KilledError):
        fit(tiny, sentences, word_pieces, tmp_path / "cut", objective=StopsAt(12))
    newest = tmp_path / "cut" / "checkpoint-10"
    (newest / train.WHOLE).unlink()
    (newest / "model.safetensors").write_bytes(b"half")
    assert train.last_checkpoint(tmp_path / "cut").name == "checkpoint-5"
    resumed = fit(tiny, sentences, word_pieces, tmp_path / "cut")
    assert resumed.weights_sha256 == undisturbed.weights_sha256


def test_a_finished_training_is_not_run_again_unless_something_differs(
    tiny, sentences, word_pieces, tmp_path
):
    first = fit(tiny, sentences, word_pieces, tmp_path)
    objective = StopsAt(1)
    again = fit(tiny, sentences, word_pieces, tmp_path, objective=objective)
    assert objective.calls == 0
    assert again.weights_sha256 == first.weights_sha256
    assert again.history.equals(first.history)
    assert not list(tmp_path.glob("checkpoint-*"))
    other = train.Recipe(epochs=3, learning_rate=2e-3, batch_size=8)
    with pytest.raises(KilledError):
        fit(tiny, sentences, word_pieces, tmp_path, other, objective=StopsAt(1))


class NaNAt(StopsAt):
    def __call__(self, model, batch):
        self.calls += 1
        loss = distill.HardLabels()(model, batch)["loss"]
        return {"loss": loss * float("nan") if self.calls == self.step else loss}


def test_a_student_of_a_loaded_teacher_is_known_as_that_of_the_trained_one(
    tiny, sentences, word_pieces, tmp_path
):
    once = replace(RECIPE, epochs=1)
    digests = set()
    for _ in ("trained", "loaded"):
        teacher = fit(tiny, sentences, word_pieces, tmp_path, once).model
        student = models.student_from_layers(teacher, [1])
        digests.add(train.fingerprint(student, sentences(), None, RECIPE, distill.HardLabels()))
    models.save(teacher, word_pieces, tmp_path / "saved")
    student = models.student_from_layers(models.load(tmp_path / "saved")[0], [1])
    digests.add(train.fingerprint(student, sentences(), None, RECIPE, distill.HardLabels()))
    assert len(digests) == 1


def test_a_nan_loss_stops_names_the_step_and_keeps_the_last_checkpoint(
    tiny, sentences, word_pieces, tmp_path
):
    with pytest.raises(InputError, match="step 8 of 15; the last good checkpoint is") as caught:
        fit(tiny, sentences, word_pieces, tmp_path, objective=NaNAt(8), name="fold 0 teacher")
    assert str(caught.value).startswith("fold 0 teacher: the loss is not finite")
    assert "\n" not in str(caught.value)
    kept = train.last_checkpoint(tmp_path)
    assert kept.name == "checkpoint-5"
    assert json.loads((kept / "trainer_state.json").read_text())["global_step"] == 5


def test_the_log_has_the_objectives_terms(tiny, sentences, word_pieces, tmp_path):
    kd = distill.VanillaKD(np.zeros((40, 3), dtype=np.float32))
    history = fit(tiny, sentences, word_pieces, tmp_path, objective=kd).history
    history = history.dropna(subset="loss")
    assert np.allclose(history["loss"], history["hard"] + history["soft"])


def test_equal_recipes_give_equal_batches_whatever_the_objective(
    tiny, sentences, word_pieces, tmp_path
):
    class Watches(StopsAt):
        seen: list

        def __call__(self, model, batch):
            self.seen.append(batch["index"].tolist())
            return {"loss": self.step * distill.HardLabels()(model, batch)["loss"]}

        def describe(self):
            return {"step": self.step}

    orders = []
    for weight in (1, 2):
        watch = Watches(weight)
        watch.seen = []
        fit(tiny, sentences, word_pieces, tmp_path / str(weight), objective=watch)
        orders.append(watch.seen)
    assert orders[0] == orders[1]


def test_a_step_is_adamw_with_warm_up_and_clipping(
    tiny, sentences, word_pieces, tmp_path, monkeypatch
):
    """The whole training again, written out with torch alone, in FP32 as that is."""
    monkeypatch.setattr(train, "precision", lambda device: "fp32")
    recipe = train.Recipe(epochs=2, learning_rate=1e-3, batch_size=8, warmup=0.2, weight_decay=0.1)
    model, tokens = tiny(), sentences()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start = {k: v.clone() for k, v in model.state_dict().items()}
    fitted = train.fit(model, tokens, recipe, tmp_path, tokenizer=word_pieces)

    by_hand = tiny()
    by_hand.load_state_dict(start)
    norms = ("bias", "LayerNorm.weight")
    decayed = [p for n, p in by_hand.named_parameters() if not n.endswith(norms)]
    rest = [p for n, p in by_hand.named_parameters() if n.endswith(norms)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3
    )
    steps, warm = 10, 2
    for step, batch in enumerate(
        rows for epoch in range(2) for rows in _batches(tokens, recipe, epoch)
    ):
        share = step / warm if step < warm else (steps - step) / (steps - warm)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * share
        optimizer.zero_grad()
        inputs = train.collate([tokens[i] for i in batch], word_pieces.pad_token_id)
        logits = by_hand(inputs["input_ids"], inputs["attention_mask"]).logits
        F.cross_entropy(logits, inputs["labels"]).backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(value, fitted.model.state_dict()[name], atol=1e-6), name


def _batches(tokens, recipe, epoch):
    sampler = train.LikeLengthBatches(tokens.lengths, recipe.batch_size, recipe.seed)
    sampler.set_epoch(epoch)
    return list(sampler)


# --- prediction ---------------------------------------------------------------------------------


def test_predictions_come_in_the_order_of_the_data(tiny, sentences, word_pieces):
    model, tokens = tiny(), sentences(33)
    logits = train.predict(model, tokens, word_pieces, batch_size=8)
    for i in (0, 11, 32):
        with torch.no_grad():
            alone = model(torch.tensor([tokens.input_ids[i]])).logits[0].numpy()
        assert np.allclose(logits[i], alone, atol=1e-5)


def test_training_in_bf16_leaves_a_model_that_computes_in_fp32(
    tiny, sentences, word_pieces, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "precision", lambda device: "bf16")
    validation = sentences(20, seed=1)
    fitted = fit(tiny, sentences, word_pieces, tmp_path, validation=validation)
    logits = train.predict(fitted.model, validation, word_pieces)
    reloaded = tiny()
    reloaded.load_state_dict(fitted.model.state_dict())
    assert np.array_equal(logits, train.predict(reloaded, validation, word_pieces))
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(validation.labels))
    told = fitted.history["validation_loss"].dropna().iloc[-1]
    assert told == pytest.approx(float(loss), rel=1e-6)  # and so was it scored while it trained
    # An autocast left on it would come along here, and compute with the weights of the first.
    copied = copy.deepcopy(fitted.model)
    with torch.no_grad():
        copied.classifier.weight.zero_()
        copied.classifier.bias.zero_()
    assert not train.predict(copied, validation, word_pieces).any()


def test_a_recipe_may_ask_for_its_own_precision(
    tiny, sentences, word_pieces, tmp_path, monkeypatch
):
    weights = {}
    for where, asked in (("bf16", None), ("bf16", "fp32"), ("fp32", None)):
        monkeypatch.setattr(train, "precision", lambda device, where=where: where)
        folder = tmp_path / f"{where}-{asked}"
        fitted = fit(tiny, sentences, word_pieces, folder, replace(RECIPE, precision=asked))
        weights[where, asked] = fitted.weights_sha256
    assert weights["bf16", "fp32"] == weights["fp32", None] != weights["bf16", None]


def test_rounds_in_bf16_end_the_same_when_the_first_is_only_loaded(
    tiny, sentences, word_pieces, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "precision", lambda device: "bf16")
    ends = []
    for second in ("second", "after loading"):
        model, tokens = tiny(), sentences()
        for name in ("first", second):
            fitted = train.fit(model, tokens, RECIPE, tmp_path / name, tokenizer=word_pieces)
        ends.append(fitted.weights_sha256)
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("system", "flags", "expected"),
    [
        ("Linux", "fma avx2 avx512_bf16 avx512_vnni", "bf16"),
        ("Linux", "fma avx2 amx_bf16 amx_tile", "bf16"),
        ("Linux", "fma avx2 avx512f avx512_vnni", "fp32"),
        ("Darwin", "avx512_bf16", "fp32"),  # there is no /proc/cpuinfo
    ],
)
def test_precision_without_a_gpu_follows_the_processor(monkeypatch, system, flags, expected):
    files = {"/proc/cpuinfo": f"processor\t: 0\nflags\t\t: {flags}\n"}
    monkeypatch.setattr(train.platform, "system", lambda: system)
    monkeypatch.setattr(train.Path, "read_text", lambda path, encoding: files[str(path)])
    assert train.precision("cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_precision_on_a_gpu_is_bf16_only_where_it_is_native(monkeypatch, native, expected):
    def is_bf16_supported(including_emulation=True):
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert train.precision("cuda") == expected
