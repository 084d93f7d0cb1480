"""Draws the pictures of index.json with the embedded model: `python examples/gallery/draw.py`.

They are what the page offers under "Try": a click fills in the same values and draws it again (where the
program chooses bfloat16, all but the same).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from PIL import Image, ImageDraw  # noqa: E402 # after the path of this checkout

from sd_demo.engine import Engine  # noqa: E402
from sd_demo.outputs import Outputs  # noqa: E402
from sd_demo.requests import PICTURE_FIELDS, parse_request  # noqa: E402
from sd_demo.settings import Settings  # noqa: E402


def draw(engine: Engine, entry: dict[str, object]) -> None:
    """Draw one entry and put its PNG, with its receipt, beside index.json."""
    values = {name: value for name, value in entry.items() if name not in ("task", "file")}
    values |= {name: HERE / str(values[name]) for name in PICTURE_FIELDS if name in values}
    done = engine.submit(parse_request(str(entry["task"]), values)).result()
    (HERE / str(entry["file"])).write_bytes(done.images[0].path.read_bytes())
    print(entry["file"], done.images[0].receipt.summary())


def main() -> None:
    """Draw the mask, then every entry in its order: later ones start from earlier ones."""
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).ellipse((150, 110, 246, 206), 255)
    mask.save(HERE / "mask.png")
    with TemporaryDirectory() as folder:
        engine = Engine(Settings(dtype="float32"), outputs=Outputs(Path(folder)))
        engine.start()
        for entry in json.loads((HERE / "index.json").read_text(encoding="utf-8")):
            draw(engine, entry)
        engine.close()


if __name__ == "__main__":
    main()
