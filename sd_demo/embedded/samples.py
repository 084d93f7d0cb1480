"""A sheet of pictures for fixed prompts: what a training run is judged by while it runs."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

PROMPTS = (
    "a red car on the beach",
    "a large blue house in the snow at night",
    "a small yellow duck on the left of the meadow",
    "a green tree on the right in the desert at sunset",
    "an orange cat next to a blue ball on a meadow",
    "a purple balloon above a white castle in the mountains",
    "a brown dog in front of a red tent in the forest",
    "a black train in the city in the rain",
    "a pencil drawing of a pink rabbit",
    "pixel art of a white rocket in space",
    "a yellow sun and a red boat on the sea",
    "",
)
COLUMNS = 4


def sample_sheet(
    pipeline: StableDiffusionPipeline,
    file: Path,
    size: int,
    *,
    prompts: tuple[str, ...] = PROMPTS,
    num_inference_steps: int = 20,
    guidance_scale: float = 5.0,
) -> None:
    """Draw each of `prompts` at size x size pixels with a seed of its own and save them as one PNG."""
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(k) for k in range(len(prompts))]
    with torch.no_grad():
        pictures = pipeline(
            list(prompts),
            height=size,
            width=size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generators,
        ).images
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * size, rows * size))
    for k, picture in enumerate(pictures):
        sheet.paste(picture, (k % COLUMNS * size, k // COLUMNS * size))
    sheet.save(file)
