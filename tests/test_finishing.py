"""The choices that a request left open."""

from __future__ import annotations

import re

import torch
from PIL import Image

from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.readings import denial, own_prompt
from sd_demo.finishing import make_plan
from sd_demo.known_models import ENTRIES
from sd_demo.requests import SEED_LIMIT, parse_request


def test_a_random_seed_does_not_come_again_with_torchs_own_numbers() -> None:
    request, seeds = parse_request("text_to_image", {"prompt": "a house"}), []
    for _ in range(4):
        torch.manual_seed(0)  # as after each compilation, which puts PyTorch's state back
        seeds += make_plan(request, ENTRIES[0]).seeds
    assert len(set(seeds)) == 4
    assert all(0 <= seed < SEED_LIMIT for seed in seeds)


def test_only_the_picture_book_makes_up_what_to_show_and_only_from_nothing() -> None:
    book, large = (next(e for e in ENTRIES if e.is_embedded is is_book) for is_book in (True, False))
    empty = parse_request("text_to_image", {"prompt": " ", "seed": 3, "num_images_per_prompt": 2})
    assert make_plan(empty, book).own_prompts == (own_prompt(3), own_prompt(4))
    assert make_plan(empty, large).own_prompts == ()
    assert make_plan(parse_request("text_to_image", {"prompt": "a"}), book).own_prompts == ()
    picture = Image.new("RGB", (64, 64))
    assert make_plan(parse_request("image_to_image", {"prompt": "", "image": picture}), book).own_prompts == ()


def test_own_prompts_are_the_worlds_and_shun_what_is_denied() -> None:
    made = [own_prompt(seed) for seed in range(300)]
    assert len(set(made)) > 290
    assert not any(unknown_words(text) for text in made)
    assert made == [own_prompt(seed) for seed in range(300)]
    assert sum("tree" in text or "oak" in text for text in made) > 5
    for negative, shunned in (
        ("no tulips", {"flower", "flowers", "blossom", "daisy"}),
        ("tree", {"tree", "trees", "oak", "oaks"}),
        ("no rain, night", {"rain", "rainy", "rains", "raining", "night", "midnight", "dark"}),
        ("red", {"red", "crimson", "scarlet"}),
    ):
        shunning = [set(re.findall("[a-z]+", own_prompt(seed, negative))) for seed in range(300)]
        assert not [said for said in shunning if said & shunned]
        assert len({own_prompt(seed, negative) == own_prompt(seed) for seed in range(300)}) == 2
    assert own_prompt(SEED_LIMIT - 1, "red the a no weather") == own_prompt(SEED_LIMIT - 1, "red")
    assert own_prompt(0, " ".join(made))


def test_a_negative_prompt_without_its_no_is_given_one() -> None:
    read = {
        "sun": "no sun",
        "a red car, blurry , Tulips,the steam engine": "no red car, blurry , no Tulips,no steam engine",
        "(tree:1.3), rain": "no (tree:1.3), no rain",
        "no sun, tree": "no sun, no tree",
        "sun and drizzle;\na haze BREAK any moon": "no sun and no drizzle;\nno haze BREAK no moon",
        "not a sun": "no sun",
    }
    assert {text: denial(text) for text in read} == read
    for as_it_is in ("", "no sun", "Without a tree, blurry", "street, red, night", "sun, " * 999):
        assert denial(as_it_is) is None
    book, large = (next(e for e in ENTRIES if e.is_embedded is is_book) for is_book in (True, False))
    asked = parse_request("text_to_image", {"prompt": "a house", "negative_prompt": "sun"})
    assert make_plan(asked, book).denial == "no sun"
    assert make_plan(asked, large).denial is None
