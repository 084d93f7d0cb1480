"""The only way to the device: jobs in, events out, one worker that moves all running jobs step by step.

The worker admits waiting jobs between two steps, groups those that can share a UNet call, advances each
group by one step, and finishes what is done. Cancel, preview, fairness and throughput follow from that.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from sd_demo.denoising import advance
from sd_demo.endings import Endings
from sd_demo.errors import DeviceFailure, JobCancelled, PlaygroundError, QueueFull
from sd_demo.events import Encoding, Loading
from sd_demo.fair_queue import FairQueue
from sd_demo.finishing import finish, make_plan
from sd_demo.forecast import Forecast
from sd_demo.gate import Gate
from sd_demo.health import Health, Status, as_expected, device_bytes, is_fatal, status_of
from sd_demo.job import Job
from sd_demo.lora_folder import find_lora
from sd_demo.metrics import Metrics
from sd_demo.outputs import Outputs
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.placement import choose_device
from sd_demo.preflight import estimate
from sd_demo.prompts import TokenReport
from sd_demo.registry import EMBEDDED, ModelEntry, Registry, check_request, default_model, what_is_missing
from sd_demo.requests import MAX_PROMPT_CHARACTERS, AnyRequest
from sd_demo.running import Running, step_of
from sd_demo.saving import Saver
from sd_demo.settings import Settings, writable_folder
from sd_demo.speed import Estimate, Speed
from sd_demo.super_resolution import begin
from sd_demo.torch_threads import rest
from sd_demo.turns import Turns

log = logging.getLogger(__name__)


class Engine:
    """Owns the worker thread, the queue and the model. Thread-safe; made once by a door."""

    def __init__(self, settings: Settings, *, registry: Registry | None = None, outputs: Outputs | None = None) -> None:
        self.settings = settings
        self.registry = registry or Registry.of(settings)
        if outputs is None:
            folder, note = writable_folder(settings.output_dir)
            if note:
                log.warning(note)
            outputs = Outputs(folder)
        self.outputs = outputs
        self._has_gpu = choose_device(settings.device).type != "cpu"
        usual = settings.model or default_model(choices=self.registry, has_gpu=self._has_gpu)
        self._default = self.registry.get(usual).name  # a wrong name is said at once, not at the first click
        self._manager = PipelineManager(settings, self.registry)
        self.device_turns = Turns()  # whatever else works on the device, such as a training, takes turns too
        self.metrics, self._gate, self._speed = Metrics(), Gate(settings.limits), Speed()
        self._forecast = Forecast(self._speed, self._gate, settings.max_rows)
        self._queue = FairQueue()
        self._running: list[Running] = []
        self._state, self._message, self._falls_back, self._is_closing = "loading", "", False, False
        self._endings = Endings(self.metrics)
        self._saver = Saver(self.outputs, self._endings)
        self._wake = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self, *, falls_back: bool = False) -> None:
        """Start the worker, which loads the default model at once; with falls_back the embedded one where it fails."""
        self._falls_back = falls_back or not self.settings.model
        if not self._worker.is_alive():
            self._worker.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """Refuse new jobs, let the running ones finish for `timeout_s` seconds, then stop, at most 4 seconds later."""
        ends = time.monotonic() + timeout_s
        with self._wake:
            self._is_closing = True
            for job in self._queue.in_order():
                job.cancel()
            self._wake.notify_all()
        if self._worker.is_alive():
            self._worker.join(timeout_s)
            with self._wake:
                for job in self._jobs():
                    job.cancel()
            self._worker.join(2.0)
        self._saver.close(max(1.0, ends - time.monotonic()))

    def submit(
        self, request: AnyRequest, *, visitor: str = "local", origin: str = "", has_previews: bool = False,
        is_kept: bool = True, is_accepted: bool = False,
    ) -> Job:  # fmt: skip
        """Queue a request and return its job at once. is_kept: False saves no file of its pictures.

        origin: the network address that it came from, "" where it is not known. is_accepted: a later part of what was
        let in as a whole, which a visitor's seconds on the device do not end.

        Raises ModelUnavailable for a model that is not known, InvalidRequest for a LoRA that is not there or for more
        than a visitor may ask here, QueueFull where too much waits already, DeviceFailure where the device is lost.
        """
        who: dict[str, Any] = {"visitor": visitor, "origin": origin, "has_previews": has_previews}
        job = Job(request, **who, is_kept=is_kept, is_accepted=is_accepted, on_cancel=self._drop_waiting)
        try:
            entry = self.registry.get(request.model or self._default)
            job.entry = entry
            check_request(entry, request)
            self._gate.check_request(request, entry)
            for choice in request.loras:
                find_lora(choice.name, self.settings.lora_dir, takes_paths=self.registry.takes_paths)
            self._enqueue(job)
        except PlaygroundError as error:
            self.metrics.add_failure(error, "refused")
            raise
        return job

    def _enqueue(self, job: Job) -> None:
        with self._wake:
            if self._endings.fault:
                raise DeviceFailure(self._endings.fault)
            if self._is_closing:
                raise QueueFull("The program is shutting down; try again in a minute.", 60.0)
            self._drop_waiting()  # what was cancelled keeps nobody out
            self._gate.check_visitor(job, self._jobs(), max(1.0, self._speed.job_s() or 0.0))
            if len(self._queue) >= self.settings.max_queue:
                wait = (self._queue.starts_s(self._forecast, self._running) or [1.0])[0]
                raise QueueFull(f"The queue is full; try again in about {wait:.0f} s.", wait)
            self._queue.add(job)
            self._queue.tell_positions(self._forecast, self._running)
            self._wake.notify_all()

    def _jobs(self) -> list[Job]:
        return [*self._queue.beginning, *self._queue.in_order(), *(running.job for running in self._running)]

    def _drop_waiting(self) -> None:
        with self._wake:
            dropped = self._queue.drop_cancelled()
            for job in dropped:
                self._endings.cancelled(job)
            if dropped:
                self._queue.tell_positions(self._forecast, self._running)

    def status(self) -> Status:
        """The state of model and queue at this moment."""
        loaded, busy = self._manager.loaded, len(self._running)
        entry = loaded[-1].entry if loaded else self.registry.get(self._default)
        is_default = self._state == "ready" and not self.settings.model and entry.name == self._default
        note = what_is_missing(self.registry, has_gpu=self._has_gpu) if is_default else ""  # or fetched since
        state, message = "failed" if self._endings.fault else self._state, self._endings.fault or self._message or note
        return status_of(loaded, Status(entry.name, entry.title, state, message, queued=len(self._queue), running=busy))

    def health(self) -> Health:
        """Whether this process can go on, and whether it takes jobs."""
        fault = self._endings.fault
        if not fault and not self._worker.is_alive() and not self._is_closing:
            fault = "The worker is not running."
        is_ready = not fault and not self._is_closing and self._manager.current is not None
        return Health(fault, is_ready, fault or self._message or ("shutting down" if self._is_closing else self._state))

    def metrics_text(self) -> str:
        """Everything that was counted, as Prometheus reads it."""
        health, status, is_there = self.health(), self.status(), self._manager.current is not None
        gauges = {"queued_jobs": status.queued, "running_jobs": status.running, "device_bytes": device_bytes()}
        return self.metrics.text(gauges | {"model_loaded": is_there, "healthy": not health.fault})

    def token_report(self, prompt: str, entry: ModelEntry) -> TokenReport | None:
        """How the tokenizer of the model of `entry` sees `prompt`; None while it is not in memory."""
        model = next((each for each in self._manager.loaded if each.entry.name == entry.name), None)
        return model.prompts.report(prompt[:MAX_PROMPT_CHARACTERS]) if model else None

    def estimate(self, values: dict[str, Any]) -> Estimate:
        """What a request of these values will take: seconds, from what was measured here, and memory."""
        entry = self.defaults(values.get("model"))
        return estimate(values, entry, self._speed, self._manager.loaded, self.registry.weights(entry), self.settings)

    def defaults(self, model: str | None = None) -> ModelEntry:
        """The entry of `model` (default: the one of this engine), which holds what suits it best."""
        return self.registry.get(model or self._default)

    # The worker. Everything below runs in its thread alone.

    def _work(self) -> None:
        self.device_turns.settle()
        try:
            self._take_turns()
        except BaseException as error:
            log.critical("the worker ended", exc_info=error)
            self._endings.fault = self._endings.fault or "The worker ended; the program must be started again."
        with self._wake:  # nobody may wait for ever
            left = self._jobs()
            self._queue, self._running = FairQueue(), []
        self._endings.failed(left, DeviceFailure(self._endings.fault))

    def _take_turns(self) -> None:
        self._load_default()
        while not self._endings.fault:
            if not self._running:
                rest()  # whoever computes while this thread is idle, such as a judge, has the cores for itself
            with self._wake:
                lull_s = self._manager.lull_s
                is_due = self._wake.wait_for(lambda: bool(self._queue or self._running or self._is_closing), lull_s)
                if self._is_closing and not self._running and not len(self._queue):
                    return
            self._drop_cancelled()
            with self.device_turns:
                if not is_due and not self._queue:  # nor came while somebody else had the device
                    self._manager.prepare()
                self._admit()
                self._advance_all()
                self._finish()
            self._saver.wait_for_room()

    def _load_default(self) -> None:
        """Load what to start with; where it cannot be used and may fall back, the embedded model, and say why."""
        for name in dict.fromkeys((self._default, EMBEDDED if self._falls_back else self._default)):
            self._state = "loading"
            try:
                with self.device_turns:  # a lesson loads its model, too
                    self._manager.get(name)
                self._default, self._state = name, "ready"
                return
            except Exception as error:  # other models may be usable, also where nobody foresaw what happened
                self._not_begun([], error)
                log.error("%s", self._message)

    def _drop_cancelled(self) -> None:
        self._drop_waiting()
        with self._wake:
            stopped = [r for r in self._running if r.job.is_cancelled]
            self._remove(stopped)  # not whoever else is cancelled by now, whose end would never be told
        for running in stopped:
            self._endings.cancelled(running.job, running.denoising.index)

    def _admit(self) -> None:
        """Take waiting jobs while there is room; one of another model or LoRAs waits until the running ones end."""
        while True:
            with self._wake:
                self._drop_waiting()  # to begin one takes time, seconds where its model is read
                job = self._queue.first()
                if job is None:
                    return
                name = self.registry.known_as(job.request.model or self._default)
                rows = sum(r.denoising.rows for r in self._running) + 2 * job.request.num_images_per_prompt
                is_other = not self._manager.holds(name, job.request.loras)
                if self._running and (is_other or rows > self.settings.max_rows):
                    return
                self._queue.take()
                self._queue.tell_positions(self._forecast, self._running)
            self._begin(job, name)

    def _begin(self, job: Job, name: str) -> None:
        def on_load(name: str = name) -> None:
            self._state = "loading"
            job.tell(Loading(name))

        try:
            model = self._manager.get(name, on_load, job.request.loras, renews=not self._running)
            self._state, self._message = "ready", ""
            if job.is_cancelled:  # to read a model takes a while
                raise JobCancelled("The job was cancelled.")
            check_request(model.entry, job.request)  # of a single file its weights tell most
            rung, ranker = model.residence.rung, self._manager.ranker(model.entry) if job.request.keep_best else None
            job.tell(Encoding())
            start = time.perf_counter()
            asked = self._gate.lowered(job.request, model.entry)
            plan = make_plan(asked, model.entry)
            embeds = model.read(plan, job.request)
            denoising = begin(model, plan, asked, embeds)
            denoising.first_rung = rung  # reading the prompt may have been too much already
            running = Running(job, denoising, embeds, ranker, time.perf_counter() - start)
            self._charge(job, "encode", running.encode_s)
            with self._wake:
                self._running.append(running)
                self._queue.beginning = []
        except Exception as error:
            with self._wake:
                self._queue.beginning = []
            self._not_begun([job], error)

    def _not_begun(self, jobs: list[Job], error: Exception) -> None:
        expected = error if is_fatal(error) else as_expected(error, jobs[0].id if jobs else "start")
        # What is in memory can be used all the same.
        self._state, self._message = ("ready", "") if self._manager.current else ("failed", str(expected))
        self._endings.failed(jobs, expected)

    def _advance_all(self) -> None:  # no loop of _take_turns, whose names would keep a model that was switched away
        groups: dict[Any, list[Running]] = {}
        for running in self._running:
            groups.setdefault(running.denoising.key, []).append(running)
        for group in groups.values():
            self._advance(group)

    def _advance(self, group: list[Running]) -> None:
        group = [r for r in group if not r.job.is_cancelled]  # also while another group had its step
        if not group:
            return
        start = time.perf_counter()
        try:
            failures = advance([r.denoising for r in group])
        except Exception as error:
            if len(group) == 1:
                self._remove(group)
                self._endings.failed([group[0].job], error)
                return
            failures = []
        if not failures:  # one request must not take the others with it: each goes on alone from the step before
            for running in group:
                self._advance([running])
            return
        elapsed = time.perf_counter() - start
        self._speed.learn_step(group, elapsed)
        self.metrics.add_step(len(group), elapsed)
        rows = sum(running.denoising.rows for running in group)
        for running, failure in zip(group, failures, strict=True):
            self._gate.charge(running.job, running.spend(elapsed, rows))
            if failure is not None:
                self._remove([running])
                self._endings.failed([running.job], failure)
                continue
            before_s, step = running.preview_s, step_of(running)
            if running.preview_s > before_s:
                self._charge(running.job, "preview", running.preview_s - before_s)
            running.job.tell(step)

    def _finish(self) -> None:
        for running in [r for r in self._running if r.denoising.is_finished]:
            try:
                made = finish(running)
            except Exception as error:
                self._leave(running)
                self._endings.failed([running.job], error, running.denoising.index)
            else:
                self._leave(running)
                self._speed.learn_job(running)
                self._saver.add(made)

    def _leave(self, running: Running) -> None:
        self._remove([running])
        self._charge(running.job, "decode", running.decode_s)

    def _remove(self, group: list[Running]) -> None:
        with self._wake:
            self._running = [r for r in self._running if r not in group]

    def _charge(self, job: Job, stage: str, seconds: float) -> None:
        self.metrics.add("stage_seconds_total", seconds, stage=stage)
        self._gate.charge(job, seconds)
