"""Numbers, shades and the like are read in words that the model knows, and what may mean something else stays."""

from __future__ import annotations

import numpy as np
import pytest

from sd_demo.embedded.captions import caption
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.other_words import other_words
from sd_demo.embedded.plain_words import in_plain_words
from sd_demo.embedded.world import sample
from sd_demo.requests import MAX_PROMPT_CHARACTERS

READ = [
    ("2 red balls", "two red balls"),
    ("3   cats, 1 dog,2 trees", "three cats, one dog,two trees"),
    ("A pair of red kites", "two red kites"),
    ("a couple of cats and a few trees", "two cats and three trees"),
    ("the pair of dogs", "the two dogs"),
    ("a sky blue ball", "a blue ball"),
    ("sky-blue ball, an ocean  blue car", "blue ball, a blue car"),
    ("2 big fluffy cats", "two big fluffy cats"),
    ("a tabby cat, a mallard duck and poppy flowers", "a cat, a duck and flowers"),
    ("a kitty cat in a taxi car", "a cat in a car"),
    ("an ocean blue house", "a blue house"),
    ("A forest green car", "A green car"),
    ("a small sea green fish and my sea blue boat", "a small green fish and my blue boat"),
    ("snow-white rabbit", "white rabbit"),
    ("two snow white rabbits", "two white rabbits"),
    ("a midnight blue bus and a midnight black cat", "a blue bus and a black cat"),
    ("Jet black cat", "black cat"),
    ("a space grey rocket, a space gray car", "a grey rocket, a gray car"),
    ("a navy blue car, cobalt blue house", "a blue car, blue house"),
    ("a dark blue car", "a blue car"),
    ("a light orange cat, a pale-green bird", "an orange cat, a green bird"),
    ("bright red sun, deep purple tent", "red sun, purple tent"),
    ("a light sky blue kite", "a blue kite"),
    ("deep dark blue sea, a bright light pale green house", "blue sea, a green house"),
    ("a cat in the bright red car", "a cat in the red car"),
    ("a dark ruby house", "a ruby house"),
    ("a space ship", "a rocket"),
    ("Space-ships, a space rocket and a space shuttle", "rockets, a rocket and a rocket"),
    ("a cat right next to a dog", "a cat next to a dog"),
    ("a tree right  in front of a house", "a tree in front of a house"),
    ("right above it, right behind, right under", "above it, behind, under"),
    ("a tree on the far left, a cat to the far  right of a dog", "a tree on the left, a cat to the right of a dog"),
]


@pytest.mark.parametrize(("prompt", "plain"), READ)
def test_what_the_model_would_misread_is_put_in_words_that_it_knows(prompt: str, plain: str) -> None:
    assert in_plain_words(prompt) == plain
    assert in_plain_words(plain) == plain
    assert unknown_words(prompt) == unknown_words(plain)


def test_numbers_and_shades_are_no_unknown_words() -> None:
    assert not unknown_words(
        "2 light blue balls, a couple of cats, a pair of navy blue kites, a few sky-blue space ships"
    )
    assert unknown_words("(2 dark blue balls:1.2)") == ["2", "dark"], "brackets are not torn apart"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "3d render of a house",
        "12 cats",
        "2.5 cats",
        "v2 cats, no.2 dogs",
        "a 2 story house",
        "2 x 2",
        "cats 2",
        "4 cats",
        "a house at 3 pm",
        "2 story house, the 2 story house",
        "model 3 car, 3 point lighting, a 3 legged dog",
        "red boat ocean blue sky",
        "a fighter jet black and white",
        "a cat on right behind a house",
        "a rocket ship, a car and a bus, a cat dog",
        "a 3 dimensional ball, 3 dimensional",
        "a couple of the cats, a few of them",
        "a couple of 2",
        "(2 red balls:1.2)",
        "[3 cats]",
        "2 cats BREAK 3 dogs",
        "<lora:2 cats:1> 2 cats",
        "a car in the dark blue house",
        "a dark forest, in the dark, a light",
        "a dark blue-green car",
        "a boat on the sea blue",
        "in snow white rabbits",
        "at midnight blue car",
        "under the sky blue birds",
        "forest green car, night",
        "car forest green",
        "space grey house",
        "seasky blue",
        "a dark sky, bluebirds",
        "in space ships fly, outer space rockets",
        "a spaceship, workspace ships",
        "a cat on the right next to a dog",
        "left or right behind a house, far right above it",
        "a bright beside",
        "a house far away on the left",
    ],
)
def test_what_may_mean_something_else_stays(prompt: str) -> None:
    assert in_plain_words(prompt) == prompt


def test_a_negative_prompt_keeps_its_shades() -> None:
    assert in_plain_words("2 light blue cars, 1 tabby cat", is_denied=True) == "two light blue cars, one cat"


def test_the_worlds_own_captions_stay() -> None:
    rng = np.random.default_rng(0)
    pictures = [sample(rng) for _ in range(1500)]
    said = [text for picture in pictures for text in (caption(picture, rng), other_words(picture, rng))]
    assert not [text for text in said if in_plain_words(text) != text]


def test_a_prompt_stays_within_its_length() -> None:
    long = "2 cats, " * (MAX_PROMPT_CHARACTERS // 8)
    assert len(long) == MAX_PROMPT_CHARACTERS
    assert in_plain_words(long) == long
    assert in_plain_words(long[:2000]) == "two cats, " * 250


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", [" ", "2 ", "a ", "dark ", "sky ", "in the ", "right ", "a pair of ", "space-"])
def test_no_prompt_takes_long_to_read(text: str) -> None:
    in_plain_words((text * MAX_PROMPT_CHARACTERS)[:MAX_PROMPT_CHARACTERS])
