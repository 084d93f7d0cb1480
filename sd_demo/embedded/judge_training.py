"""Train the judge on pictures of the renderer alone, and measure it on others.

    python -m sd_demo.embedded.judge_training --work DIR --minutes 30

It sees every picture as judge_views.py shows it, each time otherwise, so that it is fair to a model's pictures, which
are less crisp than the renderer's and may put a thing where the renderer never would.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from sd_demo.embedded.architecture import NATIVE_SIZE
from sd_demo.embedded.dataset import pictured, render_pictures
from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.judge import JUDGE_FILE, SIDE, Judge, export_judge, load_judge
from sd_demo.embedded.judge_views import redrawn_by_decoder, shown
from sd_demo.embedded.layout import layout
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import MOST_THINGS, Picture
from sd_demo.embedded.sight import MEAN_EXTENT, WHOLES, Found, split_cells
from sd_demo.embedded.training_commands import check_settings, run_command
from sd_demo.embedded.training_state import Stage, has_fast_bfloat16, load_averaged
from sd_demo.errors import InvalidRequest
from sd_demo.flags import Parser
from sd_demo.known_models import EMBEDDED_FOLDER

LOGGER = logging.getLogger(__name__)
BATCH = 32
EMPTY_CELL_WEIGHT = 0.15  # of the cells of a picture, one to three hold a thing
SMALL_BELOW, SMALL_WEIGHT = 0.24, 2.0  # extents of things that are mistaken most, and what these weigh


@dataclass(frozen=True)
class Labelled:
    """Pictures uint8 [N, side, side, 3] and what they show.

    wholes: int64 [N, 4], the indices of scene, time, weather and style. things: float32 [N, 3, 6], each thing's object,
    colour, centre x, centre y, width and height; -1 throughout where there is none.
    """

    images: np.ndarray
    wholes: np.ndarray
    things: np.ndarray


def labelled(
    work: Path, count: int, seed: int, *, is_held_out: bool = False, drawn_at: int = NATIVE_SIZE, side: int = SIDE
) -> Labelled:
    """`count` pictures of dataset.render_pictures, reduced, with their labels: the same seeds make the same again."""
    rendered = render_pictures(work, count, drawn_at, seed, kind="held-out" if is_held_out else "ordinary").images
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    wholes = np.empty((count, len(WHOLES)), dtype=np.int64)
    things = np.full((count, MOST_THINGS, 6), -1, dtype=np.float32)
    for k in range(count):
        images[k] = np.asarray(Image.fromarray(rendered[k]).resize((side, side), Image.Resampling.BOX))
        picture = pictured(seed, k, is_held_out)
        wholes[k] = [names.index(getattr(picture, name)) for name, names in WHOLES.items()]
        things[k, : len(picture.things)] = np.reshape(_numbers(picture), (-1, 6))
    return Labelled(images, wholes, things)


def _numbers(picture: Picture) -> list[list[float]]:
    return [
        [
            list(KINDS).index(thing.object),
            list(COLOURS).index(thing.colour),
            (place.left + place.right) / 2,
            (place.top + place.bottom) / 2,
            place.right - place.left,
            place.bottom - place.top,
        ]
        for thing, place in zip(picture.things, layout(picture), strict=True)
    ]


def autoencoder_of(model: Path) -> AutoencoderKL:
    """The one in a diffusers folder. Raises InvalidRequest where there is none that can be read."""
    said = InvalidRequest(f"model: {model} has no autoencoder that can be read; name a model's folder.", "model")
    if not (model / "vae" / "config.json").is_file():
        raise said
    try:
        return AutoencoderKL.from_pretrained(model / "vae", local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise said from error


def through_autoencoder(data: Labelled, count: int, vae: AutoencoderKL, seed: int) -> Labelled:
    """The first `count` pictures once more, as `vae` redraws them."""
    wholes = data.wholes[:count]
    return Labelled(redrawn_by_decoder(vae, data.images[:count], wholes[:, -1], seed), wholes, data.things[:count])


def train_judge(stage: Stage, judge: Judge, data: Labelled, seed: int) -> None:
    """Train `judge` within the stage's budget and leave its averaged weights in it."""
    judge.train()
    for step in stage.steps():
        rng = np.random.default_rng((seed, 3, step))
        chosen = np.sort(rng.integers(0, len(data.images), BATCH))
        pictures = torch.from_numpy(data.images[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        labels = torch.from_numpy(data.things[chosen]), torch.from_numpy(data.wholes[chosen])
        pictures, things, wholes_shown = shown(pictures, *labels, rng)
        seen = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16("cpu")):
            cells, wholes = judge(seen)
        stage.update(**losses(cells.float(), wholes.float(), things, wholes_shown))
    stage.swap_ema()
    judge.eval()


def losses(
    cells: torch.Tensor, wholes: torch.Tensor, things: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The sum as `loss`, and its parts. Only the cell that holds a thing's centre answers for it."""
    presence, objects, colours, boxes = split_cells(cells.permute(0, 2, 3, 1))  # [B, rows, columns, …]
    there = (things[..., 0] >= 0) & (things[..., 2:4] > 0).all(-1) & (things[..., 2:4] < 1).all(-1)
    which = there.nonzero()[:, 0]
    seen = things[there]  # [M, 6]
    centres = seen[:, 2:4] * cells.shape[-1]
    column, row = centres.long().unbind(1)
    target = torch.zeros_like(presence[..., 0])
    target[which, row, column] = 1.0
    weights = torch.where(target > 0, 1.0, EMPTY_CELL_WEIGHT)
    per_cell = F.binary_cross_entropy_with_logits(presence[..., 0], target, weight=weights, reduction="none")
    at = (which, row, column)
    offsets = torch.cat([centres - centres.floor(), (seen[:, 4:6] / MEAN_EXTENT).log()], dim=1)
    shares = torch.where(seen[:, 4:6].amax(dim=1) < SMALL_BELOW, SMALL_WEIGHT, 1.0)
    kinds = F.cross_entropy(objects[at], seen[:, 0].long(), label_smoothing=0.02, reduction="none")
    parts = wholes.split([len(names) for names in WHOLES.values()], dim=1)
    per_whole = [F.cross_entropy(part, labels[:, k], label_smoothing=0.02) for k, part in enumerate(parts)]
    found = {
        "presence": per_cell.sum() / len(cells),
        "object": (shares * kinds).sum() / shares.sum(),
        "colour": F.cross_entropy(colours[at], seen[:, 1].long(), label_smoothing=0.02),
        "box": F.smooth_l1_loss(boxes[at], offsets, beta=0.1),
        "whole": torch.stack(per_whole).sum(),
    }
    return {"loss": torch.stack(list(found.values())).sum() - 0.5 * found["presence"], **found}


def measure(judge: Judge, data: Labelled) -> dict[str, float]:
    """How often the judge is right about pictures [N] that it has not seen, in percent; `all` is everything at once.

    A thing is found where the judge sees something with its centre within a twelfth of the side of the thing's own;
    what is asked of things counts those not found as wrong.
    """
    seen = judge.judge(Image.fromarray(image) for image in data.images)
    right: dict[str, list[bool]] = {}
    for judgement, wholes, things in zip(seen, data.wholes, data.things, strict=True):
        marks = []
        for (name, names), index in zip(WHOLES.items(), wholes, strict=True):
            marks.append((name, getattr(judgement, name) == names[index]))
        listed = [thing for thing in things if thing[0] >= 0]
        marks.append(("number", len(judgement.things) == len(listed)))
        for kind, colour, x, y, width, height in listed:
            own = Found(list(KINDS)[int(kind)], list(COLOURS)[int(colour)], x, y, width, height, confidence=1.0)
            near = [f for f in judgement.things if math.hypot(f.x - own.x, f.y - own.y) < 1 / 12]
            for name in ("object", "colour", "size", "position"):
                marks.append((name, bool(near) and getattr(near[0], name) == getattr(own, name)))
        for name, is_right in [*marks, ("all", all(is_right for _, is_right in marks))]:
            right.setdefault(name, []).append(is_right)
    return {name: round(100 * sum(marks) / len(marks), 2) for name, marks in right.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command, with its arguments (default: those of the process)."""
    parser = Parser(prog="python -m sd_demo.embedded.judge_training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="budget of the training steps (30)")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, rendered pictures and log")
    parser.add_argument("--output", type=Path, default=JUDGE_FILE, help="the weights to write (the project's own)")
    parser.add_argument("--pictures", type=int, default=12_000, help="ordinary ones to train on (12000)")
    parser.add_argument("--held-out", type=int, default=3_000, help="with pairs that the model never met (3000)")
    parser.add_argument("--redrawn", type=int, default=6_000, help="ordinary ones that come redrawn as well (6000)")
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER, help="whose autoencoder redraws them")
    parser.add_argument("--start", type=Path, help="weights to begin with, such as the project's own (none)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    check_settings(chosen.minutes, chosen.seed, file=chosen.output, work=chosen.work)
    if not 0 <= chosen.redrawn <= chosen.pictures:
        raise InvalidRequest(f"redrawn must be 0 to the number of pictures, {chosen.pictures}.", "redrawn")
    vae = autoencoder_of(chosen.model) if chosen.redrawn else None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    judge = load_judge(chosen.start) if chosen.start else Judge()
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rate = 1e-3 if chosen.start else 3e-3
    stage = Stage("judge", chosen.work, chosen.minutes, judge, learning_rate=rate, ema_decay=0.995)
    if not stage.is_finished:
        # The judge is no pupil: it must know pink cacti as well as green ones, or it would be unfair to them.
        parts = [
            labelled(chosen.work, chosen.pictures, chosen.seed),
            labelled(chosen.work, chosen.held_out, chosen.seed + 1, is_held_out=True),
        ]
        if vae is not None:
            parts.append(through_autoencoder(parts[0], chosen.redrawn, vae, chosen.seed))
        names = ("images", "wholes", "things")
        data = Labelled(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        train_judge(stage, judge, data, chosen.seed)
    load_averaged(chosen.work, "judge", judge)
    exported = load_judge(export_judge(judge.eval(), chosen.output))
    for is_held_out in (False, True):
        tested = labelled(chosen.work, 400, chosen.seed + 7, is_held_out=is_held_out)
        LOGGER.info("%s: %s", "held-out pairs" if is_held_out else "ordinary pairs", measure(exported, tested))


if __name__ == "__main__":
    run_command(main)
