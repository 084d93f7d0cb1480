"""What can be asked. Each parameter is declared here and nowhere else.

A field's name is at once the page's control, the API parameter, the CLI flag and the PNG key; its
bounds, default and help are read from here by all of them. `None` means "the model's own default".
The models are frozen and strict: 7.5 is no number of steps, "20" is no number, true is no number.
"""

from __future__ import annotations

import math
import re
from os import PathLike
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_args

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sd_demo.contact_sheet import layout
from sd_demo.errors import InvalidImage, InvalidRequest
from sd_demo.images import read_mask, read_picture

SchedulerName = Literal[
    "ddim",
    "ddpm",
    "pndm",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_sde",
    "unipc",
    "lcm",
]
SCHEDULER_NAMES: Final[tuple[str, ...]] = get_args(SchedulerName)
DrawingTask = Literal["text_to_image", "image_to_image", "inpaint"]
TaskName = Literal[DrawingTask, "super_resolution"]

SEED_LIMIT: Final = 2**32  # what every program of the field can hold, a browser's numbers included
MIN_SIDE: Final = 64
MAX_SIDE: Final = 1024
MAX_PROMPT_CHARACTERS: Final = 4000
NOTHING_TO_KEEP_BY: Final = "keep_best needs a prompt that the pictures are held against; write one."
MAX_LORAS: Final = 8
MAX_IMAGES: Final = 16
_GRID: Final = re.compile(r"auto|[1-9][0-9]?x[1-9][0-9]?", re.ASCII)


def _finite(value: Any) -> Any:
    """Booleans are numbers to Python, and NaN passes every comparison: neither is meant by anybody."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _text(value: Any) -> Any:
    if isinstance(value, str) and "\x00" in value:
        raise ValueError("must not contain NUL characters")
    return value


def _grid_text(value: Any) -> Any:
    """None, "auto" or ROWSxCOLUMNS; text without anything in it is None. No more of either than there are pictures."""
    text = value.strip().lower().replace("×", "x") if isinstance(value, str) else value
    if text in (None, ""):
        return None
    if not isinstance(text, str) or not _GRID.fullmatch(text):
        raise ValueError("must be auto or ROWSxCOLUMNS")
    if text != "auto" and max(int(number) for number in text.split("x")) > MAX_IMAGES:
        raise ValueError(f"must have at most {MAX_IMAGES} rows and columns")
    return text


def _text_help(text: str) -> Any:
    return Field(default="", max_length=MAX_PROMPT_CHARACTERS, description=text)


def _lora_list(value: Any) -> Any:
    """A list, whose texts are read as NAME or NAME:WEIGHT. A name may hold colons itself, as a Windows path does."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list")
    return tuple(_lora_values(item) if isinstance(item, str) else item for item in value)


def _lora_values(text: str) -> dict[str, Any]:
    name, colon, weight = text.rpartition(":")
    try:
        return {"name": name, "weight": float(weight)} if colon else {"name": text}
    except ValueError:
        return {"name": text}


Number = BeforeValidator(_finite)
Picture = Annotated[Image.Image, BeforeValidator(lambda v: read_picture(v, field="image"))]
Mask = Annotated[Image.Image, BeforeValidator(lambda v: read_mask(v, field="mask_image"))]


