"""ONNX and INT8 against torch and against arithmetic done by hand."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from headcount import bench, export, models, predict, quantize, vocabulary
from headcount.data import LABELS
from headcount.errors import InputError
from headcount.prune import surgery

TEXTS = [
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn.",
    "Sales fell.",
    "The company did not disclose the price of the deal, which closes in the third quarter.",
]
LAYER = "bert.encoder.layer.1"
EMBEDDINGS = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def tokenizer():
    return models.train_wordpiece(TEXTS * 3, vocab_size=300)


def lively(model):
    """The model in evaluation mode with weights large enough for its outputs to differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return lively(models.student(tokenizer.vocab_size, layers=2, hidden=64, heads=4, ffn=128))


@pytest.fixture(scope="module")
def fp32(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp32") / "teacher-onnx"
    return export.deployable(folder, model, tokenizer, int8=False, name="teacher-onnx")


@pytest.fixture(scope="module")
def int8(model, tokenizer, fp32, tmp_path_factory):
    return export.deployable(
        tmp_path_factory.mktemp("int8") / "teacher-int8",
        model,
        tokenizer,
        int8=True,
        name="teacher-int8",
        facts={"macro-F1": "0.5"},
        max_length=20,
        onnx_file=fp32 / "model.onnx",
    )


def torch_logits(model, ids):
    with torch.no_grad():
        return np.concatenate([model(torch.tensor([row])).logits.numpy() for row in ids])


def encode(tokenizer, texts):
    return [tokenizer(text)["input_ids"] for text in texts]


def assert_equal_padded(model, tokenizer, path):
    """Batches of several sizes and lengths, with padding, give torch's logits."""
    session = ort.InferenceSession(path)
    for texts in (TEXTS[:1], TEXTS[1:], [*TEXTS, "", "Up."]):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.no_grad():
            np.testing.assert_allclose(found[0], model(**inputs).logits, atol=1e-4)


def test_export_equals_torch_and_both_axes_are_free(model, tokenizer, fp32):
    assert_equal_padded(model, tokenizer, fp32 / "model.onnx")
    ids = encode(tokenizer, TEXTS)
    found = export.OnnxClassifier(fp32).logits(ids)
    assert found.dtype == np.float32
    assert np.ptp(found, axis=0).min() > 0.01  # a constant would pass the next line, too
    np.testing.assert_allclose(found, torch_logits(model, ids), atol=1e-4)


def test_export_of_layers_with_different_numbers_of_heads(model, tokenizer, tmp_path):
    pruned, _ = copy_of(model, tokenizer, tmp_path / "copy")
    surgery.remove(pruned, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2)])
    export.to_onnx(pruned, tokenizer, tmp_path / "pruned.onnx")
    assert_equal_padded(pruned, tokenizer, tmp_path / "pruned.onnx")
    export.quantize_dynamic(tmp_path / "pruned.onnx", tmp_path / "int8.onnx")
    session = ort.InferenceSession(tmp_path / "int8.onnx")
    ids = np.array(encode(tokenizer, TEXTS[:1]))
    found = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    assert np.abs(found - torch_logits(pruned, ids.tolist())).max() < 0.5


def copy_of(model, tokenizer, folder):
    models.save(model, tokenizer, folder)
    return models.load(folder)


def test_export_of_distilbert_which_has_no_token_types(tokenizer, tmp_path):
    config = DistilBertConfig(
        vocab_size=tokenizer.vocab_size, dim=32, n_layers=1, n_heads=2, hidden_dim=64, num_labels=3
    )
    model = lively(DistilBertForSequenceClassification(config)).train()
    export.to_onnx(model, tokenizer, tmp_path / "distilbert.onnx")
    assert model.training
    assert_equal_padded(model.eval(), tokenizer, tmp_path / "distilbert.onnx")


def test_int8_file_is_a_quarter_holds_no_large_fp32_and_no_paths(tokenizer, tmp_path, capfd):
    wide = models.student(2000, layers=1, hidden=256, heads=4, ffn=1024).eval()
    export.to_onnx(wide, tokenizer, tmp_path / "fp32.onnx")
    export.quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "int8.onnx")
    assert capfd.readouterr() == ("", "")
    assert b".py" not in (tmp_path / "int8.onnx").read_bytes()
    before, after = (export.size_mb(tmp_path / f"{name}.onnx") for name in ("fp32", "int8"))
    assert 3.8 < before / after < 4
    found = export.constants(tmp_path / "int8.onnx")
    assert max(c.size for c in found.values() if c.dtype == np.float32) == 1024  # bias, scales
    weights = sum(c.size for c in found.values() if c.dtype in (np.int8, np.uint8) and c.ndim == 2)
    assert weights == sum(p.numel() for p in wide.parameters() if p.ndim == 2)


