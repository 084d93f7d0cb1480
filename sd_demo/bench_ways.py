"""The three ways to one picture that the bench measures: plain diffusers, diffusers as documented for speed, ours."""

from __future__ import annotations

import platform
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import StableDiffusionPipeline

from sd_demo.checkpoints import read_model
from sd_demo.engine import Engine
from sd_demo.errors import ModelUnavailable
from sd_demo.exactness import cudnn
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER
from sd_demo.placement import choose_device
from sd_demo.registry import Registry
from sd_demo.requests import AnyRequest, parse_request
from sd_demo.schedulers import make_scheduler, name_of
from sd_demo.settings import Settings

PROMPT: Final = "a red house by the sea, a white cat on the left"
POLL_S: Final = 0.01
STOP_S: Final = 15.0  # that a compiler's processes have to end
AGAIN_S: Final = 10.0  # after which what swallowed the end of its time is told once more
Device = Literal["auto", "cpu", "cuda", "mps"]
Compile = Literal["auto", "on", "off"]


class OutOfTime(BaseException):
    """What runs has had its seconds. Like KeyboardInterrupt no error, as compilers answer errors with another try."""


class Ways:
    """A, B and C for one model (a diffusers folder or a .safetensors file), one size and one number of steps."""

    def __init__(self, model: Path, *, size: int, steps: int, device: Device, compile: Compile, data_dir: Path) -> None:
        self.values: dict[str, Any] = {"height": size, "width": size, "num_inference_steps": steps}
        self.values |= {"guidance_scale": 7.5}
        self.device = choose_device(device)
        self._half = torch.float16 if self.device.type == "cuda" else torch.float32
        self._model = model
        # By its name, not as any folder: only so it is placed as the page places it.
        name = EMBEDDED if model == EMBEDDED_FOLDER else str(model)
        self._settings = Settings(
            device=device,
            model=name,
            data_dir=data_dir,
            compile=compile,
            safety_checker=False,
            profile="local",  # eight together are more than one visitor of a Space may ask for
        )
        self._scheduler = ""  # known once C's model is loaded
        self.not_compiled = ""  # why B is not, where it should be

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """C, not yet started, with a folder of its own for pictures."""
        with (
            tempfile.TemporaryDirectory() as outputs,
            closing(Engine(self._settings.model_copy(update={"output_dir": Path(outputs)}))) as engine,
        ):
            yield engine

    def start(self, engine: Engine) -> float:
        """Start `engine`; the seconds until its model is loaded. Python's own start and imports are not among them.

        From now on all ways have the model's own scheduler, or where we have none of its class DDIM.
        Raises ModelUnavailable where the model cannot be loaded.
        """
        start = time.perf_counter()
        engine.start()
        while (status := engine.status()).state == "loading":
            time.sleep(POLL_S)
        elapsed_s = time.perf_counter() - start
        model = engine._manager.current  # only what is in memory tells the scheduler, of a single file too
        if model is None:
            raise ModelUnavailable(status.message)
        self._scheduler = name_of(model.components["scheduler"]) or "ddim"
        return elapsed_s

    def learns(self, engine: Engine) -> bool:
        """Whether C's calls of a shape become faster after the first ones."""
        model = engine._manager.current
        return model is not None and model.captured is not None

    def settle(self, engine: Engine) -> None:
        """Let C's model compile nothing more, and wait for what it compiles now, or prepares once nobody draws."""
        model = engine._manager.current
        if model is not None and model.captured is not None:
            model.captured.settle()
        while not engine.status().is_settled and not engine.health().fault:
            time.sleep(POLL_S)

    def ours(self, engine: Engine, seed: int) -> Any:
        """C's picture, as the engine hands it over."""
        return engine.submit(self.request(seed)).result().images[0]

    def request(self, seed: int) -> AnyRequest:
        """What C is asked for."""
        own = {"prompt": PROMPT, "seed": seed, "scheduler": self._scheduler}
        return parse_request("text_to_image", own | self.values)

    def plain(self, dtype: torch.dtype | None = None) -> Any:
        """A: `StableDiffusionPipeline` with its defaults; dtype: of all parts, default float16 on a GPU, else float32.

        Each part is read by diffusers' own from_pretrained or from_single_file and left as that makes it. The
        pipeline's own take one variant of all weights, and for a file configs and a tokenizer from the hub.
        """
        parts = read_model(self._model, dtype or self._half, Registry.of(self._settings).tokenizers())
        parts["scheduler"] = make_scheduler(self._scheduler, parts["scheduler"].config)
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)

    def documented(self, compile_s: float) -> Any:
        """B: channels_last, and on a GPU, beside half precision, fused projections and compiled UNet and decoder.

        compile_s: seconds that compiling may take; what takes longer is given up, and `not_compiled` says so.
        https://huggingface.co/docs/diffusers/optimization/fp16
        """
        pipe = self.plain()
        pipe.unet.to(memory_format=torch.channels_last)
        if self.device.type == "cuda":
            pipe.vae.to(memory_format=torch.channels_last)
            pipe.fuse_qkv_projections()
            self._compile(pipe, compile_s)
        return pipe

    def _compile(self, pipe: Any, within_s: float) -> None:
        """Compile it and draw once; where that fails or takes longer it stays as it is, and `not_compiled` says why."""
        unet, decode = pipe.unet, pipe.vae.decode
        pipe.unet = torch.compile(unet, mode="max-autotune", fullgraph=True)
        pipe.vae.decode = torch.compile(decode, mode="max-autotune", fullgraph=True)
        try:
            with at_most(within_s):
                self.theirs(pipe, 1)
        except (Exception, OutOfTime) as error:  # Triton or a C compiler is missing, or it takes long
            pipe.unet, pipe.vae.decode = unet, decode
            with suppress(Exception, OutOfTime), at_most(STOP_S):  # else its processes go on beside what is measured
                from torch._inductor.async_compile import shutdown_compile_workers  # which may start some

                shutdown_compile_workers()
            self.not_compiled = str(error).partition("\n")[0] or type(error).__name__

    def theirs(self, pipe: Any, seed: int, output_type: str = "pil") -> Any:
        """A's or B's picture (RGB), or with output_type "latent" its last latents [4, h, w].

        With cuDNN as PyTorch has it, not with the search for the fastest algorithm that our engine switches on; in
        float32 without TF32.
        """
        with cudnn(benchmark=False, allow_tf32=pipe.unet.dtype != torch.float32):
            generator = torch.Generator("cpu").manual_seed(seed)
            return pipe(PROMPT, generator=generator, output_type=output_type, **self.values).images[0]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in what runs longer than that. Only POSIX can, in a main thread; elsewhere it runs on."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise OutOfTime(f"it was not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    another_s, _ = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, another_s)  # another's alarm comes late, and is not lost


def figures_of(seconds: dict[str, list[float]], together: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Medians and spread of each way's seconds; ratios of C, and of eight requests together, to the other ways."""
    median = {way: statistics.median(values) for way, values in seconds.items()}
    ratios = {f"c_over_{way}": round(value / median["c"], 3) for way, value in median.items() if way != "c"}
    if 8 in together:
        ratios["eight_over_a"] = round(together[8]["images_per_s"] * median["a"], 3)
    return {
        "ratios": ratios,
        "s_per_image": {way: round(value, 4) for way, value in median.items()},
        "spread_s": {way: [round(min(v), 4), round(max(v), 4)] for way, v in seconds.items()},
        "together": together,
    }


def processor() -> str:
    """The CPU's name where the system tells it, with the number of cores that torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
