"""What the server keeps of each browser tab and each API call: little, and not without end.

Gradio keeps the configuration of the whole page for each (0.9 MB here), for links that restore a page, which this one
does not have, and it keeps 10,000 of them: a script of a thousand calls took a gigabyte.
"""

from __future__ import annotations

import datetime
from collections import ChainMap
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from gradio.state_holder import SessionState, StateHolder

if TYPE_CHECKING:
    from gradio.blocks import Blocks

CAPACITY: Final = 2000


class Session(SessionState):
    """The values of one session's states; its components are the page's own until one of them is changed."""

    def __init__(self, blocks: Blocks) -> None:
        # Not Gradio's own: that is where the whole configuration is made.
        self.blocks_config = copy(blocks.default_config)
        self.blocks_config.blocks = ChainMap({}, blocks.default_config.blocks)  # type: ignore[assignment]
        self.blocks_config.fns = ChainMap({}, blocks.default_config.fns)  # type: ignore[assignment]
        self.config_values = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        """As Gradio's, without its record of the configuration.

        An update makes a component with an id that nothing asks for again; Gradio keeps each of those, too.
        """
        if key not in self.blocks_config.blocks:
            return
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """Nothing reads it."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing reads it."""


class Sessions(StateHolder):
    """At most CAPACITY sessions. Those that hold no state, which are API calls, go first, then closed ones."""

    def __getitem__(self, session_id: str) -> Session:
        """That session, made where it is new."""
        with self.lock:
            session = self.session_data.get(session_id)
            if session is None:
                session = self.session_data[session_id] = Session(self.blocks)
                self._make_room(session_id)
            self.session_data.move_to_end(session_id)
            self.time_last_used[session_id] = datetime.datetime.now()
        return session  # type: ignore[return-value]

    def _make_room(self, newest: str) -> None:
        while len(self.session_data) > CAPACITY:
            others = [(name, session) for name, session in self.session_data.items() if name != newest]
            empty = (name for name, session in others if not session.state_data)
            closed = (name for name, session in others if session.is_closed)
            gone = next(empty, None) or next(closed, None) or others[0][0]
            del self.session_data[gone]
            self.time_last_used.pop(gone, None)
