"""What one visitor may ask for, and the profiles that set it: a person's own machine, a shared one, a hosted Space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from sd_demo.requests import MAX_PROMPT_CHARACTERS, MAX_SIDE, TextToImage, bounds

ProfileName = Literal["local", "shared", "space"]
PROFILE_NAMES: Final[tuple[str, ...]] = get_args(ProfileName)


def _most(name: str) -> int:
    """The highest value that a request takes, so that no limit allows what no request can ask."""
    return int(bounds(TextToImage, name)[1] or 0)


class Limits(BaseModel):
    """Frozen. The defaults are those of a person's own machine: what a request can ask, it may ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_visitor_jobs: int = Field(default=0, ge=0, description="Jobs of one visitor that may wait or run; 0: any.")
    max_device_seconds: int = Field(
        default=0,
        ge=0,
        description="Seconds of the device that one visitor's pictures may take in an hour, looked at when a job "
        "comes; 0: any.",
    )
    max_visitors_per_address: int = Field(
        default=0, ge=0,
        description="Visitors whose jobs and seconds all callers of one network address share, so that a script "
        "which calls itself a new visitor each time gains little; 0: any.",
    )  # fmt: skip
    max_side: int = Field(
        default=MAX_SIDE,
        ge=64,
        le=MAX_SIDE,
        description="Longest side in pixels that is drawn, the model's own always; not of what is upscaled.",
    )
    max_steps: int = Field(
        default=_most("num_inference_steps"),
        ge=1,
        le=_most("num_inference_steps"),
        description="Steps that a request may run.",
    )
    max_images: int = Field(
        default=_most("num_images_per_prompt"), ge=1, le=_most("num_images_per_prompt"),
        description="Pictures of a request.",
    )  # fmt: skip
    max_prompt_characters: int = Field(
        default=MAX_PROMPT_CHARACTERS, ge=1, le=MAX_PROMPT_CHARACTERS, description="Characters of a prompt."
    )
    takes_paths: bool = Field(
        default=True,
        description="Whether visitors are trusted like the machine's owner: to name models and LoRAs by their path, to "
        "download, train and add such, and to upload large files; or may use what is listed.",
    )


PROFILES: Final[dict[ProfileName, Limits]] = {
    "local": Limits(),
    "shared": Limits(
        max_visitor_jobs=8, max_device_seconds=1800, max_visitors_per_address=4, max_side=768, max_steps=100,
        max_images=8, max_prompt_characters=2000, takes_paths=False,
    ),
    "space": Limits(
        max_visitor_jobs=4, max_device_seconds=600, max_visitors_per_address=4, max_side=768, max_steps=60,
        max_images=4, max_prompt_characters=1000, takes_paths=False,
    ),
}  # fmt: skip


def suitable_profile(*, share: bool, host: str, environment: Mapping[str, str]) -> ProfileName:
    """`space` on a Hugging Face Space, `shared` where others can reach the page, else `local`."""
    if environment.get("SPACE_ID"):
        return "space"
    return "shared" if share or host not in ("127.0.0.1", "::1", "localhost") else "local"


def limits_of(profile: ProfileName, own: Mapping[str, Any]) -> Limits:
    """The limits of `profile`, with those of `own` that are not None in their place."""
    return PROFILES[profile].model_copy(update={name: value for name, value in own.items() if value is not None})
