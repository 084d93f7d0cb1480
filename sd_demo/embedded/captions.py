"""The world's language: one of the many ways to say what a picture shows. Everything said is true of the picture.

What a caption leaves out is at its default (medium size, day, clear weather, picture book) or open (position, near or
far). A colour is left out only where it is one of the object's usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, Picture, Thing
from sd_demo.embedded.vocabulary import unknown_words

__all__ = ["caption", "unknown_words"]

SYNONYM = 0.4  # how often another word than the first is used
_ORDER = list(POSITIONS)


def caption(picture: Picture, rng: Generator) -> str:
    """One phrasing of what the picture shows, in lower case; the same picture has a great many."""
    if not picture.things:
        return _empty(picture, rng)
    form = rng.random()
    if form < 0.14:
        return ", ".join(_tags(picture, rng))
    things = _things(picture, rng)
    time, weather, suffix, prefix = _surroundings(picture, rng)
    has_scene = rng.random() < 0.93
    if form < 0.26 and has_scene and not prefix:  # the scene first
        scene = _pick(words.SCENE_PHRASES[picture.scene], rng)
        verb = "" if rng.random() < 0.7 else _there_is(things)
        return _join([_join([scene, *_shuffle([time, weather], rng)]) + ",", verb, things], suffix)
    if form < 0.36 and has_scene:
        noun = _pick(words.SCENE_NOUNS[picture.scene], rng)
        return _join([prefix, noun, *_shuffle([time, weather], rng), "with", things], suffix)
    scene = _pick(words.SCENE_PHRASES[picture.scene], rng) if has_scene else ""
    verb = _there_is(things) if not prefix and rng.random() < 0.05 else ""
    return _join([prefix, verb, things, scene, *_shuffle([time, weather], rng)], suffix)


def _pick(options: Sequence[str], rng: Generator) -> str:
    """The first option mostly, else any of them."""
    chance = SYNONYM + 0.2 * (len(options) > 3)
    return options[int(rng.integers(len(options)))] if rng.random() < chance else options[0]


def _join(parts: Sequence[str], suffix: str = "") -> str:
    text = " ".join(part for part in parts if part)
    return f"{text}, {suffix}" if suffix else text


def _shuffle(parts: list[str], rng: Generator) -> list[str]:
    return parts[::-1] if rng.random() < 0.5 else parts


def _there_is(things: str) -> str:
    return "there are" if things.startswith(tuple(words.NUMBER_WORDS.values())) else "there is"


def _surroundings(picture: Picture, rng: Generator) -> tuple[str, str, str, str]:
    """Time, weather, style after and style before: what is not the default is always said."""
    time = weather = suffix = prefix = ""
    if picture.time != "day" or rng.random() < 0.12:
        time = _pick(words.TIME_PHRASES[picture.time], rng)
    if picture.weather != "clear" or rng.random() < 0.04:
        weather = _pick(words.WEATHER_PHRASES[picture.weather], rng)
    if picture.style != "picture book" or rng.random() < 0.12:
        if rng.random() < 0.5:
            suffix = _pick(words.STYLE_SUFFIXES[picture.style], rng)
        else:
            prefix = _pick(words.STYLE_PREFIXES[picture.style], rng)
    return time, weather, suffix, prefix


def _empty(picture: Picture, rng: Generator) -> str:
    time, weather, suffix, prefix = _surroundings(picture, rng)
    if rng.random() < 0.12:
        tags = [_pick(words.SCENE_NOUNS[picture.scene], rng), *_around_tags(picture, rng)]
        return ", ".join(tags)
    noun = _pick(words.SCENE_NOUNS[picture.scene], rng)
    if rng.random() < 0.15:
        article, _, rest = noun.partition(" ")
        noun = f"an empty {rest}" if article in ("a", "an") else noun
    return _join([prefix, noun, *_shuffle([time, weather], rng)], suffix)


def _around_tags(picture: Picture, rng: Generator) -> list[str]:
    tags = []
    if picture.time != "day" or rng.random() < 0.1:
        tags.append(_pick(words.TIME_TAGS[picture.time], rng))
    if picture.weather != "clear" or rng.random() < 0.04:
        tags.append(_pick(words.WEATHER_TAGS[picture.weather], rng))
    if picture.style != "picture book" or rng.random() < 0.05:
        tags.append(_pick(words.STYLE_TAGS[picture.style], rng))
    return tags


def _tags(picture: Picture, rng: Generator) -> list[str]:
    """Keywords between commas, as many people write prompts."""
    tags = []
    for group in _shuffled_groups(picture, rng):
        thing = _noun(group, rng, has_article=False)
        tags.append(_join([thing, _where(group, rng)]))
    if rng.random() < 0.93:
        phrase = _pick(words.SCENE_PHRASES[picture.scene], rng)
        tags.append(picture.scene if rng.random() < 0.5 else phrase)
    return tags + _around_tags(picture, rng)


def _things(picture: Picture, rng: Generator) -> str:
    if picture.relation is not None:
        first, second, *_ = picture.things
        table = words.RELATION_PHRASES
        if rng.random() < 0.35:
            first, second, table = second, first, words.REVERSED_RELATION_PHRASES
        return _related(first, _pick(table[picture.relation], rng), second, picture.relation, rng)
    groups = _shuffled_groups(picture, rng)
    if len(picture.things) == 2 and len(groups) == 2 and rng.random() < 0.25:
        first, second = groups[0][0], groups[1][0]
        side = _ORDER.index(first.position) - _ORDER.index(second.position)
        if side:
            relation = _pick(words.SIDE_PHRASES["left" if side < 0 else "right"], rng)
            return _related(first, relation, second, "side", rng)
    has_article = rng.random() < 0.88
    said = [_join([_noun(g, rng, has_article), _where(g, rng)]) for g in groups]
    if len(said) == 1:
        return said[0]
    joint = ", " if rng.random() < 0.25 else " and "
    return ", ".join(said[:-1]) + joint + said[-1]


def _related(first: Thing, phrase: str, second: Thing, relation: str, rng: Generator) -> str:
    has_article = rng.random() < 0.88
    where = ""
    if relation in ("above", "in front of") and rng.random() < 0.6:  # both stand at the same place
        where = _pick(words.POSITION_PHRASES[first.position], rng)
    return _join([_noun([first], rng, has_article), phrase, _noun([second], rng, has_article), where])


def _shuffled_groups(picture: Picture, rng: Generator) -> list[list[Thing]]:
    """Things that are alike in object, colour and size are said together: "two blue balloons"."""
    groups: dict[tuple[str, str, str, str], list[Thing]] = {}
    for thing in picture.things:
        groups.setdefault((thing.object, thing.colour, thing.size, thing.depth), []).append(thing)
    listed = list(groups.values())
    return [listed[int(k)] for k in rng.permutation(len(listed))]


def _noun(group: Sequence[Thing], rng: Generator, has_article: bool) -> str:
    thing = group[0]
    forms = words.OBJECT_WORDS[thing.object]
    form = forms[0] if rng.random() >= SYNONYM else forms[int(rng.integers(len(forms)))]
    parts = []
    if thing.size != "medium" or rng.random() < 0.12:
        parts.append(_pick(words.SIZE_WORDS[thing.size], rng))
    if thing.colour not in KINDS[thing.object].usual or rng.random() < 0.8:
        parts.append(_pick(words.COLOUR_WORDS[thing.colour], rng))
    if len(group) > 1:
        return _join([words.NUMBER_WORDS[len(group)], *parts, form[1]])
    parts.append(form[0])
    if has_article:
        if rng.random() < (0.5 if thing.object in ("sun", "moon") else 0.08):
            article = "the"
        else:
            article = "an" if parts[0][0] in "aeio" or parts[0].startswith("um") else "a"
        parts.insert(0, article)
    return _join(parts)


def _where(group: Sequence[Thing], rng: Generator) -> str:
    """Position and depth of a group, or of as much of it as this phrasing tells."""
    thing = group[0]
    parts = []
    if rng.random() < 0.08:
        parts.append(_pick(words.DOINGS[thing.object], rng))
    if len(group) == 1 and rng.random() < 0.62:
        parts.append(_pick(words.POSITION_PHRASES[thing.position], rng))
    if rng.random() < {"near": 0.15, "far": 0.6, "sky": 0.3}[thing.depth]:
        parts.append(_pick(words.DEPTH_PHRASES[thing.depth], rng))
    return _join(parts)
