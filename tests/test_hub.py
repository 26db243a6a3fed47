"""The Hub's own clients against a stand-in that speaks its protocol: real downloads, real faults.

Each case is a process of its own with a cache of its own: the clients read their settings once.
"""

import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hub import Hub
from kills import clone, finish, small
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

from headcount import corpus, data, models, records

PHRASEBANK, FIQA = f"datasets/{data.PHRASEBANK.hub_id}", f"datasets/{data.FIQA_ID}"
TWITTER = f"datasets/{data.TWITTER['train'].hub_id}"
FINBERT = "models/ProsusAI/finbert"
FINBERT_LABELS = {
    "id2label": {0: "positive", 1: "negative", 2: "neutral"},
    "label2id": {"positive": 0, "negative": 1, "neutral": 2},
}
ASSEMBLE = "from headcount import data; print(len(data.assemble('phrasebank-fiqa').labelled))"


def table(**columns):
    return pd.DataFrame(columns).to_csv(index=False).encode()


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """The three data sets as their publishers lay them out; the sentences are synthetic."""
    path = tmp_path_factory.mktemp("hub") / "phrasebank.zip"
    corpus.write(path, 300, 0)
    words = ("sell", "hold", "buy", "buy")  # about two companies, of which one is sold
    scores = [-0.5, 0.0, 0.6, -0.2]
    return {
        PHRASEBANK: {data.PHRASEBANK.hub_file: path.read_bytes()},
        FIQA: {
            f"{part}.csv": table(
                sentence=[f"{part} says {word}" for word in words],
                sentiment_score=scores,
            )
            for part in ("train", "test")
        },
        TWITTER: {
            source.hub_file: table(text=[f"{part} down", f"{part} up"], label=[0, 1])
            for part, source in data.TWITTER.items()
        },
    }


@pytest.fixture(scope="session")
def finbert(tmp_path_factory):
    """A random BERT with FinBERT's head, whose labels stand in another order than ours."""
    folder = tmp_path_factory.mktemp("finbert")
    tokenizer = models.train_wordpiece(["profit rose .", "sales fell ."], vocab_size=60)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=48,
        **FINBERT_LABELS,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.arange(5, 15)[None]).logits[0].numpy()
    return {path.name: path.read_bytes() for path in folder.iterdir()}, logits


@pytest.fixture
def hub(sentences):
    hub = Hub()
    for name, files in sentences.items():
        hub.add(name, files)
    return hub


