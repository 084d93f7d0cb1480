"""How the picture-book model reads prompts: what it makes up where there is none, and what a negative prompt denies.

No prompt: to draw one of the world's captions and then a picture for it is to draw from all pictures of the world, as
sampling without a prompt does. The UNet alone does it badly: without words there is nothing to guide by, and what it
cannot decide comes out as a mixture (MODEL_CARD.md, "Without a prompt").

A negative prompt: what it denies, "sun" or "there is no sun", is left out of the prompt, as the pictures that the model
learned from show nothing unnamed. Guidance away from "no sun" cannot know which sun is meant, and leaves half of them,
or their ghosts; where there would be no sun anyway it does harm (MODEL_CARD.md, "Negative prompts"). It is there all
the same (negatives.py) where nothing can be left out.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded.captions import caption
from sd_demo.embedded.leaving_out import FORMS, LOOKS, and_aliases, any_of, without_thing, without_weather
from sd_demo.embedded.picture import Picture
from sd_demo.embedded.plain_words import NOT_PLAIN
from sd_demo.embedded.sampling import sample
from sd_demo.embedded.vocabulary import (
    COLOUR_WORDS,
    OBJECT_WORDS,
    SCENE_NOUNS,
    SCENE_PHRASES,
    SIZE_WORDS,
    STYLE_TAGS,
    TIME_PHRASES,
    TIME_TAGS,
    WEATHER_PHRASES,
    WEATHER_TAGS,
)
from sd_demo.requests import MAX_PROMPT_CHARACTERS

_STREAM: Final = 17  # of the numbers that a seed gives, those that nothing else draws from
_TRIES: Final = 200
_WORD: Final = re.compile(r"[^\W\d_]+")
_NAME_OF: Final = {form: name for name, forms in FORMS.items() for form in forms}
# Without "snowy" and "wet" by themselves, which may be said of the ground.
_WEATHER_OF: Final = {
    form: name
    for name, tags in WEATHER_TAGS.items()
    if name != "clear"
    for form in and_aliases((*tags, *(f"{adjective} weather" for adjective in more.WEATHERS[name])))
}
# "sun", "there are no more clouds in the sky", "a small red car" or "(trees:1.2)", and nothing else: "a tree at night"
# is no denial of a tree.
_DENIABLE: Final = re.compile(
    r"(?P<before>\s*[(\[]*)(?:(?:with|there(?:['’]s|\s+(?:is|are|should\s+be)))\s+(?=no\s))?"
    r"(?P<no>(?:no|not|without|w/o)\s+)?(?(no)(?:(?:more|visible)\s+)?)(?P<article>(?:an?|the|any)\s+)?"
    rf"(?P<what>(?P<looks>(?:{any_of(LOOKS)}\s+)*)(?P<noun>{any_of([*_NAME_OF, *_WEATHER_OF])})"
    r"(?:\s*:\s*[\d.]+)?(?:\s*[)\]]+)?)"
    r"(?:\s+(?:in\s+the\s+(?:sky|picture|image|photo|scene)|visible|anywhere))?"
    r"[.!?]*(?P<end>\s*)",
    re.I,
)
_BETWEEN: Final = re.compile(r"([,;\n&|]|/(?!o\b)|[.!?]+(?=\s|$)|\bBREAK\b|\b(?i:and|or)\b)")
_SECOND_NO: Final = re.compile(r"(?<=\S)(\s+)(?=no\s)", re.I)
_LOOK: Final = re.compile(any_of(LOOKS))
_DENIED: Final = ("looks", "noun")  # which say what is denied
_MOST_DENIALS: Final = 40  # that are looked for in a prompt
_MEANT: Final = {alias: word for word, aliases in more.READ_AS.items() for alias in aliases}
# Of phrases the words that say nothing by themselves.
_SMALL: Final = frozenset(
    ("a", "an", "and", "as", "at", "by", "in", "is", "it", "no", "of", "on", "or", "the", "to", "weather", "while")
)


def own_prompt(seed: int, negative_prompt: str = "") -> str:
    """A caption of one or two things, always the same for a seed, of a picture that the negative prompt allows.

    None of them is small, as small things are what the model draws worst. A negative prompt that denies nearly
    everything is passed over after a while.
    """
    denied = {_MEANT.get(word, word) for word in _WORD.findall(negative_prompt.lower())} - _SMALL
    rng = np.random.default_rng((seed, _STREAM))
    text = ""
    for _ in range(_TRIES):
        picture = sample(rng)
        while not 1 <= len(picture.things) <= 2 or any(thing.size == "small" for thing in picture.things):
            picture = sample(rng)
        text = caption(picture, rng)
        if denied.isdisjoint(_meaning(picture)):
            break
    return text


def _meaning(picture: Picture) -> set[str]:
    """Every word that says something of the picture, also those that its caption does not use."""
    said = [*SCENE_PHRASES[picture.scene], *SCENE_NOUNS[picture.scene]]
    said += [*TIME_PHRASES[picture.time], *TIME_TAGS[picture.time]]
    said += [*WEATHER_PHRASES[picture.weather], *WEATHER_TAGS[picture.weather]]
    said += STYLE_TAGS[picture.style] if picture.style != "picture book" else ()
    for thing in picture.things:
        said += [form for pair in OBJECT_WORDS[thing.object] for form in pair]
        said += [*COLOUR_WORDS[thing.colour], *SIZE_WORDS[thing.size]]
    return {word for phrase in said for word in _WORD.findall(phrase)} - _SMALL


def read(prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Prompt and negative prompt as the model reads them: what is denied is left out of both.

    A denial is a thing or a weather, told from others by commas, full stops, "and" and the like. It stays in the
    negative prompt, with a "no" if it has none, where the prompt has brackets or BREAK or is nothing else; and so does
    what cannot be denied, such as "blurry" or "a tree at night".
    """
    parts, kept, left = _parts(negative_prompt), list[str](), prompt
    is_plain = not NOT_PLAIN.search(prompt)
    denied: dict[tuple[str, ...], bool] = {}  # whether each could be left out
    for part, denial in parts[::2]:
        what = tuple((denial[key] or "").lower() for key in _DENIED) if denial and is_plain else None
        if denial and what and what not in denied and len(denied) < _MOST_DENIALS:
            shorter = _without(left, denial)
            denied[what] = bool(_WORD.search(shorter))
            left = shorter if denied[what] else left
        if not what or not denied.get(what):
            kept.append(part.strip())
    is_as_it_was = len(kept) == len(parts[::2])
    rest = "".join(part for part, _ in parts) if is_as_it_was else ", ".join(part for part in kept if part)
    return (left, rest) if len(rest) <= MAX_PROMPT_CHARACTERS else (prompt, negative_prompt)


