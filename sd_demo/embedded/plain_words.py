"""A prompt in words that the picture-book model reads right: "2 sky blue balls" are "two blue balls".

It knows neither digits nor shades, and of "sky blue" or "space ship" it would read the sky and space.
"""

from __future__ import annotations

import re
from typing import Final

from sd_demo.embedded.free_vocabulary import OBJECTS, READ_AS
from sd_demo.embedded.vocabulary import COLOUR_WORDS, OBJECT_WORDS, SIZE_WORDS
from sd_demo.requests import MAX_PROMPT_CHARACTERS

NOT_PLAIN: Final = re.compile(r"[()\[\]<>]|\bBREAK\b")  # weights, tags and parts, which must not be torn apart
COLOURS_SAID: Final = frozenset(
    said for forms in COLOUR_WORDS.values() for word in forms for said in (word, *READ_AS.get(word, ()))
)
OWNERS: Final = ("my", "your", "his", "her", "its", "our", "their", "this", "that", "another")
_NUMBERS: Final = {"1": "one", "2": "two", "3": "three"}
PAIRS: Final = {name: (*pairs, *OBJECTS.get(name, ())) for name, pairs in OBJECT_WORDS.items()}
# Before their nouns alone: "at 3 pm" and "a 2 story house" count nothing. "Tabby cat" would be a cat twice.
_FORMS: Final = tuple(
    {said: name for name, pairs in PAIRS.items() for pair in pairs for said in (pair[k], *READ_AS.get(pair[k], ()))}
    for k in (0, 1)
)
_ONE_THING, _THINGS = ("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) for forms in _FORMS)
_LED_BY: Final = r"(?:[^\W\d_][\w-]*,?\s+){0,2}"
_NUMBER: Final = re.compile(
    rf"(?<![^\s,;])(?<!\ba\s)(?:(?P<one>1)\s+(?={_LED_BY}(?:{_ONE_THING})(?![\w-]))"
    rf"|(?P<more>[23])\s+(?={_LED_BY}(?:{_THINGS})(?![\w-])))",
    re.I,
)
_TWICE: Final = re.compile(rf"(?<![\w-])(?P<kind>{_ONE_THING})\s+(?=(?P<noun>{_ONE_THING}|{_THINGS})(?![\w-]))", re.I)
_PAIR: Final = re.compile(r"\b(?:an?\s+)?(?:pair|couple)\s+of\s+(?=[^\W\d_])(?!the\b)", re.I)
_FEW: Final = re.compile(r"\ba\s+few\s+(?=[^\W\d_])(?!of\b)", re.I)
_SHADES: Final = {
    "blue": ("sky", "sea", "ocean", "midnight", "navy", "cobalt"),
    "green": ("sea", "forest"),
    "white": ("snow",),
    "black": ("jet", "midnight"),
    "grey": ("space",),
    "gray": ("space",),
}
_SHADE: Final = re.compile(
    r"(?:\b(?P<lead>[^\W\d_]+)\s+)?\b(?P<shade>"
    + "|".join(rf"(?:{'|'.join(shades)})(?=(?:\s+|-){colour})" for colour, shades in _SHADES.items())
    + rf")(?P<joint>\s+|-)(?P<colour>{'|'.join(_SHADES)})(?![\w-])",
    re.I,
)
# After these, and as keywords without commas ("forest green car"), they are places and times.
_PLACING: Final = frozenset(
    ("in", "on", "at", "by", "near", "over", "under", "above", "below", "behind", "of", "to", "through", "the")
)
_KEYWORDS: Final = ("sea", "ocean", "midnight", "forest", "snow", "space")
_BEGUN: Final = frozenset(
    ("a", "an", "one", "two", "three", "some", *OWNERS, *(size for sizes in SIZE_WORDS.values() for size in sizes))
)
_TONE: Final = re.compile(
    r"(?P<placed>\bin\s+the\s+(?=dark|light|deep))?(?:\b(?P<lead>an?)\s+)?"
    r"\b(?:(?:dark|light|pale|bright|deep)(?:\s+|-)){1,3}"
    rf"(?P<colour>{'|'.join(sorted(COLOURS_SAID))})(?![\w-])",
    re.I,
)
_ROCKET: Final = re.compile(
    r"(?P<placed>\b(?:in|to|into|through|outer)\s+)?\bspace(?:\s+|-)(?:ship|rocket|shuttle)(?P<plural>s?)(?![\w-])",
    re.I,
)
# "A cat right behind a dog" is not on the right, and "a cat on the right behind a dog" is.
_JUST: Final = re.compile(
    r"(?P<placed>\b(?:the|to|at|on|in|far|top|upper|lower|bottom|left|and|or)\s+)?\bright\s+"
    r"(?P<where>(?:next\s+to|beside|behind|in\s+front\s+of|above|over|below|under|underneath|beneath)\b)",
    re.I,
)
_FAR: Final = re.compile(r"\b(the\s+)far\s+(?=(?:left|right)\b)", re.I)


def in_plain_words(prompt: str, *, is_denied: bool = False) -> str:
    """The prompt with numbers as words, without shades of colours, and with other such words as the model knows them.

    As it is where it has brackets, tags or BREAK. is_denied: it is a negative prompt, whose shades stay: who wants no
    light blue car may want a dark blue one.
    """
    if NOT_PLAIN.search(prompt):
        return prompt
    plain = _NUMBER.sub(lambda found: _NUMBERS[found["one"] or found["more"]] + " ", prompt)
    plain = _FEW.sub("three ", _PAIR.sub("two ", plain))
    if not is_denied:
        plain = _TONE.sub(_without_tone, _SHADE.sub(_without_shade, plain))
    plain = _TWICE.sub(_without_kind, plain)
    plain = _ROCKET.sub(lambda found: found[0] if found["placed"] else f"rocket{found['plural']}", plain)
    plain = _JUST.sub(lambda found: found[0] if found["placed"] else found["where"], plain)
    plain = _FAR.sub(r"\1", plain)
    return plain if len(plain) <= MAX_PROMPT_CHARACTERS else prompt


def _without_kind(found: re.Match[str]) -> str:
    kind, noun = found["kind"].lower(), found["noun"].lower()
    named = {forms[noun] for forms in _FORMS if noun in forms}
    is_one_word = any(f"{kind} {noun}" in forms for forms in _FORMS)  # "bunny rabbit"
    return "" if _FORMS[0].get(kind) in named and not is_one_word else found[0]


def _without_shade(found: re.Match[str]) -> str:
    lead = (found["lead"] or "").lower()
    if found["shade"].lower() == "jet" and re.match(r"\s+and\b", found.string[found.end() :]):
        return found[0]  # "a fighter jet black and white"
    may_be_keyword = found["shade"].lower() in _KEYWORDS and found["joint"] != "-" and lead not in _BEGUN
    return found[0] if lead in _PLACING or may_be_keyword else _led(found["lead"], found["colour"])


def _without_tone(found: re.Match[str]) -> str:
    return found[0] if found["placed"] else _led(found["lead"], found["colour"])


def _led(lead: str | None, colour: str) -> str:
    """The colour after the word that led to it, "a" or "an" as it must be now."""
    if lead and lead.lower() in ("a", "an"):
        lead = lead[0] + ("n" if colour[0].lower() in "aeio" else "")
    return f"{lead} {colour}" if lead else colour
