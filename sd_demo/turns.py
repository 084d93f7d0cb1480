"""A lock that is fair: whoever asks for it gets it in the order of asking.

An ordinary lock may go to the thread that just gave it back, again and again, and the other one starves.
"""

from __future__ import annotations

import threading


class Turns:
    """Used in a `with` block. Not to be entered by a thread that is inside already."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._given = 0  # tickets handed out
        self._serving = 0  # the ticket whose turn it is

    def __enter__(self) -> None:
        with self._changed:
            ticket = self._given
            self._given += 1
            self._changed.wait_for(lambda: self._serving == ticket)

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()
