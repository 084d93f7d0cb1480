"""What every training stage shares: its time budget, learning rate, averaged weights, checkpoints and log."""

from __future__ import annotations

import functools
import json
import logging
import math
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sd_demo.embedded.muon import Muon
from sd_demo.errors import InvalidRequest

LOGGER = logging.getLogger(__name__)
CHECKPOINT_EVERY_S = 180.0
LOG_EVERY_STEPS = 20
LONGEST_STEP_S = 60.0  # a longer gap is a machine that slept or a process that was stopped, and nothing was learned


@functools.cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Whether training in bfloat16 pays: CPUs and GPUs without instructions for it emulate them, slowly.

    On CPUs without AMX such instructions can be slower than those of float32: a convolution is trained in both there.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    if has.get("amx_bf16") or not has.get("avx512_bf16"):
        return bool(has.get("amx_bf16"))
    with torch.inference_mode(False), torch.enable_grad():  # whoever asks may want none
        layer, x = torch.nn.Conv2d(64, 64, 3, padding=1), torch.ones(4, 64, 16, 16, requires_grad=True)

        def step(is_half: bool) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                layer(x).sum().backward()

        half, whole = (min(timeit.repeat(functools.partial(step, of), number=1, repeat=30)) for of in (True, False))
    return half < whole


class Stage:
    """One stage of training: a number of minutes spent on one module, resumable after any interruption.

    `progress` goes from 0 to 1 with the seconds spent, counted over all runs of the stage; schedules hang on it,
    so that a stage ends with a finished schedule on a machine of any speed. `max_steps` ends one run of the stage
    sooner, its budget unspent. is_muon: hidden layers learn by Muon, the rest by AdamW. The checkpoint in `work`
    holds the module, its exponential moving average, the optimizers and the counters.
    """

    def __init__(
        self,
        name: str,
        work: Path,
        minutes: float,
        module: torch.nn.Module,
        *,
        learning_rate: float,
        warmup_steps: int = 100,
        ema_decay: float = 0.999,
        max_steps: int | None = None,
        is_muon: bool = False,
    ) -> None:
        self.name = name
        self.module = module
        self.step = 0
        self.spent_s = 0.0
        self._budget_s = minutes * 60.0
        self._learning_rate = learning_rate
        self._warmup_steps = warmup_steps
        self._max_steps = max_steps
        self._file = work / f"{name}.pt"
        self._log = work / "log.jsonl"
        self._sums: dict[str, torch.Tensor] = {}
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._parameters = list(trainable.values())
        hidden = [p for name, p in trainable.items() if is_muon and _is_hidden_matrix(name, p)]
        others = [p for name, p in trainable.items() if not (is_muon and _is_hidden_matrix(name, p))]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
        ]
        if hidden:
            self._optimizers.append(Muon(hidden, lr=learning_rate))
        self._ema_decay = ema_decay
        self._ema = {name: p.detach().clone() for name, p in trainable.items()}
        work.mkdir(parents=True, exist_ok=True)
        if self._file.is_file():
            self._resume()

    @property
    def progress(self) -> float:
        return min(1.0, self.spent_s / self._budget_s) if self._budget_s > 0 else 1.0

    @property
    def is_finished(self) -> bool:
        return self.progress >= 1.0

    def steps(self) -> Iterator[int]:
        """Step numbers until the budget is spent; checkpoints on the way, at the end, and when interrupted."""
        last, saved = time.monotonic(), time.monotonic()
        end = math.inf if self._max_steps is None else self.step + self._max_steps
        try:
            while not self.is_finished and self.step < end:
                yield self.step
                self.step += 1
                now = time.monotonic()
                self.spent_s += min(now - last, LONGEST_STEP_S)
                last = now
                if now - saved > CHECKPOINT_EVERY_S:
                    self.save()
                    saved = now
        finally:
            self.save()

    def update(self, loss: torch.Tensor, **measures: torch.Tensor) -> None:
        """One optimizer step down `loss`, and the averages that follow from it."""
        warmup = min(1.0, (self.step + 1) / self._warmup_steps)
        cosine = 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * self.progress))
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate * warmup * cosine
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        # A young average forgets faster, so that it is of use from the first checkpoint on.
        decay = min(self._ema_decay, (1.0 + self.step) / (10.0 + self.step))
        torch._foreach_lerp_(list(self._ema.values()), [p.detach() for p in self._parameters], 1.0 - decay)
        for key, value in {"loss": loss, **measures}.items():
            self._sums[key] = self._sums.get(key, 0.0) + value.detach()  # where it is: read, it would be waited for
        if (self.step + 1) % LOG_EVERY_STEPS == 0:
            self.log(**{key: round(total.item() / LOG_EVERY_STEPS, 6) for key, total in self._sums.items()})
            self._sums.clear()

    def log(self, **values: Any) -> None:
        """Append a JSON line to the log of the work folder."""
        line = {"stage": self.name, "step": self.step + 1, "elapsed_s": round(self.spent_s, 1), **values}
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        LOGGER.info("%s", line)

    def swap_ema(self) -> None:
        """Exchange the module's weights with their moving average; a second call changes them back."""
        for parameter, average in zip(self._parameters, self._ema.values(), strict=True):
            parameter.data, average.data = average.data, parameter.data

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module with its averaged weights, for the length of a with block."""
        self.swap_ema()
        try:
            yield
        finally:
            self.swap_ema()

    def save(self) -> None:
        """Write the checkpoint in one rename; an interruption leaves the one before."""
        state = {
            "step": self.step,
            "spent_s": self.spent_s,
            "module": self.module.state_dict(),
            "ema": self._ema,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        fresh = self._file.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self._file)

    def _resume(self) -> None:
        state = torch.load(self._file, map_location="cpu", weights_only=True)
        self.module.load_state_dict(state["module"])
        for name, average in self._ema.items():
            average.copy_(state["ema"][name])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.spent_s = state["step"], state["spent_s"]
        LOGGER.info("%s resumes at step %d, %.1f minutes in", self.name, self.step, self.spent_s / 60.0)


def _is_hidden_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether it maps features to features: no bias or norm, no first or last layer, no table of embeddings."""
    return parameter.ndim >= 2 and not any(
        part in name for part in ("conv_in", "conv_out", "token_emb", "position_emb")
    )


def load_averaged(work: Path, name: str, module: torch.nn.Module) -> None:
    """Put the averaged weights of the stage called `name` into `module`.

    Raises InvalidRequest where it never ran.
    """
    file = work / f"{name}.pt"
    if not file.is_file():
        raise InvalidRequest(f"{work} has no {file.name}; train that stage first.")
    state = torch.load(file, map_location="cpu", weights_only=True)
    module.load_state_dict(state["module"] | state["ema"])
