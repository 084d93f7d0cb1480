"""What a mask touches is repainted, whatever its width, and a size that was not asked for is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from sd_demo import canvas as canvas_module
from sd_demo.canvas import FEATHER, Canvas, plan, working_size
from sd_demo.requests import parse_request

WHITE = (255, 255, 255)


def canvas_of(mask: Image.Image, **values: Any) -> Canvas:
    picture = Image.new("RGB", mask.size)
    request = parse_request("inpaint", {"image": picture, "mask_image": mask, **values})
    return plan(request, native_size=256, multiple=8)


def line(width: int) -> Image.Image:
    mask = Image.new("L", (256, 200))
    mask.paste(255, (99, 20, 99 + width, 180))
    return mask


@pytest.mark.parametrize("width", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("size", [{}, {"width": 100}])
def test_a_thin_line_is_repainted_all_over_and_nothing_beside_it(width: int, size: dict[str, int]) -> None:
    mask = line(width)
    canvas = canvas_of(mask, **size)
    assert canvas.mask is not None
    cells = np.asarray(canvas.mask)[::8, ::8]  # as the loop reads it
    assert (cells.any(axis=1)[4 : canvas.padded_height // 8 - 4]).all()
    white = Image.new("RGB", (canvas.padded_width, canvas.padded_height), WHITE)
    pasted = np.asarray(canvas.restore(white))[..., 0]
    assert np.array_equal(pasted, np.asarray(mask)), "the model's in the line, the input's beside it"


@pytest.mark.parametrize("at", [(0, 0), (1501, 777), (2999, 1999)])
def test_a_single_pixel_of_a_large_photo_is_repainted(at: tuple[int, int]) -> None:
    mask = Image.new("L", (3000, 2000))
    mask.putpixel(at, 255)
    canvas = canvas_of(mask, width=96)
    repainted = np.asarray(canvas.mask)
    assert repainted.sum() == 255 * 8 * 8, "the block around it and no other"
    assert repainted[at[1] * canvas.height // 2000, at[0] * 96 // 3000] == 255


def test_every_latent_that_a_mask_touches_is_repainted() -> None:
    mask = Image.new("L", (256, 200))
    ImageDraw.Draw(mask).ellipse((30, 40, 121, 133), fill=255)
    whole = np.asarray(canvas_of(mask).mask)
    assert whole.shape == (200, 256)
    blocks = np.asarray(mask).reshape(25, 8, 32, 8).any(axis=(1, 3))
    assert np.array_equal(whole[::8, ::8] > 0, blocks)
    assert np.array_equal(whole[7::8, 7::8] > 0, blocks)


def test_the_seam_of_a_thick_mask_fades_over_a_few_pixels() -> None:
    mask = Image.new("L", (256, 200))
    ImageDraw.Draw(mask).ellipse((30, 40, 121, 133), fill=255)
    ImageDraw.Draw(mask).rectangle((150, 20, 200, 90), fill=255)
    pasted = np.asarray(canvas_of(mask).restore(Image.new("RGB", mask.size, WHITE)))[..., 0]
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(FEATHER / 2)), dtype=np.float32)
    expected = np.where(np.asarray(mask) > 0, ((soft - 127.5) * 2).clip(0, 255).round(), 0)
    assert np.array_equal(pasted, expected)
    assert 0 < pasted[50, 150] < 128 < 255 == pasted[50, 170]


@pytest.mark.parametrize(
    "strokes", [[(0, 0, 5, 9)], [(299, 199, 299, 199)], [(7, 100, 250, 101), (60, 90, 64, 199)], []]
)
def test_the_seam_is_made_once_and_of_the_masks_surroundings_as_of_the_whole(
    strokes: list[tuple[int, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = Image.new("L", (300, 200))
    for stroke in strokes or [(0, 0, 299, 199)]:
        ImageDraw.Draw(mask).ellipse(stroke, fill=255)
    picture, drawn = (Image.effect_noise(mask.size, spread).convert("RGB") for spread in (30, 60))
    whole = Image.composite(drawn, picture, canvas_module._fade_inwards(mask))
    fade, sizes = canvas_module._fade_inwards, []
    monkeypatch.setattr(canvas_module, "_fade_inwards", lambda part: (sizes.append(part.size), fade(part))[1])
    canvas = Canvas(300, 200, 304, 200, original=picture, original_mask=mask)
    for _ in range(3):
        assert np.array_equal(np.asarray(canvas.restore(drawn)), np.asarray(whole))
    assert len(sizes) == 1, "a photo of 24 megapixels takes seconds each time"
    assert sizes[0] != mask.size or not strokes


@pytest.mark.parametrize(
    ("task", "picture", "wanted", "size", "words"),
    [
        ("image_to_image", (200, 100), (None, None), (200, 100), ""),
        ("image_to_image", (200, 100), (100, None), (128, 64), "200x100 was worked on at 128x64"),
        ("image_to_image", (500, 1000), (256, None), (256, 512), ""),
        ("image_to_image", (500, 1000), (1024, None), (512, 1024), "500x1000 was worked on at 512x1024; set"),
        ("image_to_image", (500, 1000), (256, 512), (256, 512), ""),
        ("image_to_image", (500, 1000), (256, 256), (256, 256), "cropped from its middle"),
        ("inpaint", (300, 200), (None, None), (300, 200), ""),
        ("inpaint", (300, 200), (300, 200), (300, 200), ""),
        ("inpaint", (4000, 3000), (512, None), (512, 384), "4000x3000 was worked on at 512x384 and put back"),
        ("inpaint", (1024, 512), (512, 512), (512, 512), "1024x512 was worked on at 512x512 and put back"),
    ],
)
def test_a_size_that_was_not_asked_for_is_said(
    task: str, picture: tuple[int, int], wanted: tuple[int | None, int | None], size: tuple[int, int], words: str
) -> None:
    width, height, notes = working_size(task, picture, wanted, 256)
    assert (width, height) == size
    assert bool(notes) == bool(words)
    assert words in " ".join(notes)
