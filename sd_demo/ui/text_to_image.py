"""The tab that makes a picture from words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sd_demo.requests import TextToImage
from sd_demo.ui import task_tab
from sd_demo.ui.run import Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine


def build(engine: Engine) -> Tab:
    """Lay the tab out where this is called."""
    return task_tab.build(engine, TextToImage.task)
