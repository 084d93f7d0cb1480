"""One team of helpers at a time: whoever has computed sends its own home, and pictures keep their speed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sd_demo import engine as engine_module
from sd_demo import torch_threads
from sd_demo.engine import Engine
from sd_demo.requests import parse_request
from sd_demo.settings import Settings
from sd_demo.torch_threads import (
    CROWDED_ABOVE,
    _core_seconds,
    _cores,
    _library,
    _watch,
    at_work,
    cores_taken,
    is_crowd,
    rest,
)
from sd_demo.turns import Turns

TASKS = Path("/proc/self/task")
needs_teams = pytest.mark.skipif(
    not TASKS.is_dir() or (os.cpu_count() or 1) < 2 or _library() is None or torch.get_num_threads() < 2,
    reason="PyTorch keeps no team of helpers here",
)


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Cores that other programs have, as the watch is told; a test may change it. No test hangs on what runs beside."""
    taken = [0.0]
    monkeypatch.setattr(torch_threads, "cores_taken", lambda before, now: taken[0] * torch_threads._LOOK_EVERY_S)
    watch = _watch()
    while watch is not None and watch.is_crowded:  # as it really was, before
        time.sleep(0.05)
    return taken


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


def eventually(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_true()


@needs_teams
@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="who has the cores is not told here")
def test_an_idle_team_is_kept_while_others_want_the_cores_and_somebody_computes(others: list[float]) -> None:
    with at_work():
        watch = _watch()
        assert watch is not None
        assert eventually(lambda: not watch.is_crowded)
        before = helpers()
        others[0] = 100.0 * len(_cores())
        assert eventually(lambda: watch.is_crowded)
        assert helpers() - before == len(_cores()), "with the thread that keeps them one more than the cores"
        others[0] = 0.0
        assert eventually(lambda: not watch.is_crowded)
        assert helpers() == before
        others[0] = 100.0 * len(_cores())
        assert eventually(lambda: watch.is_crowded)
    assert eventually(lambda: not watch.is_crowded), "others go on, but nobody here computes"
    assert helpers() == before


def test_a_little_work_beside_is_no_crowd_and_a_crowd_does_not_waver() -> None:
    for room in (0, 8):  # cores that no helper needs
        limit = room + CROWDED_ABOVE
        assert not is_crowd(0.0, room, is_crowded=False)
        assert not is_crowd(0.95 * limit, room, is_crowded=False)
        assert is_crowd(1.05 * limit, room, is_crowded=False)
        assert is_crowd(room + 0.9 * CROWDED_ABOVE, room, is_crowded=True)
        assert not is_crowd(room + 0.5 * CROWDED_ABOVE, room, is_crowded=True)


@needs_teams
@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="who has the cores is not told here")
def test_whoever_has_a_turn_is_at_work_and_whatever_ends_it_ends_that() -> None:
    turns, watch = Turns(), _watch()
    assert watch is not None
    before, seen = watch._inside, []

    def fail() -> None:
        seen.append(watch._inside)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), turns:
        fail()
    assert seen == [before + 1]
    assert watch._inside == before


def test_what_others_take_is_what_is_left_of_all_without_ones_own() -> None:
    assert cores_taken((100.0, 7.0), (103.0, 9.5)) == 0.5


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="who has the cores is not told here")
def test_another_program_is_seen_and_ones_own_work_is_not_taken_for_it() -> None:
    cores = _cores()
    before = _core_seconds(cores)
    code = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert cores_taken(before, _core_seconds(cores)) > 0.4
    before = _core_seconds(cores)
    while time.process_time() < before[1] + 0.5:
        pass
    (all_before, own_before), (all_now, own_now) = before, _core_seconds(cores)
    assert own_now - own_before >= 0.5
    assert all_now - all_before > 0.4, "what is one's own is in both, and so drops out"


def test_work_goes_on_where_nothing_can_be_done_about_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_threads, "_watch", lambda: None)
    with at_work():
        compute()
