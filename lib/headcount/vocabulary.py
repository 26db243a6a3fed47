"""A smaller vocabulary: the pieces that a domain's sentences use, and the embeddings of no others.

Most pieces of a general WordPiece vocabulary never occur in one domain, and the embeddings are half
of a small model's parameters. Trimming drops rows of that table; what is left does not change.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Encoding, Tokenizer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headcount.errors import InputError


def trim(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Copies of a classifier and its WordPiece tokenizer that hold only the pieces needed.

    Kept are the pieces of ``texts``, special and added tokens, and every single character the
    vocabulary had, as the beginning of a word and as its continuation. Ids are given anew, in the
    old order; normaliser, pre-tokeniser and post-processor stay. The embedding table goes from
    (old pieces, hidden) to (kept pieces, hidden), row by row; no other weight changes.

    WordPiece takes the longest piece that fits, from the left. A word whose old pieces were all
    kept is therefore segmented as before: no longer piece has come to fit. So ``texts`` keep their
    tokens, and the model its logits for them, bit for bit. Any other word falls into shorter kept
    pieces, at worst into characters. It becomes the unknown token only where it holds a character
    that the old vocabulary lacked, in that place, as a piece of its own, or is too long.

    Args:
        model: BERT or DistilBERT with a classification head; it is not changed.
        tokenizer: the model's own; it is not changed.
        texts: sentences, whole: what a model's greatest length would cut off counts as well.

    Raises:
        InputError: the tokenizer is no BERT WordPiece, or is not this model's.
    """
    plain = _plain(tokenizer)
    pieces = plain.get_vocab()
    table = model.get_input_embeddings()
    if max(pieces.values()) >= table.num_embeddings:
        raise InputError(
            f"the tokenizer has {len(pieces):,} pieces and the model {table.num_embeddings:,} "
            "embeddings: give the tokenizer that belongs to the model"
        )
    needed = _used(plain, texts) | _characters(plain) | set(plain.get_added_tokens_decoder())
    kept = sorted(needed & set(pieces.values()))
    new = {old: i for i, old in enumerate(kept)}

    trimmed = copy.deepcopy(model)
    embeddings = nn.Embedding.from_pretrained(
        table.weight.detach()[kept],
        freeze=not table.weight.requires_grad,
        padding_idx=new.get(table.padding_idx),
    )
    trimmed.set_input_embeddings(embeddings.train(table.training))
    trimmed.config.vocab_size = len(kept)
    for name, value in trimmed.config.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            setattr(trimmed.config, name, new.get(value))
    return trimmed, _renumbered(tokenizer, {piece: new.get(old) for piece, old in pieces.items()})


def cut_positions(model: PreTrainedModel, longest: int) -> PreTrainedModel:
    """A copy of a classifier for sentences of at most ``longest`` tokens.

    The position table goes from (positions, hidden) to (longest, hidden): where a tokenizer cuts
    there anyway, the other rows are never read. Shorter sentences keep their logits, bit for bit.

    Raises:
        InputError: the model has fewer positions.
    """
    cut = copy.deepcopy(model)
    embeddings = getattr(cut, cut.base_model_prefix).embeddings
    table = embeddings.position_embeddings
    if not 0 < longest <= table.num_embeddings:
        raise InputError(
            f"{longest} positions cannot be kept of {table.num_embeddings}: choose from 1 to that"
        )
    rows = table.weight.detach()[:longest].clone()
    positions = nn.Embedding.from_pretrained(rows, freeze=not table.weight.requires_grad)
    embeddings.position_embeddings = positions.train(table.training)
    for name, ids in embeddings.named_buffers():
        setattr(embeddings, name, ids[:, :longest])
    cut.config.max_position_embeddings = longest
    return cut


