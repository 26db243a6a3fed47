"""Models that leave the study: ONNX, INT8, and a folder that runs without torch.

An exported model takes ``input_ids`` and ``attention_mask``, int64 (batch, sequence), both axes
free, and returns ``logits``, float32 (batch, 3). :class:`OnnxClassifier` is the very code that is
shipped as ``predict.py``, so what is scored is what is deployed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import quantization
from tokenizers import Tokenizer

from headcount import predict
from headcount.errors import InputError
from headcount.parameters import known

if TYPE_CHECKING:  # an exported model is scored without torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OPSET = 20  # the first with Gelu
MODEL_FILE = "model.onnx"
BLOCK = 32  # inputs that share a scale in INT4
FP32_ACTIVATIONS = 1  # MatMulNBits's level of accuracy; its level 4 rounds them to INT8

README = """# {name}

Sentiment of one English financial sentence: {labels}. An ONNX model of {size_mb:.1f} MB
(10^6 bytes), {precision}, that runs on a CPU without torch or transformers:

    pip install onnxruntime tokenizers numpy
    python predict.py "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn."

prints the label, the probabilities ({labels}) and the sentence, separated by tabs. Without
arguments it reads one sentence a line (UTF-8) from standard input and prints one row for each; an
empty line is labelled, too, as a sentence without words. Sentences beyond {max_length} tokens are
cut there. Score one sentence at a time: INT8 scales its activations over the whole batch, so that
a sentence's result would depend on its neighbours and their padding.

| measured | |
|---|---|
{facts}

The figures hold for the sentences that they were measured on. Milliseconds hold for one machine.

## Licence
The script is MIT. The weights derive from the pretrained model and the training sentences named
by the study, and their terms apply as well. Financial PhraseBank is CC BY-NC-SA 3.0 and FiQA is
for research: weights trained on either are not for commercial use.
"""


class OnnxClassifier(predict.OnnxClassifier):
    """A deployable folder, loaded. ``logits(sentences)`` takes texts or lists of token ids.

    Sentences are scored one by one, without padding; returns float32 (n, 3).

    Raises:
        InputError: the folder lacks one of its files.
    """

    def __init__(self, folder: Path, threads: int = 1):
        for name in (MODEL_FILE, "tokenizer.json", "config.json"):
            if not (folder / name).exists():
                raise InputError(f"{folder} lacks {name}: run the chapter that makes it again")
        super().__init__(folder, threads)


def to_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Export a classifier, whatever its layers' numbers of heads, to one file.

    The last layer is computed at the first token alone (:mod:`headcount.first_token`): the logits
    are the same, in less time, and dynamic INT8 takes that token's own range there.

    Constants keep their torch names; a transposed weight matrix ends in ``.T``. Nothing about the
    machine that exports (the exporter writes its stack traces) stays in the file.
    """
    import torch

    from headcount import first_token

    example = tokenizer(["Sales rose.", "Profit fell in 2009."], padding=True, return_tensors="pt")
    inputs = tuple(example[name].to(model.device) for name in ("input_ids", "attention_mask"))
    free = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    training = model.training
    try:
        with _quiet(), first_token.alone(model):
            program = torch.onnx.export(
                _logits_alone(model).eval(),
                inputs,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(free, free),
            )
    finally:
        model.train(training)
    exported = program.model_proto
    _name_axes(exported.graph)
    _name_constants(exported.graph, model)
    _strip(exported)
    onnx.save(exported, path)


def _logits_alone(model: PreTrainedModel) -> Any:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = model

        def forward(self, input_ids, attention_mask):
            # The additive mask that transformers would build, said directly: its own way of
            # building it exports to a dozen operators that compute this line.
            real = attention_mask[:, None, None, :].to(torch.float32)
            mask = (1.0 - real) * torch.finfo(torch.float32).min
            kinds = {}
            if getattr(model.config, "type_vocab_size", 0):
                kinds["token_type_ids"] = torch.zeros_like(input_ids)
            return model(input_ids=input_ids, attention_mask=mask, **kinds).logits

    return Logits()


@contextmanager
def _quiet() -> Iterator[None]:
    # Exporter and quantiser tell of missing torchvision and of steps that do not apply here.
    level, handler = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(handler)  # without any, ONNX Runtime's tools would add one for good
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        logging.root.removeHandler(handler)


def _name_axes(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, ("batch", "sequence"), strict=True):
            if not axis.dim_value:
                axis.dim_param = name


