"""A job in the step loop: what its stages took, and the looks at its picture that it has time for."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from PIL import Image

from sd_demo.decoding import preview
from sd_demo.denoising import Denoising
from sd_demo.events import Step
from sd_demo.job import Job
from sd_demo.prompts import PromptEmbeds
from sd_demo.ranking import Ranker

log = logging.getLogger(__name__)

PREVIEW_SHARE: Final = 0.1  # of the device time that is a job's own, what its previews may take


@dataclass(eq=False)
class Running:
    """A job in the step loop, and the seconds of its stages so far."""

    job: Job
    denoising: Denoising
    embeds: PromptEmbeds
    ranker: Ranker | None
    encode_s: float
    denoise_s: float = 0.0
    own_s: float = 0.0  # of denoise_s, what its rows cost among those of others
    decode_s: float = 0.0
    preview_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return self.encode_s + self.denoise_s + self.decode_s

    def spend(self, step_s: float, rows: int) -> float:
        """Count a step of `step_s` seconds for `rows` rows of all jobs in it; the seconds that are this job's own."""
        own_s = step_s * self.denoising.rows / rows
        self.denoise_s += step_s
        self.own_s += own_s
        return own_s

    @property
    def has_time_for_previews(self) -> bool:
        """Whether its previews so far took less than their share, and the first is worth its time.

        Each of several jobs in the loop pays for its own only, or previews would take longer than pictures; as it has
        time for few then, the first comes the later, up to half way, the more share the loop: alone after one step.
        """
        crowd = self.denoising.most_shared / (1 + self.denoising.most_shared)
        is_early = self.denoising.index < crowd * self.denoising.total / 2
        return not is_early and self.preview_s <= PREVIEW_SHARE * self.own_s


def step_of(running: Running) -> Step:
    """What a job tells after its latest step."""
    denoising = running.denoising
    left = (denoising.total - denoising.index) * running.denoise_s / max(1, denoising.index)
    return Step(denoising.index, denoising.total, left, previews(running))


def previews(running: Running) -> tuple[Image.Image, ...]:
    """A look at each picture of an unfinished job, where its visitor wants one and it has time for that; else none.

    None of a model with a safety checker, which looks at finished pictures only.
    """
    denoising = running.denoising
    is_wanted = running.job.has_previews and not denoising.is_finished and denoising.model.safety is None
    if denoising.model.residence.is_crowded or not is_wanted or not running.has_time_for_previews:
        return ()
    start = time.perf_counter()
    try:
        return preview(denoising)
    except Exception as error:  # the picture itself may still come out well
        log.warning("request %s has no preview (%s)", running.job.id, type(error).__name__)
        running.job.has_previews = False
        return ()
    finally:
        running.preview_s += time.perf_counter() - start
