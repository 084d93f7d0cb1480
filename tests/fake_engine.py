"""An engine that draws coloured squares: the real one's contract without torch, quick enough for many browser tests."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from sd_demo import events
from sd_demo.contact_sheet import sheet_of
from sd_demo.embedded.known_words import unknown_words
from sd_demo.errors import PictureWithheld, PlaygroundError, QueueFull
from sd_demo.metrics import Metrics
from sd_demo.outputs import Outputs
from sd_demo.receipt import Done, Receipt
from sd_demo.registry import EMBEDDED, ModelEntry, Registry
from sd_demo.requests import PICTURE_FIELDS, AnyRequest, ImageToImage, Inpaint
from sd_demo.settings import Settings
from sd_demo.speed import Estimate
from sd_demo.turns import Turns


@dataclass(frozen=True)
class Status:
    """As sd_demo.engine.Status."""

    model: str
    title: str
    state: str = "ready"
    message: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "plain"
    memory_mib: float = 12.0
    queued: int = 0
    running: int = 0
    in_memory: tuple[str, ...] = ()


@dataclass(frozen=True)
class Health:
    """As sd_demo.health.Health."""

    fault: str
    is_ready: bool
    state: str


@dataclass(frozen=True)
class TokenReport:
    """As sd_demo.prompts.TokenReport."""

    count: int
    limit: int
    chunks: int
    dropped_words: tuple[str, ...]


@dataclass
class Job:
    """As sd_demo.engine.Job."""

    request: AnyRequest
    visitor: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self._log: list[events.Event] = []
        self._news = threading.Condition()
        self.is_cancelled = threading.Event()

    def tell(self, event: events.Event) -> None:
        with self._news:
            self._log.append(event)
            self._news.notify_all()

    def events(self) -> Iterator[events.Event]:
        for k in itertools.count():
            with self._news:
                self._news.wait_for(lambda: len(self._log) > k)  # noqa: B023 # waited for at once
                event = self._log[k]
            yield event
            if isinstance(event, events.Final):
                return

    def cancel(self) -> None:
        self.is_cancelled.set()

    @property
    def is_ended(self) -> bool:
        return bool(self._log) and isinstance(self._log[-1], events.Final)

    def result(self) -> events.Done:
        (*_, end) = self.events()
        if isinstance(end, events.Failed):
            raise end.error
        assert isinstance(end, events.Done)
        return end


class FakeEngine:
    """One worker thread; `step_s` seconds a step. "fail" fails; "withheld" is where its guidance is 2."""

    def __init__(self, outputs: Outputs, *, step_s: float = 0.02, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.registry = Registry.of(self.settings)
        self.outputs = outputs
        self.step_s = step_s
        self.metrics = Metrics()
        self.device_turns = Turns()
        self.jobs: list[Job] = []
        self._queue: queue.Queue[Job | None] = queue.Queue()
        self._worker = threading.Thread(target=self._work, daemon=True)

    def start(self, *, falls_back: bool = False) -> None:
        self._worker.start()

    def close(self, timeout_s: float = 10.0) -> None:
        self._queue.put(None)
        self._worker.join(timeout_s)
        for job in self.jobs:
            job.cancel()

    def status(self) -> Status:
        entry = self.defaults(None)
        return Status(entry.name, entry.title, queued=self._queue.qsize(), in_memory=(entry.name,))

    def health(self) -> Health:
        fault = "" if self._worker.is_alive() else "The worker is not running."
        return Health(fault, not fault, fault or "ready")

    def metrics_text(self) -> str:
        return self.metrics.text({"queued_jobs": self._queue.qsize()})

    def defaults(self, model: str | None = None) -> ModelEntry:
        return self.registry.get(model or self.settings.model or EMBEDDED)

    def token_report(self, prompt: str, entry: ModelEntry) -> TokenReport:
        words = prompt.split()
        return TokenReport(len(words), 75, 1, tuple(words[75:]))

    def estimate(self, values: dict[str, Any]) -> Estimate:
        seconds = (values.get("num_inference_steps") or 20) * self.step_s
        count = values.get("num_images_per_prompt") or 1
        smaller = {"num_images_per_prompt": 8} if count > 8 else {}
        return Estimate(seconds, peak_mib=100.0 * count, room_mib=800.0, smaller=smaller)

    def submit(
        self,
        request: AnyRequest,
        *,
        visitor: str = "local",
        origin: str = "",
        has_previews: bool = False,
        is_kept: bool = True,
        is_accepted: bool = False,
    ) -> Job:
        self.defaults(request.model)  # an unknown name is refused here, as by the real one
        if request.prompt == "full":
            raise QueueFull("The queue is full; try again in about 7 s.", 7.0)
        job = Job(request, visitor)
        self.jobs.append(job)
        job.tell(events.Queued(self._queue.qsize() + 1, None))
        self._queue.put(job)
        return job

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                self._run(job)
            except PlaygroundError as error:
                job.tell(events.Failed(error, job.id))

    def _run(self, job: Job) -> None:
        request, entry = job.request, self.defaults(job.request.model)
        total = request.num_inference_steps or entry.num_inference_steps
        seeds = request.seeds(request.seed if request.seed is not None else int(time.time_ns() % 10_000_000))
        pictures = [_draw(request, seed, entry.native_size) for seed in seeds]
        if request.prompt == "fail":
            raise PlaygroundError("The device ran out of patience; try a smaller picture.")
        if request.prompt == "withheld" and request.guidance_scale == 2:
            raise PictureWithheld("The model's safety checker withheld the picture; try another seed or other words.")
        job.tell(events.Encoding())
        for step in range(1, total + 1):
            if job.is_cancelled.wait(self.step_s):
                return job.tell(events.Cancelled())
            previews = tuple(p.resize((64, 64)).point(lambda v, k=step: v * k // total) for p in pictures)
            job.tell(events.Step(step, total, (total - step) * self.step_s, previews))
        job.tell(events.Decoding())
        if job.is_cancelled.is_set():
            return job.tell(events.Cancelled())
        results = []
        for index, (picture, seed) in enumerate(zip(pictures, seeds, strict=True)):
            receipt = self._receipt(request, entry, seed, index, total, picture.size)
            path = self.outputs.save(picture, receipt, visitor=job.visitor)
            results.append(events.ResultImage(path, picture, receipt))
        sheet = None
        if request.grid:
            whole = sheet_of(results, *request.rows_and_columns)
            sheet = self.outputs.save_sheet(whole, [one.receipt for one in results], visitor=job.visitor)
        return job.tell(events.Done(tuple(results), sheet))

    def _receipt(
        self, request: AnyRequest, entry: ModelEntry, seed: int, index: int, steps: int, size: tuple[int, int]
    ) -> Receipt:
        dropped, unknown = self.token_report(request.prompt, entry).dropped_words, unknown_words(request.prompt)
        notes = [f"The picture-book model does not know: {', '.join(unknown)}."] if unknown else []
        return Receipt(
            task=request.task,
            asked=request.model_dump(exclude=set(PICTURE_FIELDS)),
            notes=notes,
            done=Done(
                model=entry.name,
                model_hash="0" * 64,
                seed=seed,
                index=index,
                num_inference_steps=steps,
                effective_steps=steps,
                width=size[0],
                height=size[1],
                scheduler=request.scheduler or entry.scheduler,
                guidance_scale=request.guidance_scale or entry.guidance_scale,
                strength=getattr(request, "strength", None),
                attention="plain",
                dtype="float32",
                device="cpu",
                torch="none",
                diffusers="none",
                dropped_words=list(dropped),
                unknown_words=unknown,
                encode_s=0.0,
                denoise_s=steps * self.step_s,
                decode_s=0.0,
            ),
        )


def _draw(request: AnyRequest, seed: int, native_size: int) -> Image.Image:
    colour = tuple(int(v) for v in np.random.default_rng(seed).integers(40, 216, 3))
    if isinstance(request, Inpaint):
        picture = request.image.copy()
        picture.paste(colour, mask=request.mask_image)
        return picture
    if isinstance(request, ImageToImage):
        return Image.blend(request.image, Image.new("RGB", request.image.size, colour), request.strength)
    size = (request.width or native_size, request.height or native_size)
    picture = Image.new("RGB", size, (240, 240, 236))
    box = (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4)
    picture.paste(colour, box)
    return picture
