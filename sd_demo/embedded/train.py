"""Remake the picture-book model: render its world, then train autoencoder, text encoder and UNet within a budget.

    python -m sd_demo.embedded.train --minutes 180 --output weights

Five stages, as Stable Diffusion was made: the autoencoder; the text encoder, on captions alone; the UNet with its text
encoder on 128-pixel pictures, at a quarter of the cost; both again at the native 256 pixels; and the autoencoder's
decoder once more, with the latents held. Each has a share of the minutes and a checkpoint in the work
folder: the same command goes on where the last one stopped. Every loss is in `log.jsonl` there, a JSON line each.

On a CPU, glibc's large pages make a step about a sixth faster:

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from sd_demo.embedded.export import check_replaceable
from sd_demo.embedded.training_commands import check_settings, run_command
from sd_demo.embedded.training_folder import START, Settings, export_trained, frozen_vae, start_from
from sd_demo.embedded.training_stages import run
from sd_demo.embedded.training_state import has_fast_bfloat16
from sd_demo.errors import InvalidRequest
from sd_demo.flags import Parser

LOGGER = logging.getLogger(__name__)
STAGES = {"vae": 0.28, "text": 0.04, "unet-128": 0.22, "unet-256": 0.40, "decoder": 0.06}
"""Each stage's share of the minutes when all are trained."""


def default_work() -> Path:
    """Where checkpoints and rendered pictures go: a folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sd_demo" / "picture-book"


def train(
    *,
    minutes: float = 180.0,
    work: Path | None = None,
    output: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    stage: str = "all",
    seed: int = 0,
    pictures: int = 12_000,
    held_out: int = 64,
    batch_size: int | None = None,
    max_steps: int | None = None,
    start: Path | None = None,
) -> Path:
    """Train the model, or go on with it, and export it; the folder that was written is returned.

    minutes: budget of the training steps, finite (rendering comes on top: a minute for 10,000 pictures on two cores).
    stage: "all" shares the minutes out by STAGES; one stage's name gives them all to that one, and the stages
    before it must have run in the same work folder. work: checkpoints, pictures, samples and log, by default a
    folder in the user's cache; its pictures and captions are used again, also after a change of the world or of its
    language, for which another seed or folder makes new ones. output: the diffusers folder to write, by default
    `weights` in the work folder; a model that is there is replaced, and nothing else.
    device: auto, cpu or cuda. dtype: auto, float32 or bfloat16 (autocast). pictures: how many are rendered
    at each size. batch_size: rows of a UNet step; the default suits the device. max_steps: stop each
    stage after so many steps of this call, its budget unspent, to go on another time. start: a folder that an earlier
    training wrote, to go on from in an empty work folder or in one that was started from it; its autoencoder's encoder
    stays as it is.

    Raises InvalidRequest for an unknown name, a number out of range, a folder that cannot be written or replaced, or a
    work folder in which an earlier stage is missing.
    """
    if stage != "all" and stage not in STAGES:
        raise InvalidRequest(f"There is no stage {stage!r}; choose all, {', '.join(STAGES)}.")
    if pictures < 1 or held_out < 1 or (batch_size is not None and batch_size < 1):
        raise InvalidRequest("pictures, held_out and batch_size must be 1 or more.")
    if start is not None and not (Path(start) / "model_index.json").is_file():
        raise InvalidRequest(f"There is no model at {start}; name a folder of weights that a training wrote.")
    chosen, work = _device(device), Path(work or default_work())
    settings = Settings(
        work=work,
        device=chosen,
        autocast=_autocast(chosen, dtype),
        seed=seed,
        pictures=pictures,
        held_out=held_out,
        batch_size=batch_size,
        max_steps=max_steps,
    )
    output = Path(output or work / "weights")
    check_replaceable(output, work)
    check_settings(minutes, seed, work=work, output=output.resolve().parent)
    torch.manual_seed(seed)
    LOGGER.info("work folder %s, %s, %s", work, chosen, settings.autocast or "float32")
    if start is not None:
        start_from(Path(start), settings)
    if stage not in ("all", "vae"):
        frozen_vae(settings)  # every export needs it: where it never ran, that is said now and not after the minutes
    skipped = ("vae", "text") if stage == "all" and (work / START).is_file() else ()
    budgets = {name: minutes * share for name, share in STAGES.items()} if stage == "all" else {stage: minutes}
    torch.set_flush_denormal(True)  # tiny optimizer moments would slow CPU arithmetic down
    try:
        for name, budget in budgets.items():
            if name not in skipped:
                run(name, budget, settings)
    finally:
        torch.set_flush_denormal(False)
    return export_trained(settings, output)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InvalidRequest(f"There is no device {name!r}; choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("There is no CUDA device here; choose device auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _autocast(device: torch.device, dtype: str) -> torch.dtype | None:
    if dtype not in ("auto", "float32", "bfloat16"):
        raise InvalidRequest(f"There is no training dtype {dtype!r}; choose auto, float32 or bfloat16.")
    is_chosen = dtype == "bfloat16" or (dtype == "auto" and has_fast_bfloat16(device.type))
    return torch.bfloat16 if is_chosen else None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command, with its arguments (default: those of the process). Raises InvalidRequest as `train` does."""
    parser = Parser(prog="python -m sd_demo.embedded.train", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=180.0, help="budget of the training steps (180)")
    parser.add_argument("--work", type=Path, help="checkpoints, pictures, samples, log (a folder in the cache)")
    parser.add_argument("--output", type=Path, help="the diffusers folder to write (weights in the work folder)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all", help="one stage alone gets all minutes")
    parser.add_argument("--start", type=Path, help="weights to go on from, in an empty work folder or one begun so")
    parser.add_argument("--seed", type=int, default=0, help="other pictures for another seed (0)")
    parser.add_argument("--pictures", type=int, default=12_000, help="how many are rendered at each size (12000)")
    parser.add_argument("--batch-size", type=int, help="rows of a UNet step (by device)")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = train(**vars(parser.parse_args(arguments)))
    LOGGER.info("written: %s", folder)


if __name__ == "__main__":
    run_command(main)
