"""`verify`: a picture made again from its receipt and held against the file.

Says identical, same picture (PSNR at least 50 dB), or how far off it is and the likely cause. Exit code 0 for the
first two, 1 where it is another picture, 2 where it cannot be made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from sd_demo.cli import generate
from sd_demo.errors import InvalidRequest
from sd_demo.events import ResultImage
from sd_demo.flags import Parser, flag
from sd_demo.images import read_picture
from sd_demo.receipt import Receipt, read_receipt_file
from sd_demo.registry import Registry
from sd_demo.requests import PICTURE_FIELDS, REQUESTS, parse_request
from sd_demo.restored import Restored
from sd_demo.settings import Settings
from sd_demo.upscale import Upscale, plan_upscaling
from sd_demo.verify import PLACE, compare, find_pictures, places, what_made

if TYPE_CHECKING:
    from sd_demo.engine import Engine

SAME: Final = 0
DIFFERENT: Final = 1


def run(arguments: list[str]) -> int:
    """Make the picture again and compare."""
    options = vars(parser().parse_args(arguments))
    file, is_json = options.pop("file"), options.pop("json")
    given: dict[str, Path] = {name: options.pop(name) for name in PICTURE_FIELDS if name in options}
    model = options.pop("model", None)
    settings = Settings.read([f"{flag(name)}={value}" for name, value in options.items()])
    receipt, picture = read_receipt_file(file), read_picture(file, field="file")
    if model is not None:
        generate.known(model, settings)
    registry = Registry(models_dir=settings.models_dir, chosen=settings.model)
    restored = what_made(receipt, registry=registry, lora_dir=settings.lora_dir, model=model)
    pictures = find_pictures(restored, given, (file.parent, settings.output_dir))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        made = _make_again(restored, receipt, pictures, options, Path(folder))
    found = compare(picture, receipt, made)
    if is_json:
        level = None if found.psnr_db is None or math.isinf(found.psnr_db) else round(found.psnr_db, 2)
        print(json.dumps({"verdict": found.verdict, "psnr_db": level, "causes": found.causes}))
    else:
        words = "" if found.psnr_db is None or math.isinf(found.psnr_db) else f": PSNR {found.psnr_db:.1f} dB"
        print(found.verdict + words, *found.causes, sep="\n  ")
    return SAME if found.is_same else DIFFERENT


def parser() -> Parser:
    """The file, the pictures it was made from, and where and how to run."""
    parser = Parser(prog="python -m sd_demo verify", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.png", help="A picture that this program made.")
    fields = {name: field for kind in REQUESTS.values() for name, field in kind.model_fields.items()}
    for name in PICTURE_FIELDS:
        words = f"{fields[name].description} Needed where it is not found in the folder of pictures."
        parser.add_argument(flag(name), type=Path, default=argparse.SUPPRESS, metavar="FILE", help=words)
    words = "Model to use for the receipt's, where that goes by another name here; its weights are compared."
    parser.add_argument("--model", default=argparse.SUPPRESS, metavar="NAME", help=words)
    for name in generate.PLACE_FIELDS:
        words = f"{Settings.model_fields[name].description}"
        words = (
            "Folder to look in, after that of FILE, for the pictures it was made from."
            if name == "output_dir"
            else words
        )
        words += " As the receipt says, where this is left out and can run here." if name in PLACE else ""
        option = "--output" if name == "output_dir" else flag(name)
        parser.add_argument(
            option, dest=name, default=argparse.SUPPRESS, metavar=name.split("_")[-1].upper(), help=words
        )
    parser.add_argument("--json", action="store_true", help="Print {verdict, psnr_db, causes}.")
    return parser


def _make_again(
    restored: Restored, receipt: Receipt, pictures: dict[str, Image.Image], options: dict[str, Any], folder: Path
) -> ResultImage:
    """The picture again, on the receipt's device and in its precision where that runs here, else as suits here."""
    request = restored.request(**pictures)
    for place in places(receipt):
        wanted = {**place, **options, "output_dir": folder}
        try:
            settings = Settings.read([f"{flag(name)}={value}" for name, value in wanted.items()])
            engine = generate.make_engine(settings.model_copy(update={"model": request.model}))
            try:
                return _made(engine, restored, pictures)
            finally:
                engine.close(generate.STOP_S)
        except InvalidRequest as error:
            if error.field not in place:
                raise
    raise AssertionError("the last place asks for nothing, so nothing of it can be missing")


def _made(engine: Engine, restored: Restored, pictures: dict[str, Image.Image]) -> ResultImage:
    if restored.task != Upscale.task:
        request = parse_request(restored.task, {**restored.values, **pictures})
        return engine.submit(request).result().images[0]
    from sd_demo.upscaling import Upscaled, run_upscaling  # here, so that bad input is answered without torch

    values = {**restored.values, **pictures}
    plan = plan_upscaling(values, entry=engine.defaults(restored.values.get("model")))
    return next(one.result for one in run_upscaling(engine, plan) if isinstance(one, Upscaled))
