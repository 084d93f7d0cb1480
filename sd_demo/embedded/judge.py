"""The judge: a small network that says what a picture shows, so that a model can be marked by what it draws.

Inpainting asks it as well, what the given picture has already (placing.py).

It was trained on pictures of the renderer alone, some of them redrawn by the model's autoencoder (judge_training.py),
and has never met a picture of the UNet that it judges. A picture is divided into 8x8 cells; each cell says whether the
centre of a thing lies in it, and if so which object it is, in which colour, and where its box ends (as in Redmon et
al., "You Only Look Once", arXiv 1506.02640). Scene, time, weather and style are read from the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sd_demo.embedded.drawing import COLOURS
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.sight import WHOLES, Judgement, judgement
from sd_demo.errors import ModelUnavailable

JUDGE_FILE = Path(__file__).parent / "companions" / "judge.safetensors"
SIDE = 256  # pixels of a side that the network sees


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
        """What each picture (any size and mode) shows, by itself and its mirror image; `rows` at a time."""
        listed = list(images)
        judgements = []
        for start in range(0, len(listed), rows):
            pictures = as_input(listed[start : start + rows])
            judgements += [judgement(*both) for both in zip(*self(pictures), *self(pictures.flip(3)), strict=True)]
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


def _counters(judge: Judge) -> dict[str, torch.Tensor]:
    """The batch norms' counters of batches, which matter in training only and are not stored."""
    return {name: value for name, value in judge.state_dict().items() if name.endswith("num_batches_tracked")}


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
