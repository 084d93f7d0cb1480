"""A request decided: what runs, with nothing left open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """A request with every choice made: what "the model's default" and "random" came to."""

    task: str
    seeds: tuple[int, ...]  # one per image
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    strength: float | None = None
    noise_level: int | None = None

    @property
    def effective_strength(self) -> float | None:
        """`strength`, raised where strength x steps would leave no step at all."""
        if self.strength is None or int(self.num_inference_steps * self.strength) >= 1:
            return self.strength
        return 1 / self.num_inference_steps
