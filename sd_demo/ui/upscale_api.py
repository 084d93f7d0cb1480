"""The HTTP endpoint /upscale: the picture, then the fields of an upscaling, all optional."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import gradio as gr

from sd_demo.ui import api, results, visitor
from sd_demo.ui.uploads import given, uploaded_file
from sd_demo.ui.upscale import Planner
from sd_demo.upscale import NOT_TAKEN, Upscale
from sd_demo.upscaling import Upscaled, run_upscaling

if TYPE_CHECKING:
    from sd_demo.engine import Engine


def add(engine: Engine, planner: Planner) -> None:
    """Declare the endpoint in the Blocks that is being built."""
    door = gr.Button(visible=False)
    inputs = [api.parameter(Upscale, name) for name in parameters()]
    inputs[parameters().index("prompt")].value = ""  # required of a task, not of this
    door.click(
        _handler(engine, planner),
        inputs=inputs,
        outputs=[
            gr.Gallery(visible=False, format="png", label="The larger picture: a PNG file that carries its receipt"),
            gr.JSON(visible=False, label="Its receipt, in a list"),
        ],
        api_name=Upscale.task,
        api_description="A picture made larger, in tiles that overlap; at most four megapixels.",
        preprocess=False,
        concurrency_limit=None,
    )


def parameters() -> list[str]:
    """The picture, then every field that an upscaling takes."""
    return ["image", *(name for name in Upscale.model_fields if name not in ("image", *NOT_TAKEN))]


def _handler(engine: Engine, planner: Planner) -> Callable[..., Iterator[tuple[Any, Any]]]:
    names = parameters()

    def call(request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
        with api.one_sentence(Upscale.task, request):
            asked = given(dict(zip(names, values, strict=True)))
            if "image" in asked:
                asked["image"] = uploaded_file(asked["image"], field="image")
            upscaling = planner.plan(asked)
            who = visitor.caller(None, request, engine.settings)
            with closing(run_upscaling(engine, upscaling, **who)) as news:
                for one in news:
                    if not isinstance(one, Upscaled):
                        yield gr.skip(), gr.skip()  # a place to be closed at when the caller has gone
                        continue
                    made = one.result
                    yield [(results.published(made.path), None)], [made.receipt.model_dump(mode="json")]

    defaults = {name: None if name == "image" else Upscale.model_fields[name].default for name in names}
    call.__signature__ = api.named_signature(defaults, ["image"])  # type: ignore[attr-defined]
    return call