def test_int8_weights_are_those_computed_by_hand(model, int8):
    found = export.constants(int8 / "model.onnx")
    for name in ("attention.self.query", "intermediate.dense", "output.dense"):
        weight = model.get_parameter(f"{LAYER}.{name}.weight").detach()
        key = f"{LAYER}.{name}.weight.T"
        scale = quantize.symmetric_scale(weight, axis=0)
        np.testing.assert_allclose(found[f"{key}_scale"], scale[:, 0], rtol=1e-6)
        assert not found[f"{key}_zero_point"].any()
        by_hand = quantize.quantize(weight, scale).numpy()
        stored = found[f"{key}_quantized"].T
        assert stored.dtype == np.int8
        assert np.abs(stored - by_hand).max() <= 1  # a tie may fall either way
        assert (stored != by_hand).mean() < 1e-3


def test_int8_embeddings_are_those_computed_by_hand(model, int8):
    found = export.constants(int8 / "model.onnx")
    key = EMBEDDINGS
    table = model.get_parameter(key).detach()
    scale, zero_point = quantize.asymmetric_scale(table)
    np.testing.assert_allclose(found[f"{key}_scale"], scale, rtol=1e-6)
    assert found[f"{key}_zero_point"] == zero_point
    by_hand = quantize.quantize(table, scale, zero_point, 0, 255).numpy()
    assert np.abs(found[f"{key}_quantized"] - by_hand).max() <= 1


def test_int8_logits_equal_a_linear_layer_by_hand(int8, tmp_path):
    """The kernel that the shipped session asks for does not saturate, with or without VNNI."""
    weight = np.full((64, 3), 0.5, np.float32)
    weight[:, 1] = np.linspace(-1, 1, 64)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = helper.make_opsetid("", export.OPSET)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "fp32.onnx")
    export.quantize_dynamic(tmp_path / "fp32.onnx", tmp_path / "int8.onnx")
    x = np.ones((1, 64), np.float32)
    x[0, 0] = 0.3
    options = export.OnnxClassifier(int8).session.get_session_options()
    # Asserted, because the result is the same without it where the processor has VNNI.
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    session = ort.InferenceSession(tmp_path / "int8.onnx", options)
    xs, ws = torch.tensor(x), torch.tensor(weight)
    scale, zero_point = quantize.asymmetric_scale(xs)
    x_back = quantize.dequantize(
        quantize.quantize(xs, scale, zero_point, 0, 255), scale, zero_point
    )
    w_scale = quantize.symmetric_scale(ws, axis=1)
    w_back = quantize.dequantize(quantize.quantize(ws, w_scale), w_scale)
    found = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x_back @ w_back, atol=1e-4)
    plain = ort.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": x})[0]
    assert np.allclose(plain, x_back @ w_back, atol=1e-4) == bench.exact_int8()


def test_a_plain_session_scores_the_same_file(int8):
    batch = bench.pad([[2, 5, 6, 7, 3], [2, 8, 3]])
    ours, plain = bench.load_onnxruntime(int8, 1), bench.load_plain_session(int8, 1)
    assert plain(*batch).shape == ours(*batch).shape == (2, 3)
    if bench.exact_int8():
        np.testing.assert_array_equal(plain(*batch), ours(*batch))


def test_deployed_folder_is_whole(int8):
    files = {path.name for path in int8.iterdir()}
    assert files == {"model.onnx", "tokenizer.json", "config.json", "predict.py", "README.md"}
    assert not list(int8.parent.glob(".*"))
    config = json.loads((int8 / "config.json").read_text())
    assert config["labels"] == list(LABELS)
    assert config["max_length"] == 20
    assert len((int8 / "predict.py").read_text().splitlines()) <= 40
    readme = (int8 / "README.md").read_text()
    assert "| macro-F1 | 0.5 |" in readme
    assert "CC BY-NC-SA" in readme
    export.describe(int8, {"macro-F1": "0.75"})
    assert "| macro-F1 | 0.75 |" in (int8 / "README.md").read_text()


