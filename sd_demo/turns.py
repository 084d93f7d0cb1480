"""A lock that is fair: whoever asks for it gets it in the order of asking.

An ordinary lock may go to the thread that just gave it back, again and again, and the other one starves. Whoever gives
it back to another thread also sends its helpers home (torch_threads.py), so that there is one team at work.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack

from sd_demo.torch_threads import at_work, rest


class Turns:
    """Used in a `with` block. Not to be entered by a thread that is inside already.

    The thread that is at home here keeps its helpers while nobody else asks for the device.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._given = 0  # tickets handed out
        self._serving = 0  # the ticket whose turn it is
        self._at_home: int | None = None
        self._work = ExitStack()

    def settle(self) -> None:
        """From here on the calling thread is the one at home."""
        self._at_home = threading.get_ident()

    def __enter__(self) -> None:
        with self._changed:
            ticket = self._given
            self._given += 1
            self._changed.wait_for(lambda: self._serving == ticket)
        self._work.enter_context(at_work())

    def __exit__(self, *error: object) -> None:
        self._work.close()
        with self._changed:
            is_awaited = self._given > self._serving + 1
        if is_awaited or threading.get_ident() != self._at_home:
            rest()
        with self._changed:
            self._serving += 1
            self._changed.notify_all()
