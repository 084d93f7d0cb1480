"""Marks: what a prompt asked for beside what the judge found in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from sd_demo.embedded.picture import Picture, Thing
from sd_demo.embedded.sight import Found, Judgement

ABOUT_THINGS = ("object", "colour", "size", "position")
ABOUT_WHOLE = ("scene", "time", "weather", "style")
_MOST = 6  # of the found things, the surest are matched; a picture that shows more is wrong in any case
_WORTH = {"object": 10, "colour": 5, "position": 3, "size": 2}  # which attribute makes two things the same one


@dataclass(frozen=True)
class Mark:
    """One picture's marks: things[k] tells of the k-th thing asked for; one that is not there is wrong in all.

    is_relation_right: whether the first thing is in front of the second one, or above it, where that was asked for,
    both right in object and colour; else None. It is a figure of its own and not part of `is_all_right`.
    """

    whole: dict[str, bool]
    things: tuple[dict[str, bool], ...]
    is_number_right: bool
    is_relation_right: bool | None = None

    @property
    def is_all_right(self) -> bool:
        """Every attribute of the whole and of each thing, and nothing that was not asked for."""
        return self.is_number_right and all(self.whole.values()) and all(all(t.values()) for t in self.things)


def mark(asked: Picture, seen: Judgement) -> Mark:
    """Mark what the judge saw against what was asked for, each thing matched with the found one most like it."""
    whole = {name: getattr(seen, name) == getattr(asked, name) for name in ABOUT_WHOLE}
    matched = _matched(asked.things, seen.things)
    things = tuple(
        {name: found is not None and getattr(found, name) == getattr(thing, name) for name in ABOUT_THINGS}
        for thing, found in zip(asked.things, matched, strict=True)
    )
    are_there = [
        found if right["object"] and right["colour"] else None for found, right in zip(matched, things, strict=True)
    ]
    return Mark(whole, things, len(seen.things) == len(asked.things), _is_related(asked.relation, are_there))


def _is_related(relation: str | None, found: Sequence[Found | None]) -> bool | None:
    """In front is what stands lower in the picture; None for "next to", which the places of both things tell.

    found: each thing asked for where it is, None where another thing or nothing is in its place.
    """
    if relation not in ("in front of", "above"):
        return None
    first, second = found[:2]
    if first is None or second is None:
        return False
    if relation == "above":
        return first.y < second.y
    return first.y + first.height / 2 > second.y + second.height / 2


def _matched(asked: Sequence[Thing], found: Sequence[Found]) -> Sequence[Found | None]:
    """For each thing asked for another found one, or None, so that the most is right."""
    candidates = [*found[:_MOST], *[None] * len(asked)]

    def worth(chosen: Sequence[Found | None]) -> int:
        return sum(
            points
            for thing, other in zip(asked, chosen, strict=True)
            if other is not None
            for name, points in _WORTH.items()
            if getattr(thing, name) == getattr(other, name)
        )

    return max(permutations(candidates, len(asked)), key=worth)
