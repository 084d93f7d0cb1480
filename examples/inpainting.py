"""Repaint a part of a picture; every pixel outside the mask stays what it was."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image, ImageDraw

from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
start = engine.submit(parse_request("text_to_image", {"prompt": "a meadow", "seed": 5})).result().images[0].image
mask = Image.new("L", start.size, 0)
ImageDraw.Draw(mask).ellipse((80, 110, 180, 230), fill=255)  # white is repainted
values = {"prompt": "a yellow house in a meadow", "image": start, "mask_image": mask, "seed": 5}
picture = engine.submit(parse_request("inpaint", values)).result().images[0]
outside = np.asarray(mask) == 0
print(picture.path)
print("unchanged outside the mask:", np.array_equal(np.asarray(start)[outside], np.asarray(picture.image)[outside]))
engine.close()
