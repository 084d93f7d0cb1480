"""Who is asking: a random id that the browser keeps, so that nothing of one visitor shows to another."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from typing import Any, Final

import gradio as gr

from sd_demo.outputs import Outputs

STORAGE_PREFIX: Final = "sd-demo-"
# Gradio sends this word to every browser: it hides nothing, it only keeps settings readable after a restart.
STORAGE_WORD: Final = "kept-in-browser"
MAX_REMEMBERED: Final = 16
_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")


def browser_state(name: str, default: Any = None) -> gr.BrowserState:
    """A value that this page keeps in the browser's own storage under `name`."""
    return gr.BrowserState(default, storage_key=STORAGE_PREFIX + name, secret=STORAGE_WORD)


def known_or_new(value: Any) -> str:
    """The id that the browser kept, or a new one that cannot be guessed."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else secrets.token_urlsafe(24)


def folder_name(value: Any, request: gr.Request | None) -> str:
    """The visitor for the engine: a digest, so that no path tells the id that opens a visitor's pictures.

    Without a kept id (an API caller) it is the session's; without either, nobody's: a fresh one.
    """
    session = getattr(request, "session_hash", None)
    if isinstance(value, str) and _ID.fullmatch(value):
        secret = f"browser {value}"
    elif isinstance(session, str) and session:
        secret = f"session {session}"
    else:
        secret = secrets.token_urlsafe(24)
    return hashlib.sha256(secret.encode()).hexdigest()[:24]


def remembered_pictures(outputs: Outputs, visitor: str, names: Any) -> list[Path]:
    """The files of this visitor that `names` (from the browser, so not to be trusted) speaks of."""
    if not isinstance(names, list):
        return []
    folder = outputs.visitor_folder(visitor)
    paths = [
        folder / Path(name).name for name in names[:MAX_REMEMBERED] if isinstance(name, str) and "\x00" not in name
    ]
    return [path for path in paths if path.suffix == ".png" and path.is_file()]
