"""What the engine says about itself: its state for the page, whether it can go on, and its errors in words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sd_demo.errors import DeviceFailure, OutOfMemory, PlaygroundError
from sd_demo.memory_errors import is_out_of_memory, let_go

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What the page's header shows. `state` is loading, ready or failed; `message` a sentence or empty."""

    model: str
    title: str
    state: str
    message: str
    device: str = ""
    dtype: str = ""
    attention: str = ""
    memory_mib: float = 0.0
    queued: int = 0
    running: int = 0
    is_settled: bool = True  # nothing is being compiled, or left to be prepared
    in_memory: tuple[str, ...] = ()  # the models that are, `model` among them


def status_of(loaded: Sequence[Any], status: Status) -> Status:
    """`status` with where and how the last `loaded` one, a LoadedModel, runs; as it is where there is none."""
    if not loaded:
        return status
    model, place = loaded[-1], loaded[-1].placement
    return replace(
        status, device=place.device.type, dtype=place.dtype_name, attention=place.attention,
        memory_mib=model.weights_mib, is_settled=model.is_settled, in_memory=tuple(one.entry.name for one in loaded),
    )  # fmt: skip


@dataclass(frozen=True)
class Health:
    """`fault` says why the process should be restarted, or is empty; `is_ready`: a model is loaded and jobs are taken.

    `state` is a sentence for whoever asks why it is not ready.
    """

    fault: str
    is_ready: bool
    state: str


def is_fatal(error: BaseException) -> bool:
    """Whether the device is lost to this process: CUDA reports such an error for every later call as well.

    See "sticky errors" in https://docs.nvidia.com/cuda/cuda-runtime-api/. Memory that ran out comes back.
    """
    if is_out_of_memory(error):
        return False
    text = str(error).lower()
    accelerator_error = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return True
    return isinstance(error, RuntimeError) and any(words in text for words in ("cuda error", "device-side assert"))


def device_bytes() -> int:
    """Bytes of tensors on the accelerator; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def as_expected(error: Exception, request_id: str) -> PlaygroundError:
    """`error` in words for people; one that nobody foresaw is logged under its id and shown as that id."""
    if isinstance(error, PlaygroundError):
        let_go(error)  # it may be kept for long, and its frames hold tensors
        return error
    if is_out_of_memory(error):
        return OutOfMemory("Memory ran out; choose a smaller size or fewer images, then try again.")
    log.error("request %s failed", request_id, exc_info=error)
    return DeviceFailure(f"Something unforeseen went wrong; it is in the log under {request_id}. Try again.")
