"""A UNet's calls as CUDA graphs: recorded once for a shape, then replayed without the cost of their launches.

Where kernels are short and many, a fast GPU waits for the CPU to launch them
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). The shared loop's rows come in any number, so calls
are filled up to a few sizes, and one recording serves all that fit it.

Not yet run on a GPU. So a recording is used only after it gave the ordinary call's own answer; where recording fails or
the answer differs, every call stays ordinary and a line of the log says why.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

log = logging.getLogger(__name__)

SIZES: Final = (1, 2, 4, 6, 8, 12, 16)  # rows; more keep a GPU busy by themselves
MOST: Final = 8  # recordings kept, those used last
FROM_CALL: Final = 2  # of a shape: what comes once is not worth a recording
WARM_UPS: Final = 3
SAME: Final = 0.01  # difference to the ordinary answer, in parts of its norm, that rounding in half precision explains

Call = Callable[..., torch.Tensor]


class Recording:
    """A call with inputs of one shape."""

    is_settled = True
    """Whether it will go on answering in the way that it does now; any thread may ask."""

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The call's answer for other inputs of the same shapes, in memory of its own."""
        raise NotImplementedError

    def stop(self) -> None:
        """Begin nothing more for it: it is not replayed again. Comes before `close`, and does not wait."""

    def close(self) -> None:
        """Wait until nothing reads the weights for it any more."""


class CudaRecording(Recording):
    """`call` with `inputs` as a CUDA graph; its memory comes from `pool`, which recordings may share.

    They may because none is replayed before the answer of another was copied.
    """

    def __init__(self, call: Call, inputs: Sequence[torch.Tensor], pool: Any) -> None:
        self._inputs = [value.clone() for value in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):  # what libraries allocate and choose at a first call must not be recorded
                call(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads (a lesson, a training) may allocate while this one records.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._answer = call(*self._inputs)

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        for kept, value in zip(self._inputs, inputs, strict=True):
            kept.copy_(value)
        self._graph.replay()
        return self._answer.clone()


def record_on_cuda() -> Callable[[Call, Sequence[torch.Tensor]], Recording]:
    """What makes recordings that share one pool of memory."""
    pool = torch.cuda.graph_pool_handle()
    return lambda call, inputs: CudaRecording(call, inputs, pool)


class CapturedCalls:
    """The calls of one model's UNet, recorded by `record` shape by shape. Not for several threads at once.

    A recording knows the weights by their place in memory: after they moved or LoRAs changed, `forget` comes first.
    """

    def __init__(self, record: Callable[[Call, Sequence[torch.Tensor]], Recording]) -> None:
        self._record = record
        self._recordings: OrderedDict[tuple[Any, ...], Recording] = OrderedDict()
        self._calls: Counter[tuple[Any, ...]] = Counter()
        self._has_failed = False

    @property
    def count(self) -> int:
        """How many shapes are recorded."""
        return len(self._recordings)

    @property
    def is_settled(self) -> bool:
        """Whether all recordings are what they will be; any thread may ask."""
        return all(recording.is_settled for recording in list(self._recordings.values()))

    def forget(self) -> None:
        """Let go of all recordings, and of their memory."""
        _let_go(*self._recordings.values())
        self._recordings.clear()
        self._calls.clear()

    def __call__(
        self, unet: Any, rows: torch.Tensor, times: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The answer [B, 4, h, w] of `unet` for rows [B, c, h, w], times [B] and conditions [B, …]."""
        names = tuple(conditions)

        def call(rows: torch.Tensor, times: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
            return unet(rows, times, **dict(zip(names, values, strict=True)), return_dict=False)[0]

        inputs = (rows, times, *conditions.values())
        size = next((size for size in SIZES if size >= len(rows)), None)
        if size is None or self._has_failed:
            return call(*inputs)
        filled = [_filled(value, size) for value in inputs]
        key = (names, *((value.shape, value.dtype) for value in filled))
        recording = self._recordings.get(key)
        if recording is not None:
            self._recordings.move_to_end(key)
            return recording.replay(filled)[: len(rows)]
        answer = call(*inputs)
        self._calls[key] += 1
        if self._calls[key] >= FROM_CALL:
            self._keep(key, call, filled, answer)
        return answer

    def _keep(self, key: tuple[Any, ...], call: Call, filled: list[torch.Tensor], answer: torch.Tensor) -> None:
        """Record `call` for inputs like `filled`, if it then answers as it just did."""
        recording = Recording()
        try:
            recording = self._record(call, filled)
            check_same(recording.replay(filled)[: len(answer)], answer, "replayed")
        except Exception as error:  # whatever a driver raises, ordinary calls go on
            log.warning("UNet calls of this model are recorded no more: %s", str(error).partition("\n")[0])
            self._has_failed = True
            _let_go(recording)
            self.forget()
            return
        self._recordings[key] = recording
        while len(self._recordings) > MOST:
            _let_go(self._recordings.popitem(last=False)[1])


def _let_go(*recordings: Recording) -> None:
    """Close all of them; none begins anything while another is waited for."""
    for recording in recordings:
        recording.stop()
    for recording in recordings:
        recording.close()


def check_same(found: torch.Tensor, expected: torch.Tensor, how: str) -> None:
    """Raises RuntimeError where two answers, [B, 4, h, w] both, differ by more than rounding explains."""
    difference = float((found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-6))
    if not difference <= SAME:
        raise RuntimeError(f"the {how} answer differs by {difference:.3g} of its norm")


def _filled(value: torch.Tensor, size: int) -> torch.Tensor:
    """[B, …] as [size, …], the last row repeated."""
    missing = size - len(value)
    return value if missing == 0 else torch.cat([value, value[-1:].expand(missing, *value.shape[1:])])
