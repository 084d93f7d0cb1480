"""Choosing another model: each control that still shows the old model's default takes the new one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.ui import controls, introduction
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab
from sd_demo.ui.upscale import UpscaleTab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

FOLLOWING = ("num_inference_steps", "guidance_scale", "scheduler", "width", "height")


def listen(engine: Engine, top: Header, tabs: Mapping[str, Tab | UpscaleTab], *others: Any) -> dict[str, gr.State]:
    """Wire the chooser to every tab; `others`: further events after which a model may have come.

    Returns, by tab, the name of the model whose defaults its controls follow.
    """
    states: dict[str, gr.State] = {}
    for task, tab in tabs.items():
        # One a tab: each handler needs the choice before this one.
        chosen = states[task] = gr.State(engine.defaults(None).name)
        followers = {name: tab.controls[name] for name in FOLLOWING if name in tab.controls}
        for event in (top.model.change, *others):
            event(
                _follow(engine, task, list(followers)),
                [top.model, chosen, *followers.values()],
                [*followers.values(), tab.results.intro],
                preprocess=False,
                show_progress="hidden",
                queue=False,
                api_visibility="private",
            ).then(
                lambda model: model,
                [top.model],
                [chosen],
                preprocess=False,
                show_progress="hidden",
                queue=False,
                api_visibility="private",
            )
    return states


def _follow(engine: Engine, task: str, names: list[str]) -> Callable[..., list[Any]]:
    def follow(model: Any, before: Any, *held: Any) -> list[Any]:
        try:
            old, new = engine.defaults(before), engine.defaults(model)
        except (PlaygroundError, TypeError):
            return [gr.skip()] * (len(names) + 1)
        updates: list[Any] = []
        for name, value in zip(names, held, strict=True):
            is_untouched = value == controls.default_value(task, name, old)
            updates.append(controls.default_value(task, name, new) if is_untouched else gr.skip())
        return [*updates, introduction.html(task, new, is_here=engine.registry.weights(new) is not None)]

    return follow
