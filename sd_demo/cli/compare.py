"""`compare`: one or two parameters varied, and every picture in one labelled sheet.

An axis is a name, a colon and values: --x "guidance_scale: 1, 3, 5", --x "seed: 1..4", --y
"num_inference_steps: 5..20:5", --y "scheduler: ddim, euler", --x "words: red, blue", --x "size: 256x256, 384x256",
--x "strength: 0.2..0.8:0.2", --x "lora_weight: 0..1:0.25". At most 36 pictures.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

from sd_demo.cli import generate
from sd_demo.compare import Comparison, plan_comparison
from sd_demo.errors import PlaygroundError
from sd_demo.flags import Parser, flag
from sd_demo.settings import Settings

if TYPE_CHECKING:
    from sd_demo.comparing import Compared


def run(arguments: list[str]) -> int:
    """Make all pictures and print the sheet's path, then theirs (or with --json {sheet, images: [{path, receipt}]})."""
    options = vars(parser().parse_args(arguments))
    is_json, x, y = options.pop("json"), options.pop("x"), options.pop("y")
    place = [f"{flag(name)}={options.pop(name)}" for name in generate.PLACE_FIELDS if name in options]
    comparison = plan_comparison(generate.task_of(options), options, x, y)
    settings = generate.checked(Settings.read(place), comparison.requests[0])
    with contextlib.redirect_stdout(sys.stderr):
        done = _run(comparison, settings)
    if done.withheld:
        print(done.about_withheld, file=sys.stderr)
    if is_json:
        images = [{"path": str(i.path), "receipt": i.receipt.model_dump(mode="json")} for i in done.images]
        print(json.dumps({"sheet": str(done.path), "images": images, "withheld": list(done.withheld)}))
    else:
        print(done.path, *(image.path for image in done.images), sep="\n")
    return 0


def parser() -> Parser:
    """The flags of `generate`, and the axes."""
    parser = generate.parser()
    parser.prog, parser.description = "python -m sd_demo compare", __doc__
    parser.add_argument("--x", required=True, metavar="AXIS", help="What varies from left to right.")
    parser.add_argument("--y", default="", metavar="AXIS", help="What varies from top to bottom.")
    return parser


def _run(comparison: Comparison, settings: Settings) -> Compared:
    from sd_demo.comparing import run_comparison  # here, so that bad input is answered without torch
    from sd_demo.together import Progress

    engine = generate.make_engine(settings)
    is_watched = sys.stderr.isatty()
    try:
        for news in run_comparison(engine, comparison):
            if not isinstance(news, Progress):
                return news
            if is_watched:
                print(f"\r\x1b[K{news.done} of {news.total} pictures", end="", file=sys.stderr, flush=True)
    finally:
        engine.close(generate.STOP_S)
        if is_watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    raise PlaygroundError("The comparison ended without its sheet; try again.")
