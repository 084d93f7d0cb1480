"""A worker and a device that computes while the worker goes on; the device is a mock, as it needs a GPU."""

from __future__ import annotations

import pytest
import torch

from sd_demo.pace import Pace


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_worker_is_one_step_ahead_of_a_gpu_and_no_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Event:
        count = 0

        def __init__(self) -> None:
            Event.count += 1
            self.number = Event.count

        def record(self) -> None:
            said.append(f"launched {self.number}")

        def synchronize(self) -> None:
            said.append(f"done {self.number}")

    monkeypatch.setattr(getattr(torch, kind), "Event", Event)
    pace = Pace()
    for _ in range(3):
        pace.keep(torch.device(kind))
    assert said == ["launched 1", "launched 2", "done 1", "launched 3", "done 2"]


def test_a_cpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", lambda: pytest.fail("a CPU has no events"))
    Pace().keep(torch.device("cpu"))
