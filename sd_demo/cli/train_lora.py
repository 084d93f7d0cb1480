"""`train-lora`: teach the model something new from 4 to 50 pictures, as a LoRA file that other programs load too."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sd_demo.cli.generate import known
from sd_demo.errors import InvalidRequest
from sd_demo.flags import Parser, flag, number
from sd_demo.known_models import EMBEDDED
from sd_demo.settings import Settings
from sd_demo.training_events import (
    Checkpoint,
    Preparing,
    SamplePictures,
    TrainingCancelled,
    TrainingEvent,
    TrainingStep,
)
from sd_demo.training_pictures import read_pictures
from sd_demo.training_request import LoraTrainingRequest, describe_option, parse_training
from sd_demo.writable import check_writable

if TYPE_CHECKING:
    from sd_demo.lora_training import LoraTraining

_NOT_TYPED: Final = ("captions",)  # they stand in files


def run(arguments: list[str]) -> int:
    """Train, and print the path of the LoRA (or with --json all that is known of it)."""
    options = vars(parser().parse_args(arguments))
    is_json, device = options.pop("json"), options.pop("device")
    request = parse_training(options)
    settings = Settings.read([f"--device={device}"] if device else [])
    entry = known(request.model or EMBEDDED, settings)
    read_pictures(request)  # said before torch is loaded
    if os.path.exists(request.output) and not request.resume:
        raise InvalidRequest(f"output: {request.output} is there already; choose another name.", "output")
    check_writable(request.output, "output")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from sd_demo.lora_training import LoraTraining

    training = LoraTraining(request, settings)
    training.start()
    done = _wait(training, request.output)
    if is_json:
        seconds = round(done.elapsed_s, 1)
        print(json.dumps({"path": str(done.path), "steps": done.steps, "loss": done.mean_loss, "seconds": seconds}))
    else:
        print(done.path)
        words = f"{done.steps} steps in {done.elapsed_s:.0f} s on {entry.name}, loss {done.mean_loss:.4f}"
        print("  " + words, *done.notes, sep="\n  ", file=sys.stderr)
    return 0


def parser() -> Parser:
    """The flags: one for each option of a training."""
    parser = Parser(prog="python -m sd_demo train-lora", description=__doc__)
    for name, field in LoraTrainingRequest.model_fields.items():
        if name in _NOT_TYPED:
            continue
        words = (field.description or "").replace("%", "%%")
        if field.annotation in (bool, bool | None):
            shown = "" if field.default is None else f" [{'on' if field.default else 'off'}]"
            parser.add_argument(
                flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=words + shown
            )
        elif name == "sample_prompts":
            parser.add_argument(
                "--sample-prompt", dest=name, action="append", default=argparse.SUPPRESS, metavar="TEXT", help=words
            )
        else:
            kind, metavar = _kind_of(name)
            takes = describe_option(name)
            shown = f" {takes[:1].upper()}{takes[1:]}." if metavar in ("N", "NAME") else ""
            shown += f" [{field.default}]" if field.default not in (None, "") and not field.is_required() else ""
            parser.add_argument(
                flag(name), type=kind, default=argparse.SUPPRESS, metavar=metavar, help=words + shown,
                required=field.is_required(),
            )  # fmt: skip
    parser.add_argument("--device", default=None, metavar="NAME", help=str(Settings.model_fields["device"].description))
    parser.add_argument("--json", action="store_true", help="Print {path, steps, loss, seconds} instead of the path.")
    return parser


def _kind_of(name: str) -> tuple[Any, str]:
    if name in ("images", "output"):
        return str, "DIR" if name == "images" else "FILE"
    takes = describe_option(name)
    if "number" in takes:
        return number, "N"
    return str, "NAME" if takes.startswith("one of") else "TEXT"


def _wait(training: LoraTraining, output: Path) -> Any:
    """The training's end, with its progress told where somebody is looking. Ctrl+C cancels it and keeps its state."""
    is_watched = sys.stderr.isatty()
    try:
        for event in training.events():
            if isinstance(event, SamplePictures):
                _save_samples(event, output)
            if is_watched:
                print(f"\r\x1b[K{_words(event)}", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        training.cancel()
        *_, end = training.events()
        if isinstance(end, TrainingCancelled):
            state = f"go on with --resume, {output.with_suffix('.training').name} holds the state"
            print(f"\nStopped; {state if end.can_go_on else 'nothing was kept of it'}.", file=sys.stderr)
        raise
    finally:
        if is_watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return training.result()


def _save_samples(event: SamplePictures, output: Path) -> None:
    folder = output.with_name(f"{output.stem}-samples")
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(event.images):
        image.save(folder / f"{event.index:05d}-{k}.png")


def _words(event: TrainingEvent) -> str:
    match event:
        case Preparing(what=what, done=done, total=total):
            return f"preparing {what} {done} / {total}"
        case TrainingStep(index=index, total=total, mean_loss=loss, remaining_s=left):
            return f"step {index} / {total}, loss {loss:.4f}, {left:.0f} s left"
        case SamplePictures(index=index):
            return f"a look after {index} steps"
        case Checkpoint(path=path):
            return f"saved {path.name}"
    return ""