class LoraChoice(BaseModel):
    """One LoRA and how strongly it acts (https://arxiv.org/abs/2106.09685)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=300)] = Field(
        description="A file of the LoRA folder, without its ending, or the path of a .safetensors file."
    )
    weight: Annotated[float, Number] = Field(
        default=1.0, ge=-2, le=2, description="1 is as trained, 0 is nothing, below 0 is the opposite."
    )


class Request(BaseModel):
    """What all tasks share."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", arbitrary_types_allowed=True)
    task: ClassVar[TaskName]

    prompt: Annotated[str, BeforeValidator(_text)] = _text_help(
        "What the picture should show. Leave it empty and the model chooses."
    )
    negative_prompt: Annotated[str, BeforeValidator(_text)] = _text_help(
        "What the picture should not show; it works only where guidance is above 1."
    )
    height: Annotated[int | None, Number] = Field(
        default=None, ge=MIN_SIDE, le=MAX_SIDE, description="Height in pixels; models are best at their own size."
    )
    width: Annotated[int | None, Number] = Field(
        default=None, ge=MIN_SIDE, le=MAX_SIDE, description="Width in pixels; models are best at their own size."
    )
    num_inference_steps: Annotated[int | None, Number] = Field(
        default=None, ge=1, le=150, description="More steps are slower and finer; little changes past 30."
    )
    guidance_scale: Annotated[float | None, Number] = Field(
        default=None, ge=1, le=30, description="Higher follows the prompt more closely, and looks harsher."
    )
    scheduler: SchedulerName | None = Field(
        default=None, description="The solver that turns noise into a picture; it changes look and speed a little."
    )
    seed: Annotated[int | None, Number] = Field(
        default=None,
        ge=0,
        lt=SEED_LIMIT,
        description="The same seed and settings give the same picture on the same machine; empty means a random one.",
    )
    num_images_per_prompt: Annotated[int, Number] = Field(
        default=1, ge=1, le=MAX_IMAGES, description="Pictures to make; picture k has the seed plus k."
    )
    keep_best: Annotated[int | None, Number] = Field(
        default=None, ge=1, le=MAX_IMAGES, description="Keep only so many of the pictures: those that fit the prompt "
        "best, as a CLIP sees it, the best first. Empty keeps all, in the order of their seeds.",
    )  # fmt: skip
    grid: Annotated[str | None, BeforeValidator(_grid_text)] = Field(
        default=None, description="One labelled sheet of all pictures as well: auto, or rows x columns such as 2x3. "
        "Empty makes none.",
    )  # fmt: skip
    model: Annotated[str | None, Field(max_length=300)] = Field(
        default=None,
        description="A model of the list, or the folder of one; empty means the one that the program started with.",
    )
    loras: Annotated[tuple[LoraChoice, ...], BeforeValidator(_lora_list)] = Field(
        default=(), max_length=MAX_LORAS, description="Small trained additions to the model, each with its weight."
    )

    @model_validator(mode="after")
    def _keeps_what_there_is(self) -> Request:
        if self.keep_best is not None and self.keep_best > self.num_images_per_prompt:
            raise InvalidRequest(
                f"keep_best is {self.keep_best} and num_images_per_prompt {self.num_images_per_prompt}; make more "
                "pictures than you keep.",
                "keep_best",
            )
        if self.keep_best is not None and not self.prompt.strip():
            raise InvalidRequest(NOTHING_TO_KEEP_BY, "keep_best")
        try:
            layout(self.keep_best or self.num_images_per_prompt, *self.rows_and_columns)
        except InvalidRequest as error:
            raise InvalidRequest(f"grid: {error}", "grid") from None
        return self

    @property
    def rows_and_columns(self) -> tuple[int | None, int | None]:
        """Those of the grid; None where they follow from the count."""
        if self.grid in (None, "auto"):
            return None, None
        rows, _, columns = str(self.grid).partition("x")
        return int(rows), int(columns)

    def seeds(self, first: int) -> list[int]:
        """One seed per image, counting up from `first` and wrapping at 2**32."""
        return [(first + k) % SEED_LIMIT for k in range(self.num_images_per_prompt)]


class TextToImage(Request):
    """A picture from words alone."""

    task: ClassVar[TaskName] = "text_to_image"


class ImageToImage(Request):
    """A picture from a picture and words (SDEdit, https://arxiv.org/abs/2108.01073)."""

    task: ClassVar[TaskName] = "image_to_image"

    image: Picture = Field(description="The picture to start from.")
    strength: Annotated[float, Number] = Field(
        default=0.6, gt=0, le=1, description="How much may change: low keeps the picture, 1 keeps nothing."
    )


class Inpaint(Request):
    """Repaint a part of a picture; pixels outside the mask come back unchanged."""

    task: ClassVar[TaskName] = "inpaint"

    image: Picture = Field(description="The picture to repaint a part of.")
    mask_image: Mask = Field(description="White is repainted, black is kept; the size of the picture.")
    strength: Annotated[float, Number] = Field(
        default=1.0, gt=0, le=1, description="How much may change under the mask; 1 starts from pure noise."
    )

    @model_validator(mode="after")
    def _mask_fits(self) -> Inpaint:
        if self.mask_image.size != self.image.size:
            (mw, mh), (iw, ih) = self.mask_image.size, self.image.size
            raise InvalidImage(
                f"mask_image is {mw}x{mh} and image is {iw}x{ih}; send a mask of the picture's size.", "mask_image"
            )
        if self.mask_image.getbbox() is None:
            raise InvalidImage("mask_image is empty; paint over the part to change first.", "mask_image")
        return self


