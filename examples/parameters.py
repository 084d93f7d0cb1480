"""What steps and guidance do: the same seed, run together through one shared denoising loop."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
jobs = {}
for steps in (4, 12):
    for guidance in (1.0, 4.0, 8.0):
        values = {"prompt": "a yellow boat on the sea", "seed": 3}
        values |= {"num_inference_steps": steps, "guidance_scale": guidance}
        jobs[steps, guidance] = engine.submit(parse_request("text_to_image", values))
for (steps, guidance), job in jobs.items():
    picture = job.result().images[0]
    print(f"{steps:2} steps, guidance {guidance}: {picture.path.name}, shared with {picture.receipt.done.shared_with}")
engine.close()
