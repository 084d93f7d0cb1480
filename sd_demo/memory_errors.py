"""Errors that say that memory ran out, and calls that are tried without holding on to what such an error knows.

A handled error keeps every frame that it passed, and with them what was computed until then: as long as its handler
runs, the very memory is missing whose lack it reports. So whatever is done about it is done after the handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

Answer = TypeVar("Answer")

# cuDNN's search for the fastest algorithm reports that none had memory enough, and cuBLAS its own allocation, under
# other names than PyTorch's torch.OutOfMemoryError (aten/src/ATen/native/cudnn/Conv_v8.cpp, CUDAException.h); on a full
# card they cannot even begin (EleutherAI/lm-evaluation-harness#1689). The last two are PyTorch's for the host's memory,
# on Windows in words of its own (c10/core/impl/alloc_cpu.cpp).
WORDS: Final = (
    "out of memory",
    "find was unable to find an engine",
    "status_alloc_failed",
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "can't allocate memory",
    "not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on the host or on a device."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in WORDS)


def tried(call: Callable[[], Answer]) -> Answer | RuntimeError:
    """The answer of `call`; the error in its place where the device's memory ran out, with no frame held by it."""
    try:
        return call()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failure = error
    let_go(failure)
    return failure


def let_go(error: BaseException) -> None:
    """Take from `error`, and from those that led to it, the frames that it passed and all that they hold."""
    seen: BaseException | None = error
    while seen is not None:
        following = seen.__cause__ or seen.__context__
        seen.__traceback__ = seen.__cause__ = seen.__context__ = None
        seen = following
