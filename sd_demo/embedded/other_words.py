"""Freer ways to say what a picture shows than captions.py has: as strangers type, in any order, in whole sentences.

Training hears them beside the others, so that the model also understands "at night, a red car is on the left."
Everything said is true of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.captions import Speaker, join
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import Picture, Thing

FREELY_PUT = 0.35  # of training's captions are not captions.py's


def other_words(picture: Picture, rng: Generator, *, is_complete: bool = False, is_placed: bool = True) -> str:
    """What the picture shows, freely put, in lower case; is_complete and is_placed as for `captions.caption`.

    One that is not complete may leave the number of things that are alike open as well: "some balloons".
    """
    free = _Free(rng, is_complete, is_placed)
    text = free.tags_in_any_order(picture) if picture.things and free.chance(0.2) else free.told(picture)
    ending = rng.random()
    return text + ("." if ending < 0.3 else "!" if ending < 0.33 else "")


class _Free(Speaker):
    """A speaker with more ways of each kind, and no favourites."""

    def any_of(self, *tables: Sequence[str]) -> str:
        table = tables[int(self.rng.integers(len(tables)))]
        return table[int(self.rng.integers(len(table)))]

    def told(self, picture: Picture) -> str:
        scene, around = self.surroundings(picture)
        before, after = self.style_around(picture)
        if not picture.things:
            noun = scene
            if before.endswith(" of") and " " in scene:  # "a picture of a foggy forest", not of "in a foggy forest"
                noun = scene.partition(" ")[2]
            return join([before, ", ".join([noun, *around]) if self.chance(0.3) else join([noun, *around])], after)
        form = self.rng.random()
        things = self.things(picture, is_subject=before.endswith(" of") or 0.5 <= form < 0.75)
        where = join(self.either_order([scene, join(around)]))
        if form < 0.35 and where and not before.endswith(" of"):  # what is around comes first
            return join([before, f"{where}, {things}"], after)
        if form < 0.5 and around and not before.endswith(" of"):
            return join([before, f"{join(around)},", things, scene], after)
        if form < 0.75 and where and " is " not in things and len(picture.things) == 1 and not before:
            return join([things, "is", where], after)
        return join([before, things, where], after)

    def surroundings(self, picture: Picture) -> tuple[str, list[str]]:
        """The scene, and time and weather, some of them as adjectives: "in a foggy forest", "on a rainy night"."""
        is_time_said = picture.time != "day" or self.chance(0.1)
        is_weather_said = picture.weather != "clear" or self.chance(0.05)
        scene = self.any_of(more.SCENES[picture.scene], words.SCENE_PHRASES[picture.scene])
        if picture.things and not self.says(0.93):
            scene = ""
        around = []
        how = self.rng.random()
        is_adjective = picture.weather != "clear" or picture.time == "day"  # no night is sunny
        has_adjective = is_adjective and picture.weather != "snowfall"  # a snowy meadow has snow on the ground
        if is_weather_said and has_adjective and how < 0.25 and picture.scene in more.PLACES:
            first, last = more.PLACES[picture.scene]
            scene, is_weather_said = join([first, self.any_of(more.WEATHERS[picture.weather]), last]), False
        elif is_weather_said and is_adjective and how < 0.5:
            weather = self.any_of(more.WEATHERS[picture.weather])
            around.append(join(["on a", weather, self.any_of(more.LIGHTS[picture.time])]))
            is_weather_said = is_time_said = False
        elif picture.time == "night" and how < 0.2 and picture.scene in more.PLACES:
            first, last = more.PLACES[picture.scene]
            scene, is_time_said = join([first, "dark", last]), False
        if is_time_said:
            around.append(self.any_of(more.TIMES[picture.time], words.TIME_PHRASES[picture.time]))
        if is_weather_said:
            around.append(self.any_of(more.FALLING[picture.weather], words.WEATHER_PHRASES[picture.weather]))
        return scene, around

    def style_around(self, picture: Picture) -> tuple[str, str]:
        if picture.style == "picture book" and not self.chance(0.1):
            return "", ""
        if self.chance(0.4):
            return "", self.any_of(more.STYLES_AFTER[picture.style], words.STYLE_SUFFIXES[picture.style])
        if self.chance(0.5):
            return self.any_of(words.STYLE_PREFIXES[picture.style]), ""
        return self.any_of(more.STYLES[picture.style]) + self.any_of((",", ":", " of")), ""

    def tags_in_any_order(self, picture: Picture) -> str:
        """Keywords, with or without commas: "night, beach, red car", "red car beach night"."""
        tags = ["night" if tag == "dark" else tag for tag in self.tags(picture)]  # "dark, blue car" is another car
        shuffled = [tags[int(k)] for k in self.rng.permutation(len(tags))]
        return (" " if self.chance(0.3) and len(picture.things) == 1 else ", ").join(shuffled)

    def things(self, picture: Picture, is_subject: bool = False) -> str:
        """is_subject: no place may stand before them, and no verb is theirs."""
        if picture.relation is not None:
            return self.in_relation(picture)
        groups = self.groups(picture)
        is_placed = self.is_placed and all(len({thing.position for thing in group}) == 1 for group in groups)
        if len(groups) == 2 == len(picture.things) and not self.is_complete and self.chance(0.2):
            first, second = groups[0][0], groups[1][0]
            if first.position != second.position and "middle" not in (first.position, second.position):
                return self.related(first, self.any_of(more.SIDES[first.position]), second)
        has_article = self.chance(0.8)
        if is_placed and not is_subject and self.chance(0.25):  # each place before its thing
            colon = ":" if self.chance(0.3) else ""
            said = [join([self.place(group) + colon, self.noun(group, has_article)]) for group in groups]
        else:
            said = [join([self.noun(group, has_article), self.where(group, is_subject)]) for group in groups]
        if len(said) == 1:
            return said[0]
        last = self.any_of(
            (" and ", ", and ", ", ", " with " if said[-1].startswith(("a ", "an ", "the ", "one ")) else " and ")
        )
        return ", ".join(said[:-1]) + last + said[-1]

    def in_relation(self, picture: Picture) -> str:
        first, second, *_ = picture.things
        assert picture.relation is not None
        phrase = self.pick(words.RELATION_PHRASES[picture.relation])
        if self.is_complete or self.chance(0.5):
            table = words.RELATION_PHRASES
            if self.chance(0.35):
                first, second, table = second, first, words.REVERSED_RELATION_PHRASES
            said = self.any_of(table[picture.relation])
            return self.related(first, f"is {said}" if self.chance(0.3) else said, second)
        one, other = (self.noun([thing], True) for thing in (first, second))
        if picture.relation == "next to" and self.chance(0.5):
            return f"{one} and {other} {self.any_of(('next to each other', 'side by side'))}"
        return f"{other} with {one} {phrase} it"

    def noun(self, group: Sequence[Thing], has_article: bool) -> str:
        thing = group[0]
        forms = words.OBJECT_WORDS[thing.object]
        if thing.object in more.OBJECTS and self.chance(0.15):
            forms = more.OBJECTS[thing.object]
        singular, plural = forms[int(self.rng.integers(len(forms)))] if self.chance(0.4) else forms[0]
        is_sized = thing.size != "medium" or self.chance(0.05)
        size = self.any_of(words.SIZE_WORDS[thing.size], more.SIZES[thing.size]) if is_sized else ""
        is_coloured = thing.colour not in KINDS[thing.object].usual or self.says(0.8)
        colour = self.pick(words.COLOUR_WORDS[thing.colour]) if is_coloured else ""
        if colour and thing.colour in more.COLOURS and self.chance(0.06):
            colour = self.any_of(more.COLOURS[thing.colour])
        adjectives = [size, colour][:: -1 if self.chance(0.35) else 1]
        if len(group) > 1:
            is_counted = self.is_complete or self.chance(0.75)
            return join([words.NUMBER_WORDS[len(group)] if is_counted else self.any_of(more.SOME), *adjectives, plural])
        after = ""
        if colour and not self.is_complete and self.chance(0.12):
            adjectives, after = [size], f"that is {colour}"
        parts = [part for part in (*adjectives, singular) if part]
        if has_article:
            parts.insert(0, "one" if self.chance(0.1) else self.article(thing, parts[0]))
        return join([*parts, after])

    def place(self, group: Sequence[Thing]) -> str:
        """Where a group is, by its position if that is said, and by its depth if that matters."""
        thing = group[0]
        position = self.any_of(more.POSITIONS[thing.position], words.POSITION_PHRASES[thing.position])
        depth = self.any_of(words.DEPTH_PHRASES[thing.depth])
        is_far_said = thing.depth == "far" and (self.is_complete or self.chance(0.6))
        return join([position, depth if is_far_said or self.chance(0.1) else ""])

    def where(self, group: Sequence[Thing], is_subject: bool = False) -> str:
        together = len({thing.position for thing in group}) == 1
        doing = ""
        if self.chance(0.12):
            doing = self.any_of(words.DOINGS[group[0].object])
            doing = more.VERBS.get(doing, doing) if len(group) == 1 and not is_subject and self.chance(0.5) else doing
        if not self.is_placed:
            return doing
        if not together or not self.says(0.62):
            is_far_said = group[0].depth == "far" and self.chance(0.6)
            return join([doing, self.any_of(words.DEPTH_PHRASES["far"]) if is_far_said else ""])
        return join([doing, self.place(group)])


def put_otherwise(
    caption: str,
    picture: Picture,
    rng: Generator,
    share: float = FREELY_PUT,
    *,
    is_complete: bool = False,
    is_placed: bool = True,
) -> str:
    """The caption, or in `share` of the cases other words for the same picture."""
    if rng.random() >= share:
        return caption
    return other_words(picture, rng, is_complete=is_complete, is_placed=is_placed)
