"""How well a LoRA teaches the embedded model a new object: `python -m tests.lora_bar`, some minutes on two cores.

A judge is trained on the renderer's own pictures to tell the new object from everything else in the world, through
the blur and noise that a small model adds; pictures that the model draws without the LoRA are among those that must
not be taken for it. Then the LoRA is trained on 12 pictures, and asked for the object in colours and scenes that are
in none of them. Options after `--` are those of `python -m sd_demo train-lora`.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from sd_demo.cli.train_lora import run as train_lora
from sd_demo.embedded import world
from sd_demo.embedded.judge_views import softened
from sd_demo.embedded.picture import Picture
from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from sd_demo.torch_threads import rest
from tests.new_object import (
    NAME,
    OTHER_COLOURS,
    OTHER_SCENES,
    TAUGHT_COLOURS,
    TAUGHT_SCENES,
    in_the_world,
    scenes,
    write_training_pictures,
)

SIDE = 96
PICTURES = 1200
NEGATIVES = 64


def as_input(image: Image.Image) -> torch.Tensor:
    """[3, SIDE, SIDE] in -1..1."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def rendered(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with the object and without it by turns, in all colours and scenes: [count, 3, SIDE, SIDE], [count]."""
    colours, places = TAUGHT_COLOURS + OTHER_COLOURS, TAUGHT_SCENES + OTHER_SCENES
    with in_the_world():
        having = [picture for picture, _ in scenes(count // 2, seed, colours, places)]
        images = [as_input(world.draw(picture, 2 * SIDE)) for picture in having]
    rng = np.random.default_rng(seed)
    while len(images) < count:
        other: Picture = world.sample(rng)
        if other.things and other.style == "picture book":
            images.append(as_input(world.draw(other, 2 * SIDE)))
    labels = torch.tensor([1.0] * (count // 2) + [0.0] * (count - count // 2))
    return torch.stack(images), labels


def trained_judge(drawn: list[Image.Image], steps: int = 700) -> nn.Module:
    """One logit: does the picture show the object? drawn: pictures by the model, none of which does."""
    torch.manual_seed(0)
    widths = (3, 16, 32, 64, 64)
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
    judge = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 1))
    images, labels = rendered(PICTURES, 0)
    images = torch.cat([images, torch.stack([as_input(image) for image in drawn])])
    labels = torch.cat([labels, torch.zeros(len(drawn))])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(images), 48))
        batch = torch.cat([softened(some, rng) for some in images[rows].split(12)])
        loss = nn.functional.binary_cross_entropy_with_logits(judge(batch)[:, 0], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


@torch.no_grad()
def share_of(judge: nn.Module, images: list[Image.Image]) -> float:
    """The part of `images` that shows the object."""
    return float((judge(torch.stack([as_input(image) for image in images]))[:, 0] > 0).float().mean())


def drawn(engine: Engine, prompts: list[str], loras: list[str], size: int) -> list[Image.Image]:
    """A picture for each prompt, made together."""
    values = {"width": size, "height": size, "loras": loras}
    jobs = [
        engine.submit(parse_request("text_to_image", {**values, "prompt": prompt, "seed": k}))
        for k, prompt in enumerate(prompts)
    ]
    return [job.result().images[0].image for job in jobs]


def sheet(images: list[Image.Image], path: Path) -> None:
    """All pictures in rows of eight."""
    width, height = images[0].size
    whole = Image.new("RGB", (8 * width, -(-len(images) // 8) * height))
    for k, image in enumerate(images):
        whole.paste(image, (k % 8 * width, k // 8 * height))
    whole.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="prompts [40]")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side [256]")
    parser.add_argument("--output", type=Path, default=Path("outputs/lora_bar"), help="folder [outputs/lora_bar]")
    parser.add_argument("--judge", type=Path, help="file to keep the judge in, or to take it from")
    words = sys.argv[1:]
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    asked = parser.parse_args(own)
    asked.output.mkdir(parents=True, exist_ok=True)
    engine = Engine(Settings(max_rows=16, output_dir=asked.output / "made"))
    engine.start()
    rng = np.random.default_rng(5)
    others = drawn(engine, [world.caption(world.sample(rng), rng) for _ in range(NEGATIVES)], [], asked.size)
    if asked.judge and asked.judge.is_file():
        judge = torch.load(asked.judge, weights_only=False)
    else:
        judge = trained_judge(others)
        if asked.judge:
            torch.save(judge, asked.judge)
    images, labels = rendered(200, 1)
    with torch.no_grad():
        judged = float(((judge(images)[:, 0] > 0) == (labels > 0)).float().mean())
    rest()  # the judge's helpers would stand in the training's way
    write_training_pictures(asked.output / "pictures")
    lora = asked.output / f"{NAME}.safetensors"
    train = ["--images", str(asked.output / "pictures"), "--output", str(lora), "--trigger", NAME, "--json"]
    train_lora([*train, *options])
    prompts = [caption for _, caption in scenes(asked.count, 7, OTHER_COLOURS, OTHER_SCENES)]
    found = {}
    for name, loras in (("without", []), ("with", [str(lora)])):
        made = drawn(engine, prompts, loras, asked.size)
        sheet(made, asked.output / f"{name}.png")
        found[name] = share_of(judge, made)
    engine.close()
    found = {"judge_right": judged, "shows_it_without_lora": found["without"], "with_lora": found["with"]}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
