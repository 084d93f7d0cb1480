"""What can be asked of a LoRA training. Each option is declared here and nowhere else, as in requests.py.

`None` means "what suits the model": see `with_defaults`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from sd_demo.errors import InvalidRequest
from sd_demo.lora_folder import SUFFIX
from sd_demo.requests import MAX_PROMPT_CHARACTERS, MAX_SIDE, SEED_LIMIT, Number, describe_bounds

MIN_PICTURES: Final = 4
MAX_PICTURES: Final = 50
PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def _pictures(value: Any) -> tuple[Path, ...]:
    if isinstance(value, str | Path):
        folder = Path(value)
        if not os.path.isdir(folder):  # no OSError for a name too long
            raise InvalidRequest(f"images: there is no folder named {folder.name}; give one with pictures.", "images")
        try:
            seen = [f for f in folder.iterdir() if not f.name.startswith(".")]  # a Mac leaves ._1.png beside 1.png
        except OSError as error:
            why = error.strerror or "disk error"
            raise InvalidRequest(
                f"images: {folder.name} cannot be read ({why}); choose another folder.", "images"
            ) from None
        files = sorted(f for f in seen if f.suffix.lower() in PICTURE_SUFFIXES)
    elif isinstance(value, list | tuple) and all(isinstance(one, str | Path) for one in value):
        files = [Path(one) for one in value]
    else:
        raise InvalidRequest("images must be a folder or a list of picture files.", "images")
    if not MIN_PICTURES <= len(files) <= MAX_PICTURES:
        raise InvalidRequest(
            f"images: there are {len(files)} pictures; training takes {MIN_PICTURES} to {MAX_PICTURES}.", "images"
        )
    return tuple(files)


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) and value else value


def _lines(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]


class LoraTrainingRequest(BaseModel):
    """Fine-tuning of a LoRA (https://arxiv.org/abs/2106.09685) on a few pictures with captions."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    images: Annotated[tuple[Path, ...], BeforeValidator(_pictures)] = Field(
        description="Folder of 4 to 50 pictures; captions stand in .txt files beside them or in metadata.jsonl."
    )
    output: Annotated[Path, BeforeValidator(_path)] = Field(description="The .safetensors file to write.")
    trigger: Annotated[str, Field(max_length=100)] = Field(
        default="", description="The word to call it by; it is put in front of each caption that lacks it."
    )
    captions: dict[str, Text] = Field(
        default={}, description="Captions by file name; they go before those found in files."
    )
    model: Annotated[str | None, Field(max_length=300)] = Field(
        default=None, description="The model to train for; empty means the embedded one."
    )
    steps: Annotated[int | None, Number] = Field(
        default=None, ge=1, le=20_000, description="Training steps; too many and it repeats the pictures."
    )
    learning_rate: Annotated[float | None, Number] = Field(
        default=None, gt=0, le=0.1, description="How far each step goes; too high and the colours burn."
    )
    rank: Annotated[int | None, Number] = Field(
        default=None, ge=1, le=256, description="How much it can hold: 4 to 16 for a style, 8 to 64 for an object."
    )
    target: Literal["attention", "all"] | None = Field(
        default=None, description="Layers that are trained: attention alone, or convolutions and all others too."
    )
    batch_size: Annotated[int | None, Number] = Field(default=None, ge=1, le=64, description="Pictures in one step.")
    resolution: Annotated[int | None, Number] = Field(
        default=None, ge=64, le=MAX_SIDE, multiple_of=8,
        description="Side of the squares that the pictures are cut to, in pixels; a multiple of 8.",
    )  # fmt: skip
    train_text_encoder: bool | None = Field(
        default=None, description="Train the text encoder too, so that the word itself is learned."
    )
    prior_preservation: bool = Field(
        default=False, description="Also train on pictures that the model itself makes, so that it forgets less."
    )
    class_prompt: Text = Field(
        default="", description="What those pictures show; empty means the captions without the trigger word."
    )
    prior_loss_weight: Annotated[float, Number] = Field(
        default=1.0, ge=0, le=10, description="How much those pictures count."
    )
    random_flip: bool = Field(
        default=True, description="Also show mirrored pictures, except where a caption says left or right."
    )
    snr_gamma: Annotated[float | None, Number] = Field(
        default=5.0, gt=0, le=100, description="Min-SNR weighting of the timesteps (https://arxiv.org/abs/2303.09556)."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Keep less in memory and compute it again, which is slower."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of the frozen weights; the LoRA itself is float32."
    )
    seed: Annotated[int, Number] = Field(
        default=0, ge=0, lt=SEED_LIMIT, description="The same seed and options give the same LoRA."
    )
    sample_prompts: Annotated[tuple[Text, ...], BeforeValidator(_lines), Field(max_length=4)] = Field(
        default=(), description="Prompts of the pictures to look at on the way; empty means the first caption."
    )
    sample_every: Annotated[int, Number] = Field(
        default=100, ge=0, le=20_000, description="Steps between such pictures; 0 makes none."
    )
    checkpoint_every: Annotated[int, Number] = Field(
        default=0, ge=0, le=20_000, description="Steps between copies of the LoRA so far; 0 makes none."
    )
    resume: bool = Field(default=False, description="Go on from where a cancelled or broken training stopped.")

    @field_validator("output")
    @classmethod
    def _is_safetensors(cls, output: Path) -> Path:
        if output.suffix != SUFFIX:
            raise InvalidRequest(f"output must end in {SUFFIX}, as in loras/snowman{SUFFIX}.", "output")
        return output

    def with_defaults(self, *, is_embedded: bool, native_size: int) -> LoraTrainingRequest:
        """Every choice that was left open, made for the model."""
        suits = _EMBEDDED_DEFAULTS if is_embedded else _FULL_SIZE_DEFAULTS
        suits = {**suits, "resolution": native_size}
        return self.model_copy(update={k: v for k, v in suits.items() if getattr(self, k) is None})


