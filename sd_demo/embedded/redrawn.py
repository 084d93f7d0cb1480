"""Pictures of the world as the model draws them: image to image of the renderer's, with what they show kept.

What learns on the renderer's pictures alone does not know a model's own: soft edges, lumps where wheels should be. On
those it ranks by accident. Image to image at half strength gives training pictures the model's own look, and mostly
leaves objects, colours and places as the labels say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from sd_demo.embedded import world
from sd_demo.embedded.architecture import NATIVE_SIZE
from sd_demo.embedded.dataset import pictured

STRENGTHS = (0.35, 0.5, 0.6)
STEPS = 12
GUIDANCE = 4.0
ROWS = 8


def redrawn(work: Path, count: int, seed: int, side: int, model: Path) -> np.ndarray:
    """The first `count` training pictures drawn again by the model in the folder `model`, [count, side, side, 3] uint8.

    Kept in the folder `work`; a second call goes on where the first one ended.
    """
    file, marker = work / f"redrawn-{side}-{count}-{seed}.npy", work / f"redrawn-{side}-{count}-{seed}.txt"
    if not file.is_file():
        np.lib.format.open_memmap(file, "w+", np.uint8, (count, side, side, 3)).flush()
        marker.write_text("0", encoding="utf-8")
    images = np.lib.format.open_memmap(file, "r+")
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(model, safety_checker=None, local_files_only=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for start in range(int(marker.read_text(encoding="utf-8")), count, ROWS):
        rng = np.random.default_rng((seed, 6, start))
        rows = range(start, min(start + ROWS, count))
        shown = [pictured(seed, k) for k in rows]
        made = pipe(
            prompt=[world.caption(picture, rng, is_complete=True) for picture in shown],
            image=[world.draw(picture, NATIVE_SIZE) for picture in shown],
            strength=float(rng.choice(STRENGTHS)),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(start),
        ).images
        for k, image in zip(rows, made, strict=True):
            images[k] = np.asarray(image.resize((side, side), Image.Resampling.BOX))
        images.flush()
        marker.write_text(str(start + ROWS), encoding="utf-8")
    return images
