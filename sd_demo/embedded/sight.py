"""What the judge's answers about a picture and about its mirror image say together.

Two looks at the same picture differ by chance where it is unclear, and where they differ the judge is not sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, SCENES, SIZES, STYLES, TIMES, WEATHERS

CELLS = 8  # along a side
MEAN_EXTENT = 0.33  # of an object; boxes are learned as the logarithm of their sides over this
SURE = 0.5  # where both looks together are less sure of a thing than this, there is none
SUSPECTED = 0.25  # nor where one of them is less sure than this
SAME = 0.4  # boxes that share this much of their union are of one thing
HIDDEN = 0.65  # as are those that share this much of the smaller one; in the world no thing hides over 0.3 of another
WHOLES = {"scene": SCENES, "time": TIMES, "weather": WEATHERS, "style": STYLES}


@dataclass(frozen=True)
class Found:
    """One thing that the judge sees. x, y, width, height: of its box, in parts of the picture's side; y downwards.

    confidence: that a thing is there, 0 to 1; likeness: that it is this object, 0 to 1.
    """

    object: str
    colour: str
    x: float
    y: float
    width: float
    height: float
    confidence: float
    likeness: float = 1.0

    @property
    def size(self) -> str:
        """small, medium or large: the one whose range is nearest to the longer side."""
        extent = max(self.width, self.height)
        return min(SIZES, key=lambda name: max(SIZES[name][0] - extent, extent - SIZES[name][1]))

    @property
    def position(self) -> str:
        """left, middle or right: where the centre of a thing of this width is nearest to, as it keeps off the edge."""
        half = self.width / 2
        return min(POSITIONS, key=lambda name: abs(min(max(POSITIONS[name], half), 1 - half) - self.x))


@dataclass(frozen=True)
class Judgement:
    """What one picture shows, with the surest thing first."""

    scene: str
    time: str
    weather: str
    style: str
    things: tuple[Found, ...]


@dataclass(frozen=True, eq=False)
class _Look:
    """One thing as one look shows it: its box, x, y, width, height; how sure it is, of a thing and of which [...]."""

    box: tuple[float, float, float, float]
    confidence: float
    objects: torch.Tensor
    colours: torch.Tensor


def split_cells(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Presence [..., 1], objects [..., 32], colours [..., 11] and boxes [..., 4] of cells [..., 48]."""
    presence, objects, colours, boxes = cells.split([1, len(KINDS), len(COLOURS), 4], dim=-1)
    return presence, objects, colours, boxes


def judgement(
    cells: torch.Tensor, wholes: torch.Tensor, mirrored_cells: torch.Tensor, mirrored_wholes: torch.Tensor
) -> Judgement:
    """What a picture shows by the judge's answers, cells [48, 8, 8] and wholes [20], about it and its mirror image."""
    parts = (wholes + mirrored_wholes).split([len(names) for names in WHOLES.values()])
    told = {name: names[int(p.argmax())] for (name, names), p in zip(WHOLES.items(), parts, strict=True)}
    turned = [replace(look, box=(1 - look.box[0], *look.box[1:])) for look in _looks(mirrored_cells)]
    both = _surest(_together(_surest(_looks(cells)), _surest(turned)))
    return Judgement(**told, things=tuple(_found(look) for look in both if look.confidence > SURE))


def _looks(cells: torch.Tensor) -> Iterator[_Look]:
    presence, objects, colours, boxes = split_cells(cells.permute(1, 2, 0))  # [8, 8, …]
    confidence = presence[..., 0].sigmoid()
    for row, column in (confidence > SUSPECTED).nonzero().tolist():
        at = row, column
        dx, dy, log_width, log_height = boxes[at].tolist()
        width, height = MEAN_EXTENT * np.exp(np.clip((log_width, log_height), -3, 1.2))
        yield _Look(
            box=((column + dx) / CELLS, (row + dy) / CELLS, float(width), float(height)),
            confidence=float(confidence[at]),
            objects=objects[at].softmax(dim=0),
            colours=colours[at].softmax(dim=0),
        )


def _surest(looks: Iterable[_Look]) -> list[_Look]:
    """The surest first, and each thing once."""
    kept: list[_Look] = []
    for look in sorted(looks, key=lambda look: -look.confidence):
        if not any(_is_one(look, other) for other in kept):
            kept.append(look)
    return kept


def _together(looks: Sequence[_Look], others: Sequence[_Look]) -> Iterator[_Look]:
    """The mean of both looks at each thing that both show."""
    left = list(others)
    for look in looks:
        same = [other for other in left if _is_one(look, other)]
        if not same:
            continue
        other = max(same, key=lambda other: _overlap(look, other)[0])
        left.remove(other)
        x, y, width, height = ((a + b) / 2 for a, b in zip(look.box, other.box, strict=True))
        yield _Look(
            box=(x, y, width, height),
            confidence=(look.confidence + other.confidence) / 2,
            objects=(look.objects + other.objects) / 2,
            colours=(look.colours + other.colours) / 2,
        )


def _found(look: _Look) -> Found:
    x, y, width, height = look.box
    return Found(
        object=tuple(KINDS)[int(look.objects.argmax())],
        colour=tuple(COLOURS)[int(look.colours.argmax())],
        x=x,
        y=y,
        width=width,
        height=height,
        confidence=look.confidence,
        likeness=float(look.objects.max()),
    )


def _is_one(a: _Look, b: _Look) -> bool:
    """Whether two boxes are of one thing."""
    of_union, of_smaller = _overlap(a, b)
    return of_union >= SAME or of_smaller >= HIDDEN


def _overlap(a: _Look, b: _Look) -> tuple[float, float]:
    """What two boxes share, as a part of their union and of the smaller one."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    width = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    height = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (aw * ah + bw * bh - shared), shared / min(aw * ah, bw * bh)
