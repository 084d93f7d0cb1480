"""A LoRA training as a person meets it: started, watched, paused, cancelled, resumed.

It runs on its own thread and with a model of its own, so that no picture being made can see half-trained weights,
and takes turns on the device with whoever shares `turns`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from sd_demo.errors import DeviceFailure, JobCancelled, OutOfMemory, PlaygroundError
from sd_demo.known_models import EMBEDDED
from sd_demo.lora_checkpoint import remove_state, save_lora, save_state, saved_state, state_path
from sd_demo.lora_trainer import LoraTrainer
from sd_demo.memory_errors import is_out_of_memory, let_go
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.placement import choose_device, choose_dtype
from sd_demo.registry import Registry
from sd_demo.settings import Settings
from sd_demo.training_events import (
    Checkpoint,
    Paused,
    Preparing,
    Resumed,
    SamplePictures,
    Trained,
    TrainingCancelled,
    TrainingEvent,
    TrainingFailed,
    TrainingStep,
)
from sd_demo.training_pictures import TrainingPicture, read_pictures
from sd_demo.training_request import LoraTrainingRequest

log = logging.getLogger(__name__)

MEAN_OF: Final = 20  # steps whose losses are averaged: one alone says little
STATE_EVERY: Final = 200  # steps lost at most where the machine breaks down
_ENDS: Final = (Trained, TrainingFailed, TrainingCancelled)


class LoraTraining:
    """One training. Any number of threads may read its events; each sees all of them in order.

    turns: entered for every stretch of work on the device, as `Engine.device_turns`.
    Raises InvalidRequest where a picture or caption cannot be used, before anything is loaded.
    """

    def __init__(
        self,
        request: LoraTrainingRequest,
        settings: Settings,
        *,
        registry: Registry | None = None,
        turns: AbstractContextManager[Any] | None = None,
    ) -> None:
        registry = registry or Registry(models_dir=settings.models_dir)
        entry = registry.get(request.model or EMBEDDED)
        self.request = request.with_defaults(is_embedded=entry.is_embedded, native_size=entry.native_size)
        self._pictures: list[TrainingPicture] = read_pictures(self.request)
        wanted = settings.dtype if request.dtype == "auto" else request.dtype
        dtype = choose_dtype(wanted, choose_device(settings.device))  # the fastest: nobody shares a training's steps
        here = {"dtype": str(dtype).removeprefix("torch."), "memory": "resident"}  # it needs all networks at once
        self._settings = settings.model_copy(update=here)
        self._manager = PipelineManager(self._settings, registry)
        self._entry, self._turns = entry, turns or nullcontext()
        self._events: list[TrainingEvent] = []
        self._changed = threading.Condition()
        self._is_cancelled = threading.Event()
        self._may_run = threading.Event()
        self._may_run.set()
        self._losses: deque[float] = deque(maxlen=MEAN_OF)
        self._steps = 0
        self._withheld = 0
        self._thread = threading.Thread(target=self._work, name="lora-training", daemon=True)

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread.start()

    def pause(self) -> None:
        """Stop after the step in progress, with everything kept in memory."""
        self._may_run.clear()

    def resume(self) -> None:
        """Go on after a pause."""
        self._may_run.set()

    def cancel(self) -> None:
        """Stop after the step in progress and keep the state on disk. Harmless after the end."""
        self._is_cancelled.set()
        self._may_run.set()

    @property
    def is_paused(self) -> bool:
        """Somebody asked for a pause."""
        return not self._may_run.is_set()

    @property
    def is_ended(self) -> bool:
        """The last event is there."""
        with self._changed:
            return bool(self._events) and isinstance(self._events[-1], _ENDS)

    def events(self) -> Iterator[TrainingEvent]:
        """Every event from the first on, waiting for the next; stops after the end."""
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > seen)  # noqa: B023 # waited for at once
                event = self._events[seen]
            seen += 1
            yield event
            if isinstance(event, _ENDS):
                return

    def result(self) -> Trained:
        """Wait for the end. Raises the error of a failed training, JobCancelled for a cancelled one."""
        end = deque(self.events(), maxlen=1).pop()
        if isinstance(end, TrainingFailed):
            raise end.error
        if not isinstance(end, Trained):
            raise JobCancelled("The training was cancelled.")
        return end

    # Everything below runs in the training's own thread.

    def _tell(self, event: TrainingEvent) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            end: TrainingEvent = self._train()
        except JobCancelled:
            end = TrainingCancelled(self._steps, state_path(self.request.output).is_file())
        except PlaygroundError as error:
            let_go(error)  # its frames hold the model, and it is kept
            end = TrainingFailed(error)
        except Exception as error:
            end = self._failed(error)
        finally:
            with self._turns:  # while nobody records a graph
                self._manager.free()
        self._tell(end)

    def _failed(self, error: Exception) -> TrainingFailed:
        if is_out_of_memory(error):
            how = "try gradient_checkpointing, a smaller batch_size or resolution, or another dtype"
            return TrainingFailed(OutOfMemory(f"Memory ran out; {how}."))
        log.error("the training of %s failed", self.request.output.name, exc_info=error)
        return TrainingFailed(DeviceFailure("Something unforeseen went wrong in the training; it is in the log."))

    def _train(self) -> Trained:
        started = time.monotonic()
        self._tell(Preparing("model", 0, 1))
        with self._turns:
            trainer = LoraTrainer(self._manager.get(self._entry.name), self.request, self._pictures)
        state = saved_state(self.request)
        self._steps = state["steps"]
        preparing = trainer.prepare()
        while True:
            self._wait_for_leave()
            with self._turns:
                done = next(preparing, None)
            if done is None:
                break
            self._tell(done)
        if self._steps:  # only now: what `prepare` draws must come from the model as it was
            with self._turns:
                trainer.restore(state)
        self._draw(trainer)
        try:
            self._step_through(trainer)
        except JobCancelled:
            save_state(trainer, self._steps)
            raise
        save_lora(trainer, self.request.output, self._steps)
        remove_state(self.request.output)
        return Trained(
            self.request.output, self._steps, self._mean_loss, time.monotonic() - started, tuple(self._notes(trainer))
        )

    def _step_through(self, trainer: LoraTrainer) -> None:
        worked_s, first = 0.0, self._steps
        while self._steps < trainer.total:
            self._wait_for_leave()
            began = time.monotonic()
            with self._turns:
                loss = trainer.step(self._steps)
            worked_s += time.monotonic() - began
            self._losses.append(loss)
            self._steps += 1
            left = (trainer.total - self._steps) * worked_s / (self._steps - first)
            rate = trainer.learning_rate(self._steps - 1)
            self._tell(TrainingStep(self._steps, trainer.total, loss, self._mean_loss, rate, left))
            is_last = self._steps == trainer.total
            if _is_due(self._steps, self.request.checkpoint_every) and not is_last:
                path = self.request.output.with_stem(f"{self.request.output.stem}-{self._steps}")
                save_lora(trainer, path, self._steps)
                self._tell(Checkpoint(self._steps, path))
            if _is_due(self._steps, STATE_EVERY) and not is_last:
                save_state(trainer, self._steps)
            if _is_due(self._steps, self.request.sample_every) or is_last:
                self._draw(trainer)

    def _draw(self, trainer: LoraTrainer) -> None:
        if self.request.sample_every:
            self._wait_for_leave()
            prompts = self.request.sample_prompts or (self._pictures[0].caption,)
            with self._turns:
                images = trainer.draw(prompts)
                flags = trainer.model.flags(images)
            self._withheld += sum(flags)
            pairs = [pair for pair, flag in zip(zip(prompts, images, strict=True), flags, strict=True) if not flag]
            self._tell(SamplePictures(self._steps, tuple(p for p, _ in pairs), tuple(image for _, image in pairs)))

    def _wait_for_leave(self) -> None:
        """Where a pause is waited through and a cancel is noticed. Raises JobCancelled."""
        if not self._may_run.is_set():
            self._tell(Paused(self._steps))
            self._may_run.wait()
            if not self._is_cancelled.is_set():
                self._tell(Resumed(self._steps))
        if self._is_cancelled.is_set():
            raise JobCancelled("The training was cancelled.")

    @property
    def _mean_loss(self) -> float:
        return sum(self._losses) / max(1, len(self._losses))

    def _notes(self, trainer: LoraTrainer) -> Iterator[str]:
        side = self.request.resolution or 0
        if small := [p.name for p in self._pictures if min(p.image.size) < side]:
            yield f"Smaller than {side} pixels and enlarged: {', '.join(small)}."
        if self._withheld:
            yield f"The model's safety checker withheld {self._withheld} of the sample pictures."
        if cut := [p.name for p in self._pictures if trainer.is_cut(p.caption)]:
            yield f"Captions longer than the text encoder reads, used as far as it does: {', '.join(cut)}."


def _is_due(steps: int, every: int) -> bool:
    return every > 0 and steps % every == 0
