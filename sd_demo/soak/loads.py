"""Many people at once: who gets what, who waits for whom, and whether the device is free when they leave."""

from __future__ import annotations

import io
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final

import numpy as np
from PIL import Image

from sd_demo.errors import PlaygroundError
from sd_demo.soak.server import Answer, Server

SMALL: Final[dict[str, Any]] = {"prompt": "a red ball", "width": 64, "height": 64, "num_inference_steps": 4}
SEEDS: Final = (1, 2, 3, 4)
SAME_MEAN: Final = 2.0  # mean difference of 255 between the same picture alone and in a shared call
FREE_S: Final = 60.0
SEEN_AFTER: Final = 5  # steps of 10 ms, until the news of a closed connection has come through


def load(server: Server, scale: float) -> dict[str, Any]:
    """50 clients with 4 jobs each at once: each ends as a picture of its own seed or a clear refusal."""
    alone = _alone(server)
    clients = max(1, round(50 * scale))

    def client(number: int) -> list[tuple[int, Answer]]:
        with ThreadPoolExecutor(4) as pool:
            # A session of its own each: of one session's answers Gradio keeps a single stream.
            asked = [
                (seed, pool.submit(server.call, session=f"load{number}-{seed}", seed=seed, **SMALL)) for seed in SEEDS
            ]
            return [(seed, answer.result()) for seed, answer in asked]

    with ThreadPoolExecutor(clients) as pool:
        answers = [pair for pairs in pool.map(client, range(clients)) for pair in pairs]
    wrong = sum(
        answer.receipts[0]["done"]["seed"] != seed or differs(server, answer, alone[seed])
        for seed, answer in answers
        if answer.kind == "picture"
    )
    kinds = Counter(answer.kind for _, answer in answers)
    has_held = set(kinds) <= {"picture", "refused"} and not wrong and server.is_up
    return {"holds": has_held, "jobs": len(answers), **kinds, "wrong_pictures": wrong}


def fairness(server: Server, scale: float) -> dict[str, Any]:
    """One visitor with 20 jobs, then one with 1: its wait, in the time of one of the others' jobs."""
    jobs = max(2, round(20 * scale))
    steps = {**SMALL, "num_inference_steps": 20}
    with ThreadPoolExecutor(1) as pool:
        many = pool.submit(server.call_all, [{**steps, "seed": k} for k in range(jobs)], session="many")
        time.sleep(0.5)
        one = server.call(session="one", seed=1, **steps)
        others = many.result()
    seconds = [_job_s(answer) for answer in others if answer.kind == "picture"]
    waited = one.seconds - _job_s(one) if one.kind == "picture" else float("inf")
    wait_jobs = waited / max(1e-9, sum(seconds) / max(1, len(seconds)))
    return {"holds": wait_jobs <= 2, "jobs": jobs, "wait_s": round(waited, 2), "wait_in_jobs": round(wait_jobs, 2)}


