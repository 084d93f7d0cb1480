"""Negative prompts: what "no sun" must mean to a UNet, so that guidance away from it takes the sun out of a picture.

Guidance draws what the prompt predicts, and takes away what the negative prompt predicts: g * prompt + (1 - g) *
negative (arXiv 2207.12598). Where both show the same sun, one sun is left whatever g is. So what is denied is learned
at `1 + EXAGGERATION` times its strength, and from GUIDANCE on nothing is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator

from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import Picture

GUIDANCE = 2.5  # from which on nothing is left of what is denied
EXAGGERATION = 1.0 / (GUIDANCE - 1.0)
DENIED_SHARE = 1.0  # of the rows of pictures that have a denial and do not begin at a near miss
SETTLED_BELOW = 300  # timesteps at which a picture shows whether a thing is in it
ALSO_DENIED = 1 / 30  # of ordinary captions say as well what is not in the picture
COLOUR_SAID = 0.3
PHRASINGS = 3
WEATHERS = {"rain": ("rain",), "snowfall": ("snowfall", "falling snow"), "fog": ("fog", "mist")}


@dataclass(frozen=True)
class Denials:
    """Of the first N training pictures each without something in it, and a negative prompt that denies that.

    latents: [N, 4, h, w], of the pictures without it; token_ids: [N, captions, 77].
    """

    latents: np.ndarray
    token_ids: np.ndarray

    def drawn(self, rows: np.ndarray, rng: Generator) -> np.ndarray:
        """For pictures [B] their numbers, where a negative prompt is learned this time, and elsewhere -1: [B]."""
        return np.where((rows < len(self.latents)) & (rng.random(len(rows)) < DENIED_SHARE), rows, -1)

    def tokens(self, numbers: np.ndarray, rng: Generator) -> np.ndarray:
        """A negative prompt [B, 77] for each of the pictures numbered [B]."""
        return self.token_ids[numbers, rng.integers(0, self.token_ids.shape[1], len(numbers))]

    def exaggerated(
        self, clean: torch.Tensor, numbers: np.ndarray, timesteps: np.ndarray, rng: Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, 4, h, w] that show some part of what is denied, and those at which they are to come out.

        clean: latents [B, 4, h, w] of the pictures numbered [B]; timesteps: [B]. Until it is settled whether the thing
        is there, the answer shows all of it and more, as the prompt's answer may bring it back; afterwards no more than
        is there, or a hole would be left where there was nothing to take away.
        """
        without = torch.from_numpy(self.latents[numbers]).to(clean.device).float()
        part = torch.from_numpy(rng.random((len(numbers), 1, 1, 1), dtype=np.float32)).to(clean.device)
        begun = torch.lerp(without, clean, part)
        is_settled = torch.from_numpy(timesteps < SETTLED_BELOW).to(clean.device)[:, None, None, None]
        shown = torch.where(is_settled, begun, clean)
        return begun, shown + EXAGGERATION * (shown - without)


def denied(picture: Picture, rng: Generator) -> tuple[Picture, frozenset[int], list[str]]:
    """Something of a picture to be left out: the picture with the weather that it has then, which of its things are
    not to be drawn, and phrasings of its denial. Where there is nothing, they deny what is not there anyway.
    """
    if picture.weather != "clear" and (not picture.things or rng.random() < 0.3):
        said = [_denial(str(rng.choice(WEATHERS[picture.weather])), "", rng) for _ in range(PHRASINGS)]
        return replace(picture, weather="clear"), frozenset(), said
    if not picture.things:
        name = _absent(picture, rng)
        return picture, frozenset(), [deny(name, None, rng) for _ in range(PHRASINGS)]
    chosen = picture.things[int(rng.integers(len(picture.things)))]
    colour = chosen.colour if rng.random() < COLOUR_SAID else None
    gone = frozenset(
        k for k, thing in enumerate(picture.things) if thing.object == chosen.object and colour in (None, thing.colour)
    )
    return picture, gone, [deny(chosen.object, colour, rng) for _ in range(PHRASINGS)]


def deny(name: str, colour: str | None, rng: Generator) -> str:
    """A negative prompt for an object, in that colour or any: "no sun", "without a red car", "no kittens"."""
    singular, plural = words.OBJECT_WORDS[name][int(rng.integers(len(words.OBJECT_WORDS[name])))]
    said = "" if colour is None else str(rng.choice(words.COLOUR_WORDS[colour])) + " "
    if rng.random() < 0.3:
        return _denial(said + plural, "", rng)
    first = (said or singular)[0]
    return _denial(said + singular, "an " if first in "aeio" or (singular == "umbrella" and not said) else "a ", rng)


def also_denied(caption: str, picture: Picture, rng: Generator) -> str:
    """The caption, seldom with words in it of something that the picture does not show."""
    if rng.random() >= ALSO_DENIED:
        return caption
    return f"{caption}, {deny(_absent(picture, rng), None, rng)}"


def _denial(noun: str, article: str, rng: Generator) -> str:
    return f"no {noun}" if rng.random() < 0.7 else f"without {article}{noun}"


def _absent(picture: Picture, rng: Generator) -> str:
    shown = {thing.object for thing in picture.things}
    names = [name for name in KINDS if name not in shown]
    return names[int(rng.integers(len(names)))]
