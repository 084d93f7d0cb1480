"""`generate`: pictures from a prompt; with --image from a picture, with --mask-image as well only a part of one."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from sd_demo.errors import InvalidRequest, JobCancelled, ModelUnavailable, OutputFailed
from sd_demo.events import Decoding, Done, Encoding, Event, Failed, Loading, Queued, Step
from sd_demo.flags import Parser, fields_of, flag, number
from sd_demo.lora_folder import find_lora
from sd_demo.outputs import Outputs
from sd_demo.registry import ModelEntry, Registry, check_request
from sd_demo.requests import (
    PICTURE_FIELDS,
    REQUESTS,
    SCHEDULER_NAMES,
    AnyRequest,
    LoraChoice,
    TextToImage,
    describe_bounds,
    parse_request,
)
from sd_demo.settings import Settings
from sd_demo.writable import make_a_file_in

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from sd_demo.engine import Engine
    from sd_demo.job import Job

PLACE_FIELDS: Final = ("device", "dtype", "attention", "output_dir", "lora_dir", "data_dir")
STOP_S: Final = 10.0  # a step in progress is finished before a job stops


def run(arguments: list[str]) -> int:
    """Make the pictures, print their paths (or with --json paths and receipts)."""
    options = vars(parser().parse_args(arguments))
    is_json = options.pop("json")
    place = [f"{flag(name)}={options.pop(name)}" for name in PLACE_FIELDS if name in options]
    request = parse_request(task_of(options), options)
    settings = checked(Settings.read(place), request)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer, whatever a library prints
        engine = make_engine(settings)
        try:
            done = _wait(engine.submit(request))
        finally:
            engine.close(STOP_S)
    sheet = [done.sheet] if done.sheet else []
    if is_json:
        told = [{"path": str(i.path), "receipt": i.receipt.model_dump(mode="json")} for i in done.images]
        print(json.dumps([*told, *({"path": str(path), "receipt": None} for path in sheet)]))
    else:
        for image in done.images:
            print(image.path)
            print("  " + image.receipt.summary(), *image.receipt.notes, sep="\n  ", file=sys.stderr)
        print(*sheet, sep="\n", end="\n" if sheet else "")
    return 0


def checked(settings: Settings, request: AnyRequest) -> Settings:
    """`settings` with the request's model; raises, before minutes of work, where something for it is not here."""
    if request.model is not None:
        check_request(known(request.model, settings), request)
        settings = settings.model_copy(update={"model": request.model})
    for choice in request.loras:
        find_lora(choice.name, settings.lora_dir)
    _check_writable(settings.output_dir)
    return settings


def parser() -> Parser:
    """The flags: one for each field of the three requests, then where and how it runs."""
    parser = Parser(prog="python -m sd_demo generate", description=__doc__)
    parser.add_argument("prompt", metavar="PROMPT", help=TextToImage.model_fields["prompt"].description)
    fields = fields_of(REQUESTS.values())
    del fields["prompt"]
    add_flags(parser, fields)
    return parser


def add_flags(parser: Parser, fields: dict[str, list[tuple[Any, FieldInfo]]]) -> None:
    """One flag for each of `fields`, as `fields_of` gives them, then where and how it runs, and --json."""
    for name, places in fields.items():
        kind, field = places[0]
        words, takes, metavar = field.description or "", "", "TEXT"
        if name == "loras":
            weight = f"{describe_bounds(LoraChoice, 'weight')} [{LoraChoice.model_fields['weight'].default:g}]"
            words = f"{LoraChoice.model_fields['name'].description} The weight is {weight}. May be given several times."
            parser.add_argument(
                "--lora", dest=name, action="append", default=argparse.SUPPRESS, metavar="NAME:WEIGHT", help=words
            )
            continue
        if name in PICTURE_FIELDS:
            metavar = "FILE"
        elif name == "scheduler":
            takes, metavar = f" One of {', '.join(SCHEDULER_NAMES)}.", "NAME"
        elif "number" in describe_bounds(kind, name):
            defaults = " or ".join(dict.fromkeys(f"{f.default:g}" for _, f in places if f.default is not None))
            takes, metavar = f" {describe_bounds(kind, name).capitalize()}.", "N"
            takes += f" [{defaults}]" if defaults else ""
        parser.add_argument(
            flag(name),
            type=number if metavar == "N" else str,
            default=argparse.SUPPRESS,
            metavar=metavar,
            help=(words + takes).replace("%", "%%"),
        )
    for name in PLACE_FIELDS:
        setting = Settings.model_fields[name]
        choices = get_args(setting.annotation)
        words = f"{' | '.join(choices)}{': ' if choices else ''}{setting.description} [{setting.default}]"
        option = "--output" if name == "output_dir" else flag(name)
        metavar = "DIR" if name.endswith("_dir") else "NAME"
        parser.add_argument(option, dest=name, default=argparse.SUPPRESS, metavar=metavar, help=words)
    parser.add_argument("--json", action="store_true", help="Print [{path, receipt}, …] instead of paths.")


def make_engine(settings: Settings) -> Engine:
    """The engine, started; its pictures go into the output folder itself, since one person asks for them."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # What a job fails with is this command's own sentence; the log adds only what nobody foresaw.
    logging.getLogger("sd_demo.engine").addFilter(lambda r: r.levelno < logging.ERROR or r.exc_info is not None)
    from sd_demo.engine import Engine  # here, so that --help and bad input are answered without torch

    engine = Engine(settings, outputs=Outputs(settings.output_dir, by_visitor=False))
    engine.start()
    return engine


def task_of(values: dict[str, Any]) -> str:
    """The task that the pictures given choose."""
    if "mask_image" in values:
        return "inpaint"
    return "image_to_image" if "image" in values else "text_to_image"


def known(model: str, settings: Settings) -> ModelEntry:
    """The entry of a model that a flag names. Raises InvalidRequest where there is none."""
    try:
        return Registry(models_dir=settings.models_dir).get(model)
    except ModelUnavailable as error:
        raise InvalidRequest(str(error), "model") from None


def _check_writable(folder: Path) -> None:
    """Said before minutes of work, not after."""
    try:
        make_a_file_in(folder)
    except OSError as error:
        reason = error.strerror or "disk error"
        raise OutputFailed(f"--output {folder} cannot be written ({reason}); choose another folder.") from error


def _wait(job: Job) -> Done:
    """The job's end, with its progress told where somebody is looking. Ctrl+C cancels the job."""
    is_watched = sys.stderr.isatty()
    try:
        for event in job.events():
            if is_watched:
                print(f"\r\x1b[K{_words(event)}", end="", file=sys.stderr, flush=True)
            if isinstance(event, Done):
                return event
            if isinstance(event, Failed):
                raise event.error
        raise JobCancelled("The job was cancelled.")
    finally:
        job.cancel()  # harmless after its end
        if is_watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _words(event: Event) -> str:
    match event:
        case Queued(position=position):
            return f"waiting, number {position}"
        case Loading(model=model):
            return f"loading {model}"
        case Encoding():
            return "reading the prompt"
        case Step(index=index, total=total, remaining_s=left):
            return f"step {index} / {total}, {left:.1f} s left"
        case Decoding():
            return "making pixels"
    return ""
