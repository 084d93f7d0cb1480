"""What was asked and what was done, side by side, for every image.

The receipt travels inside the PNG twice: as JSON under `sd_demo`, and as the `parameters` text that
other programs read.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from sd_demo import __version__
from sd_demo.errors import InvalidImage
from sd_demo.prompt_grammar import LORA_TAG, has_words

JSON_KEY: Final = "sd_demo"
TEXT_KEY: Final = "parameters"

# The names that programs which read `parameters` know the schedulers by.
SAMPLER_NAMES: Final[dict[str, str]] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "pndm": "PLMS",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_sde": "DPM++ SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}


class Lora(BaseModel):
    """A LoRA that the model wore. `matched` of the `total` tensors in its file had a layer there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float
    sha256: str
    matched: int
    total: int


class Done(BaseModel):
    """What really ran for one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_hash: str = Field(
        description="SHA-256 of the weights' file, over those of a folder's files, or what random weights are called"
    )
    read_prompt: str | None = Field(
        default=None,
        validation_alias=AliasChoices("read_prompt", "own_prompt"),
        description="the prompt as the model read it, if otherwise than asked: made up, in words that it knows, "
        "without what is denied, or with the mask's place",
    )
    read_negative_prompt: str | None = Field(
        default=None,
        validation_alias=AliasChoices("read_negative_prompt", "denial"),
        description="the negative prompt as the model read it, if otherwise than asked",
    )
    seed: int
    index: int = Field(description="which image of its request, from 0")
    num_inference_steps: int = Field(description="steps of the schedule")
    effective_steps: int = Field(description="UNet calls that this image took part in")
    height: int
    width: int
    scheduler: str
    guidance_scale: float
    strength: float | None = None
    attention: str
    dtype: str
    device: str
    torch: str
    diffusers: str
    loras: list[Lora] = []
    clip: str | None = Field(default=None, description="the CLIP that ranked the pictures of the request")
    clip_score: float | None = Field(default=None, description="cosine of picture and prompt as that CLIP sees them")
    is_safety_checked: bool = Field(default=False, description="whether the model's safety checker let it through")
    memory: str = Field(default="resident", description="which networks stayed on the device: a rung of the ladder")
    prediction_type: str | None = Field(default=None, description="what the UNet predicts, as its scheduler has it")
    native_size: int | None = Field(default=None, description="pixels of a side that the loaded model makes best")
    work_size: dict[str, int] | None = Field(
        default=None, description="width and height that a limit brought it down to"
    )
    is_guided: bool | None = Field(default=None, description="whether the UNet answered a negative prompt, be it empty")
    shared_with: int = Field(default=0, description="most other requests that shared a UNet call")
    compiled_steps: int = Field(default=0, description="UNet calls that ran as torch.compile made them")
    prompt_chunks: int = Field(default=1, description="times the text encoder's length that the longer prompt filled")
    dropped_words: list[str] = []
    unknown_words: list[str] = Field(default=[], description="words that the embedded model never saw")
    retries: list[str] = Field(default=[], description="what was tried again, and how")
    encode_s: float
    denoise_s: float
    decode_s: float

    def words_read(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Both prompts as the model read them, one that it read as it was written from what was asked for, `values`."""
        read = {"prompt": self.read_prompt, "negative_prompt": self.read_negative_prompt}
        return {name: str(values.get(name) or "") if text is None else text for name, text in read.items()}


class Receipt(BaseModel):
    """One image's receipt. `notes` says in sentences where done is not asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = __version__
    task: str
    asked: dict[str, Any] = Field(description="the request's fields; a picture is {sha256, width, height}")
    done: Done
    notes: list[str] = []

    @property
    def prompt(self) -> str:
        """What the picture shows, for people: what was asked for or, where nothing was, what the model made up."""
        asked = str(self.asked.get("prompt") or "")
        return asked if has_words(asked) else self.done.read_prompt or asked

    def png_info(self) -> PngInfo:
        """The PNG text chunks that carry this receipt."""
        info = PngInfo()
        info.add_itxt(JSON_KEY, self.model_dump_json())
        info.add_itxt(TEXT_KEY, self.parameters())
        return info

    def parameters(self) -> str:
        """The text that A1111 began and most programs read: prompt, negative prompt, settings."""
        done = self.done
        names = [Path(lora.name).name.removesuffix(".safetensors") for lora in done.loras]
        worn = "".join(f" <lora:{name}:{lora.weight:g}>" for name, lora in zip(names, done.loras, strict=True))
        hashes = ", ".join(f"{name}: {lora.sha256[:12]}" for name, lora in zip(names, done.loras, strict=True))
        # A tag that was typed into the prompt was text here: other programs would take it for a LoRA that ran.
        lines = [LORA_TAG.sub("", self.prompt) + worn]
        if negative_prompt := self.asked.get("negative_prompt"):
            lines.append(f"Negative prompt: {negative_prompt}")
        settings = {
            "Steps": done.num_inference_steps,
            "Sampler": SAMPLER_NAMES.get(done.scheduler, done.scheduler),
            "CFG scale": f"{done.guidance_scale:g}",
            "Seed": done.seed,
            "Size": f"{done.width}x{done.height}",
            "Model hash": done.model_hash[:10],
            "Model": done.model,
            "Denoising strength": None if done.strength is None else f"{done.strength:g}",
            "Lora hashes": f'"{hashes}"' if hashes else None,
            "Version": f"sd_demo {self.version}",
        }
        lines.append(", ".join(f"{key}: {value}" for key, value in settings.items() if value is not None))
        return "\n".join(lines)

    def summary(self) -> str:
        """One line for the page: seed, steps, scheduler, device, seconds."""
        d = self.done
        seconds = d.encode_s + d.denoise_s + d.decode_s
        steps = f"{d.num_inference_steps} step{'s' * (d.num_inference_steps > 1)}"
        if d.effective_steps != d.num_inference_steps:
            steps += f" ({d.effective_steps} UNet call{'s' * (d.effective_steps > 1)})"
        return (
            f"seed {d.seed} · {steps} · {d.scheduler} · guidance {d.guidance_scale:g} · {d.width}x{d.height} · "
            f"{d.model} · {d.device} {d.dtype} · {seconds:.1f} s"
        )


def read_receipt(image: Image.Image) -> Receipt:
    """The receipt inside an opened PNG. Raises InvalidImage where there is none that can be read."""
    text = image.info.get(JSON_KEY)  # there before any pixel is decoded
    if text is None:
        raise InvalidImage("This picture carries no receipt of this program; it was made or saved by another one.")
    try:
        return Receipt(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise InvalidImage("This picture's receipt is damaged and cannot be read.") from None


def read_receipt_file(path: Path) -> Receipt:
    """The receipt inside the PNG file at `path`. Raises InvalidImage where there is no such file, PNG or receipt."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")  # no pixel is decoded here
            with Image.open(path, formats=("PNG",)) as image:
                return read_receipt(image)
    except InvalidImage:
        raise
    except FileNotFoundError:
        raise InvalidImage(f"There is no file named {path.name}.") from None
    except Exception:  # on a damaged file a decoder raises whatever its author did not foresee
        raise InvalidImage(f"{path.name} is no PNG that can be read.") from None
