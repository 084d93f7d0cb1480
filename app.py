"""Settings, engine, page: `python app.py` serves it; `demo` is what a Space imports."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from sd_demo.engine import Engine
from sd_demo.errors import PlaygroundError
from sd_demo.settings import Settings
from sd_demo.ui import blocks

log = logging.getLogger("sd_demo")


def serve(settings: Settings, page: blocks.Page, engine: Engine) -> None:
    """Serve the page until SIGTERM or Ctrl+C, then let running jobs finish."""
    if settings.share and not settings.auth:
        log.warning(
            "--share without --auth: ANYBODY who gets the public link can use this machine. "
            "Add --auth user:password to ask for a login."
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    page.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        share=settings.share,
        auth=tuple(settings.auth.split(":", 1)) if settings.auth else None,
        prevent_thread_lock=True,
        max_threads=settings.max_queue + blocks.SPARE_THREADS,
    )
    log.info("The page is at %s", page.local_url)
    if page.share_url:
        log.info("The public link is %s", page.share_url)
    log.info("Pictures go to %s", engine.outputs.folder.resolve())
    stop.wait()
    log.info("Stopping: running jobs may finish.")
    engine.close()
    page.close(verbose=False)


def start() -> tuple[Settings, Engine, blocks.Page]:
    """Read the settings, start the engine, build the page."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    settings = Settings.read(sys.argv[1:] if __name__ == "__main__" else [])
    engine = Engine(settings)
    engine.start()
    return settings, engine, blocks.build(engine)


try:
    _settings, _engine, demo = start()
except PlaygroundError as error:
    sys.exit(str(error))

if __name__ == "__main__":
    serve(_settings, demo, _engine)
