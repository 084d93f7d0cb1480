"""How the program runs here: declared once, set by `SD_DEMO_*` variables or the flags of `app.py`.

A flag wins over its variable, a variable over the default. What an image should be is not here but in
requests.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sd_demo.errors import InvalidRequest
from sd_demo.flags import Parser, flag
from sd_demo.limits import Limits, ProfileName, limits_of, suitable_profile

PREFIX: Final = "SD_DEMO_"
GRADIOS: Final = {"GRADIO_SERVER_NAME": "host", "GRADIO_SERVER_PORT": "port"}  # what containers say to Gradio
ANY_HOST: Final = "0.0.0.0"  # noqa: S104 # a Space is reached from outside its container


def _user_data_dir() -> Path:
    """Where programs keep a person's data on this system, which survives a new checkout."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "sd-demo"
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/sd-demo").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "sd-demo"


def _limit(name: str) -> Any:
    """One of the limits as a setting: the same bounds and words; None leaves it to the profile."""
    declared = Limits.model_fields[name]
    bounds = {key: getattr(item, key) for item in declared.metadata for key in ("ge", "le") if hasattr(item, key)}
    return Field(default=None, description=f"{declared.description} Default: the profile's.", **bounds)


Rung = Literal["resident", "text_encoder_away", "one_at_a_time", "layer_by_layer"]
"""Which networks stay on the device, from all to none (residence.py)."""


