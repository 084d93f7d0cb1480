"""What `python -m sd_demo embedded vocabulary` and `… sample-world` do."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any

import numpy as np

from sd_demo.embedded import world
from sd_demo.embedded.world import Picture
from sd_demo.errors import InvalidRequest, OutputFailed

MAX_COUNT = 100_000
SIZES = (16, 2048)  # smallest and largest side of a picture in pixels


def vocabulary_command(json: bool) -> str:
    """What the world knows: as JSON, or as lines that a person reads."""
    known = world.vocabulary()
    if json:
        return json_format.dumps(known, indent=2)
    lines = []
    for name, values in known.items():
        if name == "synonyms":
            lines += [f"  {word}: {', '.join(others)}" for word, others in values.items() if others]
        else:
            listed = ", ".join(" ".join(reversed(v)) if isinstance(v, list) else v for v in values)
            lines.append(f"{name.replace('_', ' ')} ({len(values)}): {listed}")
        if name == "relations":
            lines.append("other ways to say them:")
    return "\n".join(lines)


def sample_world(count: int, seed: int, size: int, output: Path, held_out: bool = False) -> Path:
    """Draw `count` random pictures of size x size pixels into `output`, and return the path of its captions.jsonl.

    Picture k depends on seed and k alone. Each line of captions.jsonl tells all of one picture, and its caption says
    all that the line lists but some depths and relations (captions.py, is_complete). held_out: the first object of
    each picture is one of the pairs that training never sees.
    Raises InvalidRequest for a number out of range, OutputFailed where the folder cannot be written.
    """
    _check("count", count, 1, MAX_COUNT)
    _check("seed", seed, 0, 2**63 - 1)
    _check("size", size, *SIZES)
    try:
        output.mkdir(parents=True, exist_ok=True)
        captions = output / "captions.jsonl"
        with captions.open("w", encoding="utf-8") as lines:
            for k in range(count):
                rng = np.random.default_rng((seed, k))
                picture = world.sample(rng, held_out=held_out)
                file = f"{k:06d}.png"
                world.draw(picture, size).save(output / file)
                text = world.caption(picture, rng, is_complete=True)
                lines.write(json_format.dumps(_line(file, text, picture)) + "\n")
    except OSError as error:
        raise OutputFailed(
            f"output: {output} cannot be written ({error.strerror or 'disk error'}); choose another folder."
        ) from error
    return captions


def _check(name: str, value: int, smallest: int, largest: int) -> None:
    if not smallest <= value <= largest:
        raise InvalidRequest(
            f"{name}: {value} is out of range; give a whole number from {smallest} to {largest}.", name
        )


def _line(file: str, text: str, picture: Picture) -> dict[str, Any]:
    things = [
        {"object": t.object, "colour": t.colour, "size": t.size, "position": t.position, "depth": t.depth}
        for t in picture.things
    ]
    return {
        "file": file,
        "caption": text,
        "scene": picture.scene,
        "objects": things,
        "time": picture.time,
        "weather": picture.weather,
        "style": picture.style,
        "relation": picture.relation,
        "seed": picture.seed,
    }
