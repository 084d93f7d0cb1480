"""Calls compiled by torch.compile in a thread of their own, behind the calls that run meanwhile.

Compiling takes long (https://docs.pytorch.org/docs/stable/generated/torch.compile.html), for the picture-book's UNet on
two cores beside drawing nearly three minutes, and nobody should wait for it: a shape is answered as before until its
compiled call is there and gave the same answer. Only a change of model or LoRAs waits for what compiles at that moment.
What was compiled is kept on disk by PyTorch's own caches.

Off by default: on a CPU it saved 6 % (BENCHMARKS.md), and it was not yet run on a GPU.
"""

from __future__ import annotations

import logging
import os
import threading
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from sd_demo.captured_calls import Call, NotNow, Recording, check_same
from sd_demo.torch_threads import rest

log = logging.getLogger(__name__)

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"


class Ordinary(Recording):
    """A call that is nothing but made."""

    def __init__(self, call: Call, inputs: Sequence[torch.Tensor]) -> None:
        self._call = call

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._call(*inputs)


def compiled_behind(
    record: Callable[[Call, Sequence[torch.Tensor]], Recording], compile_call: Callable[[Call], Call] | None = None
) -> Callable[[Call, Sequence[torch.Tensor]], Recording]:
    """What makes recordings as `record` does, and once more of the compiled call when that is there."""
    turn = threading.Lock()
    return lambda call, inputs: SwappedIn(call, inputs, record, compile_call or compiled, turn)


def keep_compiled_in(folder: Path) -> None:
    """Let PyTorch keep what it compiles in `folder`, unless the environment names another.

    Importing PyTorch's compiler writes its default there, a folder for temporary files, so that does not count.
    """
    if os.environ.get(CACHE_VARIABLE, "") in ("", default_cache_dir()):
        os.environ[CACHE_VARIABLE] = str(folder)


def compiled(call: Call) -> Call:
    """`call`, a Python function, compiled at its first call and for its shapes alone.

    PyTorch keeps what it compiled with a function's code, eight shapes at most; a copy's goes when the copy goes.
    """
    if isinstance(call, types.FunctionType):
        copy = types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
        return torch.compile(copy, dynamic=False, fullgraph=True)
    raise TypeError(f"{call!r} is no function that could be compiled")


class SwappedIn(Recording):
    """A recording of `call`, and of the compiled `call` from when it is there. One compiles at a time, by `turn`."""

    def __init__(
        self,
        call: Call,
        inputs: Sequence[torch.Tensor],
        record: Callable[[Call, Sequence[torch.Tensor]], Recording],
        compile_call: Callable[[Call], Call],
        turn: threading.Lock,
    ) -> None:
        self._record, self._compile, self._turn = record, compile_call, turn
        if not turn.acquire(blocking=False):  # a compiler that measures would wait for the device, and end a recording
            raise NotNow
        try:
            self._now = record(call, inputs)
        finally:
            turn.release()
        self._better: Call | Exception | None = None
        self._is_closed = False
        kept = [value.clone() for value in inputs]
        self._thread: threading.Thread | None = threading.Thread(
            target=self._prepare, args=(call, kept), name="compile", daemon=True
        )
        self._thread.start()

    @property
    def is_settled(self) -> bool:  # type: ignore[override] # asked for only
        """Whether nothing is being compiled for it any more; what came of it is in use from its next replay."""
        return self._thread is None or not self._thread.is_alive()

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if self._thread is not None and not self._thread.is_alive() and self._turn.acquire(blocking=False):
            self._thread = None
            try:
                self._swap(inputs)
            finally:
                self._turn.release()
        return self._now.replay(inputs)

    def stop(self) -> None:
        self._is_closed = True
        self._now.stop()

    def close(self) -> None:
        """What compiles now is waited for: it reads weights that may be about to change or to go."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._better = None
        self._now.close()

    def _prepare(self, call: Call, inputs: list[torch.Tensor]) -> None:
        with self._turn, torch.inference_mode():
            if self._is_closed:
                return
            try:
                better = self._compile(call)
                better(*inputs)
                self._better = better
            except Exception as error:  # whatever a compiler raises, the call goes on as it is
                self._better = RuntimeError(str(error))  # without frames, and not as if the caller's memory had run out
            finally:
                rest()

    def _swap(self, inputs: Sequence[torch.Tensor]) -> None:
        """Take the compiled call in place of the other, if it answers alike; in the thread that calls."""
        better, self._better = self._better, None
        try:
            if better is None or isinstance(better, Exception):
                raise better or RuntimeError("the compiler's thread ended without an answer")
            fresh = self._record(better, inputs)
            check_same(fresh.replay(inputs), self._now.replay(inputs), "compiled")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            log.warning("a UNet call stays uncompiled: %s", str(error).partition("\n")[0])
            return
        before, self._now = self._now, fresh
        before.close()
