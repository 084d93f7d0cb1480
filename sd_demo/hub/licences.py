"""Licences that restrict what a model may be used for: told before a download, accepted once, remembered."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sd_demo.known_models import OPENRAIL, OPENRAIL_2, OPENRAIL_2_URL, OPENRAIL_URL

# What Attachment A of both licences below comes to.
_ATTACHMENT_A: Final = (
    "lets you use the model and what you make with it freely, also for money, but not: to break a law; to exploit or "
    "harm minors; to spread what is false in order to harm; to publish personal data that harms somebody; to insult, "
    "threaten or harass; to decide about people's rights automatically; to discriminate; to give medical advice; or "
    "for justice, police and migration work. Attachment A of the licence says it in full. Who passes the model on "
    "passes these restrictions on with it."
)
_KNOWN: Final = {  # by what `_plain` leaves of their names, and of the tags that the hub has for them
    "creativemlopenrailm": (OPENRAIL, OPENRAIL_URL),
    "creativemlopenrail++m": (OPENRAIL_2, OPENRAIL_2_URL),
    "openrail++m": (OPENRAIL_2, OPENRAIL_2_URL),
    "openrail++": (OPENRAIL_2, OPENRAIL_2_URL),
}


def named(licence: str, page: str) -> tuple[str, str]:
    """The name and address of a licence, whichever way it is written; an unknown one as it is, at the model's page."""
    return _KNOWN.get(_plain(licence), (licence, page))


def is_restricted(licence: str) -> bool:
    """True for the OpenRAIL family, whose use restrictions a person has to accept."""
    return "openrail" in _plain(licence)


def restrictions(licence: str, url: str) -> str:
    """What `licence`, to be read at `url`, forbids, for people; "" where it restricts no use."""
    if not is_restricted(licence):
        return ""
    if _plain(licence) in _KNOWN:
        return f"{licence} ({url}) {_ATTACHMENT_A}"
    return f"{licence} restricts what the model and what you make with it may be used for: read it at {url}."


class Licences:
    """The licences that this person has accepted, kept in `file`; each goes by what `named` answers."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def is_accepted(self, licence: str, url: str) -> bool:
        """True where nothing has to be accepted, or it was."""
        return not is_restricted(licence) or _key(licence, url) in self._read()

    def accept(self, licence: str, url: str) -> None:
        """Remember that `licence` was accepted now. Raises OSError where that cannot be written."""
        accepted = self._read() | {_key(licence, url): datetime.now(UTC).isoformat(timespec="seconds")}
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


def _key(licence: str, url: str) -> str:
    name = licence.lower().replace(" ", "-")
    # An unknown one holds for the one model: "openrail" is a family, of which each model has a text of its own.
    return name if _plain(licence) in _KNOWN else f"{name} {url}"


def _plain(licence: str) -> str:
    return re.sub(r"[\s_-]", "", licence.lower())
