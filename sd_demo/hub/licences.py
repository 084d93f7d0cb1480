"""Licences that restrict what a model may be used for: told before a download, accepted once, remembered."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sd_demo.known_models import OPENRAIL, OPENRAIL_URL

RESTRICTIONS: Final = (
    f"{OPENRAIL} ({OPENRAIL_URL}) lets you use the model and what you make with it freely, also for money, but not: to "
    "break a law; to exploit or harm minors; to spread what is false in order to harm; to publish personal data that "
    "harms somebody; to insult, threaten or harass; to decide about people's rights automatically; to discriminate; to "
    "give medical advice; or for justice, police and migration work. Attachment A of the licence says it in full. Who "
    "passes the model on passes these restrictions on with it."
)


def is_restricted(licence: str) -> bool:
    """True for the OpenRAIL family, whose use restrictions a person has to accept."""
    return "openrail" in licence.lower()


class Licences:
    """The licences that this person has accepted, kept in `file`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def is_accepted(self, licence: str) -> bool:
        """True where nothing has to be accepted, or it was."""
        return not is_restricted(licence) or _key(licence) in self._read()

    def accept(self, licence: str) -> None:
        """Remember that `licence` was accepted now. Raises OSError where that cannot be written."""
        accepted = self._read() | {_key(licence): datetime.now(UTC).isoformat(timespec="seconds")}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        fresh.write_text(json.dumps(accepted, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self._file)

    def _read(self) -> dict[str, str]:
        try:
            read = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}


def _key(licence: str) -> str:
    return licence.lower().replace(" ", "-")
