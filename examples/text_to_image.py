"""A picture from a prompt, through the engine that the page uses."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from a checkout, without being installed

from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
request = parse_request("text_to_image", {"prompt": "a red house by the sea", "seed": 7})
picture = engine.submit(request).result().images[0]
print(picture.path)
print(picture.receipt.summary())
engine.close()
