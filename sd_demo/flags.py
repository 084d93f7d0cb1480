"""Flags from declarations: the fields of requests and settings become arguments, with their own help and bounds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sd_demo.errors import InvalidRequest

Model = TypeVar("Model", bound=BaseModel)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as InvalidRequest, instead of printing its usage."""

    def __init__(self, **named: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **named)

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{self.prog}: {message}; --help tells what it takes.")


def flag(name: str) -> str:
    """The flag of a field: --num-inference-steps for num_inference_steps."""
    return f"--{name.replace('_', '-')}"


def number(text: str) -> int | float | str:
    """`text` as the number that it is; other text as it is, so that the one gate says what is wrong with it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def fields_of(models: Iterable[type[Model]]) -> dict[str, list[tuple[type[Model], FieldInfo]]]:
    """Every field name of `models`, in order, with the models that have it."""
    found: dict[str, list[tuple[type[Model], FieldInfo]]] = {}
    for model in models:
        for name, field in model.model_fields.items():
            found.setdefault(name, []).append((model, field))
    return found
