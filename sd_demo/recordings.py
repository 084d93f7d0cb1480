"""A call as it is answered again and again: CUDA graphs, recorded once for a shape.

Where kernels are short and many, a fast GPU waits for the CPU to launch them
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). A recording is replayed without that cost.

Not yet run on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import torch

WARM_UPS: Final = 3

Call = Callable[..., torch.Tensor]


class NotNow(Exception):
    """Nothing can be recorded at this moment; a later call may ask again."""


class Recording:
    """A call with inputs of one shape."""

    is_settled = True
    """Whether it will go on answering in the way that it does now; any thread may ask."""

    is_compiled = False
    """Whether it answers by what a compiler made of the call, whose rounding is another one."""

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

    def __init__(self, call: Call, inputs: Sequence[torch.Tensor], pool: Any, aside: Any) -> None:
        self._inputs = [value.clone() for value in inputs]
        before = torch.cuda.current_stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):  # what libraries allocate and choose at a first call must not be recorded
                call(*self._inputs)
        before.wait_stream(aside)
        torch.cuda.synchronize()
        _clear_workspaces()
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (a lesson, a training) may allocate while this one records.
            with torch.cuda.graph(self._graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
                self._answer = call(*self._inputs)
        except BaseException:
            self._graph.reset()
            _end_pool(pool)
            raise
        finally:  # a recording that failed may leave its stream as the current one
            torch.cuda.set_stream(before)
            _clear_workspaces()

    def replay(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        for kept, value in zip(self._inputs, inputs, strict=True):
            kept.copy_(value)
        self._graph.replay()
        return self._answer.clone()


def _end_pool(pool: Any) -> None:
    """Where a recording was broken off, torch goes on taking memory from its pool: nothing would be freed any more.

    `CUDAGraph.capture_end` raises before it gets there. Where it got there, the first call raises and nothing is done.
    """
    with suppress(RuntimeError, AttributeError):  # of a torch that has no such functions
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        torch._C._cuda_releasePool(torch.cuda.current_device(), pool)


class RecordOnCuda:
    """Makes recordings on one stream, which share one pool of memory while any of them lives."""

    def __init__(self) -> None:
        self._aside = torch.cuda.Stream()
        self._living: weakref.WeakSet[CudaRecording] = weakref.WeakSet()
        self._pool: Any = None

    def __call__(self, call: Call, inputs: Sequence[torch.Tensor]) -> Recording:
        """A recording of `call` with inputs of the shapes of `inputs`."""
        if not self._living:  # a pool whose last recording went is not to be used again
            self._pool = torch.cuda.graph_pool_handle()
        recording = CudaRecording(call, inputs, self._pool, self._aside)
        self._living.add(recording)
        return recording


def _clear_workspaces() -> None:
    """Free cuBLAS's workspaces, 32 MiB for each stream on a Hopper, as PyTorch does around its own recordings.

    One made while recording belongs to the recording's memory, and must not be handed to calls outside of it.
    """
    torch._C._cuda_clearCublasWorkspaces()
