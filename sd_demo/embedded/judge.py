"""The judge: a small network that says what a picture shows, so that a model can be marked by what it draws.

It was trained on pictures of the renderer alone (judge_training.py) and has never met a picture of the model that it
judges. A picture is divided into 8x8 cells; each cell says whether the centre of a thing lies in it, and if so which
object it is, in which colour, and where its box ends (as in Redmon et al., "You Only Look Once", arXiv 1506.02640).
Scene, time, weather and style are read from the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import POSITIONS, SCENES, SIZES, STYLES, TIMES, WEATHERS
from sd_demo.errors import ModelUnavailable

JUDGE_FILE = Path(__file__).parent / "companions" / "judge.safetensors"
SIDE = 256  # pixels of a side that the network sees
CELLS = 8  # along a side
MEAN_EXTENT = 0.33  # of an object; boxes are learned as the logarithm of their sides over this
SURE = 0.5  # a cell that is less sure than this of a thing has none
SAME = 0.4  # of two boxes that share this much of their union, the surer one is kept
WHOLES = {"scene": SCENES, "time": TIMES, "weather": WEATHERS, "style": STYLES}
_NAMES = {"object": tuple(KINDS), "colour": tuple(COLOURS)}


@dataclass(frozen=True)
class Found:
    """One thing that the judge sees. x, y, width, height: of its box, in parts of the picture's side; y downwards.

    confidence: that a thing is there, 0 to 1; likeness: that it is this object, 0 to 1.
    """

    object: str
    colour: str
    x: float
    y: float
    width: float
    height: float
    confidence: float
    likeness: float = 1.0

    @property
    def size(self) -> str:
        """small, medium or large: the one whose range is nearest to the longer side."""
        extent = max(self.width, self.height)
        return min(SIZES, key=lambda name: max(SIZES[name][0] - extent, extent - SIZES[name][1]))

    @property
    def position(self) -> str:
        """left, middle or right: where the centre of a thing of this width is nearest to, as it keeps off the edge."""
        half = self.width / 2
        return min(POSITIONS, key=lambda name: abs(min(max(POSITIONS[name], half), 1 - half) - self.x))


@dataclass(frozen=True)
class Judgement:
    """What one picture shows, with the surest thing first."""

    scene: str
    time: str
    weather: str
    style: str
    things: tuple[Found, ...]


class Judge(nn.Module):
    """[B, 3, 256, 256] in -1..1 to cells [B, 48, 8, 8] and wholes [B, 20], all logits but for the boxes.

    A cell's channels: thing or none, objects, colours, then the box's centre in the cell (0 to 1) and the logarithms
    of its width and height over MEAN_EXTENT.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (48, 64, 96, 160)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4),
            _convolution(48, a),
            _Residual(a),  # a small thing is 45 pixels wide, and here each cell is 4
            _convolution(a, b, stride=2),
            _Residual(b),
            _Residual(b),
            _convolution(b, c, stride=2),
            _Residual(c),
            _Residual(c),
            _convolution(c, d, stride=2),
            _Residual(d),
            _Residual(d),
        )
        self.cells = nn.Conv2d(d, 1 + len(KINDS) + len(COLOURS) + 4, 1)
        self.wholes = nn.Linear(2 * d, sum(len(names) for names in WHOLES.values()))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.body(pictures)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return self.cells(features), self.wholes(pooled)

    @torch.inference_mode()
    def judge(self, images: Iterable[Image.Image], rows: int = 16) -> list[Judgement]:
        """What each picture (any size and mode) shows; `rows` at a time."""
        listed = list(images)
        judgements = []
        for start in range(0, len(listed), rows):
            cells, wholes = self(as_input(listed[start : start + rows]))
            judgements += [_judgement(*both) for both in zip(cells, wholes, strict=True)]
        return judgements


def load_judge(file: Path = JUDGE_FILE) -> Judge:
    """The trained judge. Raises ModelUnavailable where its weights are not there or not its own."""
    judge = Judge()
    try:
        weights = {name: value.float() for name, value in load_file(file).items()}
        judge.load_state_dict(weights | _counters(judge))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelUnavailable(
            f"The judge's weights at {file} cannot be read; make them with python -m sd_demo.embedded.judge_training "
            "--work DIR."
        ) from error
    return judge.eval()


def as_input(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures as [B, 3, 256, 256] in -1..1; larger ones are averaged down."""
    small = [image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in small]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def split_cells(cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Presence [..., 1], objects [..., 32], colours [..., 11] and boxes [..., 4] of cells [..., 48]."""
    presence, objects, colours, boxes = cells.split([1, len(KINDS), len(COLOURS), 4], dim=-1)
    return presence, objects, colours, boxes


def _counters(judge: Judge) -> dict[str, torch.Tensor]:
    """The batch norms' counters of batches, which matter in training only and are not stored."""
    return {name: value for name, value in judge.state_dict().items() if name.endswith("num_batches_tracked")}


def _judgement(cells: torch.Tensor, wholes: torch.Tensor) -> Judgement:
    parts = wholes.split([len(names) for names in WHOLES.values()])
    told = {name: names[int(p.argmax())] for (name, names), p in zip(WHOLES.items(), parts, strict=True)}
    return Judgement(**told, things=_things(cells))


def _things(cells: torch.Tensor) -> tuple[Found, ...]:
    presence, objects, colours, boxes = split_cells(cells.permute(1, 2, 0))  # [8, 8, …]
    confidence = presence[..., 0].sigmoid()
    found = []
    for row, column in (confidence > SURE).nonzero().tolist():
        dx, dy, log_width, log_height = boxes[row, column].tolist()
        likenesses = objects[row, column].softmax(dim=0)
        width, height = MEAN_EXTENT * np.exp(np.clip((log_width, log_height), -3, 1.2))
        found.append(
            Found(
                object=_NAMES["object"][int(likenesses.argmax())],
                colour=_NAMES["colour"][int(colours[row, column].argmax())],
                x=(column + dx) / CELLS,
                y=(row + dy) / CELLS,
                width=float(width),
                height=float(height),
                confidence=float(confidence[row, column]),
                likeness=float(likenesses.max()),
            )
        )
    kept: list[Found] = []
    for thing in sorted(found, key=lambda thing: -thing.confidence):
        if all(_shared(thing, other) < SAME for other in kept):
            kept.append(thing)
    return tuple(kept)


def _shared(a: Found, b: Found) -> float:
    """Intersection over union of two boxes."""
    width = min(a.x + a.width / 2, b.x + b.width / 2) - max(a.x - a.width / 2, b.x - b.width / 2)
    height = min(a.y + a.height / 2, b.y + b.height / 2) - max(a.y - a.height / 2, b.y - b.height / 2)
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a.width * a.height + b.width * b.height - width * height)


def _convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.SiLU()
    )


class _Residual(nn.Module):
    """A convolution whose answer is added to what it was given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = _convolution(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features + self.convolution(features)


def export_judge(judge: Judge, file: Path = JUDGE_FILE) -> Path:
    """Write the judge's weights in float16, in one rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to(torch.float16).contiguous()
        for name, value in judge.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    fresh = file.with_suffix(".new")
    save_file(weights, fresh, metadata={"format": "pt"})
    fresh.replace(file)
    file.chmod(0o644)
    return file
