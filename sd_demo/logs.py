"""What the program writes on standard error: sentences for a person, or a JSON object a line for a collector.

Each line about a request carries its id, the one that a person sees with an error. Prompts stay out unless asked for.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

FIELDS: Final = "sd_demo"
"""The attribute of a log record that holds a dict of further fields."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (UTC, ISO 8601), level, logger, message, its own fields, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(log_format: str, *, has_prompts: bool = False) -> None:
    """Let the program's log go to standard error. log_format: "text", where jobs that end well say nothing, or "json".

    has_prompts: whether the line of a job that ended holds its prompts.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: has_prompts or _without_prompts(record))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("sd_demo").setLevel(logging.INFO)
    logging.getLogger("sd_demo.job").setLevel(logging.INFO if log_format == "json" else logging.WARNING)


def _without_prompts(record: logging.LogRecord) -> bool:
    fields = getattr(record, FIELDS, None)
    if fields:
        setattr(record, FIELDS, {name: value for name, value in fields.items() if "prompt" not in name})
    return True
