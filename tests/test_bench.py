"""The bench answers its whole report, and its ratios are what its seconds say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
