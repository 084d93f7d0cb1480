"""One task's tab: its inputs, the shared controls, its results. What differs between tasks comes in as arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components import Component

from sd_demo.requests import TextToImage
from sd_demo.ui import controls, copy_as_code, introduction, lora_picker, results, stopping, style_picker, visitor
from sd_demo.ui.run import GENERATE, ReadPictures, Tab

if TYPE_CHECKING:
    from sd_demo.engine import Engine
    from sd_demo.registry import ModelEntry

BuildInputs = Callable[[], tuple[tuple[Component, ...], ReadPictures]]


def build(engine: Engine, task: str, build_inputs: BuildInputs | None = None) -> Tab:
    """Lay a tab out where this is called. `build_inputs` makes the picture components, where the task has some."""
    entry = engine.defaults(None)
    with gr.Row(elem_classes=["workbench", task]):
        picture_inputs: tuple[Component, ...] = ()
        read_pictures: ReadPictures = dict
        if build_inputs is not None:
            with gr.Column(elem_classes=["area-input"]):
                picture_inputs, read_pictures = build_inputs()
        with gr.Column(elem_classes=["area-ask"]):
            made = controls.make_all(task, ["prompt"], entry)
            token_line = gr.HTML("", elem_id=f"{task}-tokens", elem_classes=["token-line"], js_on_load=None)
            made |= controls.make_all(task, ["negative_prompt"], entry)
            with gr.Row(elem_classes=["go"]):
                generate = stopping.start_button(f"{task}-generate", GENERATE)
                cancel = stopping.cancel_button(task)
                estimate = gr.HTML("", elem_id=f"{task}-estimate", elem_classes=["estimate"], js_on_load=None)
            smaller = gr.Button("", visible=False, size="sm", elem_id=f"{task}-smaller")
        with gr.Column(elem_classes=["area-show"]):
            is_here = engine.registry.is_here(entry)
            shown = results.build(task, introduction.html(task, entry, is_here=is_here))
            sheet = gr.Image(
                label="All pictures of the run in one sheet",
                show_label=False,
                interactive=False,
                visible=False,
                format="png",
                buttons=["download", "fullscreen"],
                elem_id=f"{task}-sheet",
            )
            copy_as_code.build(engine, task, shown)
        with gr.Column(elem_classes=["area-settings"]):
            settings, style, random_seed, reuse_seed = _settings(engine, task, entry)
            made |= settings
    return Tab(
        task=task,
        controls={name: made[name] for name in controls.names_of(task)},
        results=shown,
        sheet=sheet,
        generate=generate,
        cancel=cancel,
        token_line=token_line,
        estimate=estimate,
        smaller=smaller,
        random_seed=random_seed,
        reuse_seed=reuse_seed,
        settings=visitor.browser_state(f"settings-{task}"),
        last=visitor.browser_state(f"last-{task}"),
        job=gr.State(None),
        style=style,
        picture_inputs=picture_inputs,
        read_pictures=read_pictures,
    )


def _settings(
    engine: Engine, task: str, entry: ModelEntry
) -> tuple[dict[str, Component], gr.Dropdown, gr.Button, gr.Button]:
    """The controls below Generate, the styles, and the two buttons beside the seed."""
    made: dict[str, Component] = {}
    is_sized_by_picture = task != TextToImage.task
    if "strength" in controls.names_of(task):
        made |= controls.make_all(task, ["strength"], entry)
    made |= _pair(task, ("num_inference_steps", "guidance_scale"), entry)
    if not is_sized_by_picture:
        made |= _pair(task, ("width", "height"), entry)
    with gr.Row(elem_classes=["seed-row"]):
        made |= controls.make_all(task, ["seed"], entry)
        random_seed = gr.Button("Random", size="sm", elem_id=f"{task}-random-seed", min_width=30)
        reuse_seed = gr.Button("Reuse", size="sm", elem_id=f"{task}-reuse-seed", min_width=30)
        made |= controls.make_all(task, ["num_images_per_prompt"], entry)
    with gr.Accordion("More", open=False, elem_classes=["more"]):
        if is_sized_by_picture:
            made |= _pair(task, ("width", "height"), entry)
        style = style_picker.build(engine, task)
        made |= _pair(task, ("scheduler", "keep_best"), entry)
        made |= controls.make_all(task, ["grid"], entry)
        made |= lora_picker.build(engine, task)
    return made, style, random_seed, reuse_seed


def _pair(task: str, names: tuple[str, str], entry: ModelEntry) -> dict[str, Component]:
    with gr.Row(elem_classes=["pair"]):
        return controls.make_all(task, list(names), entry)
