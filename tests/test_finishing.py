"""The choices that a request left open."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from PIL import Image

from sd_demo.embedded.evaluation_prompts import deny
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.leaving_out import FORMS, without_thing, without_weather
from sd_demo.embedded.readings import own_prompt, read, undeniable
from sd_demo.errors import InvalidRequest
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
    assert make_plan(empty, book).read_prompts == (own_prompt(3), own_prompt(4))
    assert make_plan(empty, large).read_prompts == ()
    assert make_plan(parse_request("text_to_image", {"prompt": "a"}), book).read_prompts == ()
    picture = Image.new("RGB", (64, 64))
    assert make_plan(parse_request("image_to_image", {"prompt": "", "image": picture}), book).read_prompts == ()
    for wordless in ("...", "!?", "()", "\N{CAT FACE}", "(:1.2) BREAK _"):
        asked: dict[str, Any] = {"prompt": wordless, "seed": 3, "num_images_per_prompt": 2}
        assert make_plan(parse_request("text_to_image", asked), book).read_prompts == (own_prompt(3), own_prompt(4))
        assert make_plan(parse_request("text_to_image", asked), large).read_prompts == ()
        of_picture = parse_request("image_to_image", {**asked, "image": picture, "negative_prompt": "sun"})
        plan = make_plan(of_picture, book)
        assert (plan.read_prompts, plan.read_negative_prompt) == (("", ""), "no sun")
        for task, given in (("text_to_image", {}), ("image_to_image", {"image": picture})):
            with pytest.raises(InvalidRequest, match="keep_best needs a prompt") as caught:
                make_plan(parse_request(task, {**asked, **given, "keep_best": 1}), book)
            assert caught.value.field == "keep_best"


def test_only_the_picture_book_reads_in_plain_words() -> None:
    book, large = (next(e for e in ENTRIES if e.is_embedded is is_book) for is_book in (True, False))
    asked = {
        "prompt": "2 cats, dogs",
        "negative_prompt": "a sky blue tree, dogs, a pair of",
        "num_images_per_prompt": 2,
    }
    request = parse_request("text_to_image", asked)
    plan = make_plan(request, book)
    assert (plan.read_prompts, plan.read_negative_prompt) == (("two cats",) * 2, "a sky blue tree, a pair of")
    assert (plan.is_reworded, plan.heeds_denials) == (True, True)
    plan = make_plan(parse_request("text_to_image", {"prompt": "2 cats"}), book)
    assert (plan.read_prompts, plan.is_reworded, plan.heeds_denials) == (("two cats",), True, False)
    plan = make_plan(parse_request("text_to_image", {"prompt": "a cat", "negative_prompt": "2 dogs"}), book)
    assert (plan.read_prompts, plan.read_negative_prompt, plan.is_reworded) == ((), "two dogs", False)
    plan = make_plan(request, large)
    assert (plan.read_prompts, plan.read_negative_prompt, plan.is_reworded) == ((), None, False)


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


def test_what_is_denied_is_left_out_of_the_prompt_and_the_rest_stays() -> None:
    asked = "a house, a yellow sun and a small red car on the left in a meadow while it is raining"
    rainy = " in a meadow while it is raining"
    for negative, prompt, rest in (
        ("sun", "a house and a small red car on the left" + rainy, ""),
        ("No sun.", "a house and a small red car on the left" + rainy, ""),
        ("without the suns, fuzzy", "a house and a small red car on the left" + rainy, "fuzzy"),
        ("red automobiles , blurry,the moon", "a house, a yellow sun" + rainy, "blurry"),
        ("blue car", asked, ""),
        ("large red car", asked, ""),
        ("tiny crimson car", "a house, a yellow sun" + rainy, ""),
        ("drizzle", "a house, a yellow sun and a small red car on the left in a meadow", ""),
        ("(home:1.3) and not any sun", "a small red car on the left" + rainy, ""),
        ("(sun, ugly:1.2), hut", "a yellow sun and a small red car on the left" + rainy, "(sun, ugly:1.2)"),
        ("[sun|fog], hut", "a yellow sun and a small red car on the left" + rainy, "[sun|fog]"),
        ("ugly. sun. blurry.", "a house and a small red car on the left" + rainy, "ugly, blurry"),
        ("sunflower, fuzzy", asked, "fuzzy"),
        ("a house with no trees, sun", "a house and a small red car on the left" + rainy, "a house with no trees"),
    ):
        assert read(asked, negative) == (prompt, rest), negative
    for as_it_is in (
        "",
        "street , red,, night",
        "a sky without clouds",
        "a cat with no tail, a sun at night",
        "pencil drawing of a sun",
        "sun-drenched, car park, two suns",
        "nothing but the sun",
        "a house with no trees, no house without trees, no house with no car",
        "sun no car",
        "snowy, wet, sunny",
        "with sun, (sun, with no car",
        "fuzzy, (sun",
        "more sun, visible car",
        "fuzzy, sun)",
        "no sunny weather, no sun in the house",
    ):
        assert read(asked, as_it_is) == (asked, as_it_is)
        assert undeniable(as_it_is) == as_it_is
    assert read("a red car and a boat that is red, a blue car", "ruby car") == (
        "a boat that is red, a blue car",
        "",
    )
    assert read("a  red car ,", "moon") == ("a  red car ,", ""), "nothing is left out, so all is as it was"
    assert read(asked, "tree Or moon;\na haze, fuzzy") == (asked, "fuzzy")
    for prompt in (
        " ",
        "?!",
        "the sun",
        "the sun.",
        "a house BREAK a sun",
        "a (yellow sun:1.3) and a house",
        "a house <lora:sun:1>, sun",
    ):
        assert read(prompt, "sun and fuzzy") == (prompt, "no sun and fuzzy")
    assert read("a (red:1.2) house", "sun, " * 800) == ("a (red:1.2) house", "sun, " * 800), "too long with each its no"
    assert undeniable("tree, red, no house,sun") == "red"
    book, large = (next(e for e in ENTRIES if e.is_embedded is is_book) for is_book in (True, False))
    request = parse_request(
        "text_to_image", {"prompt": "a house and a sun", "negative_prompt": "sun", "num_images_per_prompt": 2}
    )
    plan = make_plan(request, book)
    assert (plan.read_prompts, plan.read_negative_prompt) == (("a house",) * 2, "")
    plan = make_plan(request, large)
    assert (plan.read_prompts, plan.read_negative_prompt) == ((), None)
    empty = parse_request("text_to_image", {"prompt": "", "negative_prompt": "sun, red", "seed": 3})
    plan = make_plan(empty, book)
    assert (plan.read_prompts, plan.read_negative_prompt) == ((own_prompt(3, "sun, red"),), "red")


@pytest.mark.parametrize(
    "negative",
    [
        "no sun in the sky",
        "sun in the sky",
        "with no sun",
        "there is no sun",
        "There are no suns",
        "there should be no sun",
        "there's no sun",
        "w/o sun",
        "no more suns",
        "without any sun",
        "no visible sun in the picture",
        "no sun anywhere",
        "no sun visible!",
        "no sun no stars",
        "no star no sun no moon",
        "No sun. No moon.",
        "no sun!",
        "sun?! moon",
        "sun/moon",
        "moon & sun",
        "moon|sun",
        "no moon in the image, sun in the scene",
    ],
)
def test_a_denial_is_understood_as_people_put_it(negative: str) -> None:
    assert read("a house, the sun and a tree", negative) == ("a house and a tree", "")
    assert undeniable(negative) == ""
    assert read("a house, the sun and a tree", f"fuzzy, {negative}") == ("a house and a tree", "fuzzy")


def test_what_cannot_be_left_out_is_denied_in_the_words_that_the_model_learned() -> None:
    for negative, rest in (
        ("there is no sun in the sky", "no sun"),
        ("no visible sun. blurry", "no sun. blurry"),
        ("sun/moon", "no sun/no moon"),
        ("no sun in the sky and fuzzy", "no sun and fuzzy"),
        ("w/o a sun", "no sun"),
        ("without a sun", "without a sun"),
        ("no sun no moon", "no sun no moon"),
        ("(there is no sun:1.3)", "(no sun:1.3)"),
        ("drizzly", "no drizzly"),
    ):
        assert read("", negative) == ("", rest)


def test_a_look_that_the_prompt_leaves_unsaid_is_the_usual_one() -> None:
    for prompt, negative, left in (
        ("a house under the sun", "yellow sun", "a house"),
        ("a house under the sun", "golden sun", "a house"),
        ("a house under the sun", "orange sun", "a house"),
        ("a house under the sun", "purple sun", "a house under the sun"),
        ("a house and clouds", "no white clouds", "a house"),
        ("a house and a cat", "medium cat", "a house"),
        ("a house and a cat", "average orange cat", "a house and a cat"),
        ("a cat on the beach", "black cat", "a cat on the beach"),
        ("a house and a cat", "small cat", "a house and a cat"),
        ("a house and a big cat", "medium cat", "a house and a big cat"),
        ("a house and a cat that is red", "orange cat", "a house and a cat that is red"),
        ("a house and a yellow cute cat", "yellow cat", "a house"),
    ):
        assert read(prompt, negative) == (left, ""), (prompt, negative)


@pytest.mark.parametrize(
    ("prompt", "negatives", "left"),
    [
        (
            "a house in the rain",
            ("rainy", "raining", "no rainy weather", "wet weather", "drizzly", "drizzling"),
            "a house",
        ),
        ("a house in the fog", ("foggy", "misty", "hazy", "no misty weather"), "a house"),
        ("a house while it is snowing", ("snowing", "snowy weather", "blizzard", "no falling snow"), "a house"),
        ("a house on a foggy day", ("fog", "foggy"), "a house on a day"),
    ],
)
def test_a_weather_is_denied_in_any_of_its_words(prompt: str, negatives: tuple[str, ...], left: str) -> None:
    for negative in negatives:
        assert read(prompt, negative) == (left, ""), negative


@pytest.mark.parametrize(
    ("prompt", "name", "left"),
    [
        ("a red car under the sun", "sun", "a red car"),
        ("a house with a sun above it", "sun", "a house"),
        (
            "there is a black balloon above a small kettle in the center",
            "balloon",
            "there is a small kettle in the center",
        ),
        ("a star high above a tiny cactus on the left at night", "cactus", "a star on the left at night"),
        ("a star on the right next to a cactus on the left", "cactus", "a star on the right"),
        ("the sea at dusk with a pink fortress on the right and a sun", "castle", "the sea at dusk with a sun"),
        ("on the left: a red ball and on the right: a blue house", "ball", "on the right: a blue house"),
        ("a car that is red is in the city at night", "car", "in the city at night"),
        ("a house and two red kittens sitting on the left, at night", "cat", "a house, at night"),
        ("a meadow with a duck, a tree and a car", "tree", "a meadow with a duck and a car"),
        ("a meadow with a duck and a car", "duck", "a meadow with a car"),
        ("a hot-air balloon and a red balloon", "balloon", "a hot-air balloon"),
        ("a rocket ship, a ship", "boat", "a rocket ship"),
        ("A Red Car and a Blue House", "car", "a Blue House"),
        ("night, beach, red car", "car", "night, beach"),
        ("a sunflower in a sun-drenched house", "sun", "a sunflower in a sun-drenched house"),
        ("no sun, a red car", "sun", "no sun, a red car"),
        ("a house, no cats or dogs", "cat", "a house, no cats or dogs"),
        ("a cat next to a car that is red", "car", "a cat"),
        ("a black and white cat and a dog", "cat", "a dog"),
        ("a small, red car and a dog", "car", "a dog"),
        ("a balloon that is red and two cats", "cat", "a balloon that is red"),
        ("a cat on the left of a dog", "cat", "a dog"),
        ("on the left there is a cat, on the right there is a dog", "cat", "on the right there is a dog"),
        ("a house by the sea and a dog", "house", "by the sea and a dog"),
        ("under the sun, a red car", "sun", "a red car"),
        ("a red car,under the sun", "sun", "a red car"),
        ("A cat. A dog.", "cat", "A dog."),
        ("red car; sun", "sun", "red car"),
        ("5 cats and a dog", "cat", "a dog"),
        ("my cat and a dog", "cat", "a dog"),
        ("these big cats, a dog", "cat", "a dog"),
        ("a lot of cats and a dog", "cat", "a dog"),
        ("a cute cat and a dog", "cat", "a dog"),
        ("my cute cat and a dog", "cat", "a dog"),
        ("a big, cute fluffy cat and a dog", "cat", "a dog"),
        ("a cute red fluffy cat and a dog", "cat", "a dog"),
        ("a dog next to the cute cat", "cat", "a dog"),
        ("on the left a cute cat, on the right a dog", "cat", "on the right a dog"),
        ("a house, no cute cat", "cat", "a house, no cute cat"),
        ("a house without a cute cat", "cat", "a house without a cute cat"),
        ("a girl holding cats", "cat", "a girl holding"),
        ("many cute cats", "cat", ""),
        ("a wizard, cat, tree", "cat", "a wizard, tree"),
        ("two girls holding balloons", "balloon", "two girls holding"),
        ("a bear catching fish", "fish", "a bear catching"),
        ("a nice young sleepy cat", "cat", "a nice young sleepy"),
        ("a dog on the left cute cat", "cat", "a dog on the left cute"),
    ],
)
def test_a_thing_goes_with_what_it_does_and_where_and_with_what_joined_it(prompt: str, name: str, left: str) -> None:
    assert without_thing(prompt, name) == left


def test_every_caption_of_a_picture_without_a_thing_names_no_such_thing_and_all_others() -> None:
    for seed in range(4):
        for asked in deny(50, seed):
            kept, gone = asked.picture.things
            left = without_thing(asked.prompt, gone.object)
            said = set(re.findall(r"[\w-]+", left))
            assert not said & {form for form in FORMS[gone.object] if " " not in form}, asked.prompt
            assert any(form in left for form in FORMS[kept.object]), asked.prompt
            assert not unknown_words(left)
            assert not re.search(r"\b(?:and|with|above|under|is|,)$|^(?:and|with|,)|,,|\s\s", left), left


def test_letters_that_only_look_like_others_deny_nothing() -> None:
    for negative in ("\u017fun", "no k\u0131te"):  # a long s, and an i without its dot, which re.I takes for s and i
        assert read("a house and a sun", negative) == ("a house and a sun", negative)


@pytest.mark.timeout(60)  # it ran for minutes
def test_no_prompt_takes_long_to_read() -> None:
    long = ["x" + " " * 3990 + "y a cat", "red " * 1000, "on the left " * 330 + "cat", ", " * 2000, "a cat and " * 390]
    for prompt in long:
        left, rest = read(prompt, "cat, " * 500 + "dog, sun, rain, no red house")
        assert "cat" not in left or "cat" in rest, "it is denied where it could not be left out"


def test_a_weather_goes_in_all_its_forms() -> None:
    for prompt, name, left in (
        ("a house in the rain", "rain", "a house"),
        ("a foggy forest with a car", "fog", "a forest with a car"),
        ("a car on a rainy night", "rain", "a car on a night"),
        ("in a snowy landscape, while it is snowing, a cat", "snowfall", "in a snowy landscape, a cat"),
        ("red car, beach, mist", "fog", "red car, beach"),
        ("a house, no rain", "rain", "a house, no rain"),
        ("the city is foggy", "fog", "the city"),
        ("a cat in the drizzle", "rain", "a cat"),
        ("a cat in a heavy downpour", "rain", "a cat"),
        ("a cat on a drizzly day", "rain", "a cat on a day"),
        ("a hazy forest", "fog", "a forest"),
        ("a house during a snowstorm at night", "snowfall", "a house at night"),
        ("a house with thick fog and a car", "fog", "a house and a car"),
        ("a house, no heavy rain, not in the rain", "rain", "a house, no heavy rain, not in the rain"),
    ):
        assert without_weather(prompt, name) == left
