"""Which files make up a model: what a diffusers folder must hold, what to fetch of a repository, where both lie.

Only safetensors count as weights: a pickle (`.bin`, `.ckpt`) can run any code when it is opened, and one with wrong
keys loads as random weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

INDEX: Final = "model_index.json"
MANIFEST: Final = "sd_demo.json"  # {"repo", "commit", "files": {path: {"size", "sha256"}}} of a finished download
PARTIAL: Final = ".partial"  # how the folder of an unfinished one ends
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
NETWORKS: Final = ("unet", "vae", "text_encoder")
PARTS: Final = (*NETWORKS, "tokenizer", "scheduler")
SAFETY_CHECKER: Final = "safety_checker"
FAMILY: Final = (  # the pipelines whose parts are those of Stable Diffusion 1 and 2
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionLatentUpscalePipeline",
)
KINDS: Final = {  # the classes of the parts, the one that loads them first
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),  # both have the same files
}
_WEIGHTS: Final = re.compile(r"(?:diffusion_pytorch_model|model)(\.fp16)?(?:-\d{5}-of-\d{5})?\.safetensors")
LONGEST_HEADER: Final = 10_000_000  # bytes; a checkpoint's has a fiftieth
_SETTINGS: Final = re.compile(r"[\w.-]+\.(?:json|txt)")


def parts_of(index: Mapping[str, Any]) -> list[str]:
    """The parts that a model_index.json lists; one that is [null, null] is left out."""
    named = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2}
    return [name for name, (library, _) in named.items() if library is not None and re.fullmatch(r"\w+", name)]


def why_foreign(name: str, index: Mapping[str, Any]) -> str:
    """Why the model called `name`, with this model_index.json, does not run here, in a sentence; "" where it does."""
    pipeline = str(index.get("_class_name", "model of no known kind"))
    if pipeline not in FAMILY:
        return f"{name} is a {pipeline[:60]}; only models of Stable Diffusion 1 and 2 run here."
    for part, kinds in KINDS.items():
        found = index.get(part)
        kind = found[1] if isinstance(found, list) and len(found) == 2 else None
        if kind not in (None, *kinds):
            return f"{name} has a {str(kind)[:60]} as its {part}; only {kinds[0]} runs here."
    return ""


def needed(names: Iterable[str], parts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The files of a repository to fetch for `parts` ("" for its root), and the parts that lack safetensors weights.

    Of each part its settings, and the float16 weights where there are any: half the download, and what a GPU uses.
    """
    listed, wanted, lacking = sorted(set(names)), [], []
    for part in parts:
        inside = {name.removeprefix(f"{part}/"): name for name in listed if _folder(name) == part}
        weights = {short: match for short in inside if (match := _WEIGHTS.fullmatch(short))}
        is_half = any(match[1] for match in weights.values())
        chosen = [short for short, match in weights.items() if bool(match[1]) == is_half]
        wanted += [inside[short] for short in [*chosen, *(s for s in inside if _SETTINGS.fullmatch(s))]]
        if not chosen and (part in NETWORKS or any(s.endswith((".bin", ".ckpt")) for s in inside)):
            lacking.append(part)
    if INDEX in listed and INDEX not in wanted:
        wanted.insert(0, INDEX)
    return wanted, lacking


