"""Which models there are: the known ones, those downloaded since, and whatever a person names; and where they lie."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Final

from sd_demo.architectures import ARCHITECTURES
from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.file_header import unet_of
from sd_demo.known_models import (
    BESIDES,
    BEST,
    EMBEDDED,
    EMBEDDED_FOLDER,
    ENTRIES,
    RANDOM,
    STABLE_DIFFUSION,
    TOKENIZER_ENTRY,
    ModelEntry,
    read_random,
    what_suits,
)
from sd_demo.model_files import HUB_ID, INDEX, downloaded, in_hub_cache, manifests_in, missing_in, repo_folder
from sd_demo.requests import AnyRequest, Inpaint, SuperResolution, TaskName
from sd_demo.settings import Settings

__all__ = [
    "EMBEDDED", "EMBEDDED_FOLDER", "ModelEntry", "Registry", "check_request", "check_task", "default_model",
    "what_is_missing",
]  # fmt: skip

WEIGHTS: Final = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")  # how files of weights end
LCM_STEPS: Final = 50  # what it was distilled from (https://arxiv.org/abs/2310.04378), diffusers' default


class Registry:
    """The built-in models, those downloaded since, and any folder, file or hub id that a person names.

    models_dir: where downloads lie; the default is the one of the settings.
    takes_paths: whether any name is looked for, or only the built-in, the downloaded and `chosen`: strangers must not
    learn which files are here, so that one chosen by its path goes by the name of its file or folder. It is found
    by that name with `takes_paths`, too: a picture that was made among strangers tells no other.
    """

    def __init__(
        self,
        entries: tuple[ModelEntry, ...] = ENTRIES,
        models_dir: Path | None = None,
        *,
        takes_paths: bool = True,
        chosen: str | None = None,
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self.takes_paths, self._chosen = takes_paths, chosen
        self._alias = _name_without_path(chosen, self._entries) if chosen else None
        self.models_dir = models_dir or Settings.model_fields["data_dir"].default / "models"

    @classmethod
    def of(cls, settings: Settings) -> Registry:
        """The one that an engine of these settings has."""
        return cls(models_dir=settings.models_dir, takes_paths=settings.limits.takes_paths, chosen=settings.model)

    def __iter__(self) -> Iterator[ModelEntry]:
        """The built-in entries, then whatever else was downloaded."""
        yield from self._entries.values()
        known = {entry.source for entry in self._entries.values()}
        repos = {file.parents[1].name.replace("--", "/", 1) for file in manifests_in(self.models_dir)}
        for repo in sorted(repos - known):
            folder = downloaded(self.models_dir, repo, None)
            if folder is not None and not missing_in(folder):
                yield _entry_of_folder(folder, repo, repo)

    def get(self, name: str) -> ModelEntry:
        """The entry called `name`, or one for the diffusers folder, checkpoint or hub id; else ModelUnavailable."""
        if name in self._entries:
            return self._entries[name]
        if self.takes_paths:
            return self._found(self.known_as(name))
        if self._chosen and (
            name == self._chosen  # by the alias of a file that is gone the sentence would tell its path
            or (name == self._alias and Path(self._chosen).expanduser().exists())
        ):
            return self._found(self._chosen).model_copy(update={"name": self._alias})
        for entry in self:
            if entry.name == name:
                return entry
        listed = ", ".join(entry.name for entry in self)
        raise ModelUnavailable(f"There is no model {name[:80]!r} on this server; choose one of {listed}.")

    def known_as(self, name: str) -> str:
        """The name of the entry that `get` has for `name`."""
        if not self.takes_paths:
            return self._alias if self._alias and name == self._chosen else name
        is_folder = os.path.isfile(os.path.join(name, INDEX))  # that is meant itself; no OSError for a name too long
        return self._chosen if self._chosen and name == self._alias and not is_folder else name

    def _found(self, name: str) -> ModelEntry:
        if name.startswith(RANDOM):
            return _random_entry(name)
        try:
            path = Path(name).expanduser()
            if (path / INDEX).is_file():
                return _entry_of_folder(path, name, path.name)
            if path.suffix == ".safetensors" and path.is_file():
                suits = what_suits(unet_of(path))
                return _entry(name, path.stem, "A checkpoint in a single file.", source=str(path), **suits)
            if path.suffix in WEIGHTS and path.is_file():
                raise ModelUnavailable(
                    f"{path.name} is a pickle, which can run any code when it is opened; take its .safetensors twin."
                )
        except (OSError, RuntimeError, ValueError):  # a name too long for any file, or ~ of nobody
            pass
        known = ", ".join(self._entries)
        if HUB_ID.fullmatch(name):
            folder = downloaded(self.models_dir, name, None) or in_hub_cache(name, None)
            if folder is not None:
                return _entry_of_folder(folder, name, name)
            _check_hub_id(name)
            raise ModelUnavailable(
                f"{name[:80]} is not here: python -m sd_demo download {name[:80]} fetches it, if the hub has it; the "
                f"list has {known}."
            )
        raise ModelUnavailable(
            f"There is no model {name[:80]!r}; choose one of {known}, or name a diffusers folder, a .safetensors "
            "file or a hub id."
        )

    def for_download(self, name: str) -> ModelEntry:
        """The entry whose weights a download of `name` fetches; `name` may be any hub id.

        Raises ModelUnavailable for a model that is never downloaded, and for a name that is no hub id.
        """
        entry = BESIDES.get(name) or self._entries.get(name)
        if entry is not None and not HUB_ID.fullmatch(entry.source):
            raise ModelUnavailable(f"{entry.title} is part of the program; there is nothing to download.")
        if entry is None and not HUB_ID.fullmatch(name):
            raise ModelUnavailable(f"{name[:80]!r} is no model of the list and no hub id such as owner/name.")
        if entry is None and self.takes_paths:  # else it would tell strangers which folders are here
            if (Path(name) / INDEX).is_file():
                raise ModelUnavailable(f"{name[:80]} is a folder here: name it as the model, nothing is to be fetched.")
            _check_hub_id(name)
        return entry or _entry(name, name, "A model from the hub.")

    def weights(self, entry: ModelEntry) -> Path | None:
        """The folder or file of the entry's weights, as of now; None where they are not here, or made up (random)."""
        if HUB_ID.fullmatch(entry.source) and not Path(entry.source).exists():
            found = downloaded(self.models_dir, entry.source, entry.revision)
            return found or in_hub_cache(entry.source, entry.revision)
        path = Path(entry.source)
        return path if path.exists() else None

    def is_here(self, entry: ModelEntry) -> bool:
        """Whether the entry can be loaded as it is."""
        return entry.source.startswith(RANDOM) or self.weights(entry) is not None

    def tokenizers(self) -> list[Path]:
        """Folders of CLIP's own tokenizer that are here: every Stable Diffusion has the same."""
        lenders = (TOKENIZER_ENTRY, *(e for e in self._entries.values() if HUB_ID.fullmatch(e.source)))
        found = [
            downloaded(self.models_dir, repo_folder(e.source, e.parts), e.revision) or self.weights(e) for e in lenders
        ]
        return [folder / "tokenizer" for folder in found if folder is not None]


