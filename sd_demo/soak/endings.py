"""Programs that are ended at bad moments, and models that change under load: what is left is whole and unmixed.

Each of these starts processes of its own, as none of them leaves a server behind that others could go on with.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image

from sd_demo.errors import PlaygroundError
from sd_demo.history import History
from sd_demo.outputs import TEMPORARY_PREFIX, Outputs
from sd_demo.soak.loads import SMALL, differs, pixels
from sd_demo.soak.server import APP, Answer, Server, started

END_S: Final = 10.0
SWITCH_CLIENTS: Final = 4
MEMORY_GROWTH: Final = 0.05

# Saves pictures and asks for their list until it is killed, as the engine and the History tab do. "ready" is printed
# when the first is there, so that the kill falls among saves and not into the start of Python.
WRITER: Final = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from sd_demo.history import History
from sd_demo.outputs import Outputs
from sd_demo.receipt import read_receipt_file
outputs = Outputs(Path(sys.argv[1]))
receipt = read_receipt_file(Path(sys.argv[2]))
noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
while True:
    outputs.save(Image.fromarray(noise), receipt, visitor="killed")
    History(outputs).find("killed")
    print("ready", flush=True)
"""


def kills(scale: float) -> dict[str, Any]:
    """50 times kill -9 while pictures are saved and indexed: every .png opens, and the index lists every one."""
    count, broken, unlisted, pictures = max(1, round(50 * scale)), 0, 0, 0
    chance = random.Random(9)  # noqa: S311 # repeatable on purpose
    with started() as server:
        answer = server.call(seed=1, **SMALL)
        if answer.kind != "picture":
            raise PlaygroundError(f"The picture to save could not be made: {answer.text}")
        content = server.picture(answer.files[0])
    with tempfile.TemporaryDirectory(prefix="sd-demo-kills-") as folder:
        sample, outputs = Path(folder) / "sample.png", Outputs(Path(folder) / "pictures")
        sample.write_bytes(content)
        for _ in range(count):
            with subprocess.Popen(  # noqa: S603 # this very program
                [sys.executable, "-c", WRITER, str(outputs.folder), str(sample)],
                stdout=subprocess.PIPE,
                cwd=APP.parent,
            ) as writer:
                if writer.stdout is None or writer.stdout.readline() != b"ready\n":
                    raise PlaygroundError("The process that saves pictures did not start.")
                time.sleep(chance.uniform(0, 0.2))
                writer.kill()
            names = list((outputs.folder / "killed").glob("*.png"))
            broken, pictures = broken + sum(not _opens(path) for path in names), len(names)
            unlisted += len(names) != len(History(outputs).find("killed", limit=10**6))
    holds = not broken and not unlisted and pictures >= count
    return {"holds": holds, "kills": count, "pictures": pictures, "broken": broken, "indexes_behind": unlisted}


def signals(scale: float) -> dict[str, Any]:
    """20 times SIGTERM at a random moment of a busy server: it ends within 10 s, with 0, and leaves nothing partial."""
    count, slowest, partial, codes = max(1, round(20 * scale)), 0.0, 0, Counter[int]()
    chance = random.Random(15)  # noqa: S311 # repeatable on purpose
    for number in range(count):
        with started() as server:
            askers = [threading.Thread(target=_ask_until_closed, args=(server, f"s{number}-{k}")) for k in range(4)]
            for asker in askers:
                asker.start()
            time.sleep(chance.uniform(0, 3))
            begin = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            try:
                codes[server.process.wait(60)] += 1
            except subprocess.TimeoutExpired:
                codes[-1] += 1
            slowest = max(slowest, time.perf_counter() - begin)
            for asker in askers:
                asker.join()
            partial += sum(1 for _ in server.folder.rglob(f"{TEMPORARY_PREFIX}*"))
            partial += sum(not _opens(path) for path in server.folder.rglob("*.png"))
    holds = slowest <= END_S and not partial and set(codes) == {0}
    return {
        "holds": holds, "signals": count, "slowest_s": round(slowest, 2), "partial_files": partial,
        "exit_codes": dict(codes),
    }  # fmt: skip


def switches(scale: float) -> dict[str, Any]:
    """50 changes of the model under load: each picture is of the model that was asked for, and memory comes back."""
    from sd_demo.random_model import save

    count = max(4, round(50 * scale))
    with tempfile.TemporaryDirectory(prefix="sd-demo-switches-") as folder, started("--profile", "local") as server:
        models = ["picture-book", str(save("sd-1.5", Path(folder) / "other", "tiny", 0))]
        alone = [pixels(server, server.call(seed=1, model=model, **SMALL)) for model in models]
        _one_round(server, models, 0)  # what the first use of each keeps for good is not counted below
        server.call(seed=1, model=models[0], **SMALL)  # either may have come last, and they are not of one size
        before = server.metric("sd_demo_resident_bytes")
        kinds, mixed = Counter[str](), 0
        for number in range(count // 2):  # there and back again
            for model, answer in _one_round(server, models, number):
                kinds[answer.kind] += 1
                mixed += answer.kind == "picture" and differs(server, answer, alone[model])
        server.call(seed=1, model=models[0], **SMALL)
        growth = server.metric("sd_demo_resident_bytes") / before - 1
        is_up = server.is_up
    holds = is_up and not mixed and set(kinds) == {"picture"} and growth <= MEMORY_GROWTH
    return {"holds": holds, "switches": count, **kinds, "mixed": mixed, "memory_growth": round(growth, 4)}


def _one_round(server: Server, models: list[str], number: int) -> list[tuple[int, Answer]]:
    """Several clients at once, each with a picture of each model; the models take turns."""

    def client(k: int) -> list[tuple[int, Answer]]:
        order = (0, 1) if (k + number) % 2 else (1, 0)
        return [(m, server.call(seed=1, session=f"w{number}-{k}-{m}", model=models[m], **SMALL)) for m in order]

    with ThreadPoolExecutor(SWITCH_CLIENTS) as pool:
        return [pair for pairs in pool.map(client, range(SWITCH_CLIENTS)) for pair in pairs]


def _ask_until_closed(server: Server, session: str) -> None:
    for seed in range(1000):
        try:
            server.call(seed=seed, session=session, **SMALL)
        except (httpx.HTTPError, ValueError, KeyError):  # the server is gone
            return


def _opens(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True
