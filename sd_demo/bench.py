"""How fast this is, in one process and one run: plain diffusers, diffusers as documented for speed, and ours.

A: `StableDiffusionPipeline` as it loads. B: what diffusers' "Accelerate inference" page adds up to on this
device. C: our engine with its default settings. All three make the same picture with the same scheduler and
steps, in turns, so that a drift of the machine's speed falls on all alike. Medians and spread are reported;
ratios are speeds, higher is better for us. A and B run with cuDNN as PyTorch has it, not with the search for the
fastest algorithm that our engine switches on.
"""

from __future__ import annotations

import math
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import diffusers
import torch
from diffusers import StableDiffusionPipeline

from sd_demo.compiled_calls import FROM_REPLAY, pays
from sd_demo.engine import Engine
from sd_demo.exactness import cudnn, last_latents, latent_errors, picture_errors
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER
from sd_demo.placement import choose_device
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from sd_demo.torch_threads import rest

PROMPT: Final = "a red house by the sea, a white cat on the left"
TOGETHER: Final = (1, 4, 8)
SETTLE_S: Final = 210.0
OUR_NAMES: Final = {"DDIMScheduler": "ddim", "PNDMScheduler": "pndm", "LCMScheduler": "lcm"}
Device = Literal["auto", "cpu", "cuda", "mps"]


