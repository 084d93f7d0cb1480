"""The bench answers its whole report, and its ratios are what its seconds say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sd_demo.bench import Bench
from sd_demo.known_models import EMBEDDED_FOLDER

pytestmark = pytest.mark.timeout(600)


def test_bench_prints_its_report(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    command = [sys.executable, "-m", "sd_demo", "bench", "--size", "64", "--steps", "2", "--repeats", "1", "--json"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--write", str(page)], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    seconds, ratios = report["s_per_image"], report["ratios"]
    assert set(seconds) == {"a", "b", "c"}
    assert ratios["c_over_a"] == pytest.approx(seconds["a"] / seconds["c"], rel=0.05)
    assert ratios["eight_over_a"] == pytest.approx(report["together"]["8"]["images_per_s"] * seconds["a"], rel=0.05)
    assert report["peak_mib"] > 100
    assert report["error"]["a"] == 99  # in float32 on the CPU, A is the exact run
    assert report["error"]["c"] >= 35
    assert report["device"]
    written = page.read_text(encoding="utf-8")
    assert "`python -m sd_demo bench --model picture-book --size 64 --steps 2`" in written
    assert f"| C over A, C over B | {ratios['c_over_a']}, {ratios['c_over_b']} |" in written


def test_ours_is_measured_after_everything_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(Bench, "_together", lambda self, engine, count: drawn.append(count))
    engine = SimpleNamespace(status=lambda: SimpleNamespace(is_settled=len(drawn) % 3 == 0))
    for is_compiled, expected in ((False, []), (True, [1, 1, 1, 4, 4, 4, 8, 8, 8])):
        bench = Bench(EMBEDDED_FOLDER, size=64, steps=2, repeats=1, device="cpu", compile=is_compiled)
        bench._settle(engine)  # type: ignore[arg-type]
        assert drawn == expected
