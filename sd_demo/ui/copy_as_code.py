"""The fold under a picture that tells it as code: for diffusers, for gradio_client, for a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.route_utils import get_root_url

from sd_demo.errors import PlaygroundError
from sd_demo.restore import from_receipt
from sd_demo.schedulers import available
from sd_demo.ui.results import Results, Shown
from sd_demo.weight_hashes import other_weights

if TYPE_CHECKING:
    from sd_demo.engine import Engine

TITLES: Final = {"diffusers": "diffusers", "client": "gradio_client", "command": "command line"}
LABEL: Final = "Copy as code"
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}


def build(engine: Engine, name: str, results: Results) -> None:
    """Lay the fold out where this is called, for the picture that stands large in `results`."""
    with (
        gr.Accordion(LABEL, open=False, visible=False, elem_id=f"{name}-code", elem_classes=["receipt"]) as fold,
        gr.Tabs(),
    ):
        codes = [_code(name, kind) for kind in TITLES]
    is_open = gr.State(False)  # the texts are made only for those who look

    def follow(request: gr.Request, shown: list[Shown], selected: int, is_open: bool) -> list[Any]:
        texts = _texts(engine, request, shown, selected) if is_open else [gr.skip()] * len(codes)
        return [gr.update(visible=bool(shown)), *texts]

    def expand(request: gr.Request, shown: list[Shown], selected: int) -> list[Any]:
        return [True, *_texts(engine, request, shown, selected)]

    gr.on(
        [results.shown.change, results.selected.change],
        follow,
        [results.shown, results.selected, is_open],
        [fold, *codes],
        **_PRIVATE,
    )
    fold.expand(expand, [results.shown, results.selected], [is_open, *codes], **_PRIVATE)
    fold.collapse(lambda: False, None, [is_open], **_PRIVATE)


def _code(name: str, kind: str) -> gr.Code:
    with gr.Tab(TITLES[kind]):
        return gr.Code(
            language="shell" if kind == "command" else "python",
            interactive=False,
            show_label=False,
            label=f"{LABEL}: {TITLES[kind]}",
            wrap_lines=True,
            max_lines=24,
            elem_id=f"{name}-code-{kind}",
        )


def _texts(engine: Engine, request: gr.Request, shown: list[Shown], selected: int) -> list[str]:
    from sd_demo.recipes import URL, recipes  # here, because it brings diffusers along

    if not shown:
        return [""] * len(TITLES)
    receipt = shown[min(selected, len(shown) - 1)].receipt
    try:
        restored = from_receipt(
            receipt, registry=engine.registry, lora_dir=engine.settings.lora_dir, schedulers=available()
        )
        told = recipes(restored, engine.registry, url=_address(request) or URL)
    except PlaygroundError as error:
        return [f"# {error}"] * len(TITLES)
    others = other_weights(receipt, registry=engine.registry, lora_dir=engine.settings.lora_dir)
    warned = "".join(f"# {sentence}\n" for sentence in others)
    return [warned + getattr(told, kind) for kind in TITLES]


def _address(request: gr.Request) -> str | None:
    """Where this page is, as its visitor reached it, also through a proxy or a Space; None where nobody asked."""
    asked = request.request
    if asked is None:
        return None
    root_path = getattr(asked.scope.get("app"), "root_path", "") or asked.scope.get("root_path")
    return get_root_url(asked, asked.url.path, root_path) + "/"
