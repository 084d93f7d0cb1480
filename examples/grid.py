"""One prompt, six seeds, one labelled sheet: the pictures of a request laid out as a grid."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
values = {"prompt": "a yellow boat on the sea", "seed": 1, "num_images_per_prompt": 6, "grid": "2x3"}
print(engine.submit(parse_request("text_to_image", values)).result().sheet)
engine.close()
