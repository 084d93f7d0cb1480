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
    read_prompts: tuple[str, ...] = ()  # one per image, as the model reads them; none: as it was written
    read_negative_prompt: str | None = None  # None: as it was written
    is_reworded: bool = False  # whether read_prompts have words that the model knows for others
    heeds_denials: bool = False  # whether read_prompts have nothing of what the negative prompt denies
    is_placed: bool = False  # whether read_prompts have the mask's place

    @property
    def effective_strength(self) -> float | None:
        """`strength`, raised where strength x steps would leave no step at all."""
        return None if self.strength is None else strength_of_a_step(self.strength, self.num_inference_steps)


def strength_of_a_step(strength: float, num_inference_steps: int) -> float:
    """`strength`, or where strength x steps is less than one step, that of exactly one.

    Rounded up to four places: 49 x (1 / 49) is less than 1 to a computer.
    """
    if int(num_inference_steps * strength) >= 1:
        return strength
    return -(-10_000 // num_inference_steps) / 10_000
