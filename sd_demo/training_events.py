"""What a training tells: Preparing*, then TrainingStep, SamplePictures, Checkpoint, Paused and Resumed, then one end.

The end is exactly one of Trained, TrainingFailed, TrainingCancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sd_demo.errors import PlaygroundError


@dataclass(frozen=True)
class Preparing:
    """Before the first step: `what` in a few words, `done` of `total`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class TrainingStep:
    """Step `index` of `total` (from 1) is done. `loss` is this step's, `mean_loss` that of the last steps."""

    index: int
    total: int
    loss: float
    mean_loss: float
    learning_rate: float
    remaining_s: float


@dataclass(frozen=True)
class SamplePictures:
    """How the model draws the sample prompts after `index` steps; 0 is before the training.

    What the model's safety checker flags is left out, with its prompt.
    """

    index: int
    prompts: tuple[str, ...]
    images: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Checkpoint:
    """The LoRA after `index` steps, to be used as it is."""

    index: int
    path: Path


@dataclass(frozen=True)
class Paused:
    """Nothing runs until somebody resumes or cancels."""

    index: int


@dataclass(frozen=True)
class Resumed:
    """It goes on after a pause."""

    index: int


@dataclass(frozen=True)
class Trained:
    """The end: the LoRA is in the file. `notes` are sentences on what was not as asked."""

    path: Path
    steps: int
    mean_loss: float
    elapsed_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingFailed:
    """The end: an expected error, or an unexpected one in words for people."""

    error: PlaygroundError


@dataclass(frozen=True)
class TrainingCancelled:
    """The end: somebody asked for it. Where it can go on, it does so with `resume` after step `index`."""

    index: int
    can_go_on: bool


TrainingEvent = (
    Preparing
    | TrainingStep
    | SamplePictures
    | Checkpoint
    | Paused
    | Resumed
    | Trained
    | TrainingFailed
    | TrainingCancelled
)
