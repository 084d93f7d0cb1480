"""One request through several schedulers: the noise that each leaves at each step, and the picture at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from sd_demo.learn.classroom import Classroom
from sd_demo.learn.reverse import Frame, trace
from sd_demo.plan import Plan


@dataclass(frozen=True)
class Path:
    """What a scheduler made. sigmas: noise over signal at each of its UNet calls, falling."""

    scheduler: str
    sigmas: list[float]
    picture: Image.Image


def paths(classroom: Classroom, plan: Plan, prompt: str, negative_prompt: str, names: Sequence[str]) -> Iterator[Path]:
    """The path of each scheduler of `names`, from the same first noise."""
    for name in names:
        sigmas = []
        for part in trace(classroom, replace(plan, scheduler=name), prompt, negative_prompt):
            if isinstance(part, Frame):
                sigmas.append(part.sigma)
            else:
                yield Path(name, sigmas, part)