def settings_of(endpoint, tmp_path):
    """The environment of a process that knows no Hub but this one."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HEADCOUNT_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return environment | {"DISABLE_SAFETENSORS_CONVERSION": "1"}


def run(tmp_path, endpoint, code, **settings):
    """What such a process prints; its error, if it fails, in one line."""
    guarded = "from headcount.errors import InputError\ntry:\n"
    guarded += "".join(f"    {line}\n" for line in code.splitlines())
    guarded += "except InputError as error:\n    print(f'InputError: {error}')\n"
    done = subprocess.run(
        [sys.executable, "-c", guarded],
        env=settings_of(endpoint, tmp_path) | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- sentences ----------------------------------------------------------------------------------


def test_the_second_run_needs_no_hub(hub, tmp_path):
    with hub.serve() as endpoint:
        first = run(tmp_path, endpoint, ASSEMBLE)
    assert int(first) > 300
    assert run(tmp_path, endpoint, ASSEMBLE) == first  # nobody answers there any more


@pytest.mark.parametrize("name", [PHRASEBANK, FIQA])
def test_a_gated_or_missing_data_set_is_told_in_one_line(hub, tmp_path, name):
    del hub.repositories[name]
    with hub.serve() as endpoint:
        told = run(tmp_path, endpoint, ASSEMBLE)
    assert told.startswith(
        f"InputError: cannot get {name.removeprefix('datasets/')}: no data folder"
    )
    assert "DATA=<folder>" in told
    assert "\n" not in told


def test_the_hub_may_stumble(hub, tmp_path):
    """A 500, an answer that comes too late, and a connection that breaks half way."""
    zipped, tweets = data.PHRASEBANK.hub_file, data.TWITTER["train"].hub_file
    half = len(hub.repositories[PHRASEBANK][zipped]) // 2
    hub.fail(zipped, 2, method="HEAD", status=500)
    hub.fail(zipped, 1, method="GET", cut_after=half)
    hub.fail(tweets, 1, method="HEAD", delay_s=6)
    with hub.serve() as endpoint:
        assert int(run(tmp_path, endpoint, ASSEMBLE, HF_HUB_ETAG_TIMEOUT="3")) > 300
    assert all(fault.times == 0 for fault in hub.faults)
    asked = [method for method, path in hub.requests if path.endswith(zipped)]
    assert asked == ["HEAD", "HEAD", "HEAD", "GET", "GET"]


# --- models -------------------------------------------------------------------------------------

LOAD = """
import torch
from headcount import models
model = models.load_pretrained("ProsusAI/finbert").eval()
print(model(torch.arange(5, 15)[None]).logits[0].tolist())
print(models.published_commit("ProsusAI/finbert"), models.saw_phrasebank("ProsusAI/finbert"))
print(models.pretrained_tokenizer("ProsusAI/finbert").tokenize("Sales fell"))
"""


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_finbert_comes_with_its_head_in_our_order(hub, tmp_path, finbert, weights):
    files, logits = finbert
    files = dict(files)
    if weights == "pytorch_model.bin":
        from safetensors.torch import load

        buffer = io.BytesIO()
        torch.save(load(files.pop("model.safetensors")), buffer)
        files[weights] = buffer.getvalue()
    hub.add(FINBERT, files)
    with hub.serve() as endpoint:
        told = run(tmp_path, endpoint, LOAD)
    scores, commit, pieces = told.splitlines()
    positive, negative, neutral = logits
    assert np.allclose(json.loads(scores), [negative, neutral, positive], atol=1e-6)
    assert commit == f"{hub.commit(FINBERT)} True"
    assert "sales" in pieces.lower()
    assert any(method == "GET" and path.endswith(weights) for method, path in hub.requests)
    # From the cache, the server gone. Without HF_HUB_OFFLINE the client tries again for a minute
    # before that: above, with the sentences.
    assert run(tmp_path, endpoint, LOAD, HF_HUB_OFFLINE="1") == told


def test_a_missing_model_is_told_in_one_line(hub, tmp_path):
    with hub.serve() as endpoint:
        told = run(tmp_path, endpoint, LOAD)
    assert told.startswith("InputError: cannot load ProsusAI/finbert from ProsusAI/finbert")
    assert "\n" not in told


def test_minilm_from_the_hub_has_to_have_the_published_weights(hub, tmp_path, finbert):
    hub.add(f"models/{models.MINILM_ID}", finbert[0])
    code = "from headcount import models\nmodels.MINILM_PACKAGE = 'not_installed'\n"
    with hub.serve() as endpoint:
        told = run(tmp_path, endpoint, code + "models.load_pretrained('minilm')")
    assert "SHA-256" in told
    assert told.startswith("InputError: ")


# --- the profiles that need the Hub -------------------------------------------------------------


def publishers_files(layers, texts, **config):
    """A small random BERT as they published theirs: no safetensors, no tokenizer.json."""
    tokenizer = models.train_wordpiece(texts)
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    shape = BertConfig(
        vocab_size=len(pieces),
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=48,
        **config,
    )
    torch.manual_seed(0)
    kind = BertForSequenceClassification if config else BertForPreTraining
    buffer = io.BytesIO()
    torch.save(kind(shape).state_dict(), buffer)
    return {
        "config.json": json.dumps(shape.to_dict() | {"architectures": [kind.__name__]}).encode(),
        "pytorch_model.bin": buffer.getvalue(),
        "vocab.txt": "".join(f"{piece}\n" for piece, _ in pieces).encode(),
        "tokenizer_config.json": b'{"do_lower_case": true, "model_max_length": 512}',
    }


@pytest.mark.timeout(2700)
@pytest.mark.parametrize(
    ("profile", "name", "chapters"),
    [
        ("finbert", "ProsusAI/finbert", "01,02,03,05,08"),  # the others read no profile's settings
        ("finbert-clean", "yiyanghkust/finbert-pretrain", "01,02"),
    ],
)
def test_a_profile_that_needs_the_hub_runs_end_to_end(hub, tmp_path, profile, name, chapters):
    """One fold, with a model of the published one's depth and heads, and 24 wide instead of 768."""
    folder = clone(tmp_path / "clone", chapters)
    zipped = hub.repositories[PHRASEBANK][data.PHRASEBANK.hub_file]
    (tmp_path / "phrasebank.zip").write_bytes(zipped)
    texts = data.load_phrasebank(tmp_path / "phrasebank.zip", 50)["text"]
    source = folder / "notebooks/01_data.py"
    publishers = re.compile(r"^    assert .*theirs_(train|valid).*\n", re.MULTILINE)
    text, removed = publishers.subn("", source.read_text(encoding="utf-8"))
    assert removed == 3  # they hold for the publisher's sentences alone
    source.write_text(text, encoding="utf-8")
    labels = FINBERT_LABELS if profile == "finbert" else {}
    hub.add(f"models/{name}", publishers_files(12, texts, **labels))
    settings = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 64, "recovery_epochs": 1}
    settings["transfer_sentences"] = 50  # of the 101 that there are
    arguments = small(folder, profile, **settings)
    with hub.serve() as endpoint:
        finish(folder, *arguments, env=settings_of(endpoint, tmp_path))
    found = {record.variant: record for record in records.read(folder / "reports" / profile)}
    teacher = found["teacher"]
    assert teacher.provenance.config["model_commit"] == hub.commit(f"models/{name}")
    assert teacher.teacher_saw_test == (profile == "finbert")
    assert ("pretrained" in found) == (profile == "finbert")
    if profile == "finbert":
        page = (folder / "reports" / profile / "report.html").read_text(encoding="utf-8")
        assert "The teacher had seen test sentences" in page
        assert found["heads-entropy-50"].heads_alive == teacher.heads_total // 2 == 72