def cancels(server: Server, scale: float) -> dict[str, Any]:
    """100 cancels and 100 disconnects at random moments: at most the step in progress, and the next picture is right.

    Every second cancel names another function than it called, which Gradio takes for a reason to begin anew.
    "after_cancel" is counted by the server from the moment that it knew; "seen_after" here, over HTTP: with the time
    that the news took, and with the step in progress, so that SEEN_AFTER allows for more.
    """
    alone, count, free_s, steps, late = _alone(server), max(1, round(100 * scale)), [], [], []
    wrong, called = 0, server.function("text_to_image")
    for k in range(2 * count):
        session = f"gone{k}"
        joined = server.join("text_to_image", _long(k), session=session).json()
        with server.http.stream("GET", f"/gradio_api/call/text_to_image/{joined['event_id']}") as stream:
            time.sleep(random.Random(k).uniform(0.1, 0.6))  # noqa: S311 # a moment, not a secret
            late_before = server.metric("sd_demo_steps_after_cancel_total")
            if k % 2:
                number = called if k % 4 == 1 else 0
                asked = {"session_hash": session, "fn_index": number, "event_id": joined["event_id"]}
                server.http.post("/gradio_api/cancel", json=asked)
            stream.close()
        before = server.metric("sd_demo_steps_total")
        free_s.append(_until_free(server))
        steps.append(server.metric("sd_demo_steps_total") - before)
        late.append(server.metric("sd_demo_steps_after_cancel_total") - late_before)
        if k % 10 == 0:
            wrong += differs(server, server.call(seed=1, **SMALL), alone[1])
    stuck = sum(seconds >= FREE_S for seconds in free_s)
    has_held = not stuck and not wrong and max(late) <= 1 and max(steps) <= SEEN_AFTER
    return {
        "holds": has_held, "cancels": count, "disconnects": count, "stuck": stuck,
        "wrong_pictures": wrong, "slowest_free_s": round(max(free_s), 2), "median_free_s": round(median(free_s), 2),
        "most_steps_after_cancel": round(max(late)), "median_steps_seen_after": round(median(steps)),
        "most_steps_seen_after": round(max(steps)),
    }  # fmt: skip


def visitors(server: Server, scale: float) -> dict[str, Any]:
    """What one visitor made, asked for by another over every way to a file."""
    answers = [server.call(session=f"owner{k}", seed=k, **SMALL) for k in range(max(1, round(5 * scale)))]
    names = [path for path in server.folder.rglob("*") if path.is_file()]
    tries = [f"/gradio_api/{way}{path}" for path in [*names, server.folder] for way in ("file=", "file/")]
    tries += [f"/gradio_api/file={path.parent}" for path in names]
    read = [way for way in tries if server.http.get(way).status_code == 200]
    made = sum(answer.kind == "picture" for answer in answers)
    return {"holds": not read and made > 0, "pictures": made, "tries": len(tries), "read": len(read)}


def memory(server: Server, scale: float) -> dict[str, Any]:
    """1,000 jobs one after another: how resident memory grows over the second half, in MB for 20 jobs."""
    count = max(20, round(1000 * scale))
    sizes = []
    for k in range(count):
        server.call(seed=k, session=f"soak{k % 7}", **SMALL)
        sizes.append(server.metric("sd_demo_resident_bytes") / 1e6)
    half = sizes[len(sizes) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) * 20
    return {"holds": slope < 1, "jobs": count, "mb_in_20_jobs": round(slope, 3), "resident_mb": round(sizes[-1])}


def _alone(server: Server) -> dict[int, np.ndarray]:
    return {seed: pixels(server, server.call(seed=seed, **SMALL)) for seed in SEEDS}


def pixels(server: Server, answer: Answer) -> np.ndarray:
    """The first picture of an answer [H, W, 3], 0 to 255. Raises PlaygroundError where there is none."""
    if answer.kind != "picture":
        raise PlaygroundError(f"A picture was not made: {answer.text or answer.kind}")
    with Image.open(io.BytesIO(server.picture(answer.files[0]))) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def differs(server: Server, answer: Answer, before: np.ndarray) -> bool:
    """Whether an answer is another picture than `before`, or none."""
    return answer.kind != "picture" or float(np.abs(pixels(server, answer) - before).mean()) > SAME_MEAN


def _job_s(answer: Answer) -> float:
    done = answer.receipts[0]["done"]
    return float(done["encode_s"] + done["denoise_s"] + done["decode_s"])


def _long(seed: int) -> list[Any]:
    from sd_demo.soak.server import positional

    return positional("text_to_image", {**SMALL, "num_inference_steps": 150, "seed": seed})


def _until_free(server: Server) -> float:
    start = time.perf_counter()
    while time.perf_counter() - start < FREE_S:
        if server.metric("sd_demo_running_jobs") + server.metric("sd_demo_queued_jobs") == 0:
            break
        time.sleep(0.05)
    return time.perf_counter() - start