def _name_constants(graph: onnx.GraphProto, model: PreTrainedModel) -> None:
    """Give the constants that the exporter transposed and numbered their torch names back."""
    names = {}
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 2:
            names[_digest(tensor.detach().cpu().numpy().T)] = f"{name}.T"
    renamed = {}
    for constant in graph.initializer:
        name = constant.name.removeprefix("classifier.")
        if len(constant.dims) == 2 and name.startswith("val_"):
            name = names.get(_digest(numpy_helper.to_array(constant)), name)
        if name not in renamed.values():
            renamed[constant.name] = name
    for constant in graph.initializer:
        constant.name = renamed.get(constant.name, constant.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(
        np.ascontiguousarray(array).tobytes() + str(array.shape).encode()
    ).digest()


def _strip(model: onnx.ModelProto) -> None:
    """Drop inferred shapes, which quantisation makes stale, and notes on where nodes come from."""
    del model.graph.value_info[:]
    parts = (model, model.graph, *model.graph.node, *model.graph.initializer)
    for part in (*parts, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


def quantize_dynamic(src: Path, dst: Path, *, activations: bool = True) -> None:
    """Post-training dynamic INT8 (ONNX Runtime's ``quantize_dynamic``), embeddings included.

    Weights of linear layers become int8, symmetric, one scale for each output channel
    (max|w| / 127). Their inputs become uint8 at run time, one scale and zero point for the whole
    tensor. Embedding tables become uint8, one scale and zero point for the table. Biases,
    LayerNorm, softmax and GELU stay FP32, and so do QK^T and AV.

    On x86 without VNNI the fast kernel adds pairs of uint8 x int8 products in 16 bits and
    saturates: 2 x 255 x 127 > 32,767. Reducing weights to 7 bits (``reduce_range``) would avoid
    it at the cost of half the resolution everywhere. The file keeps 8 bits instead, and
    :class:`OnnxClassifier` asks the runtime for the exact, slower kernel on such processors
    (``session.x64quantprecision``; no effect where VNNI makes the fast kernel exact).

    Args:
        activations: whether inputs of linear layers are rounded, too. Without it the file holds
            the same integers for another kernel (MatMulNBits, from ONNX Runtime 1.22).
    """
    quantized = _quantized_dynamic(onnx.load(src), dst, ["MatMul", "Gather"])
    if not activations:
        _keep_activations(quantized.graph)
        quantized.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(quantized, dst)


def _quantized_dynamic(model: onnx.ModelProto, dst: Path, operators: list[str]) -> onnx.ModelProto:
    _strip(model)
    with _quiet():
        quantization.quantize_dynamic(
            model,
            dst,
            op_types_to_quantize=operators,
            per_channel=True,
            reduce_range=False,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "WeightSymmetric": True,
                "MatMulConstBOnly": True,
                "DefaultTensorType": onnx.TensorProto.FLOAT,
            },
        )
    quantized = onnx.load(dst)
    _strip(quantized)
    return quantized


def _keep_activations(graph: onnx.GraphProto) -> None:
    """Give a dynamic INT8 graph FP32 activations, with the integers that it has.

    The runtime's tool writes x W as Mul(Cast(MatMulInteger(DynamicQuantizeLinear(x), W)), scales).
    MatMulNBits stands there instead. DequantizeLinear before a MatMul would be simpler, but the
    runtime fuses it (1.31 does) into a MatMulNBits that rounds its activations all the same.
    """
    made = {name: node for node in graph.node for name in node.output}
    constants = {constant.name: constant for constant in graph.initializer}
    nodes, weights = [], {}
    for node in graph.node:
        source = made.get(node.input[0]) if node.input else None
        kinds = [node.op_type, source.op_type if source else ""]
        if kinds == ["Mul", "Cast"] and made[source.input[0]].op_type == "MatMulInteger":
            codes, weight, *_ = made[source.input[0]].input
            name = weight.removesuffix("_quantized")
            q, scale = (numpy_helper.to_array(constants[n]) for n in (weight, f"{name}_scale"))
            weights[name] = _in_blocks(q, scale)
            inputs = [made[codes].input[0], f"{name}_Q8", f"{name}_scales"]
            shape = {"K": q.shape[0], "N": q.shape[1], "block_size": weights[name][0].shape[2]}
            product = onnx.helper.make_node(
                "MatMulNBits",
                inputs,
                node.output,
                domain="com.microsoft",
                bits=8,
                accuracy_level=FP32_ACTIVATIONS,
                **shape,
            )
            nodes.append(product)
        elif "MatMulInteger" not in kinds and "DynamicQuantizeLinear" not in kinds:
            nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)
    for name, (codes, scales) in weights.items():
        for ending in ("_quantized", "_scale", "_zero_point"):
            graph.initializer.remove(constants[name + ending])
        graph.initializer.append(numpy_helper.from_array(codes, f"{name}_Q8"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))


