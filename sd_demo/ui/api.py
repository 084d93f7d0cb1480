"""The HTTP API: /text_to_image, /image_to_image, /inpaint, with the request's fields as parameters.

Its values go to parse_request as they came. No page component with a range or a list of choices of its
own stands between a caller and the one gate.
"""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, get_args

import gradio as gr
from gradio.components import Component
from gradio.components.api_component import Api
from gradio.data_classes import ImageData

from sd_demo import events
from sd_demo.errors import JobCancelled, PlaygroundError
from sd_demo.requests import PICTURE_FIELDS, REQUESTS, Request, describe_bounds, parse_request
from sd_demo.schedulers import available
from sd_demo.ui import results, visitor
from sd_demo.ui.uploads import given, uploaded_file

if TYPE_CHECKING:
    from sd_demo.engine import Engine

logger: Final = logging.getLogger(__name__)


def add(engine: Engine) -> None:
    """Declare one endpoint for each task in the Blocks that is being built."""
    for task, kind in REQUESTS.items():
        door = gr.Button(visible=False)
        gallery = gr.Gallery(visible=False, format="png", label="Pictures: PNG files that carry their receipts")
        receipts = gr.JSON(visible=False, label="Receipts, one for each picture")
        door.click(
            _handler(engine, kind),
            inputs=[parameter(kind, name) for name in parameters(kind)],
            outputs=[gallery, receipts],
            api_name=task,
            api_description=inspect.cleandoc(kind.__doc__ or ""),
            preprocess=False,
            concurrency_limit=None,
        )


def parameters(kind: type[Request]) -> list[str]:
    """The prompt, then pictures, then everything optional."""
    first = ["prompt", *(name for name in PICTURE_FIELDS if name in kind.model_fields)]
    return first + [name for name in kind.model_fields if name not in first]


def parameter(kind: type[Request], name: str) -> Component:
    """The endpoint's declaration of a request field; its values are not checked by it."""
    field = kind.model_fields[name]
    if name in PICTURE_FIELDS:
        schema: dict[str, Any] = ImageData.model_json_schema()
        text = field.description or ""
    else:
        types = {field.annotation, *get_args(field.annotation)}
        schema = {"type": "integer" if int in types else "number" if float in types else "string"}
        if name == "loras":
            schema = {"type": "array", "items": {"type": "string"}}
        text = f"{field.description} It is {_values(kind, name)}."
    schema["description"] = schema["additional_description"] = text
    is_expected = parameters(kind).index(name) < _count_required(kind)
    return Api(None if is_expected else field.default, schema, label=name)


def _values(kind: type[Request], name: str) -> str:
    if name == "scheduler":
        return "one of " + ", ".join(available())
    return describe_bounds(kind, name)


@contextmanager
def one_sentence(door: str, request: gr.Request) -> Iterator[None]:
    """What goes wrong inside reaches the caller as one sentence; what nobody foresaw only as the id of its log line.

    A request is answered once. Gradio starts one anew whose caller cancelled it between two of its answers and named
    another function than it had called: nobody would listen to that second run, and the device would make it whole.
    """
    try:
        asked = getattr(request, "request", None)
        if asked is not None:
            if getattr(asked.state, "is_begun", False):
                raise JobCancelled("The job was cancelled.")
            asked.state.is_begun = True
        yield
    except PlaygroundError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception:
        request_id = secrets.token_hex(4)
        logger.exception("/%s failed unexpectedly, id %s", door, request_id)
        raise gr.Error(
            f"Something went wrong here; try again, and quote the id {request_id} if it stays.", print_exception=False
        ) from None


def _handler(engine: Engine, kind: type[Request]) -> Callable[..., Iterator[tuple[Any, Any]]]:
    names = parameters(kind)

    def call(request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
        job = None
        try:
            with one_sentence(kind.task, request):
                asked = given(dict(zip(names, values, strict=True)))
                for name in PICTURE_FIELDS:
                    if name in asked:
                        asked[name] = uploaded_file(asked[name], field=name)
                who = visitor.caller(None, request, engine.settings)
                job = engine.submit(parse_request(kind.task, asked), **who)
                for event in job.events():
                    if isinstance(event, events.Done):
                        sheets = [(results.published(event.sheet), "contact sheet")] if event.sheet else []
                        yield (
                            [*((results.published(one.path), None) for one in event.images), *sheets],
                            [one.receipt.model_dump(mode="json") for one in event.images],
                        )
                    elif isinstance(event, events.Failed):
                        raise event.error
                    elif isinstance(event, events.Cancelled):
                        raise JobCancelled("The job was cancelled.")
                    else:
                        yield gr.skip(), gr.skip()  # a place to be closed at when the caller has gone
        finally:
            if job is not None:
                job.cancel()

    required = names[: _count_required(kind)]
    call.__signature__ = named_signature(  # type: ignore[attr-defined]
        {name: None if name in required else kind.model_fields[name].default for name in names}, required
    )
    return call


def named_signature(defaults: dict[str, Any], required: list[str]) -> inspect.Signature:
    """Gradio names an endpoint's parameters after its function's: here these, after the gr.Request."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter("request", kind, annotation=gr.Request),
            *(
                inspect.Parameter(name, kind, default=empty if name in required else default)
                for name, default in defaults.items()
            ),
        ]
    )


def _count_required(kind: type[Request]) -> int:
    return 1 + sum(name in kind.model_fields for name in PICTURE_FIELDS)
