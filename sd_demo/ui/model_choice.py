"""Choosing another model: each control that still shows the old model's default takes the new one's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from sd_demo.errors import PlaygroundError
from sd_demo.ui import controls, introduction
from sd_demo.ui.header import Header

if TYPE_CHECKING:
    from sd_demo.engine import Engine

FOLLOWING = ("num_inference_steps", "guidance_scale", "scheduler", "width", "height")


@dataclass(frozen=True)
class Follower:
    """A tab whose controls follow the model: they are those of `task`. intro: what tells of the model, if anything."""

    task: str
    controls: Mapping[str, Any]
    intro: gr.HTML | None = None


def listen(engine: Engine, top: Header, tabs: Mapping[str, Follower], *others: Any) -> dict[str, gr.State]:
    """Wire the chooser to every tab; `others`: further events after which a model may have come.

    Returns, by tab, the name of the model whose defaults its controls follow.
    """
    states: dict[str, gr.State] = {}
    for name, tab in tabs.items():
        # One a tab: each handler needs the choice before this one.
        chosen = states[name] = gr.State(engine.defaults(None).name)
        followers = {field: tab.controls[field] for field in FOLLOWING if field in tab.controls}
        for event in (top.model.change, *others):
            event(
                _follow(engine, tab, list(followers)),
                [top.model, chosen, *followers.values()],
                [chosen, *followers.values(), *([tab.intro] if tab.intro else [])],
                preprocess=False,
                show_progress="hidden",
                queue=False,
                api_visibility="private",
            )
    return states


def _follow(engine: Engine, tab: Follower, names: list[str]) -> Callable[..., list[Any]]:
    def follow(model: Any, before: Any, *held: Any) -> list[Any]:
        try:
            old, new = engine.defaults(before), engine.defaults(model)
        except (PlaygroundError, TypeError):  # the controls go on following the model before
            return [gr.skip()] * (1 + len(names) + (tab.intro is not None))
        updates: list[Any] = [model]
        for name, value in zip(names, held, strict=True):
            is_untouched = value == controls.default_value(tab.task, name, old)
            updates.append(controls.default_value(tab.task, name, new) if is_untouched else gr.skip())
        if tab.intro is not None:
            updates.append(introduction.html(tab.task, new, is_here=engine.registry.is_here(new)))
        return updates

    return follow