def compare(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, texts: Iterable[str]
) -> dict[str, float]:
    """What trimming does to ``texts``, which may be others than those it kept whole.

    Returns:
        ``pieces_before``, ``pieces_after``: sizes of the two vocabularies, added tokens included;
        ``changed``: share of the old tokens, special ones apart, that stand in a word which is
        segmented differently; ``tokens_before``, ``tokens_after``: mean tokens a sentence, special
        ones included, nothing cut off.

    Raises:
        InputError: there are no texts, or a tokenizer is no BERT WordPiece.
    """
    texts = list(texts)
    if not texts:
        raise InputError("no texts to compare two vocabularies on: give at least one sentence")
    old, new = (_plain(tokenizer).encode_batch(texts) for tokenizer in (before, after))
    changed = total = 0
    for one, other in zip(old, new, strict=True):
        words, others = _words(one), _words(other)
        total += sum(len(word) for word in words.values())
        changed += sum(len(word) for i, word in words.items() if word != others[i])
    return {
        "pieces_before": len(before),
        "pieces_after": len(after),
        "changed": changed / max(total, 1),
        "tokens_before": sum(map(len, old)) / len(texts),
        "tokens_after": sum(map(len, new)) / len(texts),
    }


def _plain(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer proper that neither cuts nor pads."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(getattr(backend, "model", None)).__name__
    if kind != "WordPiece" or backend.normalizer is None or backend.pre_tokenizer is None:
        raise InputError(
            f"{type(tokenizer).__name__} is no BERT WordPiece tokenizer (its model: {kind}): "
            "trim BERT or DistilBERT"
        )
    plain = copy.deepcopy(backend)
    plain.no_truncation()
    plain.no_padding()
    return plain


def _used(plain: Tokenizer, texts: Iterable[str]) -> set[int]:
    """Ids of the pieces that ``texts`` need in order to be segmented as they are."""
    texts = list(texts)
    used = {*plain.encode("").ids, plain.token_to_id(plain.model.unk_token)}
    unknown = set()
    for text, encoding in zip(texts, plain.encode_batch(texts), strict=True):
        used.update(encoding.ids)
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token == plain.model.unk_token:
                unknown.add(text[start:end])
    for part in unknown:
        for word, _ in plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(part)):
            used.update(_matched(plain, word))
    return used


def _matched(plain: Tokenizer, word: str) -> list[int]:
    # A word is unknown where its longest matches lead to a character without a piece. Without
    # those matches shorter ones might lead past it, and the word would no longer be unknown.
    for end in range(min(len(word), plain.model.max_input_chars_per_word), 0, -1):
        tokens = plain.model.tokenize(word[:end])
        if plain.model.unk_token not in (token.value for token in tokens):
            return [token.id for token in tokens]
    return []


def _characters(plain: Tokenizer) -> set[int]:
    prefix = plain.model.continuing_subword_prefix
    vocabulary = plain.get_vocab(with_added_tokens=False).items()
    return {i for piece, i in vocabulary if len(piece.removeprefix(prefix)) == 1}


def _renumbered(
    tokenizer: PreTrainedTokenizerBase, ids: dict[str, int | None]
) -> PreTrainedTokenizerBase:
    """A copy whose pieces have other ids; those with None are dropped."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = (piece for piece in state["model"]["vocab"] if ids[piece] is not None)
    state["model"]["vocab"] = {piece: ids[piece] for piece in vocabulary}
    for token in state["added_tokens"]:
        token["id"] = ids[token["content"]]
    if state["padding"]:
        state["padding"]["pad_id"] = ids[state["padding"]["pad_token"]]
    state["post_processor"] = _with_ids(state["post_processor"], ids)
    renumbered = copy.deepcopy(tokenizer)
    renumbered._tokenizer = Tokenizer.from_str(json.dumps(state))
    return renumbered


def _with_ids(part: Any, ids: dict[str, int | None]) -> Any:
    # Post-processors name special tokens as {"ids": [101], "tokens": ["[CLS]"]} or ["[CLS]", 101].
    if isinstance(part, dict):
        if "tokens" in part:
            return part | {"ids": [ids[token] for token in part["tokens"]]}
        return {name: _with_ids(value, ids) for name, value in part.items()}
    if isinstance(part, list):
        if [type(value) for value in part] == [str, int]:
            return [part[0], ids[part[0]]]
        return [_with_ids(value, ids) for value in part]
    return part


def _words(encoding: Encoding) -> dict[int, list[str]]:
    """Pieces of each word, by the word's place; special tokens have none."""
    words: dict[int, list[str]] = {}
    for word, token in zip(encoding.word_ids, encoding.tokens, strict=True):
        if word is not None:
            words.setdefault(word, []).append(token)
    return words
