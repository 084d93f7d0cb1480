"""A CLIP tokenizer of the world's own words, and of words that are read as one of those."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

from sd_demo.embedded.architecture import MAX_TOKENS
from sd_demo.embedded.free_vocabulary import READ_AS
from sd_demo.embedded.known_words import vocabulary

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def train_tokenizer(texts: Iterable[str], words: Iterable[str] = ()) -> CLIPTokenizer:
    """Byte-pair tokenizer in which every word of `texts` and `words` is one token.

    The alphabet is all 256 bytes, each with and without the end-of-word mark, so that any UTF-8 text can be
    tokenised without unknown tokens (Radford et al., CLIP, arXiv 2103.00020). Merging stops when no word of the
    corpus is left in pieces; a small closed world needs about a thousand merges.
    """
    merges = _learn_merges([*texts, *words])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocabulary, merges, model_max_length=MAX_TOKENS)


def with_aliases(tokenizer: CLIPTokenizer, text_encoder: Any) -> CLIPTokenizer:
    """The tokenizer with a token for each alias of READ_AS, whose vector in `text_encoder` is the word's own.

    So "a ruby hut" is read as "a crimson cottage", to the last bit. Learned from captions instead, a word that is
    seldom said is seldom understood.

    No other word of the world is read otherwise: the new merges come after all others, and none joins two tokens that
    such a word has side by side ("one" is three, which "onyx" must leave apart). What a merge makes on the way to a
    whole word has the mean of its pieces' vectors. Aliases that are there already are set anew, as the words that they
    mean may have been trained since.

    Raises ValueError where a word of READ_AS is not one token, or an alias cannot be made one.
    """
    aliases_of_all = frozenset(alias for aliases in READ_AS.values() for alias in aliases)
    apart = {
        pair
        for word in vocabulary()["words"]
        if word not in aliases_of_all
        for pair in pairwise(tokenizer.tokenize(word))
    }
    made = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids, merges = dict(made["vocab"]), [tuple(pair) for pair in made["merges"]]
    vectors = list(text_encoder.get_input_embeddings().weight.detach())
    for word, aliases in READ_AS.items():
        if word + WORD_END not in ids:
            raise ValueError(f"{word!r} is no token of this tokenizer.")
        for alias in aliases:
            pieces = CLIPTokenizer(ids, merges).tokenize(alias)
            while len(pieces) > 1:
                k = next((k for k, pair in enumerate(pairwise(pieces)) if pair not in apart), None)
                if k is None:
                    raise ValueError(f"{alias!r} cannot be one token: other words have its pieces side by side.")
                first, second = pieces[k : k + 2]
                if first + second not in ids:
                    ids[first + second] = len(ids)
                    vectors.append((vectors[ids[first]] + vectors[ids[second]]) / 2.0)
                merges.append((first, second))
                pieces[k : k + 2] = [first + second]
            vectors[ids[alias + WORD_END]] = vectors[ids[word + WORD_END]]
    text_encoder.resize_token_embeddings(len(ids), mean_resizing=False)
    text_encoder.get_input_embeddings().weight.data.copy_(torch.stack(vectors))
    return CLIPTokenizer(ids, merges, model_max_length=tokenizer.model_max_length)


def _learn_merges(texts: list[str]) -> list[tuple[str, str]]:
    # CLIPTokenizer's own normaliser and word splitting, so that training sees what use will see.
    rules = CLIPTokenizer({START: 0, END: 1}, []).backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = rules.normalizer
    learner.pre_tokenizer = rules.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=49_152,
        min_frequency=1,
        show_progress=False,
        end_of_word_suffix=WORD_END,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    learner.train_from_iterator(texts, trainer)
    with tempfile.TemporaryDirectory() as folder:
        learner.model.save(folder)
        lines = (Path(folder) / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
    return [(left, right) for left, right in pairs]
