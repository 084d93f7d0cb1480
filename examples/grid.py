"""One prompt, six seeds, one labelled sheet: the pictures of a request laid out as a grid."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd_demo.contact_sheet import contact_sheet
from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings

engine = Engine(Settings(output_dir="outputs"))
engine.start()
request = parse_request("text_to_image", {"prompt": "a yellow boat on the sea", "seed": 1, "num_images_per_prompt": 6})
done = engine.submit(request).result()
sheet = contact_sheet(
    [picture.image for picture in done.images],
    rows=2,
    captions=[f"seed {picture.receipt.done.seed}" for picture in done.images],
    title=request.prompt,
)
print(engine.outputs.save_sheet(sheet, [picture.receipt for picture in done.images], visitor="local"))
engine.close()
