"""The models that the program knows by name, and what is known of any model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from sd_demo.architectures import ARCHITECTURES
from sd_demo.errors import ModelUnavailable
from sd_demo.requests import DrawingTask, Inpaint, SchedulerName, SuperResolution, TaskName

EMBEDDED: Final = "picture-book"
EMBEDDED_FOLDER: Final = Path(__file__).parent / "embedded" / "weights"
BEST: Final = "sd-1.5"  # what a machine with a GPU starts with, once its weights are there
TOKENIZER: Final = "tokenizer"  # may be downloaded by itself
GENERAL_CLIP: Final = "openai/clip-vit-base-patch32"  # ranks the pictures of all models but the embedded one
RANDOM: Final = "random:"  # random:sd-1.5 or random:sd-1.5:tiny, made in memory
Scale = Literal["full", "tiny"]
OPENRAIL: Final = "CreativeML OpenRAIL-M"
OPENRAIL_URL: Final = "https://huggingface.co/spaces/CompVis/stable-diffusion-license"
OPENRAIL_2: Final = "CreativeML Open RAIL++-M"
OPENRAIL_2_URL: Final = "https://huggingface.co/stabilityai/stable-diffusion-2/blob/main/LICENSE-MODEL"


class ModelEntry(BaseModel):
    """One model. `source` is a folder, a .safetensors file, a hub id or `random:…`; `revision` pins a hub id."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    summary: str
    source: str
    revision: str | None = None
    limits: str = Field(default="", description="what its model card warns of, in a sentence or two")
    licence: str
    licence_url: str
    download_mib: int = Field(default=0, description="0 where nothing is downloaded")
    native_size: int = Field(description="pixels of a side that it makes best")
    num_inference_steps: int
    guidance_scale: float
    scheduler: SchedulerName
    tasks: tuple[TaskName, ...] = get_args(DrawingTask)
    upscale_factor: int = Field(default=1, description="pixels of a side that it makes from one, where it upscales")
    parts: tuple[str, ...] = Field(default=(), description="folders of the repository to fetch; () is all it needs")
    is_embedded: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder of the weights, or None where they come from elsewhere."""
        path = Path(self.source)
        return path if path.is_dir() else None


STABLE_DIFFUSION: Final[dict[str, Any]] = {
    # https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5, "Uses" and "Limitations and Bias"
    "limits": (
        "It repeats the prejudices of its training pictures, understands English best, and must not be used to harm, "
        "demean or deceive anybody."
    ),
    "licence": OPENRAIL,
    "licence_url": OPENRAIL_URL,
    "native_size": 512,
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
    "scheduler": "dpmpp_2m",
}
WITH_CHECKER: Final = STABLE_DIFFUSION | {
    "limits": STABLE_DIFFUSION["limits"]
    + " Its safety checker, unless that is turned off, withholds what it takes for unsafe, and errs both ways."
}
# What suits the models that only make pictures larger: the defaults of diffusers' pipelines of these, fewer steps.
OF_X4: Final[dict[str, Any]] = {
    "tasks": (SuperResolution.task,),
    "upscale_factor": 4,
    "num_inference_steps": 30,
    "guidance_scale": 9.0,
    "scheduler": "ddim",
}
OF_X2: Final = OF_X4 | {"upscale_factor": 2, "num_inference_steps": 20, "guidance_scale": 1.0, "scheduler": "euler"}
ENTRIES: Final = (
    ModelEntry(
        name=EMBEDDED,
        title="Picture-book (embedded)",
        summary="A small latent diffusion model of a picture-book world, here so that everything works at once.",
        source=str(EMBEDDED_FOLDER),
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        native_size=256,
        num_inference_steps=20,
        guidance_scale=3.5,
        scheduler="dpmpp_2m",
        is_embedded=True,
    ),
    ModelEntry(
        name=BEST,
        title="Stable Diffusion 1.5",
        summary="The model that most of the community's styles and LoRAs are made for.",
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        download_mib=2614,  # float16: UNet 1640, safety checker 580, text encoder 235, VAE 160
        **WITH_CHECKER,
    ),
    ModelEntry(
        name="sd-1.4",
        title="Stable Diffusion 1.4",
        summary="The first published Stable Diffusion, of August 2022.",
        source="CompVis/stable-diffusion-v1-4",
        revision="133a221b8aa7292a167afc5127cb63fb5005638b",
        download_mib=2614,
        **WITH_CHECKER,
    ),
    ModelEntry(
        name="sd-1.5-inpainting",
        title="Stable Diffusion 1.5 inpainting",
        summary="Repaints parts of pictures only, and sees what surrounds them, so that seams are better.",
        source="stable-diffusion-v1-5/stable-diffusion-inpainting",
        revision="8a4288a76071f7280aedbdb3253bdb9e9d5d84bb",
        download_mib=2614,
        tasks=("inpaint",),
        **WITH_CHECKER,
    ),
    ModelEntry(
        name="x4-upscaler",
        title="Stable Diffusion x4 upscaler",
        summary="Makes pictures four times as long in the Upscale tab, and nothing else.",
        source="stabilityai/stable-diffusion-x4-upscaler",
        revision="572c99286543a273bfd17fac263db5a77be12c4c",
        download_mib=1659,  # float16: UNet 903, text encoder 650, VAE 106
        **STABLE_DIFFUSION
        | OF_X4
        | {
            "native_size": 512,
            "licence": OPENRAIL_2,
            "licence_url": OPENRAIL_2_URL,
            # https://huggingface.co/stabilityai/stable-diffusion-x4-upscaler, "Uses" and "Limitations and Bias"
            "limits": (
                "It makes details up, with the prejudices of its training pictures, and must not be used to harm, "
                "demean or deceive anybody. No safety checker comes with it."
            ),
        },
    ),
)
TOKENIZER_ENTRY: Final = ENTRIES[1].model_copy(
    update={
        "name": TOKENIZER,
        "title": "CLIP's tokenizer",
        "summary": "What a checkpoint in a single file lacks.",
        "download_mib": 2,
        "parts": ("tokenizer",),
    }
)
CLIP_ENTRY: Final = ENTRIES[1].model_copy(
    update={
        "name": GENERAL_CLIP,
        "title": "CLIP ViT-B/32",
        "summary": "What keep_best ranks pictures with.",
        "source": GENERAL_CLIP,
        "revision": "c237dc49a33fc61debc9276459120b7eac67e7ef",  # its main branch has no safetensors
        "download_mib": 581,
        "licence": "see the model's own page",
        "licence_url": "",
    }
)
BESIDES: Final = {entry.name: entry for entry in (TOKENIZER_ENTRY, CLIP_ENTRY)}  # are downloaded, and draw nothing


def not_here(entry: ModelEntry) -> str:
    """The sentence for a model whose weights are not on this machine."""
    return (
        f"The weights of {entry.title} are not here: python -m sd_demo download {entry.name} fetches them; or choose "
        "another model."
    )


def read_random(name: str) -> tuple[str, Scale]:
    """The architecture and scale that `name`, which begins with RANDOM, asks for. Raises ModelUnavailable for none."""
    like, _, scale = name.removeprefix(RANDOM).partition(":")
    # A network that stands alone, such as the safety checker, draws nothing.
    if like not in ARCHITECTURES or not ARCHITECTURES[like].pipeline or scale not in ("", "full", "tiny"):
        raise ModelUnavailable(f"There is no random model {name[:80]!r}; try {RANDOM}{BEST} or {RANDOM}{BEST}:tiny.")
    return like, "tiny" if scale == "tiny" else "full"


def what_suits(unet: Mapping[str, Any]) -> dict[str, Any]:
    """What a UNet's config tells of the model: its size, what it can do, whether it was distilled to few steps."""
    side = latents_side(unet.get("sample_size"), unknown=0)
    if side < 64 and re.match(r"0\.[0-8]\.", str(unet.get("_diffusers_version", ""))):
        side = 64  # as diffusers itself reads the first published ones, which said 32
    if unet.get("in_channels") == 7:  # latents beside the small picture, whose pixels are the size of latents
        return OF_X4 | ({"native_size": 4 * side} if side else {})
    suits: dict[str, Any] = {"native_size": 8 * side} if side else {}
    if unet.get("in_channels") == 8 and unet.get("out_channels") == 5:
        return OF_X2 | suits
    if unet.get("in_channels") == 9:
        suits["tasks"] = (Inpaint.task,)
    if unet.get("time_cond_proj_dim") is not None:  # latent consistency, https://arxiv.org/abs/2310.04378
        suits |= {"num_inference_steps": 4, "guidance_scale": 8.5, "scheduler": "lcm"}
    return suits


def latents_side(sample_size: object, unknown: int = 64) -> int:
    """Latents of a side that a UNet's config names as its size, of [height, width] the first; `unknown` where none."""
    first = sample_size[0] if isinstance(sample_size, list | tuple) and sample_size else sample_size
    return first if isinstance(first, int) and first > 1 else unknown
