"""The picture-book world draws what it says: always the same, at every size, in the right colour, size and place."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_demo.embedded import scenes, styles, weathers
from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.layout import layout
from sd_demo.embedded.objects import HELD_OUT, KINDS
from sd_demo.embedded.picture import POSITIONS, RELATIONS, SCENES, SIZES, STYLES, TIMES, WEATHERS
from sd_demo.embedded.world import Picture, Thing, cut_out_thing, draw, sample

FINGERPRINT = """
import hashlib, numpy as np
from sd_demo.embedded.world import caption, draw, sample
rng, told = np.random.default_rng(5), hashlib.sha256()
for _ in range(6):
    picture = sample(rng)
    told.update(draw(picture, 64).tobytes() + repr(picture).encode() + caption(picture, rng).encode())
print(told.hexdigest())
"""


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    rng = np.random.default_rng(0)
    return [sample(rng) for _ in range(3000)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def psnr(a: Image.Image, b: Image.Image) -> float:
    return float(10 * np.log10(255**2 / max(((pixels(a) - pixels(b)) ** 2).mean(), 1e-9)))


def nearest_colour(rgb: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: float(((rgb - np.array(COLOURS[name])) ** 2).sum()))


def alone(thing: Thing, seed: int = 3, **other: str) -> Picture:
    settings = {"scene": "snow", "time": "day", "weather": "clear", "style": "picture book", **other}
    return Picture(**settings, things=(thing,), relation=None, seed=seed)


def test_another_process_draws_and_says_the_same() -> None:
    here = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    rng, told = np.random.default_rng(5), hashlib.sha256()
    from sd_demo.embedded.world import caption

    for _ in range(6):
        picture = sample(rng)
        told.update(draw(picture, 64).tobytes() + repr(picture).encode() + caption(picture, rng).encode())
    assert here.stdout.strip() == told.hexdigest()


def test_every_size_shows_the_same_composition(pictures: list[Picture]) -> None:
    for picture in pictures[:40]:
        large = draw(picture, 256)
        assert large.mode == "RGB"
        assert large.size == (256, 256)
        assert psnr(large.resize((128, 128), Image.Resampling.BOX), draw(picture, 128)) > 21, picture


def test_another_seed_gives_another_picture() -> None:
    picture = alone(Thing("cat", "blue", "large", "middle", "near"))
    assert psnr(draw(picture), draw(replace(picture, seed=4))) < 25


@pytest.mark.parametrize("size", [16, 17, 33, 100])
def test_draws_at_any_size(size: int, pictures: list[Picture]) -> None:
    for picture in pictures[:12]:
        assert draw(picture, size).size == (size, size)


def test_training_never_sees_a_held_out_pair(pictures: list[Picture]) -> None:
    shown = {(thing.object, thing.colour) for picture in pictures for thing in picture.things}
    assert not shown & set(HELD_OUT)
    assert len(shown) == len(KINDS) * len(COLOURS) - len(HELD_OUT)  # and every other pair


def test_held_out_pictures_begin_with_a_held_out_pair() -> None:
    rng = np.random.default_rng(1)
    firsts = [sample(rng, held_out=True).things[0] for _ in range(600)]
    assert {(thing.object, thing.colour) for thing in firsts} == set(HELD_OUT)


def test_held_out_pairs_are_a_tenth_and_spread_over_all() -> None:
    assert len(set(HELD_OUT)) == len(HELD_OUT) >= 0.1 * len(KINDS) * len(COLOURS)
    objects = Counter(name for name, _ in HELD_OUT)
    colours = Counter(colour for _, colour in HELD_OUT)
    assert set(objects) == set(KINDS)
    assert max(objects.values()) <= 2
    assert min(colours[colour] for colour in COLOURS) >= 2
    assert not any(colour in KINDS[name].usual for name, colour in HELD_OUT)  # what people ask for most is trained


def test_sampling_reaches_everything(pictures: list[Picture]) -> None:
    things = [thing for picture in pictures for thing in picture.things]
    assert {p.scene for p in pictures} == set(SCENES)
    assert {p.time for p in pictures} == set(TIMES)
    assert {p.weather for p in pictures} == set(WEATHERS)
    assert {p.style for p in pictures} == set(STYLES)
    assert {p.relation for p in pictures} == {None, *RELATIONS}
    assert {len(p.things) for p in pictures} == {0, 1, 2, 3}
    assert {(t.size, t.position, t.depth) for t in things} == {
        (size, position, depth) for size in SIZES for position in POSITIONS for depth in ("near", "far", "sky")
    }
    assert len({p.seed for p in pictures}) == len(pictures)


def test_colours_are_unmistakable() -> None:
    colours = {name: np.array(rgb, dtype=float) for name, rgb in COLOURS.items()}
    for name, rgb in colours.items():
        assert min(np.linalg.norm(rgb - other) for key, other in colours.items() if key != name) > 70, name


def test_objects_show_their_own_colour() -> None:
    """The median colour of an object is nearer to its own colour than to any other."""
    wrong, count = [], 0
    for name in KINDS:
        for seed, colour in enumerate(COLOURS):
            for extent in (48, 128):
                thing = Thing(name, colour, "medium", "left", "near")
                shape = pixels(cut_out_thing(thing, extent, np.random.default_rng(seed)))
                assert max(shape.shape[:2]) == extent
                visible = shape[shape[..., 3] > 200][:, :3]
                count += 1
                if nearest_colour(np.median(visible, axis=0)) != colour:
                    wrong.append((name, colour))
    assert len(wrong) <= 0.01 * count, wrong


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_an_object_is_as_large_and_where_it_should_be(name: str, size: str) -> None:
    """Measured in the finished picture: what changes when the object is taken out of it."""
    is_in_sky = KINDS[name].is_in_sky
    for seed, position in enumerate(POSITIONS):
        for depth in ("sky",) if is_in_sky else ("near", "far"):
            picture = alone(Thing(name, "red", size, position, depth), seed=seed)
            change = np.abs(pixels(draw(picture)) - pixels(draw(replace(picture, things=())))).max(axis=2)
            rows, columns = np.nonzero(change > 70)  # more than a shadow on snow changes
            width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
            smallest, largest = (256 * part for part in SIZES[size])
            assert smallest - 4 <= max(width, height) <= largest + 8
            centre = (columns.min() + columns.max()) / 512
            assert abs(centre - POSITIONS[position]) < (0.13 if size == "large" else 0.08)
            lowest = rows.max() / 256
            assert lowest < 0.7 if is_in_sky else (0.58 < lowest < 0.68 if depth == "far" else lowest > 0.85)


def test_the_three_sizes_stand_clearly_apart() -> None:
    assert SIZES["small"][1] * 1.3 < SIZES["medium"][0]
    assert SIZES["medium"][1] * 1.3 < SIZES["large"][0]


def test_no_thing_hides_another(pictures: list[Picture]) -> None:
    for picture in pictures:
        places = layout(picture)
        for i, place in enumerate(places):
            allowed = 0.3 if picture.relation == "in front of" and i < 2 else 0.05
            assert all(place.overlap(other) <= allowed for other in places[:i]), picture


def test_relations_are_so_in_the_picture(pictures: list[Picture]) -> None:
    for picture in pictures:
        if picture.relation is None:
            continue
        first, second = layout(picture)[:2]
        a, b = picture.things[:2]
        if picture.relation == "above":
            assert first.bottom <= second.top + 0.05
            assert a.position == b.position
        elif picture.relation == "in front of":
            assert first.bottom > second.bottom + 0.15
            assert a.position == b.position
        else:
            assert a.depth == b.depth
            assert {a.position, b.position} in ({"left", "middle"}, {"middle", "right"})


def test_backgrounds_know_no_objects() -> None:
    """A negative prompt can take a sun away only if no sun was ever there unnamed."""
    for module in (scenes, weathers, styles):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert not any(f"embedded.{other}" in source for other in ("objects", "animals", "sky_things", "vehicles"))
        assert "KINDS" not in source


@pytest.mark.parametrize("time", TIMES)
def test_scenes_look_different(time: str) -> None:
    """The mean colours of sky and ground tell any two scenes apart at one time of day."""
    seen = {}
    for scene in SCENES:
        views = [pixels(draw(Picture(scene, time, "clear", "picture book", (), None, seed), 64)) for seed in range(4)]
        mean = np.mean(views, axis=0)
        seen[scene] = np.concatenate([mean[:16].mean((0, 1)), mean[16:32].mean((0, 1)), mean[44:].mean((0, 1))])
    for scene, colours in seen.items():
        nearest = min(np.linalg.norm(colours - others) for other, others in seen.items() if other != scene)
        assert nearest > 16, scene


def test_weather_and_style_show() -> None:
    clear = alone(Thing("house", "red", "medium", "left", "near"), scene="meadow")
    for weather in WEATHERS[1:]:
        assert psnr(draw(clear), draw(replace(clear, weather=weather))) < 26
    pixel_art = pixels(draw(replace(clear, style="pixel art")))
    cells = pixel_art[::4, ::4]
    assert (pixel_art == cells.repeat(4, 0).repeat(4, 1)).all()
    pencil, book = (pixels(draw(replace(clear, style=style))) for style in ("pencil drawing", "picture book"))
    assert np.ptp(pencil, axis=2).mean() < 0.6 * np.ptp(book, axis=2).mean()  # less colour
