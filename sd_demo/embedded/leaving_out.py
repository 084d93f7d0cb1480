"""A prompt without a thing or a weather that it asks for: what "no sun" leaves of "a red car under the sun".

The world's language is small enough for its phrases to be found: a thing with its article, its adjectives, and what it
does and where; a weather in all its forms; and the word that joined it to the rest, which goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded import vocabulary as words


def and_aliases(forms: Iterable[str]) -> list[str]:
    """Each, and what is read as it."""
    return [form for word in forms for form in (word, *more.READ_AS.get(word, ()))]


def any_of(forms: Iterable[str]) -> str:
    """A pattern for any of them, whole words, the longest first."""
    longest_first = sorted(set(and_aliases(forms)), key=len, reverse=True)
    return rf"(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])"


def all_of(*tables: Mapping[str, Iterable[str]]) -> list[str]:
    """All phrases of tables."""
    return [phrase for table in tables for phrases in table.values() for phrase in phrases]


_PLACES: Final = all_of(words.POSITION_PHRASES, words.DEPTH_PHRASES, more.POSITIONS)
_DOINGS: Final = [*all_of(words.DOINGS), *more.VERBS.values()]
_RELATIONS: Final = all_of(words.SIDE_PHRASES, more.SIDES, words.RELATION_PHRASES, words.REVERSED_RELATION_PHRASES)
# Every adjective with all that mean the same.
_ALIKE: Final = {
    word: frozenset(group)
    for table, others in ((words.COLOUR_WORDS, more.COLOURS), (words.SIZE_WORDS, more.SIZES))
    for name, forms in table.items()
    for group in [and_aliases((*forms, *others.get(name, ())))]
    for word in group
}
LOOKS: Final = tuple(_ALIKE)
_SINGLE: Final = ("a", "an", "the", "one")
_COUNTS: Final = (*_SINGLE, "two", "three", "some", "several", "any")
# Repetitions have an end, as all that a prompt may be must be read in no time.
_BEFORE: Final = (
    rf"(?:{any_of(_PLACES)}:?\s+(?:(?:there\s+)?(?:is|are)\s+)?){{0,2}}"
    rf"(?P<no>(?:no|not|without)\s+)?(?:(?P<count>{any_of(_COUNTS)})\s+)?"
)
_AFTER: Final = (
    rf"(?:\s+that\s+(?:is|are)\s+{any_of(LOOKS)}|,?\s+(?:is\s+|are\s+)?{any_of(_DOINGS)}|\s+{any_of(_PLACES)}(?!\s+of\b)"
    rf"|\s+{any_of(_RELATIONS)}\s+it\b|\s+next to each other|\s+side by side){{0,6}}"
)
RELATED: Final = rf"(?:(?:is|are)\s+)?(?!by (?:the sea|day|night)\b){any_of(_RELATIONS)}"
_JOINT: Final = rf"(?:,\s*(?:and\s+|with\s+)?|(?:and|with)\b\s*|{RELATED}\s*|(?:is|are)\b\s*)"
_JOINED_BEFORE: Final = re.compile(
    rf"(?P<related>(?:^|(?<=,)|\s+){RELATED})?(?P<other>\s*,?\s*\b(?:and|with|or|but)|\s*,)?\s*$", re.I
)
_JOINED_AFTER: Final = re.compile(rf"\s*{_JOINT}", re.I)
_PLACE: Final = re.compile(rf"\b{any_of(_PLACES)}", re.I)
_PLACED: Final = re.compile(rf"{any_of(_PLACES)}\s*$", re.I)
_EDGES: Final = re.compile(
    r"^(?:[\s,.;!]|\b(?:and|with|or|but)\b)+|(?:[\s,;]|\b(?:and|with|or|but|is|are|the)\b)+$", re.I
)
_PAIRS: Final = {name: (*pairs, *more.OBJECTS.get(name, ())) for name, pairs in words.OBJECT_WORDS.items()}
FORMS: Final = {name: frozenset(and_aliases(form for pair in pairs for form in pair)) for name, pairs in _PAIRS.items()}
_SINGULAR, _PLURAL = (frozenset(and_aliases(pair[k] for pairs in _PAIRS.values() for pair in pairs)) for k in (0, 1))
# With the nouns of all things, so that no balloon is found in a hot-air balloon.
_PHRASE: Final = re.compile(
    rf"\b{_BEFORE}(?P<looks>(?:(?<!\bthat is )(?<!\bthat are ){any_of(LOOKS)}(?:,?\s+(?:and\s+)?|,)){{0,6}})"
    rf"(?<![\w-])(?P<noun>{any_of(set[str]().union(*FORMS.values()))})"
    rf"(?P<after>{_AFTER})",
    re.I,
)


def only_thing(prompt: str) -> re.Match[str] | None:
    """The phrase of the one thing that a prompt asks for, or None where it asks for none or for several.

    Its groups: no, count, looks (adjectives), noun and after (what the thing does, and where).
    """
    found = [each for each in _PHRASE.finditer(prompt) if not each["no"]]
    if len(found) != 1 or found[0]["noun"].lower() not in _SINGULAR:
        return None
    is_several = found[0]["noun"].lower() in _PLURAL and not found[0]["count"]  # "many fish" are no fish
    return None if is_several or (found[0]["count"] or "a").lower() not in _SINGLE else found[0]


def name_of(found: re.Match[str]) -> str:
    """The object that a phrase asks for."""
    return next(name for name, forms in FORMS.items() if found["noun"].lower() in forms)


def without_thing(prompt: str, name: str, looks: Iterable[str] = ()) -> str:
    """`prompt` without the phrases of the object `name`; of those alone that have each of the adjectives `looks`."""
    left, wanted, start, is_cut = " ".join(prompt.split()), [_ALIKE[look] for look in looks], 0, False
    while found := _PHRASE.search(left, start):
        adjectives = frozenset(re.findall(r"[\w-]+", f"{found['looks']} {found['after']}".lower()))
        is_meant = found["noun"].lower() in FORMS[name] and not any(each.isdisjoint(adjectives) for each in wanted)
        if is_meant and not found["no"]:  # what the prompt denies itself stays denied
            left, start, is_cut = _cut(left, found), 0, True
        else:
            start = found.end("noun")
    return _tidied(left) if is_cut else prompt


def _cut(prompt: str, found: re.Match[str]) -> str:
    """The prompt without what was found and without the word that joined it to the rest."""
    before, after = prompt[: found.start()], prompt[found.end() :]
    joined, following = _JOINED_BEFORE.search(before), _JOINED_AFTER.match(after)
    if joined and joined["related"]:  # what stands behind both is where the other thing is, too
        before = before[: joined.start()]
        where = " ".join(_PLACE.findall(found["after"]))
        return f"{before} {'' if not before or _PLACED.search(before) else where}".rstrip() + after
    is_first = not joined or not joined["other"] or "with" in joined["other"].lower()
    if following and is_first and (not joined or not joined["other"] or _PHRASE.match(after, following.end())):
        return before + after[following.end() :]
    return (before[: joined.start()] if joined else before) + after


def without_weather(prompt: str, name: str) -> str:
    """`prompt` without the phrases, keywords and adjectives of the weather `name`."""
    text = left = " ".join(prompt.split())
    phrases = [*words.WEATHER_PHRASES[name], *more.FALLING[name], *words.WEATHER_TAGS[name]]
    adjectives = more.WEATHERS[name]
    before_light = rf"\b{any_of(adjectives)}\s+(?=(?:day|night|evening|weather)\b)"
    left = re.sub(before_light, "", left, flags=re.I)
    if name != "snowfall":  # a snowy meadow has snow on the ground
        left = re.sub(rf"\b{any_of(adjectives)}\s+(?=\w)", "", left, flags=re.I)
    left = re.sub(rf",?\s*(?<!\bno )(?<!\bnot )(?<!\bwithout )\b{any_of(phrases)}", "", left, flags=re.I)
    return prompt if left == text else _tidied(left)


def _tidied(prompt: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r"(?:\s*,)+", ",", prompt)).replace(" ,", ",")
    return _EDGES.sub("", text)