def undeniable(negative_prompt: str) -> str:
    """What is left of a negative prompt without its denials."""
    parts = _parts(negative_prompt)
    if not any(denial for _, denial in parts):
        return negative_prompt
    return ", ".join(part.strip() for part, denial in parts[::2] if denial is None and part.strip())


def _without(prompt: str, denial: re.Match[str]) -> str:
    noun = denial["noun"].lower()
    if noun in _WEATHER_OF:
        return without_weather(prompt, _WEATHER_OF[noun])
    return without_thing(prompt, _NAME_OF[noun], _LOOK.findall(denial["looks"].lower()))


def _parts(negative_prompt: str) -> list[tuple[str, re.Match[str] | None]]:
    """Parts of a negative prompt, what is between them at odd places; denials, all with a "no", with their match."""
    parts = list[tuple[str, re.Match[str] | None]]()
    for part in _apart(negative_prompt):
        found = _DENIABLE.fullmatch(part) if _depth(part) == 0 else None
        if found and found["noun"].lower() not in _NAME_OF | _WEATHER_OF:  # re.I takes other letters for "s" and "i"
            found = None
        if found:
            is_said = (found["no"] or "").strip().lower() in ("no", "without")
            no = found["no"] + (found["article"] or "") if is_said else "no "
            part = f"{found['before']}{no}{found['what']}{found['end']}"
        parts.append((part, found))
    return parts


def _apart(negative_prompt: str) -> list[str]:
    """Parts of a negative prompt, with what is between them at odd places; what is in brackets stays together."""
    parts, depth = [""], 0
    for k, piece in enumerate(_BETWEEN.split(negative_prompt)):
        if k % 2 and depth == 0:
            parts += [piece, ""]
        else:
            parts[-1] += piece
        depth += _depth(piece)
    torn = list[str]()
    for part in parts:
        both = _SECOND_NO.split(part)  # "no sun no clouds", but not "no house with no trees"
        denials = [_DENIABLE.fullmatch(each) for each in both[::2]]
        torn += both if all(denial and denial["no"] for denial in denials) else [part]
    return torn


def _depth(text: str) -> int:
    """How many more brackets it opens than it closes."""
    return sum(text.count(bracket) for bracket in "([") - sum(text.count(bracket) for bracket in ")]")
