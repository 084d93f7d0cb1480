"""A UNet's calls in recordings, one for a shape: the shared loop's rows come in any number.

Calls are filled up to a few sizes, and one recording serves all that fit it. A recording is used only after it gave the
ordinary call's own answer; where recording fails or the answer differs, every call stays ordinary and a line of the log
says why.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch

from sd_demo.memory_errors import is_out_of_memory
from sd_demo.recordings import Call, NotNow, Recording

log = logging.getLogger(__name__)

SIZES: Final = (1, 2, 4, 6, 8, 12, 16)  # rows; more keep a GPU busy by themselves
LARGER: Final = (20, 24, 28, 32)  # rows that calls which are never recorded are filled up to
MOST: Final = 8  # recordings kept, those used last
IN_USE: Final = 100  # calls of any shape within which one must have been replayed to be kept before a new one
FROM_CALL: Final = 2  # of a shape: what comes once is not worth a recording
SAME: Final = 0.01  # difference to the ordinary answer, in parts of its norm, that rounding in half precision explains


class CapturedCalls:
    """The calls of one model's UNet, recorded by `record` shape by shape. Not for several threads at once.

    A recording knows the weights by their place in memory: after they moved or LoRAs changed, `forget` comes first.
    """

    def __init__(
        self,
        record: Callable[[Call, Sequence[torch.Tensor]], Recording],
        wait: Callable[[], None] = lambda: None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        """wait: until nothing holds weights any more for recordings that `record` made and `forget` let go of.

        settle: begin nothing more behind the calls, and wait for what was begun.
        """
        self._record, self.wait, self.settle = record, wait, settle
        self.was_compiled = False  # the last call
        self._recordings: OrderedDict[tuple[Any, ...], Recording] = OrderedDict()
        self._calls: Counter[tuple[Any, ...]] = Counter()
        self._used: Counter[tuple[Any, ...]] = Counter()  # at which of all calls each was replayed last
        self._count = 0  # of all calls
        self._never: set[tuple[Any, ...]] = set()  # shapes for whose recordings the memory is too small
        self._has_failed = False

    @property
    def count(self) -> int:
        """How many shapes are recorded."""
        return len(self._recordings)

    @property
    def is_settled(self) -> bool:
        """Whether all recordings are what they will be; any thread may ask."""
        return all(recording.is_settled for recording in list(self._recordings.values()))

    @property
    def _has_place(self) -> bool:
        """Whether a new one may come: in a round of more shapes than are kept each would be made anew each time."""
        oldest = next(iter(self._recordings), None)
        return oldest is None or len(self._recordings) < MOST or self._count - self._used[oldest] > IN_USE

    def forget(self) -> bool:
        """Let go of all recordings, and of their memory; False where there was none."""
        recordings = list(self._recordings.values())
        _let_go(*recordings)
        self._recordings.clear()
        self._calls.clear()
        self._used.clear()
        return bool(recordings)

    def __call__(
        self, unet: Any, rows: torch.Tensor, times: torch.Tensor, conditions: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The answer [B, 4, h, w] of `unet` for rows [B, c, h, w], times [B, …] and conditions [B, …]."""
        names = tuple(conditions)

        def call(rows: torch.Tensor, times: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
            return unet(rows, times, **dict(zip(names, values, strict=True)), return_dict=False)[0]

        inputs = (rows, times, *conditions.values())
        self.was_compiled = False
        size = next((size for size in (*SIZES, *LARGER) if size >= len(rows)), len(rows))
        # Filled in any case: libraries choose an algorithm anew for each shape, which stops everybody. And of one
        # layout, as a compiler makes a call anew for another one, and pictures that were encoded have another.
        filled = [_filled(value, size).contiguous() for value in inputs]
        if size > SIZES[-1] or self._has_failed:
            return call(*filled)[: len(rows)]
        key = (names, *((value.shape, value.dtype) for value in filled))
        recording = self._recordings.get(key)
        self._count += 1
        if recording is not None:
            self._recordings.move_to_end(key)
            self._used[key] = self._count
            answer = recording.replay(filled)[: len(rows)]
            self.was_compiled = recording.is_compiled
            return answer
        answer = call(*filled)[: len(rows)]
        self._calls[key] += 1
        if self._calls[key] >= FROM_CALL and key not in self._never and self._has_place:
            self._keep(key, call, filled, answer)
        return answer

    def _keep(self, key: tuple[Any, ...], call: Call, filled: list[torch.Tensor], answer: torch.Tensor) -> None:
        """Record `call` for inputs like `filled`, if it then answers as it just did."""
        if not torch.isfinite(answer).all():
            return  # nothing can be compared with it
        recording = Recording()
        try:
            recording = self._record(call, filled)
            check_same(recording.replay(filled)[: len(answer)], answer, "replayed")
            self._recordings[key] = recording
            self._used[key] = self._count
        except NotNow:
            return
        except Exception as error:  # whatever a driver raises, ordinary calls go on
            self._has_failed = not is_out_of_memory(error)
            what = "UNet calls of this model are recorded no more"
            if not self._has_failed:
                what = f"UNet calls with {len(filled[0])} rows of this size are not recorded"
            log.warning("%s: %s", what, str(error).partition("\n")[0])
        if key not in self._recordings:  # after the handler, where the error holds no memory any more
            self._never.add(key)
            _let_go(recording)
            self.forget()
        while len(self._recordings) > MOST:
            gone, recording = self._recordings.popitem(last=False)
            del self._used[gone]
            _let_go(recording)


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
