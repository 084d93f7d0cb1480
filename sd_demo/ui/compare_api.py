"""The HTTP endpoint /compare: two axes, and the request's fields as every picture has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.components import Component
from gradio.components.api_component import Api

from sd_demo.compare import EXAMPLE, plan_comparison
from sd_demo.comparing import Compared, run_comparison
from sd_demo.requests import PICTURE_FIELDS, REQUESTS, ImageToImage, Inpaint, Request, TextToImage
from sd_demo.ui import api, results, visitor
from sd_demo.ui.uploads import given, uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "compare"
REQUIRED: Final = ["prompt", "x"]
_AXES: Final = {"x": "What varies from left to right", "y": "What varies from top to bottom, or nothing"}


def add(engine: Engine) -> None:
    """Declare the endpoint in the Blocks that is being built."""
    door = gr.Button(visible=False)
    door.click(
        _handler(engine),
        inputs=[_component(name) for name in parameters()],
        outputs=[
            gr.Image(visible=False, format="png", label="All pictures in one labelled sheet, a PNG file"),
            gr.Gallery(visible=False, format="png", label="Pictures row by row: PNG files that carry their receipts"),
            gr.JSON(visible=False, label="Receipts, one for each picture"),
        ],
        api_name=NAME,
        api_description="One or two parameters varied over lists or ranges; at most 36 pictures.",
        preprocess=False,
        concurrency_limit=None,
    )


def parameters() -> list[str]:
    """The prompt and the axes, pictures, then every other field of any task."""
    fields = dict.fromkeys(name for kind in REQUESTS.values() for name in kind.model_fields)
    first = ["prompt", *_AXES, *PICTURE_FIELDS]
    return first + [name for name in fields if name not in (*first, "num_images_per_prompt", "grid")]


def _kind(name: str) -> type[Request]:
    return next(kind for kind in REQUESTS.values() if name in kind.model_fields)


def _component(name: str) -> Component:
    if name in _AXES:
        text = f"{_AXES[name]}, such as {EXAMPLE}."
        schema = {"type": "string", "description": text, "additional_description": text}
        return Api("", schema, label=name)
    declared = api.parameter(_kind(name), name)
    if name != "prompt":
        declared.value = None  # left open: each task has its own default
    return declared


def _handler(engine: Engine) -> Callable[..., Iterator[tuple[Any, Any, Any]]]:
    names = parameters()

    def call(request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        with api.one_sentence(NAME, request):
            asked = given(dict(zip(names, values, strict=True)))
            x, y = asked.pop("x", ""), asked.pop("y", "")
            for name in PICTURE_FIELDS:
                if name in asked:
                    asked[name] = uploaded_file(asked[name], field=name)
            with_picture = Inpaint.task if "mask_image" in asked else ImageToImage.task
            comparison = plan_comparison(with_picture if "image" in asked else TextToImage.task, asked, x, y)
            who = visitor.caller(None, request, engine.settings)
            with closing(run_comparison(engine, comparison, **who)) as news:
                for one in news:
                    if not isinstance(one, Compared):
                        yield gr.skip(), gr.skip(), gr.skip()  # a place to be closed at when the caller has gone
                        continue
                    if one.withheld:
                        gr.Warning(one.about_withheld)
                    yield (
                        results.published(one.path),
                        [(results.published(cell.path), None) for cell in one.images],
                        [cell.receipt.model_dump(mode="json") for cell in one.images],
                    )

    call.__signature__ = api.named_signature(dict.fromkeys(names), REQUIRED)  # type: ignore[attr-defined]
    return call
