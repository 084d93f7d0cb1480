"""Which models there are: what each is in one line, where it comes from, and what suits it best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from sd_demo.errors import ModelUnavailable
from sd_demo.requests import SchedulerName

EMBEDDED: Final = "picture-book"
EMBEDDED_FOLDER: Final = Path(__file__).parent / "embedded" / "weights"


class ModelEntry(BaseModel):
    """One model of the list. `source` is a folder or a hub id; `revision` pins a hub id."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    summary: str
    source: str
    revision: str | None = None
    licence: str
    licence_url: str
    download_mib: int = Field(default=0, description="0 where nothing is downloaded")
    native_size: int = Field(description="pixels of a side in training")
    num_inference_steps: int
    guidance_scale: float
    scheduler: SchedulerName
    is_embedded: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder of the weights, or None where they come from the hub."""
        path = Path(self.source)
        return path if path.is_dir() else None


_ENTRIES: Final = (
    ModelEntry(
        name=EMBEDDED,
        title="Picture-book (embedded)",
        summary="A small latent diffusion model of a picture-book world, here so that everything works at once.",
        source=str(EMBEDDED_FOLDER),
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        native_size=256,
        num_inference_steps=20,
        guidance_scale=5.0,
        scheduler="dpmpp_2m",
        is_embedded=True,
    ),
)


class Registry:
    """The built-in models plus any folder that a person names."""

    def __init__(self, entries: tuple[ModelEntry, ...] = _ENTRIES) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    def get(self, name: str) -> ModelEntry:
        """The entry called `name`, or one for the diffusers folder at that path.

        Raises ModelUnavailable where there is neither.
        """
        if name in self._entries:
            return self._entries[name]
        with suppress(OSError, RuntimeError):  # a name too long for any file, or ~ of nobody
            folder = Path(name).expanduser()
            if (folder / "model_index.json").is_file():
                return _entry_of_folder(folder)
        known = ", ".join(self._entries)
        raise ModelUnavailable(f"There is no model {name[:80]!r}; choose one of {known}, or name a diffusers folder.")


def default_model(choices: Registry) -> str:
    """The model to start with where nobody named one."""
    return choices.get(EMBEDDED).name


def _entry_of_folder(folder: Path) -> ModelEntry:
    return ModelEntry(
        name=str(folder),
        title=folder.name,
        summary="A model from a local folder.",
        source=str(folder),
        licence="see the model's own page",
        licence_url="",
        native_size=512,
        num_inference_steps=25,
        guidance_scale=7.5,
        scheduler="dpmpp_2m",
    )
