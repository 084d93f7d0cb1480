"""The page: header, one tab for each task, and the API, over one engine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.hub.downloads import Downloads
from sd_demo.requests import ImageToImage, Inpaint, TextToImage
from sd_demo.ui import (
    api,
    compare,
    compare_api,
    door,
    download_panel,
    examples,
    header,
    history,
    image_to_image,
    inpaint,
    learn,
    live_lines,
    memory,
    model_choice,
    passing_on,
    run,
    stopping,
    style_picker,
    text_to_image,
    theme,
    train,
    upscale,
    upscale_api,
    visitor,
)
from sd_demo.ui.header import Header
from sd_demo.ui.run import Tab
from sd_demo.ui.temporary_files import TemporaryFiles

if TYPE_CHECKING:
    from sd_demo.engine import Engine

logger: Final = logging.getLogger(__name__)

TITLES: Final = {"text_to_image": "Text to image", "image_to_image": "Image to image", "inpaint": "Inpaint"}
BUILDERS: Final = {"text_to_image": text_to_image, "image_to_image": image_to_image, "inpaint": inpaint}
MAX_FILE_SIZE: Final = {False: "30mb", True: "256mb"}  # True: where a person adds LoRA files of their own
SPARE_THREADS: Final = 40


class Page(gr.Blocks):
    """Blocks that answer a request they cannot read with a sentence, and launch with this page's look and limits."""

    engine: Engine  # which the door asks for its health
    temporary_files: TemporaryFiles | None = None  # which it asks for room

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        """As Gradio's; a call with too few values gets the others' defaults, an unreadable one a sentence."""
        inputs = [*inputs, *[None] * (len(block_fn.inputs) - len(inputs))]
        try:
            if _has_address(inputs):
                raise ValueError("Gradio would fetch it from the network on the caller's behalf")
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            logger.info("a request could not be read: %s", type(error).__name__)
            raise gr.Error(
                "The request cannot be read; send values as the API page describes, and files by uploading them.",
                print_exception=False,
            ) from None

    def launch(self, **kwargs: Any) -> Any:  # type: ignore[override]
        """As Gradio's, with this page's look and limits as defaults."""
        own: dict[str, Any] = {
            "_app": door.GuardedApp(self.engine, self.temporary_files),
            "theme": theme.make(),
            "css_paths": [theme.STYLE],
            "head": theme.head(),
            "footer_links": ["api"],
            "run_history": False,
            "enable_monitoring": False,
            "max_file_size": MAX_FILE_SIZE[self.engine.settings.limits.takes_paths],
            "show_error": False,
            "pwa": False,
            "quiet": True,
            # Off: a look at its own page, which a busy machine answers after its 3 s, and the start then fails.
            "_frontend": False,
        }
        return super().launch(**(own | kwargs))


def build(
    engine: Engine,
    *,
    examples_folder: Path = examples.FOLDER,
    temporary_files: TemporaryFiles | None = None,
    downloads: Downloads | None = None,
) -> Page:
    """The whole page over a started or starting engine; temporary_files is the folder that Gradio uses, if swept."""
    page = Page(title=header.TITLE, analytics_enabled=False)
    page.engine, page.temporary_files = engine, temporary_files
    with page:
        visitor_id = visitor.browser_state("visitor")
        top = header.build(engine)
        is_own_machine = engine.settings.limits.takes_paths  # strangers neither fill its disk nor keep it busy
        fetching = download_panel.build() if is_own_machine else None
        tabs: dict[str, Tab] = {}
        listed = examples.read(examples_folder)
        with gr.Tabs(elem_id="tasks", overflow_behavior="wrap") as chooser:
            for task, title in TITLES.items():
                with gr.Tab(title, id=task):
                    tab = tabs[task] = BUILDERS[task].build(engine)
                    examples.build(engine, tab, top, visitor_id, listed, run.page_handler(engine, tab))
            with gr.Tab(upscale.TITLE, id=upscale.NAME):
                upscaling = upscale.build(engine)
            with gr.Tab(compare.TITLE, id=compare.NAME):
                comparing = compare.build(engine)
            if is_own_machine:
                with gr.Tab(train.TITLE, id=train.NAME) as training_place:
                    train.build(training_place, engine, top)
            with gr.Tab(learn.TITLE, id=learn.NAME) as lessons:
                learn.build(engine, lessons)
            with gr.Tab(history.TITLE, id=history.NAME) as history_place:
                past = history.build(engine)
        arrivals: list[Any] = []
        if fetching is not None:
            downloads = downloads or Downloads(engine.settings.data_dir)
            fetched = download_panel.listen(engine, page, top, fetching, downloads)
            arrivals += [fetched.then, fetching.arrived.change]
        restorable: dict[str, Tab | upscale.UpscaleTab] = {**tabs, upscale.NAME: upscaling}
        followers = {
            name: model_choice.Follower(name, tab.controls, tab.results.intro) for name, tab in restorable.items()
        }
        followers[compare.NAME] = model_choice.Follower(TextToImage.task, comparing.controls)
        chosen = model_choice.listen(engine, top, followers, *arrivals)
        memory.listen_for_visitor(page, visitor_id)
        kept = memory.listen_for_model(engine, page, top, [chosen[task] for task in tabs])
        runs = []
        for tab in tabs.values():
            ran = _listen(engine, tab, top, visitor_id)
            runs.append(ran.then)
            live_lines.listen(engine, tab, top, ran)
            memory.listen(engine, page, tab, visitor_id)
            style_picker.listen(engine, tab, top)
            passing_on.listen(engine, tab)
        places: dict[str, tuple[Any, Any]] = {upscale.NAME: (upscaling.image, upscaling.controls["prompt"])}
        for task in (ImageToImage.task, Inpaint.task):
            places[task] = (tabs[task].picture_inputs[0], tabs[task].controls["prompt"])
        for tab in tabs.values():
            passing_on.offer(tab.results, places, chooser)
        planner = upscale.Planner(engine)
        runs.append(upscale.listen(engine, planner, upscaling, top, places, chooser, visitor_id).then)
        runs.append(compare.listen(engine, comparing, top, places, chooser, visitor_id).then)
        header.listen(engine, page, top, *arrivals, *runs)
        history.listen(engine, past, history_place, top, kept, restorable, chosen, places, chooser, visitor_id)
        api.add(engine)
        compare_api.add(engine)
        upscale_api.add(engine, planner)
    # The engine queues and is fair; Gradio must neither hold a job back nor let a call pass beside its queue.
    page.queue(api_open=False, default_concurrency_limit=None)
    return page


def _listen(engine: Engine, tab: Tab, top: Header, visitor_id: gr.BrowserState) -> Any:
    ran = tab.generate.click(
        run.page_handler(engine, tab),
        [visitor_id, top.model, *run.held(tab), *tab.inputs],
        run.outputs(tab),
        preprocess=False,
        show_progress="hidden",
        concurrency_limit=None,
        api_visibility="private",
    )
    stopping.listen_to_cancel(tab.cancel, tab.results.status, tab.job)
    return ran


def _has_address(value: Any) -> bool:
    """A file anywhere in these values is named by a web address instead of by its upload."""
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(_has_address, value.values()))
    return isinstance(value, list) and any(map(_has_address, value))
