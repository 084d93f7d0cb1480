"""Compare: one or two parameters varied over lists or ranges, as the requests of a table of pictures.

An axis is written "guidance_scale: 1, 3, 5" or "num_inference_steps: 5..20:5" (from 5 to 20 by 5). Beside the fields
of the request it may be `size: 256x256, 384x256`, `words: red, blue` (the first is replaced in the prompt by each) and
`lora_weight: 0..1:0.25`. Values that hold a comma stand in double quotes.
"""

from __future__ import annotations

import csv
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from sd_demo.errors import InvalidRequest
from sd_demo.requests import REQUESTS, SEED_LIMIT, AnyRequest, parse_request

MAX_CELLS: Final = 36
NUMBERS: Final = ("seed", "num_inference_steps", "guidance_scale", "strength", "width", "height", "lora_weight")
AXES: Final = (*NUMBERS, "scheduler", "prompt", "negative_prompt", "size", "words")
FIELDS: Final = tuple(name for name in AXES if name not in ("lora_weight", "size", "words"))
EXAMPLE: Final = '"guidance_scale: 1, 3, 5" or "seed: 1..4"'
MAX_CHARACTERS: Final = 8000
_NUMBER: Final = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_RANGE: Final = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s*:\s*({_NUMBER}))?", re.ASCII)
_SIZE: Final = re.compile(r"(\d{1,5})\s*[x×]\s*(\d{1,5})", re.ASCII)

Value = int | float | str