class Settings(BaseModel):
    """Frozen; made once at start by `Settings.read`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 opens it to the network.")
    port: int = Field(default=7860, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    share: bool = Field(default=False, description="Also open a public link, for as long as the program runs.")
    model: str | None = Field(
        default=None,
        description="Model to start with; default: sd-1.5 where it is here and a GPU is, else picture-book.",
    )
    auth: str | None = Field(default=None, description="user:password that visitors must give.")
    auth_file: Path | None = Field(
        default=None, description="File of user:hash lines instead; python -m sd_demo hash-password makes one."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="json: an object a line, for a collector, also for each job that ends."
    )
    log_prompts: bool = Field(default=False, description="Whether those objects hold prompts.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Precision of the weights; auto: float16 on a GPU, on a CPU bfloat16 where that is faster, else "
        "float32.",
    )
    attention: Literal["auto", "sdpa", "xformers", "sliced", "plain"] = Field(
        default="auto",
        description="How attention is computed; auto: sdpa, or what runs here in at most four fifths of its time.",
    )
    cuda_graphs: bool = Field(
        default=True, description="Record the UNet's calls as CUDA graphs, where it stays on a CUDA device."
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compile the UNet's calls (torch.compile) behind those that run, and take what is faster; auto: on "
        "CUDA, where a compiler for it is here.",
    )
    memory: Literal["auto", Rung] = Field(
        default="auto", description="Which networks stay on the device; auto: as many as its free memory holds."
    )
    memory_limit_mib: int = Field(default=0, ge=0, description="MiB of the device to plan with; 0: all that is free.")
    safety_checker: bool = Field(
        default=True, description="Withhold what a model's own safety checker takes for unsafe, where it ships one."
    )
    clip: str | None = Field(
        default=None, description="CLIP that keep_best ranks pictures with: a folder or a hub id; default: the model's."
    )
    output_dir: Path = Field(default=Path("outputs"), description="Folder that pictures are saved in.")
    data_dir: Path = Field(
        default=_user_data_dir(),
        description="Folder of downloaded models, accepted licences, styles.json, pictures of LoRA "
        "trainings and what was compiled.",
    )
    model_memory_mib: int = Field(
        default=0, ge=0, description="MiB that models in memory may fill together; 0 keeps one at a time."
    )
    lora_dir: Path = Field(default=Path("loras"), description="Folder of LoRA files (.safetensors).")
    max_queue: int = Field(default=64, ge=1, description="Jobs that may wait at once.")
    max_rows: int = Field(default=32, ge=2, description="Rows (pictures, twice with guidance) in one UNet call.")

    trusted_hosts: str = Field(
        default="", description="Further names, with commas between, that this server is reached by; * for any."
    )
    picture_hours: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Hours that pictures are kept; 0 keeps them. Default: 0 with the profile local; 1 with space; with "
        "shared 1 for those made since its start.",
    )
    profile: Literal["auto", "local", "shared", "space"] = Field(
        default="auto",
        description="How strict the limits of one visitor are, and how long pictures are kept; auto: space on a Space, "
        "shared where others can reach the page, else local.",
    )
    max_visitor_jobs: int | None = _limit("max_visitor_jobs")
    max_device_seconds: int | None = _limit("max_device_seconds")
    max_visitors_per_address: int | None = _limit("max_visitors_per_address")
    max_side: int | None = _limit("max_side")
    max_steps: int | None = _limit("max_steps")
    max_images: int | None = _limit("max_images")
    max_prompt_characters: int | None = _limit("max_prompt_characters")
    takes_paths: bool | None = _limit("takes_paths")

    @property
    def picture_age_s(self) -> float | None:
        """Seconds after which pictures are deleted, or None where they are kept."""
        hours = self.picture_hours
        if hours is None:
            hours = 0.0 if self.effective_profile == "local" else 1.0
        return hours * 3600 or None

    @property
    def expires_older_pictures(self) -> bool:
        """Whether pictures from before this start expire too: sharing a link once must not cost a collection."""
        return self.picture_hours is not None or self.effective_profile == "space"

    @property
    def effective_profile(self) -> ProfileName:
        """The profile that holds: what `auto` came to, or what was said."""
        if self.profile != "auto":
            return self.profile
        return suitable_profile(share=self.share, host=self.host, environment=os.environ)

    @property
    def limits(self) -> Limits:
        """What one visitor may ask for: the profile's limits, with those that were set in their place."""
        return limits_of(self.effective_profile, {name: getattr(self, name) for name in Limits.model_fields})

    @property
    def models_dir(self) -> Path:
        """Folder of downloaded models."""
        return self.data_dir / "models"

    @field_validator("auth")
    @classmethod
    def _has_user_and_password(cls, auth: str | None) -> str | None:
        user, _, password = (auth or "").partition(":")
        if auth is not None and not (user and password):
            raise ValueError("it must be user:password")
        return auth

    @classmethod
    def read(cls, arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
        """Settings from command-line arguments (none by default) and `SD_DEMO_*` variables.

        Raises InvalidRequest with one sentence where a value cannot be used.
        """
        values: dict[str, Any] = {"host": ANY_HOST} if environment.get("SPACE_ID") else {}
        values |= {field: environment[name] for name, field in GRADIOS.items() if environment.get(name)}
        values |= {
            name: environment[PREFIX + name.upper()]
            for name in cls.model_fields
            if environment.get(PREFIX + name.upper())
        }
        flags = vars(cls.parser().parse_args(list(arguments or [])))
        values.update({name: value for name, value in flags.items() if value is not None})
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            value = "this" if name == "auth" else repr(first["input"])  # a password is not for the log
            why = first["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"{PREFIX}{name.upper()} or {flag(name)} cannot be {value}: {why}.", name) from None

    @classmethod
    def parser(cls) -> Parser:
        """The flags: one for each field, with its help and default."""
        parser = Parser(
            prog="app.py", description="Stable Diffusion playground", epilog="Each flag also has an SD_DEMO_* variable."
        )
        for name, field in cls.model_fields.items():
            text = f"{field.description} [{field.default}]"
            if field.annotation is bool:
                parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=None, help=text)
            else:
                parser.add_argument(flag(name), default=None, metavar=name.split("_")[-1].upper(), help=text)
        return parser


def writable_folder(wanted: Path) -> tuple[Path, str | None]:
    """`wanted`, made if need be; where it cannot be written, a temporary folder and a sentence saying so."""
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted, None
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="sd-demo-"))
        return folder, f"Pictures go to {folder}: {wanted} cannot be written ({error.strerror})."
