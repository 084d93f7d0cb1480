"""The real page and its HTTP API, served on this machine over an engine that draws squares."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_demo.outputs import Outputs
from sd_demo.settings import Settings
from sd_demo.ui import blocks
from sd_demo.ui.temporary_files import TemporaryFiles
from tests.fake_engine import FakeEngine


@dataclass(frozen=True)
class FakePage:
    """`url` without a slash at its end; `app` is Gradio's."""

    url: str
    engine: FakeEngine
    app: Any = None


@contextlib.contextmanager
def serve(
    outputs: Path, settings: Settings | None = None, temporary_files: TemporaryFiles | None = None
) -> Iterator[FakePage]:
    """The page, from here until the end of the `with`."""
    engine = FakeEngine(Outputs(outputs), step_s=0.0, settings=settings)
    engine.start()
    page = blocks.build(engine, temporary_files=temporary_files)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True)
    yield FakePage(f"http://127.0.0.1:{port}", engine, page.app)
    page.close(verbose=False)
    engine.close()
