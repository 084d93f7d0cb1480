"""What the picture-book model's calls take beside other programs: `python -m tests.crowded_bar`.

Medians in milliseconds of a UNet call of two rows, one of sixteen and a decoded picture, beside programs that want a
part of a core in sixty bursts a second, as a browser that draws does: with helpers that spin ("awake"), and as
`torch_threads.at_work` lets them sleep where that is better. Every line is a JSON object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from sd_demo.pipeline_manager import PipelineManager
from sd_demo.registry import EMBEDDED, Registry
from sd_demo.settings import Settings
from sd_demo.torch_threads import at_work

CROWDS: tuple[tuple[float, ...], ...] = (
    (),
    (0.4,),
    (0.3, 0.3),
    (0.6, 0.6),
    (1.0, 1.0),
)  # parts of a core, each program
SETTLED_AFTER_S = 0.6  # who has the cores is looked at five times a second
BURSTS = """
import sys, time
while True:
    start = time.perf_counter()
    while time.perf_counter() - start < float(sys.argv[1]) / 60: pass
    time.sleep(max(0, start + 1 / 60 - time.perf_counter()))
"""


@contextmanager
def beside(crowd: tuple[float, ...]) -> Iterator[None]:
    """Other programs, for the length of a with block."""
    programs = [subprocess.Popen([sys.executable, "-c", BURSTS, str(part)]) for part in crowd]
    try:
        time.sleep(SETTLED_AFTER_S)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def median_ms(work: Callable[[], object], count: int) -> float:
    """Of `count` runs, after two that warm up."""
    seconds = []
    for _ in range(2 + count):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds[2:]), 1)


def main() -> None:
    """Measure and print."""
    parts = PipelineManager(Settings(device="cpu"), Registry()).get(EMBEDDED).components
    unet, vae, width = parts["unet"], parts["vae"], parts["text_encoder"].config.hidden_size

    def call(rows: int) -> Callable[[], object]:
        latents, text = torch.randn(rows, 4, 32, 32, dtype=unet.dtype), torch.randn(rows, 77, width, dtype=unet.dtype)
        return lambda: unet(latents, 500, text)

    works = {"unet_2": (call(2), 40), "unet_16": (call(16), 6)}
    latents = torch.randn(1, 4, 32, 32, dtype=vae.dtype)
    works["decode"] = (lambda: vae.decode(latents), 10)
    with torch.inference_mode():
        for crowd in CROWDS:
            for name, held in (("awake", nullcontext()), ("at_work", at_work())):
                with held, beside(crowd):
                    taken = {key: median_ms(work, count) for key, (work, count) in works.items()}
                print(json.dumps({"beside": crowd, "helpers": name} | taken), flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
