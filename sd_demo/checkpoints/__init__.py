"""Weights from disk into diffusers' networks: a diffusers folder or one .safetensors file, complete or not at all.

diffusers warns about missing keys and goes on with random weights; here they are refused, as are keys that the
network has no place for, other families of models, and weights in any form but safetensors.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
)
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from sd_demo.checkpoints.folder import check_folder, read_folder
from sd_demo.checkpoints.single_file import check_file, read_file
from sd_demo.errors import ModelUnavailable
from sd_demo.file_header import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIXES
from sd_demo.memory_errors import is_out_of_memory
from sd_demo.model_files import NETWORKS, SAFETY_CHECKER, manifest_in
from sd_demo.own_memory import own
from sd_demo.weight_hashes import checker_files, hash_over, sha256_of, weight_files

log = logging.getLogger(__name__)


def read_model(path: Path, dtype: torch.dtype, tokenizers: Sequence[Path] = (), title: str = "") -> dict[str, Any]:
    """The components of the model at `path` (a folder or a .safetensors file) on the CPU in `dtype`.

    tokenizers: folders that may lend a single file the tokenizer that it lacks; the first with as many tokens is taken.
    title: what sentences call a folder, as a download's own name is its commit; default its name.
    Raises ModelUnavailable with one sentence where anything is missing, damaged or of another family.
    """
    name = _name_of(path, title)
    with _in_a_sentence(name, path):
        weights_of(path, title, has_checker=False)  # the libraries tell of a file that is cut off at great length
        with _quiet():
            parts = read_folder(path, dtype, name) if path.is_dir() else read_file(path, dtype, tokenizers)
        for part in NETWORKS:
            own(parts[part])
        return assemble(parts, name)


def check_model(path: Path, tokenizers: Sequence[Path] = (), title: str = "", *, has_checker: bool = True) -> None:
    """Look at what takes no time; arguments of `read_model` and `weights_in_parts`.

    Raises ModelUnavailable for what cannot be loaded by what its configs and headers say.
    """
    name = _name_of(path, title)
    with _in_a_sentence(name, path):
        weights_of(path, title, has_checker=has_checker)
        if path.is_dir():
            check_folder(path, name)
        else:
            check_file(path, tokenizers)


@contextmanager
def _in_a_sentence(name: str, path: Path) -> Iterator[None]:
    """Raises ModelUnavailable for whatever a library says of the model at `path`, which the sentence calls `name`."""
    try:
        yield
    except ModelUnavailable:
        raise
    except Exception as error:  # advice on the library's options follows after the first sentence
        if is_out_of_memory(error):  # of which the file is not to blame
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(str(path), name)
        raise ModelUnavailable(f"{name} could not be loaded: {said.partition('. ')[0].rstrip('.')[:200]}.") from error


def _name_of(path: Path, title: str) -> str:
    return path.name if path.is_file() else title or path.name


def assemble(parts: dict[str, Any], name: str) -> dict[str, Any]:
    """All components of the pipeline that `parts` make. Raises ModelUnavailable where they do not fit together.

    Four channels draw, nine inpaint; seven and a second scheduler, or eight and five out, make pictures larger.
    """
    config = parts["unet"].config
    channels = config.in_channels
    is_x4, is_x2 = channels == 7 and "low_res_scheduler" in parts, channels == 8 and config.out_channels == 5
    if not (channels in (4, 9) or is_x4 or is_x2):
        raise ModelUnavailable(
            f"{name} takes {channels} channels; text-to-image models take 4, inpainting ones 9, upscaling ones 7 or 8."
        )
    known, width = parts["text_encoder"].config.vocab_size, parts["text_encoder"].config.hidden_size
    if len(parts["tokenizer"]) > known:
        raise ModelUnavailable(f"{name} has a tokenizer of {len(parts['tokenizer'])} tokens and weights for {known}.")
    if parts["unet"].config.cross_attention_dim != width:
        raise ModelUnavailable(f"{name} has a text encoder of width {width}, which does not fit its UNet.")
    with _quiet():
        # The pipeline's constructor mends the configs of early models, as from_pretrained does.
        if is_x4:
            return dict(StableDiffusionUpscalePipeline(**parts).components)
        if is_x2:
            return dict(StableDiffusionLatentUpscalePipeline(**parts).components)
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return dict(pipe.components)


def weights_of(path: Path, title: str = "", *, has_checker: bool = True) -> int:
    """How many numbers all networks of the model at `path` have; arguments and errors of `weights_in_parts`."""
    return sum(weights_in_parts(path, title, has_checker=has_checker).values())


def weights_in_parts(path: Path, title: str = "", *, has_checker: bool = True) -> dict[str, int]:
    """How many numbers each network of the model at `path` has, of a single file those that are read: no averages.

    title: as for `read_model`. has_checker: whether the safety checker that comes with it is loaded, too.
    Raises ModelUnavailable where one of them is damaged.
    """
    counts: Counter[str] = Counter()
    try:
        for file in [path] if path.is_file() else [*weight_files(path), *(checker_files(path) if has_checker else ())]:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - no mapping
                    part = _part_of(key) if file == path else file.parent.name
                    counts[part] += math.prod(opened.get_slice(key).get_shape())
    except SafetensorError as error:
        raise ModelUnavailable(f"{_name_of(path, title)} is damaged ({error}); fetch it again.") from error
    return {part: count for part, count in counts.items() if part}


def _part_of(key: str) -> str:
    """The network that a single file's weight belongs to; "" of one that is not read, as an average of another."""
    prefixes = {"unet": (UNET_PREFIX,), "vae": VAE_PREFIXES, "text_encoder": (TEXT_PREFIX,)}
    return next((part for part, prefix in prefixes.items() if key.startswith(prefix)), "")


def hash_of(path: Path, title: str = "", *, has_checker: bool = True) -> str:
    """SHA-256 of a file, or of a folder's weight files' own hashes in the order of their names.

    title: as for `read_model`. has_checker: whether the safety checker that comes with it is looked at, too; the hash
    never counts it.
    Raises ModelUnavailable where weights that were downloaded are gone or no longer what they were when they came.
    """
    if path.is_file():
        return sha256_of(path)
    counted = weight_files(path)
    known = manifest_in(path).get("files", {})
    came = [
        name for name in known if name.endswith(".safetensors") and (has_checker or not name.startswith(SAFETY_CHECKER))
    ]
    digests = {}
    for file in dict.fromkeys([*(path / name for name in came), *counted]):
        name = file.relative_to(path).as_posix()
        digest = digests[file] = sha256_of(file) if file.is_file() else ""
        if not digest or digest != known.get(name, {}).get("sha256", digest):
            what = "damaged" if digest else "lost"
            log.warning("%s in %s was %s since its download", name, path, what)  # strangers read the sentence only
            raise ModelUnavailable(
                f"{name} of {_name_of(path, title)} was {what} since its download; delete its folder and fetch it "
                "again."
            )
    return hash_over(digests[file] for file in counted)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no warnings: what matters of them is an error here."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
