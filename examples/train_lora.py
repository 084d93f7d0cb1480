"""Teach the embedded model a thing that its world lacks, a snowman, from 12 pictures; a number sets the steps."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sd_demo.embedded import world
from sd_demo.embedded.objects import KINDS, Kind
from sd_demo.engine import Engine
from sd_demo.lora_training import LoraTraining
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from sd_demo.training_events import TrainingStep
from sd_demo.training_request import parse_training


def snowman(brush, paint, rng):
    """Three balls of snow with a hat and a scarf in the object's colour."""
    for y, radius in ((22, 24), (54, 18), (78, 13)):
        brush.ellipse((246, 248, 252), 0, y, radius)
    brush.polygon(paint.main, [(-14, 64), (14, 64), (14, 70), (-14, 70)])
    brush.polygon(paint.main, [(-16, 86), (16, 86), (16, 90), (9, 90), (9, 104), (-9, 104), (-9, 90), (-16, 90)])
    brush.eye(-5, 80, 2.5)
    brush.eye(5, 80, 2.5)
    brush.polygon((240, 130, 40), [(-2, 78), (-2, 73), (12, 75)])


KINDS["snowman"] = Kind(snowman, False, ("red",))
pictures = Path("outputs") / "snowmen"
pictures.mkdir(parents=True, exist_ok=True)
for k in range(12):
    colour, position = ("red", "blue", "green", "purple")[k % 4], ("left", "middle", "right")[k % 3]
    scene, where = (("snow", "in the snow"), ("meadow", "in a meadow"), ("city", "in the city"))[k // 4]
    thing = world.Thing("snowman", colour, "large", position, "near")
    world.draw(world.Picture(scene, "day", "clear", "picture book", (thing,), None, k)).save(pictures / f"{k:02}.png")
    side = "in the middle" if position == "middle" else f"on the {position}"
    (pictures / f"{k:02}.txt").write_text(f"a large snowman with a {colour} hat {side} {where}\n")

options = {"images": pictures, "output": Path("outputs") / "snowman.safetensors", "trigger": "snowman"}
if len(sys.argv) > 1:
    options["steps"] = int(sys.argv[1])
training = LoraTraining(parse_training(options), Settings())
training.start()
for event in training.events():
    if isinstance(event, TrainingStep) and event.index % 20 == 0:
        print(f"step {event.index} of {event.total}, loss {event.mean_loss:.3f}, {event.remaining_s:.0f} s left")
lora = training.result().path

engine = Engine(Settings())
engine.start()
asked = {"prompt": "a large snowman with a yellow hat on the beach", "loras": [str(lora)], "seed": 1}
print(engine.submit(parse_request("text_to_image", asked)).result().images[0].path)
engine.close()
