"""The bench answers its whole report, and its ratios are what its seconds say."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(600)


def test_bench_prints_its_report() -> None:
    command = [sys.executable, "-m", "sd_demo", "bench", "--size", "64", "--steps", "2", "--repeats", "1", "--json"]
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    seconds, ratios = report["s_per_image"], report["ratios"]
    assert set(seconds) == {"a", "b", "c"}
    assert ratios["c_over_a"] == pytest.approx(seconds["a"] / seconds["c"], rel=0.05)
    assert ratios["eight_over_a"] == pytest.approx(report["together"]["8"]["images_per_s"] * seconds["a"], rel=0.05)
    assert report["peak_mib"] > 100
    assert report["error"]["a"] == 99  # in float32 on the CPU, A is the exact run
    assert report["error"]["c"] >= 35
    assert report["device"]
