"""How long things take on this host, learned from what was run; what the page tells before Generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sd_demo.registry import ModelEntry
from sd_demo.schedulers import unet_calls

WEIGHT = 0.3  # of the newest measurement in the running mean


@dataclass(frozen=True)
class Estimate:
    """What a request is expected to take on this host; None where nothing is known of that.

    room_mib: what this process may hold on the device. smaller: fields that make the request fit; {} where it does
    fit, or nothing helps.
    """

    seconds: float | None = None
    peak_mib: float | None = None
    room_mib: float | None = None
    smaller: dict[str, int] | None = None

    @property
    def fits(self) -> bool:
        """True where the memory is enough, or nobody knows."""
        return self.peak_mib is None or self.room_mib is None or self.peak_mib <= self.room_mib


class _Denoising(Protocol):
    @property
    def rows(self) -> int: ...
    @property
    def latents(self) -> Any: ...


class _Running(Protocol):
    @property
    def denoising(self) -> _Denoising: ...
    @property
    def total_s(self) -> float: ...


class Speed:
    """Running means: seconds of a step for each row and latent pixel, and seconds of a whole job."""

    def __init__(self) -> None:
        self._per_row_pixel: float | None = None
        self._job_s: float | None = None

    @property
    def is_known(self) -> bool:
        """At least one job has ended."""
        return self._job_s is not None

    def learn_step(self, group: Sequence[_Running], elapsed_s: float) -> None:
        """Take in one shared step."""
        height, width = group[0].denoising.latents.shape[-2:]
        rows = sum(r.denoising.rows for r in group)
        self._per_row_pixel = _mean(self._per_row_pixel, elapsed_s / (rows * height * width))

    def learn_job(self, running: _Running) -> None:
        """Take in one finished job."""
        self._job_s = _mean(self._job_s, running.total_s)

    def wait_s(self, jobs: int) -> float:
        """Seconds until `jobs` waiting jobs are through, taken one after another."""
        return max(1.0, jobs * (self._job_s or 1.0))

    def seconds(self, values: dict[str, Any], entry: ModelEntry, rows: int) -> float | None:
        """For a request with these field values, which brings `rows` rows a step; None before anything was measured."""
        if self._per_row_pixel is None:
            return None
        height = values.get("height") or entry.native_size
        width = values.get("width") or entry.native_size
        steps = (values.get("num_inference_steps") or entry.num_inference_steps) * (values.get("strength") or 1.0)
        calls = unet_calls(values.get("scheduler") or entry.scheduler, max(1, int(steps)))
        return float(self._per_row_pixel * rows * (height / 8) * (width / 8) * calls)


def _mean(before: float | None, value: float) -> float:
    return value if before is None else (1 - WEIGHT) * before + WEIGHT * value