@dataclass(frozen=True)
class Axis:
    """What varies and over which values; `lora` is the one whose weight varies, where a name was written."""

    name: str
    values: tuple[Value, ...]
    lora: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as they stand above the columns or beside the rows."""
        return tuple(str(value) for value in self.values)


@dataclass(frozen=True)
class Comparison:
    """The requests row by row, and the words around them."""

    requests: tuple[AnyRequest, ...]
    columns: int
    column_labels: tuple[str, ...]
    row_labels: tuple[str, ...]
    title: str


def parse_axis(text: str, field: str) -> Axis:
    """An axis from its text. Raises InvalidRequest, with `field` at fault, in one sentence."""
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise InvalidRequest(f"{field} must be text of at most {MAX_CHARACTERS} characters, such as {EXAMPLE}.", field)
    head, colon, rest = text.partition(":")
    name, _, lora = head.strip().partition(" ")
    if not colon:
        raise InvalidRequest(f"{field} must be a name, a colon and values, such as {EXAMPLE}.", field)
    if name not in AXES:
        raise InvalidRequest(f"{field}: {name[:40]!r} cannot be varied; choose one of {', '.join(AXES)}.", field)
    if lora and name != "lora_weight":
        raise InvalidRequest(f"{field}: write the name {name}, then a colon, then the values.", field)
    items = [item.strip() for item in next(csv.reader([re.sub(r"[\r\n]", " ", rest)], skipinitialspace=True), [])]
    if not items or "" in items:
        raise InvalidRequest(f"{field}: a value of {name} is empty; write values with commas between them.", field)
    if len(items) > MAX_CELLS:
        raise InvalidRequest(f"{field} has {len(items)} values, and at most {MAX_CELLS} pictures are compared.", field)
    values: list[Value] = []
    for item in items:
        values += _numbers(item, name, field) if name in NUMBERS else [item]
    return Axis(name, tuple(values), lora.strip())


def plan_comparison(task: str, values: dict[str, Any], x: str, y: str = "") -> Comparison:
    """The comparison of `values` (request fields) over the axes `x` (columns) and `y` (rows, or "" for a single row).

    All cells have one seed, so that only what is varied differs. Raises InvalidRequest in one sentence.
    """
    across = parse_axis(x, "x")
    down = None if isinstance(y, str) and not y.strip() else parse_axis(y, "y")
    _check_pair(across, down)
    count = len(across.values) * (len(down.values) if down else 1)
    if count > MAX_CELLS:
        raise InvalidRequest(
            f"{len(across.values)} x {count // len(across.values)} are {count} pictures, and at most {MAX_CELLS} are "
            "compared at once; leave some values out.",
            "x",
        )
    if values.get("num_images_per_prompt") not in (None, 1):
        raise InvalidRequest("compare makes one picture for each cell; leave num_images_per_prompt at 1.")
    if values.get("grid") not in (None, ""):
        raise InvalidRequest("compare lays its pictures out as x and y say; leave grid out.", "grid")
    base = {**values, "seed": secrets.randbelow(SEED_LIMIT) if values.get("seed") is None else values["seed"]}
    requests = [parse_request(task, cell) for cell in _cells(task, base, across, down)]
    named = f"{across.name} across" + (f", {down.name} down" if down else "")
    return Comparison(
        tuple(requests),
        columns=len(across.values),
        column_labels=across.labels,
        row_labels=down.labels if down else (),
        title=f"{named} · {requests[0].prompt}".rstrip(" ·"),
    )


def _cells(task: str, base: dict[str, Any], across: Axis, down: Axis | None) -> Iterator[dict[str, Any]]:
    """The fields of each request, row by row."""
    for row in down.values if down else (None,):
        for column in across.values:
            axes = [(down, row, "y"), (across, column, "x")]
            cell = base
            for axis, value, field in sorted(axes, key=lambda one: one[0] is not None and one[0].name == "words"):
                cell = cell if axis is None or value is None else _varied(task, cell, axis, value, field)
            yield cell


def _check_pair(across: Axis, down: Axis | None) -> None:
    if down is None:
        return
    sizes = {"size", "width", "height"}
    is_clash = across.name == down.name and (across.name != "words" or across.values[0] == down.values[0])
    is_clash = is_clash and not (
        across.name == "lora_weight" and across.lora != down.lora and across.lora and down.lora
    )
    if is_clash or ("size" in (across.name, down.name) and {across.name, down.name} <= sizes):
        raise InvalidRequest(f"x and y both vary {down.name}; let them vary two different things.", "y")


def _varied(task: str, values: dict[str, Any], axis: Axis, value: Value, field: str) -> dict[str, Any]:
    """`values` with the axis at `value`."""
    if axis.name in FIELDS and task in REQUESTS and axis.name not in REQUESTS[task].model_fields:
        raise InvalidRequest(f"{field}: {task} has no {axis.name}; it needs a picture to start from.", field)
    if axis.name == "size":
        size = _SIZE.fullmatch(str(value))
        if size is None:
            raise InvalidRequest(f"{field}: the size {str(value)[:20]!r} must be WIDTHxHEIGHT, such as 256x256.", field)
        return {**values, "width": int(size[1]), "height": int(size[2])}
    if axis.name == "words":
        first, prompt = str(axis.values[0]), str(values.get("prompt", ""))
        if first not in prompt:
            raise InvalidRequest(f"{field}: the first of the words, {first[:40]!r}, must stand in the prompt.", field)
        return {**values, "prompt": prompt.replace(first, str(value))}
    if axis.name == "lora_weight":
        return {**values, "loras": _weighted(task, values, axis, value, field)}
    return {**values, axis.name: value}


def _weighted(task: str, values: dict[str, Any], axis: Axis, value: Value, field: str) -> list[dict[str, Any]]:
    # Read by the one gate, as text to image: what else the task needs is not looked at here.
    loras = parse_request("text_to_image", {"loras": values.get("loras") or []}).loras
    names = [lora.name for lora in loras]
    target = axis.lora or (names[0] if len(names) == 1 else "")
    if target not in names:
        which = f"choose one of {', '.join(names)}, as in lora_weight {names[0]}: 0, 1" if names else "choose one first"
        raise InvalidRequest(f"{field}: lora_weight needs a LoRA of the request; {which}.", field)
    weights = [value if lora.name == target else lora.weight for lora in loras]
    return [{"name": name, "weight": float(weight)} for name, weight in zip(names, weights, strict=True)]


def _numbers(item: str, name: str, field: str) -> list[Value]:
    """A number, or all of a range; decimal arithmetic, so that 0..1:0.1 ends at 1 and not before it."""
    found = _RANGE.fullmatch(item)
    if found is None:
        try:
            number = Decimal(item)
        except InvalidOperation:
            raise InvalidRequest(f"{field}: {item[:40]!r} is no number and no range such as 1..10:3.", field) from None
        if not number.is_finite():
            raise InvalidRequest(f"{field}: {name} must be finite numbers.", field)
        return [_plain(number)]
    first, last = Decimal(found[1]), Decimal(found[2])
    step = abs(Decimal(found[3] or 1))
    if not step or abs(last - first) / step >= MAX_CELLS:
        many = f"the range {item[:40]} has more than {MAX_CELLS} values"
        raise InvalidRequest(f"{field}: {many}; take a longer step.", field)
    sign = 1 if last >= first else -1
    return [_plain(first + sign * k * step) for k in range(int(abs(last - first) / step) + 1)]


def _plain(number: Decimal) -> int | float:
    """Whole numbers as int; whether a field takes the number is for the one gate to say."""
    is_whole = abs(number) <= SEED_LIMIT and number == number.to_integral_value()
    return int(number) if is_whole else float(number)
