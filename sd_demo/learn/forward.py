"""The forward process: how noise is added to a picture, and how much of it is left at each timestep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from sd_demo.learn.classroom import Classroom, decode, encode, latents_picture


@dataclass(frozen=True)
class Noised:
    """A picture at timestep `t`: x_t = signal x_0 + noise eps (Ho et al., https://arxiv.org/abs/2006.11239)."""

    t: int
    alpha_bar: float
    latents: Image.Image
    decoded: Image.Image

    @property
    def signal(self) -> float:
        """How much of the picture is left, 0 to 1."""
        return float(self.alpha_bar**0.5)

    @property
    def noise(self) -> float:
        """How much noise is in it, 0 to 1."""
        return float((1 - self.alpha_bar) ** 0.5)


def add_noise(classroom: Classroom, picture: Image.Image, t: int, seed: int) -> Noised:
    """`picture` (RGB, sides multiples of 8) with the noise of timestep t, 0 to 999, added to its latents."""
    with classroom.turn() as model:
        alpha_bar = float(model.components["scheduler"].alphas_cumprod[t])
        clean = encode(model, picture)
        noise = torch.randn(clean.shape, generator=torch.Generator("cpu").manual_seed(seed)).to(clean)
        noisy = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        return Noised(t, alpha_bar, latents_picture(noisy), decode(model, noisy))


def alphas_bar(classroom: Classroom) -> list[float]:
    """alpha_bar of every timestep, the share of the signal's variance that is left."""
    with classroom.turn() as model:
        return [float(value) for value in model.components["scheduler"].alphas_cumprod]
