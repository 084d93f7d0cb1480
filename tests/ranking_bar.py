"""How much better the best picture by CLIP is than a random one: `python -m tests.ranking_bar`, some minutes.

16 samples of each prompt, such as "a red ball and a blue house in a meadow", drawn at the page's defaults; a sample is
right where the project's judge finds all that the prompt names, both things with their colours and the scene, and no
third thing. With --pictures DIR the samples are kept there, and taken from there the next time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sd_demo.embedded.evaluation_prompts import Asked, ask
from sd_demo.embedded.judge import load_judge
from sd_demo.embedded.marking import Mark, mark
from sd_demo.embedded.vocabulary import SCENE_PHRASES
from sd_demo.engine import Engine
from sd_demo.ranking import PICTURE_BOOK_CLIP, load_ranker
from sd_demo.requests import TextToImage
from sd_demo.settings import Settings

SAMPLES = 16


def questions(count: int, seed: int) -> list[Asked]:
    """Pictures of two different things each, and the plain prompt for each."""
    found = []
    for asked in ask(3 * count, 2, seed):
        first, second = asked.picture.things
        if first.object != second.object and len(found) < count:
            things = " and ".join(f"a {thing.colour} {thing.object.replace('_', ' ')}" for thing in (first, second))
            found.append(Asked(asked.picture, f"{things} {SCENE_PHRASES[asked.picture.scene][0]}", asked.seed))
    return found


def is_right(marked: Mark) -> bool:
    """All that a plain prompt names is there, and no third thing."""
    both = all(thing["object"] and thing["colour"] for thing in marked.things)
    return both and marked.is_number_right and marked.whole["scene"]


def samples(engine: Engine, asked: Asked, folder: Path) -> list[Image.Image]:
    """The pictures of one prompt, from the folder where they are there."""
    files = [folder / f"{asked.seed}-{k}.png" for k in range(SAMPLES)]
    if not all(file.is_file() for file in files):
        request = TextToImage(prompt=asked.prompt, seed=asked.seed, num_images_per_prompt=SAMPLES)
        for file, one in zip(files, engine.submit(request, is_kept=False).result().images, strict=True):
            one.image.save(file)
    return [Image.open(file).convert("RGB") for file in files]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24, help="prompts [24]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path, help="folder of the samples [a temporary one]")
    parser.add_argument("--clip", type=Path, default=PICTURE_BOOK_CLIP, help="a CLIP folder [the project's]")
    asked = parser.parse_args()
    judge, ranker = load_judge(), load_ranker(asked.clip)
    folder = asked.pictures or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(Settings(output_dir=folder))
    engine.start()
    rights: list[list[bool]] = []
    things: list[list[float]] = []
    best: list[int] = []
    for one in questions(asked.count, asked.seed):
        images = samples(engine, one, folder)
        marks: list[Mark] = [mark(one.picture, seen) for seen in judge.judge(images)]
        rights.append([is_right(m) for m in marks])
        things.append([float(np.mean([t["object"] and t["colour"] for t in m.things])) for m in marks])
        best.append(int(np.argmax(ranker.score(images, one.prompt))))
    engine.close()
    figures = {
        "random_right": float(np.mean(rights)),
        "best_right": float(np.mean([row[k] for row, k in zip(rights, best, strict=True)])),
        "any_right": float(np.mean([any(row) for row in rights])),
        "random_things": float(np.mean(things)),
        "best_things": float(np.mean([row[k] for row, k in zip(things, best, strict=True)])),
    }
    sys.stdout.write(json.dumps({name: round(100 * value, 1) for name, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