def missing_in(folder: Path) -> list[str]:
    """What a diffusers folder of Stable Diffusion lacks; empty where all is there."""
    try:
        listed = parts_of(json.loads((folder / INDEX).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return [INDEX]
    missing = [part for part in PARTS if part not in listed or not (folder / part).is_dir()]
    for part in NETWORKS:
        if part not in missing and weights_in(folder / part) is None:
            missing.append(f"{part}/*.safetensors")
    return missing


def weights_in(folder: Path) -> str | None:
    """`"fp16"` or `""`: the variant of the weights in this part's folder; None where there are none.

    Where both are there it is float16, on every device: what a download brings, half of the bytes, and one hash.
    """
    found = [(m[1], file) for file in folder.glob("*.safetensors") if (m := _WEIGHTS.fullmatch(file.name))]
    halves = [file for variant, file in found if variant]
    is_half = bool(halves) and (len(halves) == len(found) or _are_whole(halves))
    return None if not found else "fp16" if is_half else ""


def _are_whole(files: Sequence[Path]) -> bool:
    """Whether all parts are here as long as their headers say: no pointers of Git LFS, and none on its way."""
    of = re.search(r"-of-(\d{5})\.", files[0].name)
    try:
        return len(files) == (int(of[1]) if of else 1) and all(file.stat().st_size >= _length(file) for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _length(file: Path) -> int:
    """The bytes of a safetensors file by its header."""
    length, told = header_of(file)
    return 8 + length + max(about["data_offsets"][1] for name, about in told.items() if name != "__metadata__")


def header_of(file: Path) -> tuple[int, Any]:
    """The length of a safetensors file's header in bytes, and what it holds.

    Raises OSError where the file cannot be read, ValueError where it has none.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= LONGEST_HEADER:
            raise ValueError(f"{file.name} has no header")
        return length, json.loads(opened.read(length))


def chosen_in(folder: Path) -> list[Path]:
    """The weight files of this part's folder that loading reads: those of the variant that `weights_in` names."""
    wanted = ".fp16" if weights_in(folder) else None
    found = ((file, _WEIGHTS.fullmatch(file.name)) for file in sorted(folder.glob("*.safetensors")))
    return [file for file, match in found if match and match[1] == wanted]


def manifest_in(folder: Path) -> dict[str, Any]:
    """The manifest of a finished download, or {} for a folder that came another way."""
    try:
        read = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def repo_folder(repo: str, parts: Iterable[str] = ()) -> str:
    """The name of the folder that downloads of `repo` (or only some `parts` of it) lie in, by commit."""
    return "--".join([repo.replace("/", "--"), *parts])


def manifests_in(models_dir: Path) -> list[Path]:
    """The manifests of all downloads, also of those that are on their way."""
    try:
        return sorted(models_dir.glob(f"*/*/{MANIFEST}"))
    except OSError:  # a folder that nobody may look into
        return []


def downloaded(models_dir: Path, repo: str, revision: str | None) -> Path | None:
    """The finished download of `repo`, the newest one where no revision is pinned; None where there is none."""
    try:
        # One that ended between its manifest and its last rename has a manifest, and its files move when it goes on.
        whole = [f for f in models_dir.glob(f"{repo_folder(repo)}/*") if f.is_dir() and not f.name.endswith(PARTIAL)]
        folders = [f for f in whole if (f / MANIFEST).is_file()]
        pinned = [f for f in folders if revision in (None, f.name, manifest_in(f).get("revision"))]
        return max(pinned, key=lambda f: (f / MANIFEST).stat().st_mtime, default=None)
    except OSError:  # a folder that nobody may look into
        return None


def in_hub_cache(repo: str, revision: str | None) -> Path | None:
    """The complete snapshot of `repo` that another program left in the hub's own cache, if there is one."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = os.environ.get("HF_HUB_CACHE") or Path(home) / "hub"
    folder = Path(cache).expanduser() / f"models--{repo.replace('/', '--')}"
    try:
        commit = revision or (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        snapshot = folder / "snapshots" / commit
        return snapshot if snapshot.is_dir() and _is_complete(snapshot) else None
    except (OSError, ValueError):
        return None


def _is_complete(snapshot: Path) -> bool:
    """A program that was told to leave the safety checker out leaves a snapshot without it."""
    if missing_in(snapshot):
        return False
    listed = parts_of(json.loads((snapshot / INDEX).read_text(encoding="utf-8")))
    return SAFETY_CHECKER not in listed or weights_in(snapshot / SAFETY_CHECKER) is not None


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