class Bench:
    """One model, one size, one number of steps; `run()` answers the whole report as JSON-able data."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int,
        steps: int,
        repeats: int,
        device: Device = "auto",
        compile: Literal["auto", "on", "off"] = Settings.model_fields["compile"].default,
    ) -> None:
        self.compile = compile  # ours
        self.folder, self.size, self.steps, self.repeats = folder, size, steps, repeats
        self._wanted, self.device = device, choose_device(device)
        self._is_cuda = self.device.type == "cuda"
        self._half = torch.float16 if self._is_cuda else torch.float32
        self._compiles = pays(compile, self.device)

    def run(self) -> dict[str, Any]:
        """Measure everything. Takes minutes; nothing else should run on the device meanwhile."""
        with tempfile.TemporaryDirectory() as outputs:
            # By its name, not as any folder: only so it is placed as the page places it.
            model = EMBEDDED if self.folder == EMBEDDED_FOLDER else str(self.folder)
            settings = Settings(device=self._wanted, model=model, output_dir=Path(outputs), compile=self.compile)
            start = time.perf_counter()
            engine = Engine(settings)
            engine.start()
            self._ours(engine, 1)
            start_up_s = time.perf_counter() - start
            self._settle(engine)
            stages, peak_mib = self._alone(engine)  # while neither A nor B is in memory
            plain, documented = self._plain(self._half), self._documented()
            ways: dict[str, Callable[[], Any]] = {
                "a": partial(self._theirs, plain, 1),
                "b": partial(self._theirs, documented, 1),
                "c": partial(self._ours, engine, 1),
            }
            seconds = self._interleaved(ways)
            together = {n: self._together(engine, n) for n in TOGETHER}
            a, c = self._last(plain), self._last_of_ours(engine)
            del ways, plain, documented  # the exact run's weights are as large as theirs and ours together
            report = self._report(seconds, together) | {
                "peak_mib": round(peak_mib[0]),
                "peak_reserved_mib": round(peak_mib[1]),
                "error": self._errors(a, c),
                "start_up_and_first_image_s": round(start_up_s, 2),
                "stages_s": stages,
                "dtype": engine.status().dtype,
                "attention": engine.status().attention,
            }
            engine.close()
        return report

    def _settle(self, engine: Engine) -> None:
        """Draw until every number of rows was met, and nothing is compiled behind the engine's calls any more.

        At a new number of rows cuDNN searches and graphs are recorded, and compiling takes minutes; what is not
        compiled within SETTLE_S is measured as it is.
        """
        end = time.monotonic() + SETTLE_S
        # More than once: a shape is compiled after some use, what could not be recorded beside a compiler is, and what
        # was compiled last comes into use.
        enough = 1 + math.ceil(FROM_REPLAY / self.steps)
        for count in TOGETHER * enough if self._compiles else TOGETHER if self._is_cuda else ():
            self._together(engine, count)
            while self._compiles and not engine.status().is_settled and time.monotonic() < end:
                self._together(engine, count)

    def _alone(self, engine: Engine) -> tuple[dict[str, float], tuple[float, float]]:
        """Seconds of the stages of one picture of ours, and the peaks of memory, allocated and reserved, in MiB."""
        if self._is_cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        done = self._ours(engine, 2).receipt.done
        self._compiled_steps = done.compiled_steps
        stages = {key: getattr(done, key) for key in ("encode_s", "denoise_s", "decode_s")}
        if self._is_cuda:
            return stages, (torch.cuda.max_memory_allocated() / 2**20, torch.cuda.max_memory_reserved() / 2**20)
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return stages, (resident, resident)

    def _report(self, seconds: dict[str, list[float]], together: dict[int, dict[str, float]]) -> dict[str, Any]:
        median = {way: statistics.median(values) for way, values in seconds.items()}
        eight = together[8]["images_per_s"]
        return {
            "ratios": {
                "c_over_a": round(median["a"] / median["c"], 3),
                "c_over_b": round(median["b"] / median["c"], 3),
                "eight_over_a": round(eight * median["a"], 3),
            },
            "s_per_image": {way: round(value, 4) for way, value in median.items()},
            "spread_s": {way: [round(min(v), 4), round(max(v), 4)] for way, v in seconds.items()},
            "steps_per_s": {way: round(self.steps / value, 2) for way, value in median.items()},
            "together": together,
            "device": torch.cuda.get_device_name() if self._is_cuda else _processor(),
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

    def _plain(self, dtype: torch.dtype) -> Any:
        pipe = StableDiffusionPipeline.from_pretrained(self.folder, dtype=dtype, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)

    def _documented(self) -> Any:
        """Half precision, channels_last, fused projections and a compiled UNet on a GPU; channels_last on a CPU.

        https://huggingface.co/docs/diffusers/optimization/fp16
        """
        pipe = self._plain(self._half)
        pipe.unet.to(memory_format=torch.channels_last)
        if self._is_cuda:
            pipe.vae.to(memory_format=torch.channels_last)
            pipe.fuse_qkv_projections()
            pipe.unet = torch.compile(pipe.unet, mode="max-autotune", fullgraph=True)
            pipe.vae.decode = torch.compile(pipe.vae.decode, mode="max-autotune", fullgraph=True)
        return pipe

    def _theirs(self, pipe: Any, seed: int, output_type: str = "pil") -> Any:
        with cudnn(benchmark=False, allow_tf32=pipe.unet.dtype != torch.float32):
            return pipe(
                PROMPT, height=self.size, width=self.size, num_inference_steps=self.steps, guidance_scale=7.5,
                generator=torch.Generator("cpu").manual_seed(seed), output_type=output_type,
            ).images[0]  # fmt: skip

    def _ours(self, engine: Engine, seed: int) -> Any:
        return engine.submit(self._request(engine, seed)).result().images[0]

    def _request(self, engine: Engine, seed: int) -> Any:
        values = {"height": self.size, "width": self.size, "num_inference_steps": self.steps, "guidance_scale": 7.5}
        scheduler = OUR_NAMES.get(StableDiffusionPipeline.load_config(self.folder)["scheduler"][1], "ddim")
        return parse_request("text_to_image", {"prompt": PROMPT, "seed": seed, "scheduler": scheduler, **values})

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
        return self._theirs(pipe, 7, "latent" if self._is_cuda else "pil")

    def _last_of_ours(self, engine: Engine) -> Any:
        return last_latents(engine, self._request(engine, 7)) if self._is_cuda else self._ours(engine, 7).image

    def _errors(self, a: Any, c: Any) -> dict[str, Any]:
        truth = self._last(self._plain(torch.float32))
        return latent_errors(truth, a=a, c=c) if self._is_cuda else picture_errors(truth, a=a, c=c)

    def _together(self, engine: Engine, count: int) -> dict[str, float]:
        """`count` people press Generate at once, each with a seed of their own, twice over."""
        waits: list[float] = []

        def one(seed: int) -> None:
            start = time.perf_counter()
            self._ours(engine, seed)
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


def _processor() -> str:
    """The CPU's name where the system tells it, with the number of cores that torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
