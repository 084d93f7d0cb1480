"""How long things take on this host, learned from what was run; what the page tells before Generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sd_demo.registry import ModelEntry
from sd_demo.schedulers import unet_calls

WEIGHT = 0.3  # of the newest measurement in the running mean
ENCODING = 0.44  # of a decoding: 1,117 against 2,515 GFLOP in Stable Diffusion at 512x512, by PyTorch's own counter


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
    def model(self) -> Any: ...
    @property
    def rows(self) -> int: ...
    @property
    def latents(self) -> Any: ...


class _Running(Protocol):
    @property
    def denoising(self) -> _Denoising: ...
    @property
    def decode_s(self) -> float: ...
    @property
    def total_s(self) -> float: ...


class Speed:
    """Running means: of each model, seconds of a step for each row and latent, and of decoding for each latent; and
    seconds of a whole job, whichever model's."""

    def __init__(self) -> None:
        self._step_s: dict[str, float] = {}
        self._decode_s: dict[str, float] = {}
        self._job_s: float | None = None

    @property
    def is_known(self) -> bool:
        """At least one job has ended."""
        return self._job_s is not None

    def learn_step(self, group: Sequence[_Running], elapsed_s: float) -> None:
        """Take in one shared step."""
        rows = sum(r.denoising.rows for r in group)
        _learn(self._step_s, group[0].denoising, elapsed_s / rows)

    def learn_job(self, running: _Running) -> None:
        """Take in one finished job."""
        self._job_s = _mean(self._job_s, running.total_s)
        _learn(self._decode_s, running.denoising, running.decode_s / len(running.denoising.latents))

    def wait_s(self, jobs: int) -> float:
        """Seconds until `jobs` waiting jobs are through, taken one after another."""
        return max(1.0, jobs * (self._job_s or 1.0))

    def seconds(self, values: dict[str, Any], entry: ModelEntry, rows: int) -> float | None:
        """For a request with these field values, which brings `rows` rows a step, "strength" where it has a picture.

        None before a job of this model has ended here.
        """
        if entry.name not in self._step_s or entry.name not in self._decode_s:
            return None
        height = values.get("height") or entry.native_size
        width = values.get("width") or entry.native_size
        steps = (values.get("num_inference_steps") or entry.num_inference_steps) * (values.get("strength") or 1.0)
        calls = unet_calls(values.get("scheduler") or entry.scheduler, max(1, int(steps)))
        images = (values.get("num_images_per_prompt") or 1) + (ENCODING if "strength" in values else 0)
        each = self._step_s[entry.name] * rows * calls + self._decode_s[entry.name] * images
        return float(each * (height / 8) * (width / 8))


def _learn(means: dict[str, float], denoising: _Denoising, elapsed_s: float) -> None:
    """Take in what all latents of a picture of this size took."""
    height, width = denoising.latents.shape[-2:]
    name = denoising.model.entry.name
    means[name] = _mean(means.get(name), elapsed_s / (height * width))


def _mean(before: float | None, value: float) -> float:
    return value if before is None else (1 - WEIGHT) * before + WEIGHT * value
