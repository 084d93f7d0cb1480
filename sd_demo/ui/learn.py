"""The tab that shows how latent diffusion works, on the picture-book model: one lesson beside the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.ui import learn_noise, learn_schedulers, learn_steps

if TYPE_CHECKING:
    from sd_demo.engine import Engine
    from sd_demo.learn.classroom import Classroom

NAME: Final = "learn"
TITLE: Final = "Learn"
LESSONS: Final[dict[str, Callable[[Callable[[], Any]], Callable[[gr.Tab], None] | None]]] = {
    "1 Adding noise": learn_noise.build_forward,
    "2 Taking it away": learn_steps.build,
    "3 Latents": learn_noise.build_round_trip,
    "4 Schedulers": learn_schedulers.build,
}


def build(engine: Engine, place: gr.Tab) -> None:
    """Lay the tab `place` out, with its wires, where this is called."""

    @cache
    def classroom() -> Classroom:
        from sd_demo.learn.classroom import Classroom

        return Classroom(engine.settings, registry=engine.registry, turns=engine.device_turns)

    with gr.Tabs(elem_id="lessons", elem_classes=["lessons"], overflow_behavior="wrap"):
        for number, (title, lesson) in enumerate(LESSONS.items()):
            with gr.Tab(title) as tab:
                opened = place if number == 0 else tab  # the first is seen as soon as the whole tab is
                if show_on_opening := lesson(classroom):
                    show_on_opening(opened)
