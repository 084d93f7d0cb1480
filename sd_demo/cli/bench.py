"""`python -m sd_demo bench`: how fast this is here, against plain diffusers."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sd_demo.cli.generate import known
from sd_demo.errors import InvalidRequest, ModelUnavailable, OutputFailed
from sd_demo.flags import Parser
from sd_demo.known_models import RANDOM, read_random
from sd_demo.registry import EMBEDDED, Registry, check_task
from sd_demo.requests import MAX_SIDE, MIN_SIDE, TextToImage, bounds
from sd_demo.settings import Settings
from sd_demo.writable import check_writable

SIDE_STEP = 8  # pixels of a latent


def run(arguments: Sequence[str]) -> int:
    """Measure and print; 0 when it is done."""
    parser = Parser(prog="python -m sd_demo bench", description=__doc__)
    parser.add_argument("--model", default=EMBEDDED, help="a model, its folder or file, or random:sd-1.5 [%(default)s]")
    parser.add_argument("--size", type=int, help="pixels of a side [the model's own]")
    parser.add_argument("--steps", type=int, help="denoising steps [the model's own; 50 for random models]")
    parser.add_argument("--repeats", type=int, default=3, help="times that each way is measured [%(default)s]")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    as_usual = Settings.model_fields["compile"].default
    parser.add_argument("--compile", default=as_usual, choices=("auto", "on", "off"), help="ours [%(default)s]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also add it to a page such as BENCHMARKS.md")
    options = parser.parse_args(arguments)
    _check(options)
    with tempfile.TemporaryDirectory() as scratch:
        report = _measure(options, Path(scratch))
    print(json.dumps(report, indent=2) if options.json else _in_words(report), flush=True)
    if options.write:  # last, so that a disk that is full by now takes no figures along
        try:
            with options.write.open("a", encoding="utf-8") as page:
                page.write(_section(report, options))
        except OSError as error:
            raise OutputFailed(f"--write {options.write} cannot be written ({error.strerror}).") from error
    return 0


def _check(options: Any) -> None:
    """Raises InvalidRequest for what would be found out in the middle of the measurement, or after it."""
    size = options.size
    if size is not None and (size % SIDE_STEP or not MIN_SIDE <= size <= MAX_SIDE):
        raise InvalidRequest(f"--size must be a multiple of {SIDE_STEP} from {MIN_SIDE} to {MAX_SIDE}.", "size")
    most = bounds(TextToImage, "num_inference_steps")[1]
    if options.steps is not None and not 1 <= options.steps <= most:
        raise InvalidRequest(f"--steps must be a whole number from 1 to {most}.", "steps")
    if options.repeats < 1:
        raise InvalidRequest("--repeats must be a whole number from 1.", "repeats")
    if options.write is not None:
        check_writable(options.write, "write")


def _measure(options: Any, scratch: Path) -> dict[str, Any]:
    from sd_demo.bench import LONGEST_S, Bench
    from sd_demo.placement import choose_device

    end, settings = time.monotonic() + LONGEST_S, Settings.read([])
    choose_device(options.device)  # before gigabytes are written for it
    entry = known(options.model, settings)
    check_task(entry, TextToImage.task)
    steps = entry.num_inference_steps
    if options.model.startswith(RANDOM):
        from sd_demo.random_model import save

        like, scale = read_random(options.model)
        folder, steps = save(like, scratch / "model", scale, told_by="TMPDIR"), 50
    else:
        weights = Registry.of(settings).weights(entry)
        if weights is None:
            raise ModelUnavailable(f"{entry.title} is not here; fetch it with python -m sd_demo download {entry.name}.")
        folder = weights
    bench = Bench(
        folder,
        size=options.size or entry.native_size,
        steps=options.steps or steps,
        repeats=options.repeats,
        device=options.device,
        compile=options.compile,
        data_dir=settings.data_dir,
    )
    report = {"model": options.model} | bench.run(end - time.monotonic())
    return report | {"second_size": bench.second_size(entry.native_size, report, end - time.monotonic())}


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"{report['model']} at {report['size']}x{report['size']}, {report['steps']} steps, {report['device']}"]
    lines += [f"{way.upper()}: {seconds} s an image" for way, seconds in report["s_per_image"].items()]
    lines += [f"B is not compiled: {report['b_not_compiled']}"] if report["b_not_compiled"] else []
    lines += [f"{name}: {value}" for name, value in report["ratios"].items()]
    return "\n".join([*lines, ": ".join(_second(report["second_size"]))])


def _second(size: dict[str, Any]) -> tuple[str, str]:
    """What the second size is called, and its figures in a line."""
    name = f"at {size['size']}x{size['size']}"
    if "not_measured" in size:
        return name, f"not measured: {size['not_measured']}"
    seconds, ratios = size["s_per_image"], size["ratios"]
    figures = [f"A {seconds['a']} s an image", f"C {seconds['c']} s", f"C over A {ratios['c_over_a']}"]
    figures += [f"peak memory of C {size['peak_mib']} MiB"]
    figures += [f"{count} at once {one['images_per_s']} images a second" for count, one in size["together"].items()]
    return name + ", C not compiled", ", ".join(figures)


def _section(report: dict[str, Any], options: Any) -> str:
    """The report as a section of a Markdown page: when, on what, with which command, and the figures."""
    seconds, ratios, error = report["s_per_image"], report["ratios"], report["error"]
    command = f"python -m sd_demo bench --model {options.model} --size {report['size']} --steps {report['steps']}"
    command += f" --compile {options.compile}" if options.compile != "auto" else ""
    away = {way: f"{error[way]} {error['unit']} from an exact run" for way in ("a", "c")}
    uncompiled = f", not compiled: {report['b_not_compiled']}" if report["b_not_compiled"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rows = [
        ("A, plain diffusers", f"{seconds['a']} s an image, {away['a']}"),
        ("B, diffusers as its documentation tunes it", f"{seconds['b']} s an image{uncompiled}"),
        ("C, ours", f"{seconds['c']} s an image, {away['c']}"),
        ("C over A, C over B", f"{ratios['c_over_a']}, {ratios['c_over_b']}"),
        ("eight requests together over A one after another", str(ratios["eight_over_a"])),
        *(
            (f"{count} at once", f"{one['images_per_s']} images a second, p50 {one['p50_s']} s, p95 {one['p95_s']} s")
            for count, one in report["together"].items()
        ),
        ("peak memory of C", f"{report['peak_mib']} MiB, {report['peak_reserved_mib']} MiB reserved"),
        ("start-up of C, then its first image", f"{report['start_up_s']} s, {report['first_image_s']} s"),
        ("compiled", f"{report['compiled_steps']} of C's {report['steps']} steps"),
        ("stages", ", ".join(f"{name.removesuffix('_s')} {value} s" for name, value in report["stages_s"].items())),
        _second(report["second_size"]),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    today = datetime.now(UTC).date().isoformat()
    where = f"{report['device']}, {report['dtype']}, {report['attention']}; {versions}"
    title = f"{today}: {report['model']}, {report['size']}x{report['size']}"
    return f"\n## {title}\n\n`{command}`, {where}\n\n| | |\n|---|---|\n{table}\n"
