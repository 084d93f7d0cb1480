"""Words that are read as others: one token, and the same vector, in what is shipped and in what a training writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from sd_demo.embedded import vocabulary as words
from sd_demo.embedded import world
from sd_demo.embedded.architecture import build_text_encoder
from sd_demo.embedded.free_vocabulary import READ_AS
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.tokenizer import train_tokenizer, with_aliases
from sd_demo.known_models import EMBEDDED_FOLDER
from sd_demo.ranking import PICTURE_BOOK_CLIP

PAIRS = [(alias, word) for word, aliases in READ_AS.items() for alias in aliases]


@pytest.mark.parametrize("folder", [EMBEDDED_FOLDER, PICTURE_BOOK_CLIP], ids=["model", "CLIP"])
def test_the_shipped_models_read_each_alias_as_its_word(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer" if folder == EMBEDDED_FOLDER else folder)
    encoder = CLIPTextModel.from_pretrained(
        folder / "text_encoder" if folder == EMBEDDED_FOLDER else folder, dtype=torch.float32
    )
    assert not [alias for alias, _ in PAIRS if len(tokenizer.tokenize(alias)) != 1]
    vectors = encoder.get_input_embeddings().weight.detach()
    ids = torch.tensor(tokenizer.convert_tokens_to_ids([f"{word}</w>" for pair in PAIRS for word in pair])).view(-1, 2)
    assert torch.equal(vectors[ids[:, 0]], vectors[ids[:, 1]])
    said = [f"a big {word} on the left, at night" for pair in PAIRS[:8] for word in pair]
    with torch.no_grad():
        read = encoder(**tokenizer(said, padding="max_length", return_tensors="pt")).last_hidden_state
    assert torch.equal(read[::2], read[1::2])
    assert not torch.allclose(read[0], read[-1], atol=0.1)  # of an umbrella and of a tulip


def test_aliases_are_words_that_are_known_and_no_others_are_theirs() -> None:
    aliases = [alias for alias, _ in PAIRS]
    assert len(set(aliases)) == len(aliases)
    assert not unknown_words(", ".join(aliases))
    told = {word for forms in words.OBJECT_WORDS.values() for form in forms for word in form}
    assert not told.intersection(aliases)
    assert world.vocabulary()["synonyms"]["golden"] == ["gold"]
    assert {"meadow", "in the meadow", "garden"} <= {"meadow", *world.vocabulary()["synonyms"]["meadow"]}


def test_older_words_are_read_as_before_and_aliases_follow_what_is_trained() -> None:
    aliases = {alias for alias, _ in PAIRS}
    known = [word for word in world.vocabulary()["words"] if word not in aliases]
    in_pieces = {
        "one",
        "without",
        "very",
        "heavy",
        "grows",
    }  # "onyx", "hut", "silvery", "navy" and "meadows" are like them
    old = train_tokenizer(["a red car"], [*(set(known) - in_pieces), "hunter", "pupil"])
    assert all(len(old.tokenize(word)) > 1 for word in in_pieces)
    encoder = build_text_encoder(old)
    before = encoder.get_input_embeddings().weight.detach().clone()
    new = with_aliases(old, encoder)
    assert all(new.tokenize(word) == old.tokenize(word) for word in (*known, "hunter", "pupil", "a red car"))
    assert not [alias for alias in aliases if len(new.tokenize(alias)) != 1]
    assert new("a red car").input_ids == old("a red car").input_ids
    vectors = encoder.get_input_embeddings().weight
    assert len(new) == len(vectors) == encoder.config.vocab_size > len(before)
    assert torch.equal(vectors[: len(before)], before)
    with torch.no_grad():
        vectors[new.convert_tokens_to_ids("golden</w>")] = 7.0
    again = with_aliases(new, encoder)
    assert again.get_vocab() == new.get_vocab()
    assert bool((encoder.get_input_embeddings().weight[again.convert_tokens_to_ids("gold</w>")] == 7.0).all())
    with torch.no_grad():  # as one that has it from the start, and no weights of it
        assert with_aliases(again, encoder).tokenize("tulip rose") == ["tulip</w>", "rose</w>"]


def test_a_tokenizer_without_the_words_is_refused() -> None:
    tokenizer = train_tokenizer(["a red car"])
    with pytest.raises(ValueError, match="'umbrella' is no token of this tokenizer"):
        with_aliases(tokenizer, build_text_encoder(tokenizer))


def test_an_alias_whose_pieces_other_words_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(["a red"])
    monkeypatch.setattr("sd_demo.embedded.tokenizer.READ_AS", {"red": ("chin",)})  # "children" and "in"
    with pytest.raises(ValueError, match="'chin' cannot be one token"):
        with_aliases(tokenizer, build_text_encoder(tokenizer))
