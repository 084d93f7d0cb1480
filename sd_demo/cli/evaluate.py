"""`embedded evaluate` and `embedded sweep`: the picture-book model, drawn by the engine and marked by its judge."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.flags import Parser, number
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER, ENTRIES
from sd_demo.limits import Limits
from sd_demo.outputs import Outputs
from sd_demo.registry import ModelEntry, Registry, check_request
from sd_demo.requests import SCHEDULER_NAMES, SEED_LIMIT, AnyRequest, parse_request
from sd_demo.settings import Settings
from sd_demo.writable import check_writable

if TYPE_CHECKING:
    from sd_demo.embedded.evaluate import Evaluator, Made
    from sd_demo.engine import Engine
    from sd_demo.job import Job

PROG: Final = "python -m sd_demo embedded"
AHEAD: Final = 32  # requests waiting or running at once, so that every step is shared by as many as may
MAX_COUNT: Final = 10_000
OPTIONS: Final = ("num_inference_steps", "guidance_scale", "scheduler")
SWEPT: Final = {
    "num_inference_steps": "10,20,30",
    "guidance_scale": "1.5,3,5,7.5",
    "scheduler": "dpmpp_2m,euler,unipc,ddim",
}


def evaluate(arguments: list[str]) -> int:
    """Print the figures of the model, as a table or as JSON."""
    parser = _parser("evaluate", "How right the picture-book model's pictures are, marked by a judge of its own world.")
    parser.add_argument("--json", action="store_true", help="Print the figures as JSON.")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    with _evaluator(options, _request_options(options)) as evaluator:
        figures = evaluator.figures(options.count)
        settings = _settings_told(options)
    from sd_demo.embedded.figures import as_json, as_lines

    elapsed_s = round(time.perf_counter() - start, 1)
    if options.json:
        print(json.dumps({"settings": settings, "elapsed_s": elapsed_s, "figures": as_json(figures)}, indent=2))
    else:
        print(as_lines(figures))
        print(", ".join(f"{name} {value}" for name, value in settings.items()) + f"; took {elapsed_s:g} s")
    return 0


def sweep(arguments: list[str]) -> int:
    """Evaluate all combinations of schedulers, steps and guidance; print them as JSON and draw them."""
    parser = _parser("sweep", "Which scheduler, steps and guidance suit the picture-book model best.")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="The PNG to draw.")
    options = parser.parse_args(arguments)
    schedulers = options.scheduler.split(",")
    steps, guidances = _numbers(options.num_inference_steps), _numbers(options.guidance_scale)
    grid = [
        {"scheduler": a, "num_inference_steps": b, "guidance_scale": c}
        for a in schedulers
        for b in steps
        for c in guidances
    ]
    for values in grid:  # what is wrong is said before an hour of work
        check_request(_own_entry(), parse_request("text_to_image", values))
    _check_picture(options.output)
    from sd_demo.schedulers import check_available

    for name in schedulers:
        check_available(name)
    from sd_demo.embedded.sweep import Cell, draw_table, measure_cell

    cells: list[Cell] = []
    with _evaluator(options, {}) as evaluator:
        for values in grid:
            cells.append(measure_cell(evaluator, values, options.count))
            evaluator.tell(cells[-1].told())
    print(json.dumps([vars(cell) for cell in cells], indent=2), flush=True)
    draw_table(cells, options.output)
    return 0


def _check_picture(file: Path) -> None:
    """Raises InvalidRequest where no PNG called `file` can be written; a file that is there stays as it is."""
    if file.suffix.lower() != ".png" or os.path.isdir(file):
        raise InvalidRequest(f"output: {file} must be the name of a .png file.", "output")
    check_writable(file, "output")


def _parser(name: str, description: str) -> Parser:
    parser = Parser(prog=f"{PROG} {name}", description=description)
    many = " Several with commas between them." if name == "sweep" else ""
    count = 200 if name == "evaluate" else 40
    parser.add_argument("--count", type=int, default=count, metavar="N", help=f"Pictures to mark. [{count}]")
    for field, short, kind in (
        ("num_inference_steps", "--steps", number),
        ("guidance_scale", "--guidance", number),
        ("scheduler", None, str),
    ):
        flags = [f"--{field.replace('_', '-')}", *([short] if short else [])]
        takes = f" One of {', '.join(SCHEDULER_NAMES)}." if field == "scheduler" else ""
        default = SWEPT[field] if many else None
        parser.add_argument(
            *flags, dest=field, type=str if many else kind, default=default,
            metavar="NAME" if field == "scheduler" else "N",
            help="[" + (default or "the model's own default") + f"]{takes}{many}",
        )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Other prompts for another seed. [0]")
    parser.add_argument(
        "--weights", type=Path, default=EMBEDDED_FOLDER, metavar="DIR", help="Another edition of the model."
    )
    return parser


def _request_options(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    return {name: getattr(parse_request("text_to_image", given), name) for name in given}


def _numbers(text: str) -> list[int | float | str]:
    return [number(part) for part in text.split(",")]


def _own_entry() -> ModelEntry:
    return next(entry for entry in ENTRIES if entry.is_embedded)


def _own_options() -> dict[str, Any]:
    return {name: getattr(_own_entry(), name) for name in OPTIONS}


def _settings_told(options: argparse.Namespace) -> dict[str, Any]:
    chosen = {name: getattr(options, name) or own for name, own in _own_options().items()}
    weights = "the project's own" if options.weights == EMBEDDED_FOLDER else str(options.weights)
    return {**chosen, "count": options.count, "seed": options.seed, "weights": weights}


def _engine_settings() -> Settings:
    """Where and how it computes is the environment's to say, as always, but not how much may be asked of a server.

    Its limits would refuse what is drawn AHEAD, or lower the steps that the figures are told to be of.
    """
    unlimited = {**dict.fromkeys(Limits.model_fields), "profile": "local", "max_queue": AHEAD}
    return Settings.read(["--model", EMBEDDED]).model_copy(update=unlimited)


@contextlib.contextmanager
def _evaluator(options: argparse.Namespace, request_options: dict[str, Any]) -> Iterator[Evaluator]:
    """The evaluator over an engine of its own, whose pictures go into a folder that is gone afterwards."""
    for name, low, high in (("count", 1, MAX_COUNT), ("seed", 0, SEED_LIMIT - 1)):
        if not low <= getattr(options, name) <= high:
            raise InvalidRequest(f"{name} must be a whole number from {low} to {high}.", name)
    if not os.path.isfile(options.weights / "model_index.json"):
        raise InvalidRequest(f"There is no model at {options.weights}; name a folder that `embedded train` wrote.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from sd_demo.embedded.evaluate import Evaluator
    from sd_demo.embedded.judge import load_judge
    from sd_demo.engine import Engine
    from sd_demo.placement import choose_device
    from sd_demo.ranking import load_ranker

    edition = {"source": str(options.weights)}
    entries = tuple(entry.model_copy(update=edition) if entry.is_embedded else entry for entry in ENTRIES)
    judge, score = load_judge(), None
    with contextlib.suppress(ModelUnavailable):
        score = load_ranker().scores
    with tempfile.TemporaryDirectory(prefix="sd-demo-evaluate-") as folder, contextlib.redirect_stdout(sys.stderr):
        outputs = Outputs(Path(folder), by_visitor=False)
        settings = _engine_settings()
        engine = Engine(settings, registry=Registry(entries), outputs=outputs)
        engine.start()
        try:
            yield Evaluator(
                draw=Drawing(engine),
                score=score,
                judge=judge,
                weights=options.weights,
                options=request_options,
                seed=options.seed,
                tell=lambda line: print(line, file=sys.stderr, flush=True),
                is_on_cpu=choose_device(settings.device).type == "cpu",
                is_as_usual=_own_options() | request_options == _own_options(),
            )
        finally:
            engine.close()


@dataclass(frozen=True)
class Drawing:
    """Draws requests with an engine, many in each step."""

    engine: Engine

    def __call__(self, requests: Sequence[AnyRequest]) -> list[Made]:
        """A picture for each request, in order; raises what a job fails with."""
        from sd_demo.embedded.evaluate import Made
        from sd_demo.torch_threads import rest

        rest()  # the judge's helpers would slow the engine down
        jobs: list[Job] = []
        made = []
        for place, request in enumerate(requests):
            if place >= AHEAD:
                jobs[place - AHEAD].result()
            jobs.append(self.engine.submit(request))
        for job in jobs:
            image = job.result().images[0]
            image.path.unlink()
            done = image.receipt.done
            made.append(Made(image.image, done.encode_s + done.denoise_s + done.decode_s, done.decode_s))
        return made
