"""Settings, engine, page: `python app.py` serves it; `demo` is what a Space imports."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from sd_demo import host_memory, logs
from sd_demo.cli import BAD_INPUT, FAILED
from sd_demo.errors import InvalidRequest, PlaygroundError
from sd_demo.history import History
from sd_demo.passwords import Users
from sd_demo.settings import Settings

if TYPE_CHECKING:
    from sd_demo.engine import Engine
    from sd_demo.ui import blocks

log = logging.getLogger("sd_demo")

FILES_AGE_S = 6 * 3600.0  # of uploads and of what browsers were shown
LOOK_EVERY_S = 1.0
FAULT_SHOWN_S = 5.0
DRAIN_S = 3.0  # for running jobs; what is not done then is handed back as cancelled
END_WITHIN_S = 9.0  # of a signal, all in all; supervisors kill after 10


def serve(settings: Settings, page: blocks.Page, engine: Engine) -> None:
    """Serve the page until SIGTERM or Ctrl+C, then let running jobs finish; exits with 1 where the device is lost."""
    from sd_demo.ui import blocks

    if settings.share and not (settings.auth or settings.auth_file):
        log.warning(
            "--share without --auth: ANYBODY who gets the public link can use this machine. "
            "Add --auth user:password to ask for a login."
        )
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            _end_within(END_WITHIN_S, 0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    page.launch(
        server_name=settings.host,
        server_port=settings.port or None,
        share=settings.share,
        auth=login(settings),
        prevent_thread_lock=True,
        max_threads=settings.max_queue + blocks.SPARE_THREADS,
    )
    log.info("The page is at %s", page.local_url)
    if page.share_url:
        log.info("The public link is %s", page.share_url)
    if engine.outputs.folder == settings.output_dir:  # of another folder the engine has told
        log.info("Pictures go to %s", engine.outputs.folder.resolve())
    if settings.picture_age_s:
        since = 0.0 if settings.expires_older_pictures else time.time()
        threading.Thread(
            target=History(engine.outputs).keep_expiring,
            args=(settings.picture_age_s, stop),
            kwargs={"since": since},
            name="expiry",
            daemon=True,
        ).start()
    fault, memory = "", host_memory.Keeper()
    while not fault and not stop.wait(LOOK_EVERY_S):
        fault = engine.health().fault
        memory.look()
    if fault:
        log.critical("%s", fault)
        stop.wait(FAULT_SHOWN_S)  # so that whoever watches /healthz reads the reason
        _end_within(END_WITHIN_S, 1)
    else:
        log.info("Stopping: running jobs may finish.")
    engine.close(DRAIN_S)
    page.close(verbose=False)
    if page.temporary_files:
        page.temporary_files.remove()
    # Not sys.exit: a thread still inside torch makes the interpreter's own end abort now and then.
    logging.shutdown()
    os._exit(1 if fault else 0)  # after 1 a supervisor starts the program again


def _end_within(seconds: float, code: int) -> None:
    """End the process then at the latest: a device call that hangs, or a slow start, cannot be interrupted."""
    last_resort = threading.Timer(seconds, os._exit, (code,))
    last_resort.daemon = True
    last_resort.start()


def login(settings: Settings) -> Any:
    """What asks for a name and a password: a pair, a function of both, or None for nobody."""
    if settings.auth and settings.auth_file:
        raise InvalidRequest("--auth and --auth-file are both given; choose one.")
    if settings.auth_file:
        return Users.read(settings.auth_file).check
    return tuple(settings.auth.split(":", 1)) if settings.auth else None


def check_address(settings: Settings) -> None:
    """Raises PlaygroundError where nothing can listen there; said before a model is loaded, not after."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        raise PlaygroundError(
            f"Nothing can listen on {settings.host} port {settings.port}; choose another --port or --host."
        ) from error


def start() -> tuple[Settings, Engine, blocks.Page]:
    """Read the settings, start the engine, build the page."""
    host_memory.keep_few_arenas()
    settings = Settings.read(sys.argv[1:] if __name__ == "__main__" else [])
    logs.set_up(settings.log_format, has_prompts=settings.log_prompts)
    if __name__ == "__main__":
        check_address(settings)
        login(settings)  # a file of users that cannot be used is told at once
    # Here, because these take seconds to import: a wrong setting is answered at once.
    from sd_demo.engine import Engine
    from sd_demo.ui.temporary_files import TemporaryFiles

    files = TemporaryFiles.of_this_process(min(FILES_AGE_S, settings.picture_age_s or FILES_AGE_S))
    files.start()
    from sd_demo.ui import blocks

    try:
        engine = Engine(settings)
    except PlaygroundError:
        files.remove()
        raise
    engine.start(falls_back=True)
    return settings, engine, blocks.build(engine, temporary_files=files)


try:
    _settings, _engine, demo = start()
except PlaygroundError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(BAD_INPUT if isinstance(error, InvalidRequest) else FAILED)

if __name__ == "__main__":
    serve(_settings, demo, _engine)
