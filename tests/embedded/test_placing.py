"""What a mask says of the place of a thing is put into the prompt where that leaves it open, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from sd_demo.embedded import evaluation_prompts as prompts
from sd_demo.embedded import world
from sd_demo.embedded.picture import Picture, Thing
from sd_demo.embedded.placing import placed
from sd_demo.errors import ModelUnavailable
from sd_demo.finishing import make_plan
from sd_demo.known_models import ENTRIES
from sd_demo.plan import Plan
from sd_demo.registry import ModelEntry
from sd_demo.requests import MAX_PROMPT_CHARACTERS, TaskName, parse_request

LEFT = (0.05, 0.5, 0.4, 0.93)
MIDDLE = (0.3, 0.5, 0.7, 0.93)
RIGHT = (0.6, 0.5, 0.95, 0.93)
FAR = (0.6, 0.3, 0.95, 0.66)
SMALL = (0.4, 0.72, 0.6, 0.93)
SKY = (0.0, 0.0, 1.0, 0.5)
EMPTY = world.draw(Picture("beach", "day", "clear", "picture book", (), None, 1), 256)


def mask(left: float, top: float, right: float, bottom: float, size: tuple[int, int] = (256, 256)) -> Image.Image:
    made = Image.new("L", size)
    across, down = size
    made.paste(255, (round(left * across), round(top * down), round(right * across), round(bottom * down)))
    return made


@pytest.mark.parametrize(
    ("prompt", "room", "expected"),
    [
        ("a green cactus by the sea at sunset", LEFT, "a green cactus on the left by the sea at sunset"),
        ("red ball", MIDDLE, "red ball in the middle"),
        ("The tulip, pixel art", RIGHT, "The tulip on the right, pixel art"),
        ("a cat sitting on the grass", RIGHT, "a cat sitting on the right on the grass"),
        ("a house", FAR, "a house on the right far away"),
        ("a house in the background", FAR, "a house in the background on the right"),
        ("a bird", (0.6, 0.05, 0.95, 0.45), "a bird on the right"),
        ("an orange ball in winter", SMALL, "a small orange ball in the middle in winter"),
        ("ball", SMALL, "small ball in the middle"),
        ("a huge ball", SMALL, "a huge ball in the middle"),
        ("a ball that is tiny", SMALL, "a ball that is tiny in the middle"),
        ("a house in the middle of the night", LEFT, "a house on the left in the middle of the night"),
        ("a red ball, no clouds", LEFT, "a red ball on the left, no clouds"),
        ("a big  red\nball", LEFT, "a big red ball on the left"),
        ("sks cat", SMALL, "sks cat in the middle"),
        ("a sks cat", SMALL, "a sks cat in the middle"),
        ("a fluffy red cat", LEFT, "a fluffy red cat on the left"),
        ("masterpiece, a red ball", LEFT, "masterpiece, a red ball on the left"),
        ("a meadow with a red ball", LEFT, "a meadow with a red ball on the left"),
        ("a red ball.", LEFT, "a red ball on the left."),
        ("my cat", LEFT, "my cat on the left"),
        ("this ball", SMALL, "this small ball in the middle"),
        ("a cat inside a forest", LEFT, "a cat on the left inside a forest"),
        ("(a red ball:1.3), fuzzy", LEFT, "(a red ball on the left:1.3), fuzzy"),
    ],
)
def test_the_place_of_the_mask_is_read_into_the_prompt(
    prompt: str, room: tuple[float, float, float, float], expected: str
) -> None:
    assert placed(prompt, mask(*room), EMPTY) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "blurry",
        "the sea at night",
        "a red ball on the left",
        "on the right: a red ball",
        "a red ball by the sea, in the middle of the picture",
        "a house and a tree",
        "a dog, a dog",
        "two red balls",
        "red balls",
        "some flowers",
        "no ball",
        "no more tree",
        "not a single tree",
        "in  the  middle, a red ball",
        "many fish",
        "5 fish",
        "these fish",
        "a group of fish",
        "a school of fish",
        "a flower meadow at sunset",
        "in a rose garden",
        "a train station",
        "a cat's face",
        "a snowman next to a red house",
        "a snowman and a red house",
        "a meadow under the sun",
        "a cat in front of the woman",
        "a red ball on the left of the woman",
        "a red ball and a woman",
        "a meadow instead of a tree",
        "remove the tree",
        "a red ball in the centre of the picture",
        "a red ball in the middle of the image",
        "on the left of the picture, a red ball",
    ],
)
def test_a_prompt_that_says_where_or_asks_for_no_one_thing_stays(prompt: str) -> None:
    assert placed(prompt, mask(*RIGHT), EMPTY) == prompt


@pytest.mark.parametrize(
    ("prompt", "room"),
    [
        ("a red house by the sea", SKY),  # nothing stands there
        ("a bird", (0.1, 0.6, 0.5, 0.95)),  # nothing flies there
        ("a red ball", (0.1, 0.7, 0.9, 0.74)),  # a scratch
        ("a red ball", (0, 0, 1, 1)),
        ("a red ball", (0, 0, 0, 0)),
    ],
)
def test_a_mask_with_room_everywhere_or_nowhere_says_nothing(
    prompt: str, room: tuple[float, float, float, float]
) -> None:
    assert placed(prompt, mask(*room), EMPTY) == prompt


def test_a_prompt_that_tells_of_what_the_picture_shows_beside_the_mask_stays() -> None:
    house = Thing("house", "red", "medium", "left", "near")
    picture = world.draw(Picture("beach", "day", "clear", "picture book", (house,), None, 1), 256)
    assert placed("a red house by the sea", mask(*RIGHT), picture) == "a red house by the sea"
    assert placed("a red tree by the sea", mask(*RIGHT), picture) == "a red tree on the right by the sea"
    over_it = mask(0, 0.4, 0.45, 1)
    assert placed("a blue house", over_it, picture) == "a blue house on the left"
    for part_of_it in ((0.1, 0.5, 0.3, 0.7), (0.1, 0.68, 0.32, 0.9)):
        assert placed("a blue house", mask(*part_of_it), picture) == "a blue house"


def test_a_thing_has_its_size_in_a_wide_picture_too() -> None:
    wide = EMPTY.resize((512, 256))
    assert placed("a red ball", mask(0.1, 0.5, 0.3, 0.95, wide.size), wide) == "a red ball on the left"
    assert placed("a red ball", mask(0.1, 0.5, 0.9, 0.95, wide.size), wide) == "a red ball", "all places have room"


def test_the_place_is_where_the_mask_is_and_not_amid_its_parts() -> None:
    strokes = mask(0.05, 0.5, 0.25, 0.93)
    strokes.paste(255, (200, 128, 230, 238))
    assert placed("a red ball", strokes, EMPTY) == "a red ball on the left"
    strokes = mask(0.1, 0.5, 0.95, 0.93)
    strokes.paste(0, (60, 128, 256, 238))
    strokes.putpixel((5, 5), 255)
    assert "left" in placed("a red ball", strokes, EMPTY)


def test_what_would_be_cut_off_at_its_feet_is_farther_away() -> None:
    assert placed("a cactus", mask(0.6, 0.43, 0.96, 0.8), EMPTY) == "a cactus on the right far away"


def test_without_a_judge_a_prompt_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise ModelUnavailable("It is gone.")

    monkeypatch.setattr("sd_demo.embedded.placing._judge", gone)
    assert placed("a red ball", mask(*LEFT), EMPTY) == "a red ball"


def test_a_prompt_as_long_as_may_be_stays() -> None:
    long = "a red ball, " + "x" * (MAX_PROMPT_CHARACTERS - 12)
    assert placed(long, mask(*LEFT), EMPTY) == long


def test_the_worlds_own_pictures_are_placed_where_they_say() -> None:
    """The mask of a picture of one thing leads to the words that its complete caption has."""
    for asked in prompts.add(80, 3, 64):
        thing = asked.picture.things[0]
        said = placed(f"a {thing.object}", asked.mask, asked.image)
        where = {"left": "on the left", "middle": "in the middle", "right": "on the right"}[thing.position]
        assert where in said, (said, thing)
        assert ("far away" in said) == (thing.depth == "far"), (said, thing)
        assert ("small" in said) == (thing.size == "small"), (said, thing)


def test_only_inpainting_by_the_picture_book_reads_the_mask() -> None:
    book, large = (next(e for e in ENTRIES if e.is_embedded is is_book) for is_book in (True, False))
    picture = EMPTY

    def plan(task: TaskName, entry: ModelEntry = book, **values: Any) -> Plan:
        return make_plan(parse_request(task, {"prompt": "a red ball", "image": picture} | values), entry)

    inpaint = plan("inpaint", mask_image=mask(*LEFT), num_images_per_prompt=2)
    assert inpaint.read_prompts == ("a red ball on the left",) * 2
    both = plan("inpaint", mask_image=mask(*LEFT), prompt="a red ball under the sun", negative_prompt="sun, fuzzy")
    assert (both.read_prompts, both.read_negative_prompt) == (("a red ball on the left",), "fuzzy")
    assert plan("inpaint", large, mask_image=mask(*LEFT)).read_prompts == ()
    assert plan("image_to_image").read_prompts == ()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["a red ", "ball ", "on the ", "a, ", "standing ", " ", "of the ", "not "])
def test_no_prompt_takes_long_to_read(text: str) -> None:
    placed((text * MAX_PROMPT_CHARACTERS)[:MAX_PROMPT_CHARACTERS], mask(*LEFT), EMPTY)
