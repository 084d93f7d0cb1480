"""What the engine did so far, counted, and written as Prometheus reads it.

The text format: https://prometheus.io/docs/instrumenting/exposition_formats/. No label holds anything of a
visitor or a prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from sd_demo.host_memory import resident_bytes

PREFIX: Final = "sd_demo_"
COUNTERS: Final = {
    "jobs_total": "Jobs by how they ended: done, failed, cancelled, refused.",
    "failures_total": "Failed and refused jobs by the kind of the error.",
    "stage_seconds_total": "Seconds of the device by stage: encode, denoise, preview, decode.",
    "steps_total": "Denoising steps of all jobs.",
    "steps_after_cancel_total": "Steps that jobs still finished after they were cancelled; at most one each.",
    "unet_calls_total": "Calls for all jobs' steps together; fewer than steps where jobs shared them.",
    "images_total": "Pictures made.",
}
GAUGES: Final = {
    "steps_per_second": "Denoising steps a second in the last shared step.",
    "queued_jobs": "Jobs waiting.",
    "running_jobs": "Jobs in the step loop.",
    "model_loaded": "1 where a model is in memory.",
    "healthy": "0 where the process should be restarted.",
    "resident_bytes": "Memory of this process.",
    "device_bytes": "Memory of tensors on the accelerator.",
}
OUTCOMES: Final = ("done", "failed", "cancelled", "refused")
STAGES: Final = ("encode", "denoise", "preview", "decode")

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Thread-safe. A counter that has a fixed set of labels is there from the start, as Prometheus wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps_per_second = 0.0
        self._counts: dict[tuple[str, Labels], float] = {(name, ()): 0.0 for name in COUNTERS}
        for outcome in OUTCOMES:
            self._counts["jobs_total", (("outcome", outcome),)] = 0.0
        for stage in STAGES:
            self._counts["stage_seconds_total", (("stage", stage),)] = 0.0
        for name in ("jobs_total", "stage_seconds_total", "failures_total"):
            del self._counts[name, ()]  # only with its label

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Raise a counter of COUNTERS."""
        key = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0.0) + value

    def add_done(self, images: int) -> None:
        """Count a job that ended in `images` pictures."""
        self.add("images_total", images)
        self.add("jobs_total", outcome="done")

    def add_cancelled(self, late: int) -> None:
        """Count a cancelled job that went on for `late` steps after it was asked to end."""
        self.add("jobs_total", outcome="cancelled")
        self.add("steps_after_cancel_total", late)

    def add_failure(self, error: BaseException, outcome: str = "failed") -> None:
        """Count a job that ended with `error`."""
        self.add("jobs_total", outcome=outcome)
        self.add("failures_total", kind=type(error).__name__)

    def add_step(self, jobs: int, elapsed_s: float) -> None:
        """Count one call for all of them (several of the UNet beyond `max_rows`) that moved `jobs` jobs by a step."""
        self.add("steps_total", jobs)
        self.add("unet_calls_total")
        self.add("stage_seconds_total", elapsed_s, stage="denoise")
        self._steps_per_second = jobs / elapsed_s if elapsed_s > 0 else 0.0

    def value(self, name: str, **labels: str) -> float:
        """What a counter stands at."""
        with self._lock:
            return self._counts.get((name, tuple(sorted(labels.items()))), 0.0)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Everything in Prometheus' text format; `gauges` gives what only the engine knows at this moment."""
        now = {"steps_per_second": self._steps_per_second, "resident_bytes": resident_bytes(), **gauges}
        with self._lock:
            counts = dict(self._counts)
        lines = []
        for name, text in COUNTERS.items():
            lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} counter"]
            lines += [
                f"{PREFIX}{name}{_labels(labels)} {value:.17g}" for (n, labels), value in counts.items() if n == name
            ]
        for name, text in GAUGES.items():
            if name in now:
                lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} gauge"]
                lines.append(f"{PREFIX}{name} {now[name]:.17g}")
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    """Values here are names of classes and stages, so that nothing needs escaping."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