_EMBEDDED_DEFAULTS: Final[dict[str, Any]] = {
    "steps": 900, "learning_rate": 1e-3, "rank": 16, "target": "all", "batch_size": 4, "train_text_encoder": True,
}  # fmt: skip
_FULL_SIZE_DEFAULTS: Final[dict[str, Any]] = {
    "steps": 800, "learning_rate": 1e-4, "rank": 16, "target": "attention", "batch_size": 1,
    "train_text_encoder": False,
}  # fmt: skip


def parse_training(values: dict[str, Any]) -> LoraTrainingRequest:
    """Make the request from untrusted values. Raises InvalidRequest with one sentence on what is wrong first."""
    try:
        return LoraTrainingRequest(**values)
    except ValidationError as error:
        first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if name not in LoraTrainingRequest.model_fields:
        raise InvalidRequest(f"A training has no option {name[:40]!r}; --help lists them.", name)
    if first["type"] == "missing":
        raise InvalidRequest(f"{name} is missing: {LoraTrainingRequest.model_fields[name].description}", name)
    raise InvalidRequest(f"{name} must be {describe_option(name)}.", name)


def describe_option(name: str) -> str:
    """The values that an option takes, in words."""
    field = LoraTrainingRequest.model_fields[name]
    if name == "captions":
        return "a text for each file name"
    if name == "sample_prompts":
        return "at most 4 texts"
    if name == "output":
        return "the path of a file"
    choices = [c for part in (field.annotation, *getattr(field.annotation, "__args__", ())) for c in _choices(part)]
    if choices:
        return "one of " + ", ".join(choices)
    if field.annotation in (bool, bool | None):
        return "true or false"
    return describe_bounds(LoraTrainingRequest, name)


def _choices(annotation: Any) -> tuple[str, ...]:
    return annotation.__args__ if getattr(annotation, "__origin__", None) is Literal else ()
