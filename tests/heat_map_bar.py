"""How often the heat map of a noun peaks inside its object: `python -m tests.heat_map_bar [COUNT]`, two minutes.

40 prompts of "a red ball … and a blue house …" in other places, sizes and scenes, with the settings of the lesson. The
object is where the picture has its colour, grown by a latent; a picture without that colour counts as missed.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from PIL import Image, ImageFilter

from sd_demo.embedded.drawing import COLOURS
from sd_demo.learn.attention import Watch, word_maps
from sd_demo.learn.classroom import Classroom
from sd_demo.learn.reverse import trace
from sd_demo.plan import Plan
from sd_demo.settings import Settings

SCENES = ("in a meadow", "in the snow", "in the desert", "on a farm", "in the forest")  # none of them red or blue
SIZES = ("", "large ")
NEAR = 80.0  # distance of colours that still are one
LEAST = 60  # pixels of a colour that are a thing


def prompts(count: int) -> list[str]:
    """All alike in form: which thing is where, how large, and in which scene."""
    sides = (("on the left", "on the right"), ("on the right", "on the left"))
    return [
        f"a {SIZES[k % 2]}red ball {a} and a {SIZES[(k // 2) % 2]}blue house {b} {SCENES[k % len(SCENES)]}"
        for k in range(count)
        for a, b in [sides[(k // 4) % 2]]
    ]


def where(picture: Image.Image, colour: str) -> np.ndarray | None:
    """The places [H, W] of a colour, grown by eight pixels; None where there is hardly any."""
    away = np.linalg.norm(np.asarray(picture, dtype=float) - np.asarray(COLOURS[colour], dtype=float), axis=2)
    if (away < NEAR).sum() < LEAST:
        return None
    mask = Image.fromarray(((away < NEAR) * 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(5))
    return np.asarray(mask.filter(ImageFilter.MaxFilter(17))) > 0


def measure(count: int) -> dict[str, float]:
    """The share of nouns whose map peaks inside, and of those pictures that have both colours."""
    classroom, hits, both = Classroom(Settings()), [], []
    for k, prompt in enumerate(prompts(count)):
        watch = Watch()
        *_, picture = trace(classroom, Plan("text_to_image", (k,), 20, 5.0, "ddim"), prompt, "", watch)
        assert isinstance(picture, Image.Image)
        with classroom.turn() as model:
            heard = dict(word_maps(model, prompt, watch))
        inside = []
        for noun, colour in (("ball", "red"), ("house", "blue")):
            mask = where(picture, colour)
            fine = torch.nn.functional.interpolate(heard[noun][None, None], picture.size[::-1], mode="bicubic")[0, 0]
            y, x = np.unravel_index(int(fine.argmax()), fine.shape)
            inside.append(None if mask is None else bool(mask[y, x]))
        hits += [one is True for one in inside]
        both += [None not in inside]
    return {"prompts": count, "inside": float(np.mean(hits)), "both_colours": float(np.mean(both))}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 40)) + "\n")
