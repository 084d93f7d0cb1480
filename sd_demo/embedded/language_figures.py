"""Figures of an evaluation about what people type: free phrasings, plurals, negative prompts, and no prompt at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sd_demo.embedded import evaluation_prompts as prompts
from sd_demo.embedded.evaluation_prompts import Asked
from sd_demo.embedded.figures import Figure, share
from sd_demo.embedded.marking import mark
from sd_demo.embedded.sight import Judgement

UNMISTAKABLE = 0.9  # likeness from which on a thing is one object to the judge, and no mixture

Judged = Callable[[Sequence[Asked]], Sequence[Judgement]]
"""What the judge sees in a picture of each, in order."""


def figures(drawn: Judged, own: Judged, count: int, seed: int) -> list[Figure]:
    """All of them, of `count` pictures each. drawn: of the model's pictures; own: of the renderer's."""
    return [
        _figure("other_words", prompts.ask_freely(count, seed), _is_all_right, drawn, own),
        _figure("place_left_open", prompts.ask_openly(count, seed), _is_right_anywhere, drawn, own),
        _figure("two_alike", prompts.ask_twice(count, seed), _are_twins, drawn, own),
        _figure("negative_prompt_removes", prompts.deny(count, seed), _is_gone, drawn, None),
        _figure("unmistakable_without_prompt", prompts.ask_nothing(count, seed), _is_unmistakable, drawn, own),
    ]


def _figure(
    name: str, asked: Sequence[Asked], is_right: Callable[[Asked, Judgement], bool], drawn: Judged, own: Judged | None
) -> Figure:
    rights = [
        [is_right(a, seen) for a, seen in zip(asked, judged(asked), strict=True)]
        for judged in (drawn, own)
        if judged is not None
    ]
    return share(name, *rights)


def _is_all_right(asked: Asked, seen: Judgement) -> bool:
    return mark(asked.picture, seen).is_all_right


def _is_right_anywhere(asked: Asked, seen: Judgement) -> bool:
    """Everything right, wherever the things are."""
    m = mark(asked.picture, seen)
    about_things = (right for thing in m.things for name, right in thing.items() if name != "position")
    return m.is_number_right and all(m.whole.values()) and all(about_things)


def _are_twins(asked: Asked, seen: Judgement) -> bool:
    """Two things, wherever they are, both of the kind and colour asked for."""
    return sorted((t.object, t.colour) for t in seen.things) == sorted(
        (t.object, t.colour) for t in asked.picture.things
    )


def _is_gone(asked: Asked, seen: Judgement) -> bool:
    """Of two things that the prompt asks for the one that is denied is gone, and the other is there."""
    kept, gone = asked.picture.things
    found = [(thing.object, thing.colour) for thing in seen.things]
    return (kept.object, kept.colour) in found and all(name != gone.object for name, _ in found)


def _is_unmistakable(asked: Asked, seen: Judgement) -> bool:
    """Something is there, and each thing is one object to the judge, no mixture of several."""
    return bool(seen.things) and all(thing.likeness >= UNMISTAKABLE for thing in seen.things)
