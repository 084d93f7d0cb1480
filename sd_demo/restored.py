"""What a picture gives back for a new request, collected value by value.

Pictures come from anywhere, so each value passes the bounds of its request field, or is named in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.lora_folder import find_lora
from sd_demo.receipt import Receipt
from sd_demo.registry import Registry
from sd_demo.requests import Request, describe_bounds, parse
from sd_demo.upscale import KINDS

_LONGEST_LIST: Final = 12


@dataclass(frozen=True)
class Restored:
    """What a picture tells for a new request.

    `values`: request fields, each valid, pictures left out. `pictures`: the picture fields that the task needs, with
    what is known of each, {sha256, width, height} or nothing. `cannot`: one sentence for each thing that is lost.
    """

    task: str
    values: dict[str, Any]
    pictures: dict[str, dict[str, Any]]
    cannot: tuple[str, ...]
    receipt: Receipt | None = None

    @property
    def lost(self) -> list[str]:
        """The sentences of `cannot` without those on pictures, which can be chosen again."""
        return [sentence for sentence in self.cannot if sentence.partition(":")[0] not in self.pictures]

    def request(self, **pictures: Any) -> Request:
        """The request again, with its `pictures` given. Raises InvalidRequest where one is missing."""
        return parse(KINDS[self.task], {**self.values, **pictures})


@dataclass
class Reading:
    """Values and sentences while they are collected."""

    task: str
    values: dict[str, Any] = field(default_factory=dict)
    cannot: list[str] = field(default_factory=list)

    def take(self, name: str, value: Any) -> None:
        """Keep `value` if the field `name` of the task takes it, else say that it is lost."""
        if value is None:
            return
        kind = KINDS[self.task]
        declared = kind.model_fields[name]
        bounded: Any = Annotated[declared.annotation, Field(), *declared.metadata]
        adapter: TypeAdapter[Any] = TypeAdapter(bounded, config=ConfigDict(strict=True))
        try:
            adapter.validate_python(value)
        except (ValidationError, RecursionError):
            bounds = describe_bounds(kind, name) if name != "scheduler" else "one that is known here"
            self.cannot.append(f"{name} is {short(value)} there, and must be {bounds}.")
        else:
            self.values[name] = value

    def finished(self, pictures: dict[str, dict[str, Any]], receipt: Receipt | None) -> Restored:
        """The end, once all is taken."""
        for name in pictures:
            self.cannot.append(f"{name}: a picture that was worked from is not stored; choose it again.")
        return Restored(self.task, self.values, pictures, tuple(self.cannot), receipt)

    def take_model(self, name: str, registry: Registry) -> None:
        """Keep the model's name if it is here."""
        try:
            self.values["model"] = registry.get(name).name
        except (InvalidRequest, ModelUnavailable):
            self.cannot.append(f"The model {short(name)} is not here; the one that is chosen will be used.")

    def take_loras(self, wanted: list[dict[str, Any]], lora_dir: Path, registry: Registry) -> None:
        """Keep those of `wanted`, [{name, weight}, …], whose files are here."""
        here = []
        for one in wanted:
            try:
                find_lora(one["name"], lora_dir, takes_paths=registry.takes_paths)
                here.append(one)
            except InvalidRequest:
                self.cannot.append(f"The LoRA {short(one['name'])} is not here.")
        if here:
            self.take("loras", here)


def short(value: Any) -> str:
    """`value` in quotes, for a sentence."""
    text = str(value)
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def listed(items: Iterable[str]) -> str:
    """Some of `items` for a sentence: a file may hold any number of things, of any length."""
    shown = [item[:60] for item in items]
    more = f" and {len(shown) - _LONGEST_LIST} more" if len(shown) > _LONGEST_LIST else ""
    return ", ".join(shown[:_LONGEST_LIST]) + more
