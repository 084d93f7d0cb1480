"""One team of helpers at a time: whoever has computed sends its own home, and pictures keep their speed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sd_demo import engine as engine_module
from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from sd_demo.torch_threads import _pause, rest
from sd_demo.turns import Turns

TASKS = Path("/proc/self/task")
needs_teams = pytest.mark.skipif(
    not TASKS.is_dir() or (os.cpu_count() or 1) < 2 or _pause() is None or torch.get_num_threads() < 2,
    reason="PyTorch keeps no team of helpers here",
)


def compute() -> None:
    torch.nn.functional.conv2d(torch.ones(4, 8, 64, 64), torch.ones(8, 8, 3, 3))


def helpers() -> int:
    """Threads of this process that are not Python's, once none comes or goes."""
    counts = [-1]
    while len(counts) < 20 or len(set(counts[-20:])) > 1:
        time.sleep(0.01)
        counts.append(len(list(TASKS.iterdir())) - threading.active_count())
    return counts[-1]


def threads_after(work: Callable[[], None]) -> int:
    """How many helpers `work`, run in a thread of its own that lives on, leaves behind."""
    before, done, end = helpers(), threading.Event(), threading.Event()

    def run() -> None:
        work()
        done.set()
        end.wait()

    thread = threading.Thread(target=run)
    thread.start()
    done.wait()
    count = helpers() - before
    end.set()
    thread.join()
    return count


@needs_teams
def test_helpers_go_home_and_come_back() -> None:
    assert threads_after(compute) >= 1

    def and_rest() -> None:
        compute()
        rest()

    assert threads_after(and_rest) == 0

    def again() -> None:
        and_rest()
        compute()

    assert threads_after(again) >= 1


@needs_teams
def test_a_guest_on_the_device_leaves_no_helpers_and_the_host_keeps_its_own() -> None:
    turns = Turns()

    def in_turn() -> None:
        with turns:
            compute()

    def at_home() -> None:
        turns.settle()
        in_turn()

    assert threads_after(in_turn) == 0
    assert threads_after(at_home) >= 1


def test_an_idle_engine_sends_its_helpers_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[tuple[str, bool]] = []
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    monkeypatch.setattr(
        engine_module, "rest", lambda: rested.append((threading.current_thread().name, bool(engine._running)))
    )
    engine.start()
    small = {"prompt": "a", "num_inference_steps": 3, "width": 64, "height": 64}
    try:
        engine.submit(parse_request("text_to_image", small)).result(120)
    finally:
        engine.close()
    assert rested[-1] == ("engine", False)
    assert len(rested) >= 2, "before the job and after it"
