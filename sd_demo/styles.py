"""Styles: templates that words are put into, such as "{prompt}, as a pencil drawing"; a short list that people edit.

The list is a JSON file of objects with `name`, `prompt` and, if wanted, `negative_prompt`. What a style adds stands in
the prompt for everybody to read, so that a picture's receipt holds all that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sd_demo.errors import InvalidRequest
from sd_demo.requests import MAX_PROMPT_CHARACTERS

SLOT: Final = "{prompt}"
MOST: Final = 200


class Style(BaseModel):
    """One template. `negative_prompt` is added to that of the request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    prompt: str = Field(max_length=MAX_PROMPT_CHARACTERS // 2)
    negative_prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS // 2)

    @field_validator("prompt")
    @classmethod
    def _has_a_slot(cls, prompt: str) -> str:
        if prompt.count(SLOT) != 1 or prompt.strip() == SLOT:
            raise ValueError(f"holds {SLOT} once and some words beside it")
        return prompt


OF_THE_PICTURE_BOOK: Final = (
    Style(name="Pencil drawing", prompt="{prompt}, as a pencil drawing"),
    Style(name="Pixel art", prompt="{prompt}, as pixel art"),
    Style(name="Picture book", prompt="{prompt}, in picture book style"),
)
GENERAL: Final = tuple(
    Style(name=name, prompt=prompt, negative_prompt=negative_prompt)
    for name, prompt, negative_prompt in (
        ("Photograph", "a photograph of {prompt}, natural light, sharp focus", "drawing, blurry"),
        ("Oil painting", "an oil painting of {prompt}, visible brush strokes", "photograph"),
        ("Watercolour", "a watercolour of {prompt}, soft edges, paper texture", "photograph"),
        ("Pencil drawing", "a pencil drawing of {prompt}, fine hatching", "colour, photograph"),
        ("Ink drawing", "an ink drawing of {prompt}, bold lines", "photograph, grey"),
        ("Pixel art", "pixel art of {prompt}, 16 colours", "photograph, blurry"),
        ("Poster", "a travel poster of {prompt}, flat colours, simple shapes", "photograph"),
    )
)


def read_styles(file: Path, *, is_picture_book: bool) -> tuple[Style, ...]:
    """The styles of `file`, or where there is none those that suit the model.

    Raises InvalidRequest with one sentence where the file cannot be used.
    """
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return OF_THE_PICTURE_BOOK if is_picture_book else GENERAL
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"The styles in {file.name} cannot be read; write them as a JSON list.") from error
    if not isinstance(read, list) or len(read) > MOST:
        raise InvalidRequest(f"The styles in {file.name} must be a JSON list of at most {MOST}.")
    styles: list[Style] = []
    for number, one in enumerate(read, start=1):
        try:
            styles.append(Style.model_validate(one))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "it"
            raise InvalidRequest(f"Style {number} in {file.name}: {where}: {first['msg']}.") from error
    return tuple(styles)


def put_on(style: Style | None, prompt: str, negative_prompt: str, known: Sequence[Style] = ()) -> tuple[str, str]:
    """The prompts in `style`, taken out of any `known` one first; None leaves them in no style at all."""
    for other in known:
        prompt, negative_prompt = _taken_out(other, prompt, negative_prompt)
    if style is None:
        return prompt, negative_prompt
    before, after = style.prompt.split(SLOT)
    negatives = [part for part in (negative_prompt.strip(), style.negative_prompt) if part]
    return f"{before}{prompt.strip()}{after}", ", ".join(negatives)


def _taken_out(style: Style, prompt: str, negative_prompt: str) -> tuple[str, str]:
    before, after = style.prompt.split(SLOT)
    is_worn = prompt.startswith(before) and prompt.endswith(after) and len(prompt) >= len(before) + len(after)
    if not is_worn:
        return prompt, negative_prompt
    bare = negative_prompt.removesuffix(style.negative_prompt).rstrip().removesuffix(",")
    return prompt[len(before) : len(prompt) - len(after)], bare if style.negative_prompt else negative_prompt
