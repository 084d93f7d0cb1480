"""From one picture to another: the higher the strength, the less is left of the first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
first = parse_request("text_to_image", {"prompt": "a red house in a meadow", "seed": 5})
start = engine.submit(first).result().images[0]
print("from", start.path)
for strength in (0.3, 0.6, 0.9):
    values = {"prompt": "a blue house in a meadow", "image": start.image, "strength": strength, "seed": 5}
    picture = engine.submit(parse_request("image_to_image", values)).result().images[0]
    print(f"strength {strength}: {picture.receipt.done.effective_steps} steps, {picture.path}")
engine.close()
