"""Calls compiled by torch.compile in a thread of their own, behind the calls that run meanwhile.

Compiling takes long (https://docs.pytorch.org/docs/stable/generated/torch.compile.html), for the picture-book's UNet on
two cores beside drawing nearly three minutes, and nobody should wait for it. A shape that keeps being used is answered
as before until its compiled call is there, gave the same answer and was faster. Only a model that is freed waits for
what compiles at that moment. What was compiled is kept on disk by PyTorch's own caches.

Not yet run on a GPU. On a CPU, where it saved 6 % (BENCHMARKS.md), it is off by default.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch._dynamo.backends.registry import lookup_backend
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.utils._triton import has_triton

from sd_demo.captured_calls import check_same
from sd_demo.memory_errors import is_out_of_memory
from sd_demo.placement import fastest
from sd_demo.recordings import Call, NotNow, Recording
from sd_demo.torch_threads import rest

log = logging.getLogger(__name__)

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
FROM_REPLAY: Final = 60  # of a shape, two or three pictures: compiling for less is not worth the minute
YIELD_S: Final = 0.0002  # after which a compiler lets others run
PATCHES: Final = {"reorder_for_locality": False}
"""A convolution that comes first decides the layout of what it reads, as the shortcut of a residual block; moved to
where its answer is needed, it has each concatenation copied."""
TURNS: Final = 3  # that the compiled call and the one before it are measured in

Record = Callable[[Call, Sequence[torch.Tensor]], Recording]


class Ordinary(Recording):
    """A call that is nothing but made."""

    def __init__(self, call: Call, inputs: Sequence[torch.Tensor]) -> None:
        self._call = call

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._call(*inputs)


class Withdrawn(Exception):
    """What was compiled must not run any more."""


class Permit:
    """To run what is compiled, until it is withdrawn, as weights may then move that it was compiled with."""

    def __init__(self) -> None:
        self.is_given = True
        self._is_running = threading.Lock()

    def run(self, call: Callable[[], Any]) -> Any:
        """The answer of `call`. Raises Withdrawn."""
        with self._is_running:
            if not self.is_given:
                raise Withdrawn
            return call()

    def withdraw(self) -> None:
        """Wait for what runs; nothing does afterwards."""
        self.is_given = False
        with self._is_running:
            pass


def pays(wanted: str, device: torch.device) -> bool:
    """Whether to compile on `device`, as the setting says: "auto" does on CUDA, where Triton can compile for it."""
    return wanted == "on" or (wanted == "auto" and device.type == "cuda" and has_triton())


def keep_compiled_in(folder: Path) -> None:
    """Let PyTorch keep what it compiles in `folder`, unless the environment names another.

    Importing PyTorch's compiler writes its default there, a folder for temporary files, so that does not count.
    """
    if os.environ.get(CACHE_VARIABLE, "") in ("", default_cache_dir()):
        os.environ[CACHE_VARIABLE] = str(folder)


def compiled(call: Call, permit: Permit) -> Call:
    """`call`, a Python function, compiled at its first call and for its shapes alone; it runs with `permit`.

    PyTorch keeps what it compiled with a function's code, eight shapes at most; a copy's goes when the copy goes. The
    backend, and so the permit, it keeps for ever.
    """
    if not isinstance(call, types.FunctionType):
        raise TypeError(f"{call!r} is no function that could be compiled")

    def backend(graph: Any, inputs: Any) -> Call:
        inductor: Any = lookup_backend("inductor")
        answer = inductor(graph, inputs, config_patches=PATCHES)
        return lambda *values: permit.run(lambda: answer(*values))

    copy = types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
    return torch.compile(copy, dynamic=False, fullgraph=True, backend=backend)


@contextmanager
def _yielding() -> Iterator[None]:
    """Let other threads of this process interrupt this one often.

    A compiler is mostly Python, and who draws meanwhile lets the interpreter go at each operation and waits for it as
    long as another thread may keep it: 5 ms by default, hundreds of times a step.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(YIELD_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class CompiledBehind:
    """Makes recordings as `record` does, and once more of the compiled call when that is there."""

    turn = threading.Lock()
    """Held by who compiles or records, for any model: a compiler that measures waits for the device."""

    def __init__(self, record: Record, compile_call: Callable[[Call, Permit], Call] = compiled) -> None:
        self.record, self.compile = record, compile_call
        self.has_failed = False  # then nothing is compiled any more
        self._threads: list[threading.Thread] = []

    def __call__(self, call: Call, inputs: Sequence[torch.Tensor]) -> Recording:
        """A recording of `call` with inputs of the shapes of `inputs`. Raises NotNow while something compiles."""
        if not self.turn.acquire(blocking=False):  # no recording lives through a wait for the device
            raise NotNow
        try:
            return SwappedIn(call, self.record(call, inputs), self)
        finally:
            self.turn.release()

    def begin(self, prepare: Callable[[], None]) -> threading.Thread:
        """Run `prepare` behind what runs."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=prepare, name="compile", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def wait(self) -> None:
        """Until nothing compiles, nor holds any weights."""
        while self._threads:
            self._threads.pop().join()

    def settle(self) -> None:
        """Compile nothing more, and wait for what compiles now."""
        self.has_failed = True
        self.wait()


class SwappedIn(Recording):
    """`now`, a recording of `call`, until a better one of the compiled `call` is there."""

    def __init__(self, call: Call, now: Recording, maker: CompiledBehind) -> None:
        self._call, self._now, self._maker = call, now, maker
        self._better: Call | None = None
        self._replays = 0
        self._is_compiled = False
        self._permit = Permit()
        self._thread: threading.Thread | None = None

    @property
    def is_settled(self) -> bool:  # type: ignore[override] # asked for only
        """Whether nothing is being compiled for it; what came of it is in use from its next replay."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def is_compiled(self) -> bool:  # type: ignore[override] # asked for only
        """Whether the compiled call answers."""
        return self._is_compiled

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        self._replays += 1
        if self._replays == FROM_REPLAY and not self._maker.has_failed:
            kept = [value.clone() for value in inputs]
            self._thread = self._maker.begin(lambda: self._prepare(kept))
        if self._better is not None and self._maker.turn.acquire(blocking=False):
            better, self._better = self._better, None
            try:
                self._swap(better, inputs)
            finally:
                self._maker.turn.release()
        return self._now.replay(inputs)

    def stop(self) -> None:
        self._permit.is_given = False
        self._now.stop()

    def close(self) -> None:
        """What compiles goes on, for nothing: it is not run any more, so that weights may change and move."""
        self._permit.withdraw()
        self._better = None
        self._now.close()
        self._now = Recording()  # else what compiles for it would keep its memory

    def _prepare(self, inputs: list[torch.Tensor]) -> None:
        with self._maker.turn, _yielding(), torch.inference_mode():
            if not self._permit.is_given or self._maker.has_failed:
                return
            try:
                better = self._maker.compile(self._call, self._permit)
                better(*inputs)
                self._better = better
            except Exception as error:  # whatever a compiler raises, the call goes on as it is
                self._fail(error)
            finally:
                rest()

    def _swap(self, better: Call, inputs: Sequence[torch.Tensor]) -> None:
        """Take the compiled call in place of the other, if it answers alike and sooner; in the thread that calls."""
        expected = self._now.replay(inputs)
        if not torch.isfinite(expected).all():  # nothing can be compared with it
            self._better = better
            return
        try:
            fresh = self._maker.record(better, inputs)
            check_same(fresh.replay(inputs), expected, "compiled")
            seconds = fastest({one: partial(one.replay, inputs) for one in (fresh, self._now)}, TURNS)
        except Exception as error:  # also where both do not fit: what runs goes on, and this is not tried again
            self._fail(error)
            return
        kept, gone = sorted((fresh, self._now), key=seconds.__getitem__)
        log.info("compiled, %d rows take %.3g of their time", len(inputs[0]), seconds[fresh] / seconds[self._now])
        self._now, self._is_compiled = kept, kept is fresh
        gone.close()

    def _fail(self, error: Exception) -> None:
        if self._permit.is_given:
            self._maker.has_failed |= not is_out_of_memory(error)
            log.warning("UNet calls stay uncompiled: %s", str(error).partition("\n")[0])
