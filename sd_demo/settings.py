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

PREFIX: Final = "SD_DEMO_"


def _user_data_dir() -> Path:
    """Where programs keep a person's data on this system, which survives a new checkout."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser() / "sd-demo"
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/sd-demo").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "sd-demo"


class Settings(BaseModel):
    """Frozen; made once at start by `Settings.read`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 opens it to the network.")
    port: int = Field(default=7860, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    share: bool = Field(default=False, description="Also open a public link, for as long as the program runs.")
    model: str | None = Field(default=None, description="Model to start with; default: the best that runs here.")
    auth: str | None = Field(default=None, description="user:password that visitors must give.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of the weights; auto takes the faster one that is accurate here."
    )
    attention: Literal["auto", "sdpa", "xformers", "sliced", "plain"] = Field(
        default="auto", description="How attention is computed; auto tries each and takes the fastest that runs."
    )
    output_dir: Path = Field(default=Path("outputs"), description="Folder that pictures are saved in.")
    data_dir: Path = Field(
        default=_user_data_dir(), description="Folder of downloaded models and of licences that were accepted."
    )
    model_memory_mib: int = Field(
        default=0, ge=0, description="MiB that models in memory may fill together; 0 keeps one at a time."
    )
    lora_dir: Path = Field(default=Path("loras"), description="Folder of LoRA files (.safetensors).")
    max_queue: int = Field(default=64, ge=1, description="Jobs that may wait at once.")
    max_rows: int = Field(default=32, ge=2, description="Rows (pictures, twice with guidance) in one UNet call.")

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
        values: dict[str, Any] = {
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
            raise InvalidRequest(
                f"{PREFIX}{name.upper()} or --{name.replace('_', '-')} cannot be {value}: {why}.", name
            ) from None

    @classmethod
    def parser(cls) -> argparse.ArgumentParser:
        """The flags: one for each field, with its help and default."""
        parser = argparse.ArgumentParser(
            prog="app.py", description="Stable Diffusion playground", epilog="Each flag also has an SD_DEMO_* variable."
        )
        for name, field in cls.model_fields.items():
            flag = f"--{name.replace('_', '-')}"
            text = f"{field.description} [{field.default}]"
            if field.annotation is bool:
                parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
            else:
                parser.add_argument(flag, default=None, metavar=name.split("_")[-1].upper(), help=text)
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
