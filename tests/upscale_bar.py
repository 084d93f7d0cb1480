"""How near upscaling comes to the world's own pictures of twice the size: `python -m tests.upscale_bar [COUNT]`.

Pictures of 256x256 become 512x512 with the defaults and their captions as prompts. PSNR in dB and gradient energy as a
part of the truth's, for Lanczos, for enlarging alone and for the end; and, in grey values of 255, how much more
neighbours differ where a tile begins than elsewhere, less what they did before refining: a seam would show there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sd_demo.embedded import world
from sd_demo.engine import Engine
from sd_demo.outputs import Outputs
from sd_demo.settings import Settings
from sd_demo.upscale import plan_upscaling
from sd_demo.upscaling import Upscaled, run_upscaling

SIZE = 512


def measure(engine: Engine, count: int) -> dict[str, list[float]]:
    """Means over `count` pictures of the world that no training saw (seed 9)."""
    rows: dict[str, list[tuple[float, float]]] = {"lanczos": [], "enlarged": [], "refined": []}
    seams = []
    for k in range(count):
        rng = np.random.default_rng((9, k))
        picture = world.sample(rng)
        prompt = world.caption(picture, rng)
        small, truth = world.draw(picture, SIZE // 2), world.draw(picture, SIZE)
        plan = plan_upscaling({"image": small, "prompt": prompt, "seed": k}, entry=engine.defaults())
        *_, end = run_upscaling(engine, plan)
        assert isinstance(end, Upscaled)
        lanczos = small.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        for name, made in (("lanczos", lanczos), ("enlarged", end.enlarged), ("refined", end.result.image)):
            rows[name].append((psnr(made, truth), energy(made) / energy(truth)))
        borders = [tile.left for tile in plan.tiles if tile.left]
        seams.append(seam(end.result.image, borders) - seam(end.enlarged, borders))
    means = {name: [round(float(value), 3) for value in np.mean(values, axis=0)] for name, values in rows.items()}
    return means | {"seam": [round(float(np.mean(seams)), 3)]}


def psnr(a: Image.Image, b: Image.Image) -> float:
    """In dB, of pictures of one size."""
    error = (np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) ** 2
    return float(10 * np.log10(255**2 / error.mean()))


def energy(image: Image.Image) -> float:
    """Mean square of the differences between neighbours, in grey values."""
    grey = np.asarray(image, dtype=float).mean(axis=2)
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def seam(image: Image.Image, borders: list[int]) -> float:
    """Mean difference of neighbours at the tiles' left borders, less that at all columns."""
    steps = np.abs(np.diff(np.asarray(image, dtype=float).mean(axis=2), axis=1)).mean(axis=0)
    return float(steps[[x - 1 for x in set(borders)]].mean() - steps.mean())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Settings(), outputs=Outputs(Path(folder)))
        engine.start()
        sys.stdout.write(json.dumps(measure(engine, int(sys.argv[1]) if len(sys.argv) > 1 else 20)) + "\n")
        engine.close()
