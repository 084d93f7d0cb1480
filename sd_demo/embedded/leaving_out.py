"""A prompt without a thing or a weather that it asks for: what "no sun" leaves of "a red car under the sun".

The world's language is small enough for its phrases to be found: a thing with its article, its adjectives, and what it
does and where; a weather in all its forms; and the word that joined it to the rest, which goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product
from typing import Final

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded import vocabulary as words
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.plain_words import OWNERS, PAIRS


def and_aliases(forms: Iterable[str]) -> list[str]:
    """Each, and what is read as it: "in the rain" and "in the drizzle"."""
    return [
        " ".join(said)
        for form in forms
        for said in product(*((word, *more.READ_AS.get(word, ())) for word in form.split()))
    ]


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
# All adjectives that mean the same, by what they mean.
_HUES, _SIZES = (
    {name: frozenset(and_aliases((*forms, *others.get(name, ())))) for name, forms in table.items()}
    for table, others in ((words.COLOUR_WORDS, more.COLOURS), (words.SIZE_WORDS, more.SIZES))
)
_ALIKE: Final = {word: group for group in (*_HUES.values(), *_SIZES.values()) for word in group}
LOOKS: Final = tuple(_ALIKE)
_ONE: Final = ("a", "an", "one")
_SINGLE: Final = (*_ONE, "the", *OWNERS)
_SEVERAL: Final = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "some", "several", "any", "many", "few",
    "all", "both", "these", "those", "lots of", "a lot of", "a group of", "a bunch of",
)  # fmt: skip
_COUNTS: Final = (*_SINGLE, *_SEVERAL)
_KNOWN_BY_COLOUR: Final = ("sun", "moon", "star", "cloud")
_NO_ADJECTIVES: Final = frozenset((*_COUNTS, "not"))
# Repetitions have an end, as all that a prompt may be must be read in no time.
_BEFORE: Final = (
    rf"(?:{any_of(_PLACES)}:?\s+(?:(?:there\s+)?(?:is|are)\s+)?){{0,2}}"
    rf"(?P<no>(?:no|not|without)\s+)?(?:(?P<count>{any_of(_COUNTS)}|\d+(?![\w-]))\s+)?"
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
_LED: Final = re.compile(rf"\b{_BEFORE}$", re.I)
_LAST_WORD: Final = re.compile(r"(?<![\w'’-])([^\W\d_][\w'’-]*)(,?) $")
_MOST_STRANGE: Final = 2  # words that nobody knows before a noun, as in "a cute fluffy cat"
_AS_FAR: Final = 100  # characters before a noun, and no farther, is looked for them and for what leads to them
_PLACE: Final = re.compile(rf"\b{any_of(_PLACES)}", re.I)
_PLACED: Final = re.compile(rf"{any_of(_PLACES)}\s*$", re.I)
_EDGES: Final = re.compile(
    r"^(?:[\s,.;!]|\b(?:and|with|or|but)\b)+|(?:[\s,;]|\b(?:and|with|or|but|is|are|the)\b)+$", re.I
)
FORMS: Final = {name: frozenset(and_aliases(form for pair in pairs for form in pair)) for name, pairs in PAIRS.items()}
_SINGULAR, _PLURAL = (frozenset(and_aliases(pair[k] for pairs in PAIRS.values() for pair in pairs)) for k in (0, 1))
_HOW: Final = r"(?:(?:an?|any|the|heavy|light|thick)\s+){0,2}"  # a weather may come: "in a heavy downpour"
_DENYING: Final = rf"(?P<no>\b(?:no|not|without)\s+{_HOW})?"
_AMID: Final = rf"(?:\b(?:in|during|with|under|through)\s+{_HOW})?"
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
    """`prompt` without the phrases of the object `name`; of those alone that have each of the adjectives `looks`.

    A size that is not said is medium. A colour is one of the usual ones only where a thing is known by them, as the sun
    is: who wants no black cat still wants a cat.
    """
    left, wanted, start, is_cut = " ".join(prompt.split()), [_ALIKE[look] for look in looks], 0, False
    while found := _PHRASE.search(left, start):
        begin = _begin(left, found) if found["noun"].lower() in FORMS[name] else None
        if begin is None or any(each.isdisjoint(_looks(left[begin : found.end()], name)) for each in wanted):
            start = found.end("noun")
        else:
            left, start, is_cut = _cut(left, begin, found), 0, True
    return _tidied(left) if is_cut else prompt


def _begin(prompt: str, found: re.Match[str]) -> int | None:
    """Where a phrase begins, be there words that nobody knows ("a cute cat"); None where it denies ("no cute cat")."""
    if found["no"] or found["count"]:
        return None if found["no"] else found.start()
    start, strange = found.start(), list[str]()
    while last := _LAST_WORD.search(prompt, max(0, start - _AS_FAR), start):
        word = last[1].lower()
        if word not in _ALIKE:
            if last[2] or len(strange) == _MOST_STRANGE or not _is_strange(word):  # "a wizard, cat" are two
                break
            strange.append(word)
        start = last.start(1)
    led = _LED.search(prompt, max(0, start - _AS_FAR), start) if strange else None
    if not led or not (led["no"] or led["count"]):
        return found.start()
    if led["no"]:
        return None
    # "a girl holding balloons", "two girls holding a balloon"
    is_of_another = found["noun"].lower() in _PLURAL and led["count"].lower() in _ONE
    return found.start() if is_of_another or any(word.endswith("ing") for word in strange) else led.start()


@lru_cache(maxsize=4096)
def _is_strange(word: str) -> bool:
    """Whether it says what a thing is like, for all that anybody knows here."""
    return word not in _NO_ADJECTIVES and bool(unknown_words(word))


def _looks(phrase: str, name: str) -> frozenset[str]:
    """The words of a phrase, and those for the colour and the size that it leaves unsaid."""
    said = frozenset(re.findall(r"[\w-]+", phrase.lower()))
    if name in _KNOWN_BY_COLOUR and not any(said & hue for hue in _HUES.values()):
        said = said.union(*(_HUES[colour] for colour in KINDS[name].usual))
    return said if any(said & size for size in _SIZES.values()) else said | _SIZES["medium"]


def _cut(prompt: str, begin: int, found: re.Match[str]) -> str:
    """The prompt without what was found, which begins there, and without the word that joined it to the rest."""
    before, after = prompt[:begin], prompt[found.end() :]
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
    said = rf"{_DENYING},?\s*{_AMID}\b{any_of(phrases)}"
    left = re.sub(said, lambda found: found[0] if found["no"] else "", left, flags=re.I)
    return prompt if left == text else _tidied(left)


def _tidied(prompt: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r"(?:\s*,)+", ",", prompt)).replace(" ,", ",")
    return _EDGES.sub("", text)
