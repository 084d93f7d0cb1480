"""The world's language: one of the many ways to say what a picture shows. Everything said is true of the picture.

What a caption leaves out is at its default (medium size, day, clear weather, picture book) or open (position, near or
far). A colour is left out only where it is one of the object's usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, Picture, Thing

__all__ = ["caption", "unknown_words"]

SYNONYM = 0.4  # how often another word than the first is used
_ORDER = list(POSITIONS)


def caption(picture: Picture, rng: Generator, *, is_complete: bool = False, is_placed: bool = True) -> str:
    """One phrasing of what the picture shows, in lower case; the same picture has a great many.

    is_complete: leaves nothing open that "everything right" asks for: scene, time, weather, style and every thing's
    object, colour, position and a size other than medium are all said. So is "far", but for things in a relation; a
    relation itself is not, where the caption is keywords between commas.
    is_placed: False says nothing of where in the picture things are, only how they are to each other.
    """
    speaker = Speaker(rng, is_complete, is_placed)
    if not picture.things:
        return speaker.empty(picture)
    if speaker.chance(0.14):
        return ", ".join(speaker.tags(picture))
    return speaker.sentence(picture)


@dataclass(frozen=True)
class Speaker:
    """Chooses words. says() is for what may be left out, chance() for how it is put."""

    rng: Generator
    is_complete: bool
    is_placed: bool = True

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def says(self, part: float) -> bool:
        return self.is_complete or self.chance(part)

    def pick(self, options: Sequence[str]) -> str:
        """The first option mostly, else any of them."""
        is_other = self.chance(SYNONYM + 0.2 * (len(options) > 3))
        return options[int(self.rng.integers(len(options)))] if is_other else options[0]

    def either_order(self, parts: list[str]) -> list[str]:
        return parts[::-1] if self.chance(0.5) else parts

    def sentence(self, picture: Picture) -> str:
        things = self.things(picture)
        around = self.either_order(self.time_and_weather(picture))
        prefix, suffix = self.style(picture)
        form = self.rng.random() if self.says(0.93) else 1.0
        scene = self.pick(words.SCENE_PHRASES[picture.scene])
        if form < 0.14 and not prefix:  # the scene first
            verb = _there_is(things) if self.chance(0.3) else ""
            return join([join([scene, *around]) + ",", verb, things], suffix)
        if form < 0.26:
            noun = self.pick(words.SCENE_NOUNS[picture.scene])
            return join([prefix, noun, *around, "with", things], suffix)
        verb = _there_is(things) if not prefix and self.chance(0.05) else ""
        return join([prefix, verb, things, scene if form < 1.0 else "", *around], suffix)

    def time_and_weather(self, picture: Picture) -> list[str]:
        """What is not the default is always said."""
        time = weather = ""
        if picture.time != "day" or self.chance(0.12):
            time = self.pick(words.TIME_PHRASES[picture.time])
        if picture.weather != "clear" or self.chance(0.04):
            weather = self.pick(words.WEATHER_PHRASES[picture.weather])
        return [time, weather]

    def style(self, picture: Picture) -> tuple[str, str]:
        """The style as words before or words after; one of them is empty, both often for the picture book."""
        if picture.style == "picture book" and not self.chance(0.12):
            return "", ""
        if self.chance(0.5):
            return "", self.pick(words.STYLE_SUFFIXES[picture.style])
        return self.pick(words.STYLE_PREFIXES[picture.style]), ""

    def empty(self, picture: Picture) -> str:
        noun = self.pick(words.SCENE_NOUNS[picture.scene])
        if self.chance(0.12):
            return ", ".join([noun, *self.tags_around(picture)])
        article, _, rest = noun.partition(" ")
        if article in ("a", "an") and self.chance(0.15):
            noun = f"an empty {rest}"
        prefix, suffix = self.style(picture)
        return join([prefix, noun, *self.either_order(self.time_and_weather(picture))], suffix)

    def tags(self, picture: Picture) -> list[str]:
        """Keywords between commas, as many people write prompts."""
        tags = [join([self.noun(group, has_article=False), self.where(group)]) for group in self.groups(picture)]
        if self.says(0.93):
            phrase = self.pick(words.SCENE_PHRASES[picture.scene])
            tags.append(picture.scene if self.chance(0.5) else phrase)
        return tags + self.tags_around(picture)

    def tags_around(self, picture: Picture) -> list[str]:
        tags = []
        if picture.time != "day" or self.chance(0.1):
            tags.append(self.pick(words.TIME_TAGS[picture.time]))
        if picture.weather != "clear" or self.chance(0.04):
            tags.append(self.pick(words.WEATHER_TAGS[picture.weather]))
        if picture.style != "picture book" or self.chance(0.05):
            tags.append(self.pick(words.STYLE_TAGS[picture.style]))
        return tags

    def things(self, picture: Picture) -> str:
        if picture.relation is not None:
            first, second, *_ = picture.things
            table = words.RELATION_PHRASES
            if self.chance(0.35):
                first, second, table = second, first, words.REVERSED_RELATION_PHRASES
            return self.related(first, self.pick(table[picture.relation]), second)
        groups = self.groups(picture)
        if len(picture.things) == 2 and len(groups) == 2 and not self.is_complete and self.chance(0.25):
            first, second = groups[0][0], groups[1][0]
            side = _ORDER.index(first.position) - _ORDER.index(second.position)
            if side:
                return self.related(first, self.pick(words.SIDE_PHRASES["left" if side < 0 else "right"]), second)
        has_article = self.chance(0.88)
        said = [join([self.noun(group, has_article), self.where(group)]) for group in groups]
        if len(said) == 1:
            return said[0]
        return ", ".join(said[:-1]) + (", " if self.chance(0.25) else " and ") + said[-1]

    def related(self, first: Thing, phrase: str, second: Thing) -> str:
        """Two things and how the first is to the second; at one place together, they share one position."""
        has_article = self.chance(0.88)
        places = ["", ""]
        if not self.is_placed:
            pass
        elif first.position == second.position:
            if self.says(0.6):
                places[1] = self.pick(words.POSITION_PHRASES[first.position])
        elif self.is_complete:
            places = [self.pick(words.POSITION_PHRASES[thing.position]) for thing in (first, second)]
        return join([self.noun([first], has_article), places[0], phrase, self.noun([second], has_article), places[1]])

    def groups(self, picture: Picture) -> list[list[Thing]]:
        """Things that are alike in all but their place are said together: "two blue balloons"."""
        groups: dict[tuple[str, ...], list[Thing]] = {}
        for thing in picture.things:
            own_place = (thing.position,) if self.is_complete and self.is_placed else ()
            groups.setdefault((thing.object, thing.colour, thing.size, thing.depth, *own_place), []).append(thing)
        listed = list(groups.values())
        return [listed[int(k)] for k in self.rng.permutation(len(listed))]

    def noun(self, group: Sequence[Thing], has_article: bool) -> str:
        thing = group[0]
        forms = words.OBJECT_WORDS[thing.object]
        form = forms[int(self.rng.integers(len(forms)))] if self.chance(SYNONYM) else forms[0]
        parts = []
        if thing.size != "medium" or self.chance(0.12):
            parts.append(self.pick(words.SIZE_WORDS[thing.size]))
        if thing.colour not in KINDS[thing.object].usual or self.says(0.8):
            parts.append(self.pick(words.COLOUR_WORDS[thing.colour]))
        if len(group) > 1:
            return join([words.NUMBER_WORDS[len(group)], *parts, form[1]])
        parts.append(form[0])
        if has_article:
            parts.insert(0, self.article(thing, parts[0]))
        return join(parts)

    def article(self, thing: Thing, next_word: str) -> str:
        if self.chance(0.5 if thing.object in ("sun", "moon") else 0.08):
            return "the"
        return "an" if next_word[0] in "aeio" or next_word.startswith("um") else "a"

    def where(self, group: Sequence[Thing]) -> str:
        """What a group does and where, or as much of it as this phrasing tells."""
        thing = group[0]
        parts = []
        if self.chance(0.08):
            parts.append(self.pick(words.DOINGS[thing.object]))
        if not self.is_placed:
            return join(parts)
        if len({one.position for one in group}) == 1 and self.says(0.62):
            parts.append(self.pick(words.POSITION_PHRASES[thing.position]))
        is_far_said = self.is_complete and thing.depth == "far"
        if is_far_said or self.chance({"near": 0.15, "far": 0.6, "sky": 0.3}[thing.depth]):
            parts.append(self.pick(words.DEPTH_PHRASES[thing.depth]))
        return join(parts)


def join(parts: Sequence[str], suffix: str = "") -> str:
    text = " ".join(part for part in parts if part)
    return f"{text}, {suffix}" if suffix else text


def _there_is(things: str) -> str:
    return "there are" if things.startswith(tuple(words.NUMBER_WORDS.values())) else "there is"
