"""Which of the words beside vocabulary.py's the weights follow: `python -m tests.word_bar`, some minutes.

Eight pictures for each phrase of free_vocabulary.py, each with another thing; a picture counts where the project's
judge finds in it what the phrase says. A word that fewer than half of them show should be an alias
(`free_vocabulary.READ_AS`), or none that the model knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sd_demo.embedded import free_vocabulary as more
from sd_demo.embedded.judge import load_judge
from sd_demo.embedded.sight import Judgement
from sd_demo.engine import Engine
from sd_demo.requests import TextToImage
from sd_demo.settings import Settings

THINGS = (
    "red house",
    "blue car",
    "green tree",
    "yellow duck",
    "purple tent",
    "white rabbit",
    "orange cat",
    "black bus",
)
COLOURS = ("red", "blue", "yellow", "pink", "purple", "white", "orange", "black")


class Question(NamedTuple):
    phrase: str
    prompts: list[str]
    is_right: Callable[[Judgement], bool]


def questions() -> Iterator[Question]:
    for name, forms in more.OBJECTS.items():
        for form, _ in forms:
            yield Question(form, [f"a {colour} {form} on the beach" for colour in COLOURS], of_thing("object", name))
    kinds = [thing.split()[1] for thing in THINGS]
    yield from each(more.COLOURS, lambda said: [f"a {said} {kind} in a meadow" for kind in kinds], of_thing, "colour")
    yield from each(more.SIZES, lambda said: [f"a {said} {thing} in a meadow" for thing in THINGS], of_thing, "size")
    after = "a {} in a meadow {}".format
    yield from each(more.POSITIONS, lambda said: [f"a {t} {said} in a meadow" for t in THINGS], of_thing, "position")
    yield from each(more.SCENES, lambda said: [f"a {thing} {said}" for thing in THINGS], of_whole, "scene")
    yield from each(more.TIMES, lambda said: [after(thing, said) for thing in THINGS], of_whole, "time")
    yield from each(more.FALLING, lambda said: [after(thing, said) for thing in THINGS], of_whole, "weather")
    yield from each(more.WEATHERS, lambda said: [after(t, f"on a {said} day") for t in THINGS], of_whole, "weather")
    yield from each(more.STYLES, lambda said: [f"{said}, a {thing} in a meadow" for thing in THINGS], of_whole, "style")
    yield from each(more.STYLES_AFTER, lambda said: [after(thing, said) for thing in THINGS], of_whole, "style")
    yield Question("one", [f"one {thing} in a meadow" for thing in THINGS], lambda seen: len(seen.things) == 1)
    several = ("houses", "cars", "trees", "ducks", "tents", "rabbits", "cats", "buses")
    yield Question("some", [f"some red {name} in a meadow" for name in several], lambda seen: len(seen.things) > 1)


def each(
    table: Mapping[str, Sequence[str]],
    ask: Callable[[str], list[str]],
    rule: Callable[[str, str], Callable[[Judgement], bool]],
    attribute: str,
) -> Iterator[Question]:
    for value, phrases in table.items():
        for phrase in phrases:
            yield Question(phrase, ask(phrase), rule(attribute, value))


def of_thing(attribute: str, value: str) -> Callable[[Judgement], bool]:
    return lambda seen: bool(seen.things) and getattr(seen.things[0], attribute) == value


def of_whole(attribute: str, value: str) -> Callable[[Judgement], bool]:
    return lambda seen: getattr(seen, attribute) == value


def main() -> None:
    judge, engine = load_judge(), Engine(Settings(model="picture-book"))
    engine.start()
    for question in questions():
        jobs = [
            engine.submit(TextToImage(prompt=prompt, seed=1000 + k), is_kept=False)
            for k, prompt in enumerate(question.prompts)
        ]
        seen = judge.judge(job.result().images[0].image for job in jobs)
        sys.stdout.write(f"{sum(map(question.is_right, seen))} of {len(jobs)}: {question.phrase}\n")
        sys.stdout.flush()
    engine.close()


if __name__ == "__main__":
    main()