def _in_blocks(codes: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 (in, out) and scales (out,) as MatMulNBits wants them.

    uint8 (out, blocks, block), where 128 stands for 0, and float32 (out, blocks): it knows no
    scale of a whole row, so that each is there once a block.
    """
    block = max(math.gcd(len(codes), 128), BLOCK)
    padded = np.pad(codes.T, ((0, 0), (0, -len(codes) % block)))
    blocks = (padded.astype(np.int16) + 128).astype(np.uint8).reshape(len(padded), -1, block)
    return blocks, np.repeat(scale[:, None], blocks.shape[1], 1)


def quantize_int4(src: Path, dst: Path) -> None:
    """Post-training INT4 of weights (ONNX Runtime's MatMulNBits), activations in FP32.

    Weights of linear layers become 4 bits, symmetric, in blocks of 32 inputs of an output channel:
    the weight of largest magnitude in a block has the code -8, and its scale the sign that makes it
    so. Embedding tables become uint8 as `quantize_dynamic` makes them. All else stays FP32.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel

    graph = ONNXModel(_quantized_dynamic(onnx.load(src), dst, ["Gather"]))
    graph.replace_gemm_with_matmul()  # pooler and classifier: MatMulNBits stands for MatMul alone
    onnx.save(_in_four_bits(graph.model, "MatMul"), dst)


def quantize_embeddings_int4(src: Path, dst: Path) -> None:
    """Dynamic INT8 of linear layers, as `quantize_dynamic` makes it, and INT4 embedding tables.

    A token's row becomes 4 bits, symmetric, in blocks of 32 of its dimensions, coded as
    `quantize_int4` codes weights, and is made FP32 when it is looked up (ONNX Runtime's
    GatherBlockQuantized, from 1.20): no product is computed in another way than in INT8.
    """
    tables = _in_four_bits(onnx.load(src), "Gather")
    onnx.save(_quantized_dynamic(tables, dst, ["MatMul"]), dst)


def _in_four_bits(model: onnx.ModelProto, operator: str) -> onnx.ModelProto:
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            model,
            bits=4,
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=FP32_ACTIVATIONS,
            op_types_to_quantize=(operator,),
        )
        quantizer.process()
    quantized = quantizer.model.model
    _strip(quantized)
    return quantized


PRECISIONS: dict[str, tuple[str, Callable[[Path, Path], None] | None]] = {
    "fp32": ("FP32", None),
    "int8": ("INT8 weights, dynamic INT8 activations", quantize_dynamic),
    "int8-weights": ("INT8 weights", partial(quantize_dynamic, activations=False)),
    "int8-e4": (
        "INT8 weights, dynamic INT8 activations, INT4 embeddings in blocks of 32",
        quantize_embeddings_int4,
    ),
    "int4": ("INT4 weights in blocks of 32, INT8 embeddings", quantize_int4),
}
"""What a deployable folder's model is, in words, and what makes it so of an FP32 file."""


def constants(path: Path) -> dict[str, np.ndarray]:
    """The constants of an ONNX file by name; of an INT8 file also ``*_scale``, ``*_zero_point``."""
    graph = onnx.load(path).graph
    return {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}


def size_mb(path: Path) -> float:
    """10^6 bytes of the model file that would be shipped."""
    return path.stat().st_size / 1e6


def deployable(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    int8: bool = False,
    precision: str | None = None,
    facts: Mapping[str, Any] | None = None,
    max_length: int = 128,
    onnx_file: Path | None = None,
) -> Path:
    """Write a folder that classifies sentences without torch, whole or not at all; returns it.

    It holds model.onnx, tokenizer.json (cuts at ``max_length`` tokens), config.json (labels,
    greatest length, precision), predict.py and README.md.

    Args:
        precision: one of `PRECISIONS`; by default ``int8`` or ``fp32``, as ``int8`` says.
        facts: measured figures for the README; :func:`describe` can add them after scoring.
        onnx_file: an FP32 export of the same model, to save exporting it again.

    Raises:
        InputError: the tokenizer has pieces that the model has no embeddings for.
    """
    if len(tokenizer) > model.config.vocab_size:
        raise InputError(
            f"{name}: the tokenizer has {len(tokenizer):,} pieces and the model embeddings for "
            f"{model.config.vocab_size:,}: deploy a model with the tokenizer that was saved with it"
        )
    precision = precision or ("int8" if int8 else "fp32")
    told, quantize = PRECISIONS[known(precision, PRECISIONS, "unknown precision")]
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if onnx_file is None:
        to_onnx(model, tokenizer, partial / MODEL_FILE)
    else:
        shutil.copyfile(onnx_file, partial / MODEL_FILE)
    if quantize is not None:
        quantize(partial / MODEL_FILE, partial / "quantized.onnx")
        (partial / "quantized.onnx").replace(partial / MODEL_FILE)
    longest = min(max_length, model.config.max_position_embeddings)
    _save_tokenizer(tokenizer, longest, partial / "tokenizer.json")
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    config = {"name": name, "labels": labels, "max_length": longest, "precision": told}
    (partial / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(predict.__file__, partial / "predict.py")
    describe(partial, facts or {})
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, path: Path) -> None:
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_padding()
    copy.enable_truncation(max_length)
    copy.save(str(path))


def describe(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the README of a deployable folder with ``facts``, measured figures by name."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    text = README.format(
        name=config["name"],
        labels=", ".join(config["labels"]),
        precision=config["precision"],
        max_length=config["max_length"],
        size_mb=size_mb(folder / MODEL_FILE),
        facts=rows or "| nothing yet | |",
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