FORBIDDING = """
import runpy, sys
allowed = {*sys.stdlib_module_names, 'numpy', 'onnxruntime', 'tokenizers'}
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] not in allowed:
            raise ModuleNotFoundError(f'{name} is forbidden here')
sys.meta_path.insert(0, Forbid())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_script(folder, *texts, lines=None, options=(), env=None):
    """Run a deployed predict.py where nothing but what it needs can be imported."""
    script = str(folder / "predict.py")
    command = [sys.executable, "-I", *options, "-c", FORBIDDING, script, *texts]
    return subprocess.run(command, input=lines, env=env, capture_output=True, timeout=60)


def rows_of(done):
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return [line.split("\t") for line in done.stdout.decode().rstrip("\n").split("\n")]


def assert_rows(rows, logits, texts, atol=1e-4):
    """Each row is the label, the probabilities and the sentence that belong together."""
    for row, scores, text in zip(rows, logits, texts, strict=True):
        assert row[0] == LABELS[scores.argmax()]
        probabilities = np.array(row[1:4], float)
        assert probabilities.sum() == pytest.approx(1, abs=2e-4)
        np.testing.assert_allclose(probabilities, softmax(scores), atol=atol)
        assert row[4:] == [text]


def test_deployed_script_needs_three_packages_alone(int8, tmp_path):
    folder = shutil.copytree(int8, tmp_path / "a folder, élan")
    texts = [TEXTS[0], "", "Tab\tand\nnew line", "Übernahme \u4e2d \U0001f600", "profit " * 5000]
    rows = rows_of(run_script(folder, *texts))
    shown = [" ".join(text.split()) for text in texts]
    assert_rows(rows, export.OnnxClassifier(int8).logits(texts), shown)


def test_guard_of_the_test_above_forbids(tmp_path):
    for name in ("torch", "transformers", "headcount", "onnx", "sklearn", "pandas"):
        (tmp_path / "predict.py").write_text(f"import {name}")
        assert f"{name} is forbidden here".encode() in run_script(tmp_path).stderr


def test_deployed_script_answers_each_line(int8):
    """Blank lines, other line ends, and bytes that are no UTF-8, where the locale is ASCII."""
    lines = "Sales fell.\n\n  \r\nÜber 5 % – Umsatz\x85\n".encode() + b"caf\xe9 profit"
    texts = ["Sales fell.", "", "", "Über 5 % – Umsatz\x85", "caf\ufffd profit"]
    ascii_locale = {"options": ("-X", "utf8=0"), "env": {"LC_ALL": "C"}}
    rows = rows_of(run_script(int8, lines=lines, **ascii_locale))
    shown = [text.replace("\x85", "") for text in texts]
    assert_rows(rows, export.OnnxClassifier(int8).logits(texts), shown)
    assert run_script(int8, lines=b"").stdout == b""


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.onnx"])
@pytest.mark.parametrize("content", [None, b"", b"others", b"{}"])
def test_a_missing_or_damaged_file_is_told_in_one_line(int8, tmp_path, name, content):
    folder = shutil.copytree(int8, tmp_path / "copy")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is missing or damaged, copy it again"):
        predict.OnnxClassifier(folder)
    if content == b"others":
        done = run_script(folder, "Sales fell.")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(f"ValueError: {folder / name} is missing".encode())
        assert done.stderr.count(b"\n") == 1


@pytest.fixture(scope="module")
def trimmed(model, tokenizer):
    return vocabulary.trim(model, tokenizer, TEXTS[:2])


def test_a_trimmed_model_is_deployed_and_labels_as_torch_does(trimmed, model, tokenizer, tmp_path):
    small, pieces = trimmed
    assert len(pieces) < len(tokenizer)
    folder = export.deployable(tmp_path / "trimmed-int8", small, pieces, int8=True, name="trimmed")
    table = export.constants(folder / "model.onnx")[f"{EMBEDDINGS}_quantized"]
    assert (table.shape, table.dtype) == ((len(pieces), 64), np.uint8)
    texts = [*TEXTS, "", "Unknown \u4e2d words", "Profit Sales mn"]
    logits = torch_logits(small, encode(pieces, texts))
    assert np.ptp(logits, axis=0).min() > 0.01
    rows = rows_of(run_script(folder, *texts))
    assert_rows(rows, logits, texts, atol=0.02)  # INT8 against FP32
    assert_rows(rows, export.OnnxClassifier(folder).logits(texts), texts)
    np.testing.assert_array_equal(logits[:2], torch_logits(model, encode(tokenizer, TEXTS[:2])))


def test_a_trimmed_model_is_not_deployed_with_all_pieces(trimmed, tokenizer, tmp_path):
    with pytest.raises(InputError, match="was saved with it") as caught:
        export.deployable(tmp_path / "m", trimmed[0], tokenizer, int8=True, name="m")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def softmax(scores):
    return torch.tensor(scores, dtype=torch.float64).softmax(0).numpy()


def test_long_and_empty_sentences_are_cut_as_the_study_cuts_them(int8, tokenizer):
    classifier = export.OnnxClassifier(int8)
    texts = ["profit " * 100, ""]
    ids = [tokenizer(text, truncation=True, max_length=20)["input_ids"] for text in texts]
    assert [len(row) for row in ids] == [20, 2]
    np.testing.assert_array_equal(classifier.logits(texts), classifier.logits(ids))


def test_a_sentence_does_not_depend_on_its_neighbours(int8):
    classifier = export.OnnxClassifier(int8)
    alone = np.concatenate([classifier.logits([text]) for text in TEXTS])
    np.testing.assert_array_equal(classifier.logits(TEXTS), alone)


def test_a_folder_without_model_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"lacks model.onnx: run the chapter"):
        export.OnnxClassifier(tmp_path)


def test_what_is_scored_is_what_is_shipped():
    assert issubclass(export.OnnxClassifier, predict.OnnxClassifier)