class SuperResolution(Request):
    """A picture made larger by a model that does nothing else; `upscale` asks for it, tile by tile."""

    task: ClassVar[TaskName] = "super_resolution"

    image: Picture = Field(description="The picture to make larger.")
    noise_level: Annotated[int, Number] = Field(
        default=20, ge=0, le=350, description="Noise that an x4 upscaling model gets over the small picture: more "
        "makes it freer with details. Other models take none.",
    )  # fmt: skip


Kind = TypeVar("Kind", bound=Request)
AnyRequest = TextToImage | ImageToImage | Inpaint | SuperResolution
REQUESTS: Final[dict[str, type[TextToImage] | type[ImageToImage] | type[Inpaint]]] = {
    c.task: c for c in (TextToImage, ImageToImage, Inpaint)
}
PICTURE_FIELDS: Final = ("image", "mask_image")


def parse_request(task: str, values: dict[str, Any]) -> AnyRequest:
    """Make the request of `task` from untrusted values; the one gate of every door.

    Raises InvalidRequest (or InvalidImage) whose text is one sentence on the first thing that is wrong.
    """
    kind = REQUESTS.get(task) if isinstance(task, str) else None
    if kind is None:
        raise InvalidRequest(f"There is no task {str(task)[:40]!r}; choose one of {', '.join(REQUESTS)}.", "task")
    return parse(kind, values)


def parse(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """As `parse_request`, for the class of a request."""
    for name in PICTURE_FIELDS:
        if name not in kind.model_fields:
            continue
        picture = values.get(name)
        if picture is None or (isinstance(picture, str) and not picture):
            what = "paint over the part to change" if name == "mask_image" else "choose a picture"
            raise InvalidRequest(f"{name} is missing; {what} first.", name)
        if not isinstance(picture, (Image.Image, str, bytes, PathLike)):
            raise InvalidImage(f"{name} must be a picture file.", name)
    try:
        return kind(**values)
    except ValidationError as error:
        raise _one_sentence(kind, error) from None


def _one_sentence(kind: type[Request], error: ValidationError) -> InvalidRequest:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        known = ", ".join(kind.model_fields)
        return InvalidRequest(f"{kind.task} has no parameter {str(name)[:40]!r}; it has {known}.", name)
    if name == "scheduler":
        return InvalidRequest(f"scheduler must be one of {', '.join(SCHEDULER_NAMES)}.", name)
    if name not in kind.model_fields:
        return InvalidRequest(f"The request cannot be read: {first['msg']}.", name)
    return InvalidRequest(f"{name} must be {describe_bounds(kind, name)}.", name)


def describe_bounds(kind: type[BaseModel], name: str) -> str:
    """The values that a field takes, in words: "a whole number from 1 to 150"."""
    field = kind.model_fields[name]
    low, high = bounds(kind, name)
    if name == "grid":
        return f"auto, or ROWSxCOLUMNS such as 2x3, each at most {MAX_IMAGES}"
    if name == "loras":
        weight = describe_bounds(LoraChoice, "weight")
        return f"a list of at most {high:g} LoRAs, each a name or NAME:WEIGHT, the weight {weight}"
    if low is None:
        return f"text of at most {int(high or 0):,} characters without NUL characters"
    whole = int in (field.annotation, *get_args(field.annotation))
    strict_low = any(getattr(m, "gt", None) is not None for m in field.metadata)
    if strict_low:
        return f"a number above {low:g} and at most {high:g}"
    multiple = next((f", a multiple of {m.multiple_of}" for m in field.metadata if hasattr(m, "multiple_of")), "")
    return f"a {'whole ' if whole else ''}number from {low:.15g} to {high:.15g}{multiple}"


def bounds(kind: type[BaseModel], name: str) -> tuple[float | None, float | None]:
    """(lowest, highest) value of a number field, or (None, longest text); the highest is inclusive."""
    low: float | None = None
    high: float | None = None
    for item in kind.model_fields[name].metadata:
        for attribute in ("ge", "gt"):
            low = getattr(item, attribute, None) if getattr(item, attribute, None) is not None else low
        for attribute, shift in (("le", 0), ("lt", -1), ("max_length", 0)):
            value = getattr(item, attribute, None)
            high = value + shift if value is not None else high
    return low, high
