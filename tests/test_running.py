"""What previews may cost: a share of a job's own device time, however many share the loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sd_demo.running import PREVIEW_SHARE, Running

STEPS, STEP_S, PREVIEW_S = 20, 0.25, 0.125


def running(shared_with: int) -> Running:
    denoising: Any = SimpleNamespace(rows=2, index=0, total=STEPS, most_shared=shared_with)
    nothing: Any = None
    return Running(nothing, denoising, nothing, None, encode_s=0.0)


def looks(shared_with: int) -> list[int]:
    """After which steps a job shows a preview that shares all its steps with so many others."""
    job, seen = running(shared_with), []
    for step in range(1, STEPS):
        job.denoising.index = step
        assert job.spend(STEP_S, 2 * (1 + shared_with)) == pytest.approx(STEP_S / (1 + shared_with))
        if job.has_time_for_previews:
            seen.append(step)
            job.preview_s += PREVIEW_S
    assert job.denoise_s == pytest.approx(STEP_S * (STEPS - 1))
    return seen


def test_alone_there_is_a_look_after_the_first_step_and_all_along() -> None:
    assert looks(0) == [1, 5, 10, 15]


def test_the_more_share_the_loop_the_fewer_and_the_later() -> None:
    assert looks(1)[0] == 5
    assert looks(7) == [9]


@pytest.mark.parametrize("shared_with", [0, 1, 3, 7])
def test_all_jobs_together_spend_little_more_than_their_share(shared_with: int) -> None:
    spent = (1 + shared_with) * PREVIEW_S * len(looks(shared_with))
    allowed = PREVIEW_SHARE * STEP_S * STEPS
    assert spent <= allowed + (1 + shared_with) * PREVIEW_S  # one look more than its share, as the first is free
