"""How long things take on this host, learned from what was run; what the page tells before Generate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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


class Work(NamedTuple):
    """What a job costs: `calls` of the UNet of `call_s` seconds each, and `decode_s` seconds once."""

    calls: int
    call_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        """Seconds of all of it."""
        return self.calls * self.call_s + self.decode_s

    def after(self, calls: int) -> Work:
        """What is left of it then."""
        return self._replace(calls=self.calls - calls)


class Speed:
    """Running means: of each model, seconds of a step for each row and latent, of decoding for each latent, and of a
    whole job; and of a job whichever model's."""

    def __init__(self) -> None:
        self._step_s: dict[str, float] = {}
        self._decode_s: dict[str, float] = {}
        self._job_s: dict[str, float] = {}
        self._any_job_s: float | None = None

    def learn_step(self, group: Sequence[_Running], elapsed_s: float) -> None:
        """Take in one shared step."""
        rows = sum(r.denoising.rows for r in group)
        _learn(self._step_s, group[0].denoising, elapsed_s / rows)

    def learn_job(self, running: _Running) -> None:
        """Take in one finished job."""
        name = running.denoising.model.entry.name
        self._any_job_s = _mean(self._any_job_s, running.total_s)
        self._job_s[name] = _mean(self._job_s.get(name), running.total_s)
        _learn(self._decode_s, running.denoising, running.decode_s / len(running.denoising.latents))

    def job_s(self, name: str = "") -> float | None:
        """Seconds of a usual job of the model called `name`, else of any; None before one has ended here."""
        return self._job_s.get(name, self._any_job_s)

    def work(self, values: dict[str, Any], entry: ModelEntry, rows: int) -> Work | None:
        """Of a request with these field values, which brings `rows` rows a step, "strength" where it has a picture.

        None before a job of this model has ended here.
        """
        if entry.name not in self._step_s or entry.name not in self._decode_s:
            return None
        height = values.get("height") or entry.native_size
        width = values.get("width") or entry.native_size
        steps = (values.get("num_inference_steps") or entry.num_inference_steps) * (values.get("strength") or 1.0)
        calls = unet_calls(values.get("scheduler") or entry.scheduler, max(1, int(steps)))
        images = (values.get("num_images_per_prompt") or 1) + (ENCODING if "strength" in values else 0)
        latents = (height / 8) * (width / 8)
        return Work(calls, self._step_s[entry.name] * rows * latents, self._decode_s[entry.name] * images * latents)

    def left(self, denoising: Any) -> Work | None:
        """Of a running `Denoising`; None before a step of its model was measured."""
        name, count = denoising.model.entry.name, len(denoising.latents)
        if name not in self._step_s:
            return None
        latents = math.prod(denoising.latents.shape[-2:])
        decode_s = self._decode_s.get(name, 0.0) * count * latents
        return Work(denoising.total - denoising.index, self._step_s[name] * denoising.rows * latents, decode_s)


def _learn(means: dict[str, float], denoising: _Denoising, elapsed_s: float) -> None:
    """Take in what all latents of a picture of this size took."""
    height, width = denoising.latents.shape[-2:]
    name = denoising.model.entry.name
    means[name] = _mean(means.get(name), elapsed_s / (height * width))


def _mean(before: float | None, value: float) -> float:
    return value if before is None else (1 - WEIGHT) * before + WEIGHT * value
