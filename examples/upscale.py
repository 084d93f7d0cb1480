"""A picture twice as large: enlarged, then refined in overlapping tiles that share the loop."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy

from sd_demo.embedded import world
from sd_demo.engine import Engine
from sd_demo.settings import Settings
from sd_demo.upscale import plan_upscaling
from sd_demo.upscaling import Upscaled, run_upscaling

engine = Engine(Settings(output_dir="outputs"))
engine.start()
shown = world.sample(numpy.random.default_rng(3))
values = {"image": world.draw(shown, 256), "prompt": world.caption(shown, numpy.random.default_rng(0)), "seed": 1}
upscaling = plan_upscaling({**values, "scale": 2}, entry=engine.defaults())
for news in run_upscaling(engine, upscaling):
    if isinstance(news, Upscaled):
        print(news.result.path)
        print(*news.result.receipt.notes, sep="\n")
engine.close()
