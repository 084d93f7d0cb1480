"""The world's language says only what is true, in words that it knows, and knows which words it does not."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.negatives import deny
from sd_demo.embedded.objects import HELD_OUT, KINDS
from sd_demo.embedded.other_words import other_words
from sd_demo.embedded.picture import POSITIONS, SCENES, STYLES, TIMES, WEATHERS
from sd_demo.embedded.world import Picture, Thing, caption, sample, unknown_words, vocabulary

PAIR = (Thing("cat", "blue", "large", "left", "near"), Thing("dog", "pink", "small", "right", "near"))


def said_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.replace("'s", "")))


def says(text: str, phrase: str) -> bool:
    return re.search(rf"\b{re.escape(phrase)}\b(?! of)", text) is not None


@pytest.fixture(scope="module")
def told() -> list[tuple[Picture, str, str]]:
    """Random pictures, each with a free and with a complete caption."""
    rng = np.random.default_rng(0)
    pictures = [sample(rng) for _ in range(2500)]
    return [(picture, caption(picture, rng), caption(picture, rng, is_complete=True)) for picture in pictures]


def many(picture: Picture, count: int = 40) -> list[str]:
    rng = np.random.default_rng(0)
    return [caption(picture, rng) for _ in range(count)]


def freely(picture: Picture, count: int = 40) -> list[str]:
    """Complete and open ones by turns."""
    rng = np.random.default_rng(0)
    return [other_words(picture, rng, is_complete=k % 2 == 0) for k in range(count)]


def test_captions_use_the_vocabulary_and_all_of_it(told: list[tuple[Picture, str, str]]) -> None:
    texts, free = [text for _, *both in told for text in both], []
    for name, kind in KINDS.items():
        depth = "sky" if kind.is_in_sky else "near"
        alike = tuple(Thing(name, "red", "small", position, depth) for position in POSITIONS)
        texts += many(Picture("sea", "day", "clear", "picture book", alike[:2], None, 0))
        texts += many(Picture("sea", "day", "clear", "picture book", alike[:1], None, 0), 120)
        free += freely(Picture("sea", "day", "clear", "picture book", alike[:2], None, 0), 120)
    for scene in SCENES:
        texts += many(Picture(scene, "day", "clear", "picture book", (), None, 0))
    for time in TIMES:
        for weather in WEATHERS:
            for style in STYLES:
                texts += many(Picture("sea", time, weather, style, PAIR, None, 0))
    free += [other_words(picture, np.random.default_rng(k)) for k, (picture, *_) in enumerate(told * 4)]
    free += [deny(name, None, np.random.default_rng(k)) for k, name in enumerate(KINDS)]
    known = set(vocabulary()["words"])
    assert set().union(*map(said_words, texts)) <= known
    aliases = {alias for each in more.READ_AS.values() for alias in each}
    assert set().union(*map(said_words, [*texts, *free])) | aliases == known
    assert 250 <= len(known) <= 600


def test_captions_are_plain_text(told: list[tuple[Picture, str, str]]) -> None:
    for _, *both in told:
        for text in both:
            assert re.fullmatch(r"[a-z-]+,?( [a-z-]+,?)*", text), text
            assert not text.endswith(",")
            assert not re.search(r"\ba [aeio]|\ban [^aeiou]", text), text


def test_one_picture_is_said_in_many_ways() -> None:
    picture = Picture("beach", "night", "rain", "pixel art", PAIR, None, 0)
    texts = many(picture, 200)
    assert len(set(texts)) > 190
    assert (
        0.2 < np.mean([text.find("cat") < text.find("dog") for text in texts if "cat" in text and "dog" in text]) < 0.8
    )
    assert any(re.search(r"\b(a|the) ", text) for text in texts)
    assert any(not re.search(r"\b(a|an|the) (small|large|blue|pink)", text) for text in texts)


def test_nothing_untrue_is_said(told: list[tuple[Picture, str, str]]) -> None:
    """No colour, size, object, position, depth, time or weather word of anything that is not in the picture."""
    for picture, *both in told:
        for text in both:
            tables = {
                "colour": words.COLOUR_WORDS,
                "size": words.SIZE_WORDS,
                "position": words.POSITION_PHRASES,
                "depth": words.DEPTH_PHRASES,
            }
            for attribute, table in tables.items():
                shown = {getattr(thing, attribute) for thing in picture.things}
                for value, phrases in table.items():
                    if value not in shown:
                        assert not any(says(text, phrase) for phrase in phrases), (picture, text)
            named = {
                form
                for name in {t.object for t in picture.things}
                for forms in words.OBJECT_WORDS[name]
                for form in forms
            }
            for name, forms in words.OBJECT_WORDS.items():
                for form in {form for both_forms in forms for form in both_forms}:
                    if says(text.replace("hot-air", "hot air"), form) and not any(form in other for other in named):
                        pytest.fail(f"{name}: {text}: {picture}")
            for value, phrases in words.TIME_PHRASES.items():
                assert value == picture.time or not any(says(text, phrase) for phrase in phrases)
            for value, phrases in words.WEATHER_PHRASES.items():
                assert value == picture.weather or not any(says(text, phrase) for phrase in phrases)


def test_what_is_not_the_default_is_always_said(told: list[tuple[Picture, str, str]]) -> None:
    def any_of(text: str, *tables: dict[str, tuple[str, ...]], value: str) -> bool:
        return any(says(text, phrase) for table in tables for phrase in table[value])

    for picture, text, _ in told:
        if picture.time != "day":
            assert any_of(text, words.TIME_PHRASES, words.TIME_TAGS, value=picture.time), (picture, text)
        if picture.weather != "clear":
            assert any_of(text, words.WEATHER_PHRASES, words.WEATHER_TAGS, value=picture.weather), (picture, text)
        if picture.style != "picture book":
            prefixes = {style: tuple(p.removesuffix(" of") for p in ps) for style, ps in words.STYLE_PREFIXES.items()}
            tables = (prefixes, words.STYLE_SUFFIXES, words.STYLE_TAGS)
            assert any(phrase in text for table in tables for phrase in table[picture.style]), (picture, text)
        for thing in picture.things:
            if thing.size != "medium":
                assert any_of(text, words.SIZE_WORDS, value=thing.size), (picture, text)
            if thing.colour not in KINDS[thing.object].usual:
                assert any_of(text, words.COLOUR_WORDS, value=thing.colour), (picture, text)
            assert any(says(text, form) for forms in words.OBJECT_WORDS[thing.object] for form in forms), (
                picture,
                text,
            )


def test_a_complete_caption_leaves_nothing_open(told: list[tuple[Picture, str, str]]) -> None:
    for picture, _, text in told:
        scene = (*words.SCENE_PHRASES[picture.scene], *words.SCENE_NOUNS[picture.scene], picture.scene)
        assert any(phrase in text.replace("an empty", "a") for phrase in scene), (picture, text)
        for thing in picture.things:
            assert any(says(text, word) for word in words.COLOUR_WORDS[thing.colour]), (picture, text)
            assert any(says(text, phrase) for phrase in words.POSITION_PHRASES[thing.position]), (picture, text)


def test_left_of_and_right_of_are_true() -> None:
    picture = Picture("sea", "day", "clear", "picture book", PAIR, None, 0)
    cat, dog = "(cat|kitten|kitty)", "(dog|puppy|doggy)"
    seen = 0
    for text in many(picture, 400):
        if re.search("(left|right) of ", text):
            seen += 1
            assert re.search(rf"{cat}\b.* left of .*{dog}|{dog}\b.* right of .*{cat}", text), text
    assert seen > 20


@pytest.mark.parametrize(
    ("relation", "phrases"),
    [
        ("next to", r"cat.*(next to|beside|near|by) .*dog|dog.*(next to|beside|near|by) .*cat"),
        ("in front of", r"cat.*(in front of|before) .*dog|dog.*(behind|in back of) .*cat"),
        ("above", r"cat.*(above|over) .*dog|dog.*(below|under|underneath|beneath) .*cat"),
    ],
)
def test_relations_are_said_the_right_way_round(relation: str, phrases: str) -> None:
    related = 0
    for text in many(Picture("meadow", "night", "clear", "picture book", PAIR, relation, 0), 200):
        text = re.sub("kitten|kitty", "cat", re.sub("puppy|doggy", "dog", text))
        between = re.search("(?:cat|dog)(.*?)(?:cat|dog)", text)
        if between is not None and "," not in between[1]:  # not keywords between commas
            related += 1
            assert re.search(phrases, text), text
    assert related > 140


def test_things_alike_are_counted() -> None:
    alike = tuple(Thing("balloon", "blue", "small", position, "sky") for position in POSITIONS)
    for count, word in ((2, "two"), (3, "three")):
        for text in many(Picture("sea", "day", "clear", "picture book", alike[:count], None, 0)):
            assert says(text, word)
            assert says(text, "balloons")


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("", []),
        ("a red cat on the beach", []),
        ("A RED Cat, on the BEACH!", []),
        ("(red:1.3) [cat] ((house:0.5)) two hot-air balloons", []),
        ("2 red cats", []),
        ("(2) red cats, 2", ["2"]),
        ("a green dragon eats a red Wizard", ["dragon", "eats", "Wizard"]),
        ("Dragon dragon DRAGON cat", ["Dragon"]),
        ("<lora:some-style:0.8> a cat", []),
        ("un café, 猫, a cat", ["un", "café", "猫"]),
        ("photo_of a cat", ["photo"]),
        ("12 0.5 :: ,,, --", ["12", "0.5"]),
        ("a cat BREAK a dog", []),
        ("a break, 8k, 8-bit", ["break", "8k", "8-bit"]),
        ("a cat's house, it’s the king's", ["king's"]),
        ("<purple unicorn>", ["unicorn"]),
        ("a steam engine and an engine", ["engine"]),
        ("two steam engines, two engines and pots", ["engines", "pots"]),
        ("a book, a picture book illustration", ["book"]),
        ("a party with hot tea, a tea pot, a hot air balloon", ["party", "hot", "tea"]),
        ("a dark blue car in the dark", []),
        ("(a dark blue car) in the dark", ["dark"]),
        ("a dark forest, dark, a sketch in pencil", []),
    ],
)
def test_unknown_words_are_named(prompt: str, unknown: list[str]) -> None:
    assert unknown_words(prompt) == unknown


def test_no_caption_has_an_unknown_word(told: list[tuple[Picture, str, str]]) -> None:
    assert all(not unknown_words(text) for _, *both in told for text in both)


def test_the_vocabulary_is_json_and_complete() -> None:
    known = vocabulary()
    assert json.loads(json.dumps(known)) == known
    assert len(known["objects"]) >= 24
    assert len(known["colours"]) == 11
    assert len(known["scenes"]) >= 8
    assert known["sizes"] == ["small", "medium", "large"]
    assert [tuple(pair) for pair in known["held_out"]] == list(HELD_OUT)
    for name in ("objects", "colours", "scenes", "times", "styles"):
        for value in known[name]:
            assert not unknown_words(value), value
    for word, others in known["synonyms"].items():
        assert not any(unknown_words(other) for other in others), word
