"""Upscalings are planned one at a time, whoever asks, and who waits too long is told when to come back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_demo.errors import InvalidRequest, QueueFull
from sd_demo.outputs import Outputs
from sd_demo.ui import upscale
from sd_demo.ui.upscale import Planner
from tests.fake_engine import FakeEngine


def test_one_picture_is_enlarged_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Planner(FakeEngine(Outputs(tmp_path)), patience_s=0.05)  # type: ignore[arg-type] # the same contract
    values: dict[str, Any] = {"image": Image.new("RGB", (80, 64)), "scale": 2.0}
    is_inside, may_go = threading.Event(), threading.Event()
    really = upscale.plan_upscaling

    def slow(*args: Any, **named: Any) -> Any:
        is_inside.set()
        may_go.wait(30)
        return really(*args, **named)

    monkeypatch.setattr(upscale, "plan_upscaling", slow)
    first = threading.Thread(target=planner.plan, args=(values,))
    first.start()
    assert is_inside.wait(30)
    with pytest.raises(QueueFull, match=r"^Other pictures are being enlarged; try again in about 1 s\.$"):
        planner.plan(values)
    may_go.set()
    first.join()
    assert planner.plan(values).enlarged.size == (160, 128)
    with pytest.raises(InvalidRequest):
        planner.plan({**values, "scale": 99.0})
    assert planner.plan(values).scale == 2.0, "a refusal gives the turn back"
