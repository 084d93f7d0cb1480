"""Counters count, and the text is what Prometheus reads."""

from __future__ import annotations

import re

from sd_demo.errors import OutOfMemory
from sd_demo.host_memory import resident_bytes
from sd_demo.metrics import COUNTERS, GAUGES, Metrics

LINE = re.compile(r'sd_demo_([a-z_]+)(\{[a-z]+="[A-Za-z_]+"(,[a-z]+="[A-Za-z_]+")*\})? ([0-9.e+-]+)')


def test_every_line_is_a_comment_or_a_sample_of_a_declared_metric() -> None:
    metrics = Metrics()
    metrics.add_failure(OutOfMemory("no room"))
    metrics.add_step(3, 0.5)
    for line in metrics.text({"queued_jobs": 2, "healthy": True}).splitlines():
        if line.startswith("# "):
            assert re.fullmatch(r"# (HELP|TYPE) sd_demo_\w+ .+", line)
            continue
        sample = LINE.fullmatch(line)
        assert sample, line
        assert sample[1] in {**COUNTERS, **GAUGES}


def test_what_is_counted_is_what_is_read() -> None:
    metrics = Metrics()
    metrics.add_step(3, 0.5)
    metrics.add_step(1, 0.25)
    metrics.add("images_total", 4)
    metrics.add_failure(OutOfMemory("no room"))
    text = metrics.text({"queued_jobs": 2})
    for line in (
        "sd_demo_steps_total 4",
        "sd_demo_unet_calls_total 2",
        "sd_demo_images_total 4",
        'sd_demo_stage_seconds_total{stage="denoise"} 0.75',
        'sd_demo_jobs_total{outcome="failed"} 1',
        'sd_demo_jobs_total{outcome="done"} 0',
        'sd_demo_failures_total{kind="OutOfMemory"} 1',
        "sd_demo_steps_per_second 4",
        "sd_demo_queued_jobs 2",
    ):
        assert line in text.splitlines()


def test_memory_of_this_process_is_in_bytes() -> None:
    assert 5_000_000 < resident_bytes() < 10**12
