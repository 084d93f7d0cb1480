"""A CLIP tokenizer of the world's own words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

from sd_demo.embedded.architecture import MAX_TOKENS

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
