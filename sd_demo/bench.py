"""How fast this is, in one process and one run: plain diffusers, diffusers as documented for speed, and ours.

A: `StableDiffusionPipeline` as it loads. B: what diffusers' "Accelerate inference" page adds up to on this
device. C: our engine with its default settings. None has a safety checker, as what that withholds cannot be measured.
All three make the same picture with the same scheduler and steps, in turns, so that a drift of the machine's speed
falls on all alike. Medians and spread are reported; ratios are speeds, higher is better for us.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import diffusers
import torch

from sd_demo.bench_ways import POLL_S, Compile, Device, Ways, figures_of, processor
from sd_demo.compiled_calls import FROM_REPLAY, pays
from sd_demo.engine import Engine
from sd_demo.exactness import last_latents, latent_errors, picture_errors
from sd_demo.host_memory import peak_bytes
from sd_demo.settings import Settings
from sd_demo.torch_threads import rest

TOGETHER: Final = (1, 4, 8)
SETTLE_S: Final = 210.0
SIZES: Final = (768, 512)  # of models that draw that large a GPU shows both
LONGEST_S: Final = 510.0  # of nine minutes, with half a minute for Python's start
COMPILE_S: Final = 60.0  # that B's compiler has at least
AFTER_S: Final = 75.0  # what comes once B is compiled


class Bench:
    """One model (a folder or a .safetensors file), one size, one number of steps; answers are JSON-able data."""

    def __init__(
        self,
        model: Path,
        *,
        size: int,
        steps: int,
        repeats: int,
        device: Device = "auto",
        compile: Compile = Settings.model_fields["compile"].default,
        data_dir: Path = Settings.model_fields["data_dir"].default,
    ) -> None:
        self.size, self.steps, self.repeats = size, steps, repeats
        where: dict[str, Any] = {"device": device, "data_dir": data_dir}
        self.ways = Ways(model, size=size, steps=steps, compile=compile, **where)
        self._is_cuda = self.ways.device.type == "cuda"
        self._compiles = pays(compile, self.ways.device)
        # Without a compiler, which takes a minute for each number of rows.
        self._brief = partial(Bench, model, steps=steps, repeats=min(2, repeats), compile="off", **where)

    def run(self, left_s: float = LONGEST_S) -> dict[str, Any]:
        """Measure everything, in about `left_s` seconds at most; nothing else should run on the device meanwhile."""
        end = time.monotonic() + left_s
        with self.ways.engine() as engine:
            start_up_s = self.ways.start(engine)
            first_image_s = self._timed(partial(self.ways.ours, engine, 1))
            until = time.monotonic() + SETTLE_S
            self._settle(engine, TOGETHER[:1], until)
            peak_mib = self._alone(engine)[1]  # before other numbers of rows are recorded, and A and B in memory
            self._settle(engine, TOGETHER[:0:-1], until)  # most rows first
            self._quieten(engine)
            stages, _ = self._alone(engine)
            left_s = max(COMPILE_S, end - time.monotonic() - AFTER_S)
            plain, documented = self.ways.plain(), self.ways.documented(left_s)
            ways: dict[str, Callable[[], Any]] = {
                "a": partial(self.ways.theirs, plain, 1),
                "b": partial(self.ways.theirs, documented, 1),
                "c": partial(self.ways.ours, engine, 1),
            }
            seconds = self._interleaved(ways)
            together = {n: self._together(engine, n) for n in TOGETHER}
            a, asked = self._last(plain), self.ways.request(7)
            c = last_latents(engine, asked) if self._is_cuda else self.ways.ours(engine, 7).image
            del ways, plain, documented  # the exact run's weights are as large as theirs and ours together
            status = engine.status()
            return self._report(seconds, together) | {
                "peak_mib": round(peak_mib[0]),
                "peak_reserved_mib": round(peak_mib[1]),
                "error": self._errors(a, c),
                "start_up_s": round(start_up_s, 2),
                "first_image_s": round(first_image_s, 2),
                "stages_s": stages,
                "dtype": status.dtype,
                "attention": status.attention,
                "is_settled": status.is_settled,
                "b_not_compiled": self.ways.not_compiled,
            }

    def second_size(self, native: int, report: dict[str, Any], left_s: float) -> dict[str, Any]:
        """The other one of SIZES in brief, or why it is not measured; `report` is what `run()` answered.

        native: pixels of a side that the model makes best. left_s: seconds that there are for it.
        """
        size, why = next(size for size in SIZES if size != self.size), ""
        growth = max(1.0, size / self.size) ** 3  # convolutions grow with the square, attention with its square
        alone_s = 2 * report["first_image_s"] + 4 * (report["s_per_image"]["a"] + report["s_per_image"]["c"])
        if native < min(SIZES):
            why = f"the model draws {native}x{native}"
        elif not self._is_cuda:
            why = "without a CUDA GPU it takes too long"
        elif not report["is_settled"] or 2 * report["start_up_s"] + growth * alone_s > left_s:
            why = "there was no time left for it"
        if not why:
            try:
                return self._brief(size=size).in_brief(left_s)
            except Exception as error:  # the figures of the first size must not be lost for it
                why = str(error).partition("\n")[0] or type(error).__name__
        return {"size": size, "not_measured": why}

    def in_brief(self, left_s: float) -> dict[str, Any]:
        """C beside A in `left_s` seconds: seconds an image, C's peak (a CPU's process's), together as time allows."""
        end = time.monotonic() + left_s
        gc.collect()  # an engine that was before, and its model, know each other
        torch.cuda.empty_cache()  # nothing is done, and 0 told, without CUDA
        before_mib = torch.cuda.memory_allocated() / 2**20
        with self.ways.engine() as engine:
            self.ways.start(engine)
            self.ways.ours(engine, 1)
            _, peak_mib = self._alone(engine)
            plain = self.ways.plain()
            seconds = self._interleaved(
                {"a": partial(self.ways.theirs, plain, 1), "c": partial(self.ways.ours, engine, 1)}
            )
            together: dict[int, dict[str, float]] = {}
            for count in TOGETHER:
                if time.monotonic() + 4 * count * max(seconds["c"]) < end:
                    self._together(engine, count)  # a new number of rows, searched and recorded for
                    together[count] = self._together(engine, count)
        return {
            "size": self.size,
            **figures_of(seconds, together),
            "peak_mib": round(peak_mib[0] - before_mib),
            "compiled_steps": self._compiled_steps,
        }

    def _settle(self, engine: Engine, counts: tuple[int, ...], until: float) -> None:
        """Draw so many together, for whose rows cuDNN searches and calls are recorded or tried, and wait until nothing
        compiles behind the calls any more; what compiles at the time `until` stays as it is."""
        is_worth_it = self._is_cuda or self.ways.learns(engine)
        # More than once: a shape is compiled after some use, and what could not be recorded beside a compiler is then.
        for count in counts * (1 + math.ceil(FROM_REPLAY / self.steps) if self._compiles else 1) if is_worth_it else ():
            self._together(engine, count)
            while self._compiles and not engine.status().is_settled and time.monotonic() < until:
                time.sleep(POLL_S)  # drawing beside a compiler holds it up

    def _quieten(self, engine: Engine) -> None:
        """Let nothing compile beside what is measured: beside a compiler nothing is as fast as it is."""
        was_settled = engine.status().is_settled
        self.ways.settle(engine)
        for count in () if was_settled else TOGETHER:  # what was waited for comes into use
            self._together(engine, count)

    def _alone(self, engine: Engine) -> tuple[dict[str, float], tuple[float, float]]:
        """Seconds of the stages of one picture of ours, and the peaks of memory, allocated and reserved, in MiB."""
        if self._is_cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        done = self.ways.ours(engine, 2).receipt.done
        self._compiled_steps = done.compiled_steps
        stages = {key: getattr(done, key) for key in ("encode_s", "denoise_s", "decode_s")}
        if self._is_cuda:
            return stages, (torch.cuda.max_memory_allocated() / 2**20, torch.cuda.max_memory_reserved() / 2**20)
        return stages, (peak_bytes() / 2**20,) * 2

    def _report(self, seconds: dict[str, list[float]], together: dict[int, dict[str, float]]) -> dict[str, Any]:
        figures = figures_of(seconds, together)
        return figures | {
            "steps_per_s": {way: round(self.steps / value, 2) for way, value in figures["s_per_image"].items()},
            "device": torch.cuda.get_device_name() if self._is_cuda else processor(),
            "size": self.size,
            "steps": self.steps,
            "repeats": self.repeats,
            "compiled_steps": self._compiled_steps,  # of C's
            "versions": {
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "python": sys.version.split()[0],
            },
            "threads": torch.get_num_threads(),
        }

    def _interleaved(self, ways: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        for way in ways.values():
            self._timed(way)  # warm-up: compilation, allocation, caches
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.repeats):
            for name, way in ways.items():
                seconds[name].append(self._timed(way))
        return seconds

    def _timed(self, way: Callable[[], Any]) -> float:
        if self._is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        way()
        if self._is_cuda:
            torch.cuda.synchronize()
        elapsed_s = time.perf_counter() - start
        rest()  # else this thread's helpers and the engine's would stand in each other's way
        return elapsed_s

    def _last(self, pipe: Any) -> Any:
        """What errors are measured on: on a GPU the last latents, on a CPU the picture."""
        return self.ways.theirs(pipe, 7, "latent" if self._is_cuda else "pil")

    def _errors(self, a: Any, c: Any) -> dict[str, Any]:
        truth = self._last(self.ways.plain(torch.float32))
        return latent_errors(truth, a=a, c=c) if self._is_cuda else picture_errors(truth, a=a, c=c)

    def _together(self, engine: Engine, count: int) -> dict[str, float]:
        """`count` people press Generate at once, each with a seed of their own, twice over."""
        waits: list[float] = []

        def one(seed: int) -> None:
            start = time.perf_counter()
            self.ways.ours(engine, seed)
            waits.append(time.perf_counter() - start)

        start = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            for round_ in range(2):
                list(pool.map(one, range(100 * round_, 100 * round_ + count)))
        elapsed = time.perf_counter() - start
        waits.sort()
        return {
            "images_per_s": round(2 * count / elapsed, 4),
            "p50_s": round(waits[len(waits) // 2], 3),
            "p95_s": round(waits[min(len(waits) - 1, int(0.95 * len(waits)))], 3),
        }
