"""Values as Gradio delivers them, for the page and the API alike, turned into what parse_request takes.

No component's own preprocessing stands in between: one gate decides what is valid, with one sentence.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from sd_demo.errors import InvalidImage


def uploaded_file(value: Any, *, field: str) -> Path | None:
    """The path of a file that Gradio took in, from its description `{"path": …}`; None for None.

    Raises InvalidImage for anything else, also for the path of a file that nobody uploaded.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        raise InvalidImage(f"{field} must be an uploaded picture file (in Python: gradio_client.handle_file).", field)
    folder = os.path.realpath(get_upload_folder())
    try:
        path = os.path.realpath(value["path"])
        is_inside = os.path.commonpath([folder, path]) == folder
    except ValueError:  # a NUL byte, which no path holds
        path, is_inside = "", False
    if not is_inside:
        raise InvalidImage(f"{field} must be an uploaded file; a path or an address is not read.", field)
    with suppress(OSError):  # such as that it is gone
        if os.stat(path).st_mtime < time.time():  # what is kept for good lies in the future
            os.utime(path)  # what is used is not swept away (temporary_files.py)
    return Path(path)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that were left open: None means the request's own default."""
    return {name: value for name, value in values.items() if value is not None}