def default_model(choices: Registry, *, has_gpu: bool = False) -> str:
    """The model to start with where nobody named one: Stable Diffusion 1.5 where it is here and a GPU can run it."""
    return BEST if has_gpu and choices.weights(choices.get(BEST)) is not None else choices.get(EMBEDDED).name


def what_is_missing(choices: Registry, *, has_gpu: bool) -> str:
    """One sentence on why the program does not start with Stable Diffusion 1.5; "" where it does."""
    best = choices.get(BEST)
    if choices.weights(best) is None:
        slow = "" if has_gpu else ", and without a GPU takes minutes a picture"
        return f"{best.title} is not here: it is a download of {best.download_mib / 1024:.1f} GiB{slow}."
    return "" if has_gpu else f"{best.title} is here; without a GPU it takes minutes a picture, so choose it yourself."


def _name_without_path(name: str, taken: Container[str]) -> str:
    """`name`, or of a path only the file's stem or the folder's name."""
    if name in taken or name.startswith(RANDOM) or (HUB_ID.fullmatch(name) and not Path(name).exists()):
        return name
    path = Path(os.path.abspath(os.path.expanduser(name)))
    last = path.stem if path.suffix in WEIGHTS else path.name
    return f"local-{last}" if last in taken else last


def _check_hub_id(name: str) -> None:
    """Raises ModelUnavailable for a hub id that is the path of a file or folder: no hub is to be asked for that."""
    if name.lower().endswith(WEIGHTS):
        raise ModelUnavailable(f"There is no file {name[:80]} here; look at its path, or name another model.")
    if Path(name).is_dir():
        raise ModelUnavailable(
            f"The folder {name[:80]} holds no {INDEX}, so it is no diffusers model; name another folder, or a "
            ".safetensors file in it."
        )


def _entry(name: str, title: str, summary: str, **fields: Any) -> ModelEntry:
    about = {"licence": "see the model's own page", "licence_url": "", "source": name, **fields}
    return ModelEntry(name=name, title=title, summary=summary, **{**STABLE_DIFFUSION, **about})


def _random_entry(name: str) -> ModelEntry:
    like, scale = read_random(name)
    unet = (ARCHITECTURES[like].tiny() if scale == "tiny" else ARCHITECTURES[like]).unet or {}
    return _entry(name, name, "Random weights, to measure with; it draws nothing.", limits="", **what_suits(unet))


def _entry_of_folder(folder: Path, name: str, title: str) -> ModelEntry:
    try:
        suits = what_suits(json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):  # loading says what is wrong with the folder
        suits = {}
    if HUB_ID.fullmatch(name) and not Path(name).is_dir():
        about = {"summary": "A model from the hub.", "licence_url": f"https://huggingface.co/{name}", "source": name}
    else:
        about = {"summary": "A model from a local folder.", "source": str(folder)}
    return _entry(name, title, **about, **suits)


def check_request(entry: ModelEntry, request: AnyRequest) -> None:
    """Raises InvalidRequest where the model cannot do what is asked for, with what it chooses itself."""
    check_task(entry, request.task)
    steps = request.num_inference_steps or entry.num_inference_steps
    if (request.scheduler or entry.scheduler) == "lcm" and steps > LCM_STEPS:
        raise InvalidRequest(
            f"The scheduler lcm takes at most {LCM_STEPS} steps; ask for fewer, or choose another scheduler.",
            "num_inference_steps",
        )


def check_task(entry: ModelEntry, task: TaskName) -> None:
    """Raises InvalidRequest where the model cannot do `task`.

    A 9-channel UNet needs a picture and a mask at every step; a made-up mask would be inpainting under another name.
    """
    if task in entry.tasks:
        return
    only, tab = "draws and repaints", "another tab"
    if entry.tasks == (Inpaint.task,):
        only, tab = "repaints parts of pictures", "Inpaint"
    elif SuperResolution.task in entry.tasks:
        only, tab = "makes pictures larger", "Upscale"
    raise InvalidRequest(f"{entry.title} only {only}; choose another model, or use {tab} with it.", "model")
