"""The picture-book world: random scenes with things in them, drawn at any size, each with a caption.

    picture = sample(numpy.random.default_rng(0))
    draw(picture, 256).save("picture.png")
    caption(picture, numpy.random.default_rng(1))

A picture's seed settles every small variation, so the same picture has the same composition at every size and in
every process.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from sd_demo.embedded import scenes, styles, weathers
from sd_demo.embedded.captions import caption, unknown_words
from sd_demo.embedded.drawing import Brush, Paint, cut_out, mix
from sd_demo.embedded.known_words import vocabulary
from sd_demo.embedded.layout import Place, layout
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import Picture, Thing
from sd_demo.embedded.sampling import sample

__all__ = ["Picture", "Thing", "caption", "cut_out_thing", "draw", "sample", "unknown_words", "vocabulary"]

OVERSIZE = 2.6  # an object is drawn this much larger than it is pasted


def draw(picture: Picture, size: int = 256, left_out: Collection[int] = ()) -> Image.Image:
    """The picture as RGB of size x size pixels (size of 16 or more).

    left_out: numbers of things that are not drawn; all else is as it is with them.
    """
    if picture.style == "pixel art":
        return styles.pixels(_paint(picture, styles.PIXEL_CELLS, left_out, is_hard=True), size)
    if picture.style == "pencil drawing":
        side = max(size, styles.PENCIL_SIDE)
        return styles.pencil(_paint(picture, side, left_out, is_hard=False)).resize((size, size), Image.Resampling.BOX)
    return _paint(picture, size, left_out, is_hard=False)


def cut_out_thing(thing: Thing, extent: float, rng: Generator, is_hard: bool = False) -> Image.Image:
    """One object alone as RGBA, its longer side extent pixels; is_hard leaves no half-transparent edge."""
    kind = KINDS[thing.object]
    tilt = math.radians(rng.uniform(-9, 9) if kind.is_in_sky else rng.uniform(-2.5, 2.5))
    side = math.ceil(extent * OVERSIZE * 1.4)
    brush = Brush(side, rng.uniform(0.955, 1.045), tilt, is_flipped=bool(rng.random() < 0.5))
    paint = Paint.of(thing.colour)
    kind.draw(brush, paint, rng)
    image = _shade(cut_out(brush.layer, extent))
    if is_hard:
        image.putalpha(image.getchannel("A").point([0] * 110 + [255] * 146))
    return image


def _shade(image: Image.Image) -> Image.Image:
    """Light from the upper left: a soft gradient over the whole object."""
    pixels = np.asarray(image).astype(np.float32)
    down = np.linspace(0.5, -0.5, image.height, dtype=np.float32)[:, None, None]
    across = np.linspace(0.5, -0.5, image.width, dtype=np.float32)[None, :, None]
    pixels[..., :3] *= 0.98 + 0.14 * down + 0.06 * across
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def _paint(picture: Picture, size: int, left_out: Collection[int] = (), *, is_hard: bool) -> Image.Image:
    places = layout(picture)
    image, palette = scenes.background(picture.scene, picture.time, size, np.random.default_rng([picture.seed, 0]))
    is_water = picture.scene == "sea"
    shadow = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(shadow)
    for k, (thing, place) in enumerate(zip(picture.things, places, strict=True)):
        if thing.depth != "sky" and not is_water and k not in left_out:
            pen.ellipse(_base_ellipse(place, image.width), fill=88)
    if shadow.getbbox():
        image.paste(mix(palette.front, (20, 16, 50), 0.8), mask=shadow)
    weathers.overlay(image, picture.weather, np.random.default_rng([picture.seed, 2]))
    image = image.reduce(scenes.SUPERSAMPLING)
    if picture.style == "pencil drawing":
        image = styles.pencil_paper(image)
    elif picture.style == "pixel art":
        image = styles.few_colours(image)
    order = sorted((k for k in range(len(places)) if k not in left_out), key=lambda k: places[k].bottom)
    for k in order:
        thing, place = picture.things[k], places[k]
        cut = cut_out_thing(thing, place.extent * size, np.random.default_rng([picture.seed, 3, k]), is_hard)
        x = round((place.left + place.right) / 2 * size - cut.width / 2)
        y = round(place.bottom * size) - cut.height
        _paste_with_edge(image, cut, (x, y), Paint.of(thing.colour), size, is_hard)
        if is_water and thing.depth != "sky":
            _ripple(image, place, mix(palette.ground, palette.front, place.bottom))
    return image


def _base_ellipse(place: Place, side: int) -> tuple[float, float, float, float]:
    """The flat ellipse on which a standing thing stands, in pixels."""
    centre, half = (place.left + place.right) / 2, (place.right - place.left) * 0.54
    flat = 0.012 + 0.05 * place.extent
    return (
        (centre - half) * side,
        (place.bottom - 0.006 - flat) * side,
        (centre + half) * side,
        (place.bottom - 0.006 + flat) * side,
    )


def _paste_with_edge(
    image: Image.Image, cut: Image.Image, corner: tuple[int, int], paint: Paint, size: int, is_hard: bool
) -> None:
    """Paste an object over a soft line of its own darker colour, so that white shows on snow and blue on the sea."""
    alpha = cut.getchannel("A")
    reach = size / 256
    pad = math.ceil(3 * reach) + 1
    around = Image.new("L", (cut.width + 2 * pad, cut.height + 2 * pad), 0)
    around.paste(alpha, (pad, pad))
    if is_hard:
        around = around.filter(ImageFilter.BoxBlur(1)).point([0] * 80 + [150] * 176)
    else:
        around = around.filter(ImageFilter.BoxBlur(1.8 * reach)).point([min(210, round(v * 2.6)) for v in range(256)])
    image.paste(paint.edge, (corner[0] - pad, corner[1] - pad), around)
    image.paste(cut, corner, alpha)


def _ripple(image: Image.Image, place: Place, water: tuple[int, int, int]) -> None:
    """Water in front of a floating thing's foot."""
    left, top, right, bottom = _base_ellipse(place, image.width)
    times = 3
    width, height = math.ceil(right - left), math.ceil(bottom - top)
    mask = Image.new("L", (width * times, height * times), 0)
    ImageDraw.Draw(mask).ellipse([0, height * times * 0.35, width * times - 1, height * times - 1], fill=255)
    mask = mask.reduce(times)
    light = mix(water, (255, 255, 255), 0.3)
    image.paste(light, (round(left), round(top)), mask)
    image.paste(water, (round(left), round(top + 0.1 * height) + 1), mask)
