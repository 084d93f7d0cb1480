"""Make eight, keep the best three: pictures ranked by how well they fit the prompt, as a CLIP sees it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
values = {"prompt": "a red ball and a blue house in a meadow", "seed": 1, "num_images_per_prompt": 8, "keep_best": 3}
for picture in engine.submit(parse_request("text_to_image", values)).result().images:
    done = picture.receipt.done
    print(f"score {done.clip_score:.3f}  seed {done.seed}  {picture.path}")
engine.close()
