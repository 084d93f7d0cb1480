"""`upscale`: a picture made larger: enlarged with sharp edges, then refined in tiles by image to image.

Or made larger by a model that was trained for that, such as --model x4-upscaler. At most four megapixels. A prompt that
says what the picture shows helps; without one the model goes by what it sees.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sd_demo.cli import generate
from sd_demo.errors import PlaygroundError
from sd_demo.flags import Parser, fields_of, flag
from sd_demo.known_models import EMBEDDED
from sd_demo.settings import Settings
from sd_demo.upscale import NOT_TAKEN, Upscale, plan_upscaling

if TYPE_CHECKING:
    from sd_demo.events import ResultImage


def run(arguments: list[str]) -> int:
    """Make the picture and print its path (or with --json [{path, receipt}])."""
    options = vars(parser().parse_args(arguments))
    is_json = options.pop("json")
    place = [f"{flag(name)}={options.pop(name)}" for name in generate.PLACE_FIELDS if name in options]
    settings = Settings.read(place)
    # Errors are told before a model is loaded.
    named = generate.known(options.get("model") or settings.model or EMBEDDED, settings)
    asked = plan_upscaling(options, entry=named)
    settings = generate.checked(settings, asked.requests[0])
    with contextlib.redirect_stdout(sys.stderr):
        done = _run(options, settings)
    if is_json:
        print(json.dumps([{"path": str(done.path), "receipt": done.receipt.model_dump(mode="json")}]))
    else:
        print(done.path)
        print("  " + done.receipt.summary(), *done.receipt.notes, sep="\n  ", file=sys.stderr)
    return 0


def parser() -> Parser:
    """The picture, then the flags of image to image that apply."""
    parser = Parser(prog="python -m sd_demo upscale", description=__doc__)
    parser.add_argument("image", metavar="FILE", type=Path, help="The picture to make larger.")
    fields = fields_of([Upscale])
    generate.add_flags(parser, {name: field for name, field in fields.items() if name not in ("image", *NOT_TAKEN)})
    return parser


def _run(options: dict[str, Any], settings: Settings) -> ResultImage:
    from sd_demo.together import Progress  # here, so that bad input is answered without torch
    from sd_demo.upscaling import run_upscaling

    engine = generate.make_engine(settings)
    is_watched = sys.stderr.isatty()
    try:
        upscaling = plan_upscaling(options, entry=engine.defaults(None))
        tiles = len(upscaling.tiles)
        for news in run_upscaling(engine, upscaling):
            if not isinstance(news, Progress):
                return news.result
            if is_watched:
                print(
                    f"\r\x1b[K{news.done * tiles // news.total} of {tiles} tiles", end="", file=sys.stderr, flush=True
                )
    finally:
        engine.close(generate.STOP_S)
        if is_watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    raise PlaygroundError("The upscaling ended without its picture; try again.")
