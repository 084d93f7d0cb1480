"""A UNet's calls on a CPU without Python between their operations.

Where operations are short and many, a CPU spends much of a call on Python (BENCHMARKS.md has the figures). A call is
traced once (https://docs.pytorch.org/docs/stable/generated/torch.jit.trace.html), and from then on the same operations
run one after another: the answers are the same to the bit, which is tried once for each shape. A trace takes as long as
dozens of calls save, so that it is left to a moment when nobody waits. PyTorch calls tracing deprecated; where it is
gone or fails, calls stay as they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from sd_demo.memory_errors import is_out_of_memory

log = logging.getLogger(__name__)

FROM_CALL: Final = 8  # from which on a trace is wanted
AT_LAST: Final = 64  # calls that it is put off, where no moment comes when nobody waits
MOST: Final = 4  # traces of a model; shapes that the UNet takes the same way share one, in float32 two (winograd.py)

Shape = tuple[Any, ...]


class _Call(torch.nn.Module):
    """`unet` with all inputs in a row, as a trace wants them."""

    def __init__(self, unet: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.unet, self._names = unet, tuple(names)

    def forward(self, rows: torch.Tensor, times: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return self.unet(rows, times, **dict(zip(self._names, values, strict=True)), return_dict=False)[0]


class TracedCalls:
    """The calls of one model's UNet. Not for several threads at once.

    After LoRAs changed, `forget` comes first. What wears LoRAs is not traced, as they come and go.
    """

    was_compiled = False

    def __init__(self) -> None:
        self._traces: list[Any] = []
        self._known: dict[Shape, Any] = {}  # the trace that answers calls of a shape; None: none does
        self._wanted: tuple[Shape, _Call, Sequence[torch.Tensor], torch.Tensor] | None = None
        self._calls = self._put_off = 0
        self._has_failed = False

    @property
    def count(self) -> int:
        """How many traces there are."""
        return len(self._traces)

    @property
    def is_settled(self) -> bool:
        """Whether no trace is wanted; any thread may ask."""
        return self._wanted is None

    def forget(self) -> bool:
        """Try each trace anew before it is used again; False, as no memory comes back by that."""
        self._known.clear()
        self._wanted = None
        return False

    def wait(self) -> None:
        """Nothing goes on behind the calls."""

    def settle(self) -> None:
        """Nothing goes on behind the calls."""

    def __call__(
        self, unet: Any, rows: torch.Tensor, times: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The answer [B, 4, h, w] of `unet` for rows [B, c, h, w], times [B, …] and conditions [B, …]."""
        inputs = (rows, times, *conditions.values())
        shape = (tuple(conditions), *((value.shape, value.dtype) for value in inputs))
        trace = self._known.get(shape)
        if trace is not None:
            return _run(trace, inputs)
        answer = unet(rows, times, **conditions, return_dict=False)[0]
        self._calls += 1
        if self._wanted is not None:
            self._put_off += 1
            if self._put_off >= AT_LAST:
                self.prepare()
        elif self._calls >= FROM_CALL and shape not in self._known and torch.isfinite(answer).all():
            self._look_for(shape, _Call(unet, tuple(conditions)), inputs, answer)
        return answer

    @torch.inference_mode()
    def prepare(self) -> None:
        """Make the trace that is wanted, if one is."""
        if self._wanted is None:
            return
        shape, call, inputs, expected = self._wanted
        try:
            trace = _traced(call, inputs)
            if not _answers(trace, inputs, expected):
                trace = None
        except Exception as error:  # whatever a tracer raises, ordinary calls go on
            self._has_failed = not is_out_of_memory(error)
            log.warning("UNet calls of this model are not traced: %s", str(error).strip().partition("\n")[0])
            trace = None
        self._known[shape] = trace
        if trace is not None:
            self._traces.append(trace)
        self._wanted = None  # not before, as others ask whether it is made

    def _look_for(self, shape: Shape, call: _Call, inputs: Sequence[torch.Tensor], expected: torch.Tensor) -> None:
        """Find the trace that answers `inputs` with what is `expected` to the bit; where none does, want one."""
        for trace in self._traces:
            if _answers(trace, inputs, expected):
                self._known[shape] = trace
                return
        is_full = self._has_failed or len(self._traces) == MOST
        if is_full or any(isinstance(layer, BaseTunerLayer) for layer in call.modules()):
            self._known[shape] = None
        else:
            self._wanted, self._put_off = (shape, call, inputs, expected), 0


def _traced(call: _Call, inputs: Sequence[torch.Tensor]) -> Any:
    """What `torch.jit.trace` makes of a function, by what it is made of itself.

    Its own answer belongs to the process, which keeps 25 MiB of each for ever, whatever becomes of the model, and takes
    almost three times as long; this one goes when nobody holds it (counted).
    """
    weights = [weight for weight in call.eval().parameters() if weight.requires_grad]
    for weight in weights:  # a graph holds no constant that wants gradients
        weight.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sizes may be fixed, which is tried
            graph, _ = torch._C._create_graph_by_tracing(call, list(inputs), lambda _: "", True, False)
        return torch._C._create_function_from_graph("call", graph)
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _run(trace: Any, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    with torch.jit.optimized_execution(False):  # optimizing takes two long calls and gains nothing
        return trace(*inputs)


def _answers(trace: Any, inputs: Sequence[torch.Tensor], expected: torch.Tensor) -> bool:
    try:
        return torch.equal(_run(trace, inputs), expected)
    except RuntimeError:  # made for sizes that pass through the UNet in another way
        return False
