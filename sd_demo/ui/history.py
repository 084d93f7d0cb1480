"""The tab of what this visitor has made: searched by words, opened in another tab, deleted; and settings back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import InvalidImage
from sd_demo.history import History
from sd_demo.restore import from_receipt
from sd_demo.schedulers import available
from sd_demo.ui import copy_as_code, passing_on, results, settings_back, status_line, visitor
from sd_demo.ui.header import Header
from sd_demo.ui.results import Results, Shown
from sd_demo.ui.run import Tab
from sd_demo.ui.settings_back import SettingsBack
from sd_demo.ui.upscale import UpscaleTab

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "history"
TITLE: Final = "History"
PAGE: Final = 48
EMPTY: Final = "Your pictures will be here."
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class HistoryTab:
    """The components of the tab; `names` are the files that the gallery shows, in its order."""

    search: gr.Textbox
    count: gr.HTML
    gallery: gr.Gallery
    more: gr.Button
    large: Results
    settings: gr.Button
    delete: gr.Button
    confirm: gr.Row
    delete_now: gr.Button
    keep: gr.Button
    back: SettingsBack
    names: gr.State
    limit: gr.State


def build(engine: Engine) -> HistoryTab:
    """Lay the tab out where this is called."""
    with gr.Row(elem_classes=["history"]):
        with gr.Column(scale=3, min_width=320):
            search = gr.Textbox(
                label="Search in prompts", placeholder="red ball", max_lines=1, elem_id=f"{NAME}-search"
            )
            count = gr.HTML(EMPTY, elem_id=f"{NAME}-count", js_on_load=None)
            gallery = gr.Gallery(
                label="Your pictures",
                show_label=False,
                columns=6,
                allow_preview=False,
                interactive=False,
                format="png",
                object_fit="cover",
                buttons=[],
                elem_id=f"{NAME}-gallery",
                elem_classes=["past"],
            )
            more = gr.Button("Show more", size="sm", visible=False, elem_id=f"{NAME}-more")
        with gr.Column(scale=2, min_width=320):
            large = results.build(NAME, "")
            with gr.Row(visible=False, elem_classes=["actions"]) as tools:
                settings = gr.Button("Settings back", size="sm", elem_id=f"{NAME}-settings")
                delete = gr.Button("Delete", size="sm", variant="stop", elem_id=f"{NAME}-delete")
            with gr.Row(visible=False, elem_classes=["actions"], elem_id=f"{NAME}-confirm") as confirm:
                gr.HTML("Delete this picture for good, and every sheet that it stands on?", js_on_load=None)
                delete_now = gr.Button("Delete it", size="sm", variant="stop", elem_id=f"{NAME}-delete-now")
                keep = gr.Button("Keep it", size="sm", elem_id=f"{NAME}-keep")
            copy_as_code.build(engine, NAME, large)
            back = settings_back.build()
    large.shown.change(lambda shown: gr.update(visible=bool(shown)), [large.shown], [tools], queue=False, **_PRIVATE)
    return HistoryTab(
        search=search,
        count=count,
        gallery=gallery,
        more=more,
        large=large,
        settings=settings,
        delete=delete,
        confirm=confirm,
        delete_now=delete_now,
        keep=keep,
        back=back,
        names=gr.State([]),
        limit=gr.State(PAGE),
    )


def listen(
    engine: Engine,
    here: HistoryTab,
    place: gr.Tab,
    top: Header,
    kept: gr.BrowserState,
    tabs: Mapping[str, Tab | UpscaleTab],
    chosen: Mapping[str, gr.State],
    places: passing_on.Places,
    chooser: gr.Tabs,
    visitor_id: gr.BrowserState,
) -> None:
    """Wire the tab. kept, chosen: as settings_back.listen has them; places: where its pictures can be brought.

    Every handler asks whose pictures these are, so that no name opens anybody else's.
    """
    history, large = History(engine.outputs), here.large
    listing = [here.count, here.gallery, here.more, here.names, here.limit]

    def look(request: gr.Request, visitor_id: Any, search: Any, limit: int) -> list[Any]:
        owner = visitor.folder_name(visitor_id, request)
        words = search if isinstance(search, str) else ""
        found = history.find(owner, words, limit=limit + 1)
        shown, total = found[:limit], history.count(owner)
        pictures = [(results.published(one.path), one.prompt) for one in shown if one.path.is_file()]
        count = _count(history.count(owner, words) if words.strip() else total, total, words)
        return [count, pictures, gr.update(visible=len(found) > limit),
                [one.path.name for one in shown], limit]  # fmt: skip

    def search(request: gr.Request, visitor_id: Any, search: Any) -> list[Any]:
        return look(request, visitor_id, search, PAGE)

    def more(request: gr.Request, visitor_id: Any, search: Any, limit: int) -> list[Any]:
        return look(request, visitor_id, search, limit + PAGE)

    asked = [visitor_id, here.search, here.limit]
    place.select(look, asked, listing, **_PRIVATE)
    here.search.change(search, asked[:2], listing, trigger_mode="always_last", **_PRIVATE)
    here.more.click(more, asked, listing, **_PRIVATE)

    def select(request: gr.Request, visitor_id: Any, names: list[str], event: gr.SelectData) -> dict[Any, Any]:
        if not isinstance(event.index, int) or not 0 <= event.index < len(names):
            return {large.selected: 0}
        folder = engine.outputs.visitor_folder(visitor.folder_name(visitor_id, request))
        shown = results.reread([folder / Path(names[event.index]).name])
        if not shown:
            return {large.status: status_line.failed("This picture is gone; search again.")}
        return {
            large.status: "",
            here.confirm: gr.update(visible=False),
            **results.show(large, shown, 0, engine.registry),
        }

    here.gallery.select(select, [visitor_id, here.names], [large.status, here.confirm, *large.of_picture], **_PRIVATE)

    def delete(request: gr.Request, visitor_id: Any, search: Any, limit: int, shown: list[Shown]) -> dict[Any, Any]:
        owner, names = visitor.folder_name(visitor_id, request), [one.path.name for one in shown]
        sheets = history.sheets_with(owner, names)
        for path in (*sheets, *(one.path for one in shown)):
            with suppress(OSError):
                Path(results.published(path)).unlink()  # the copy that Gradio serves goes as well
        history.delete(owner, [*names, *(sheet.name for sheet in sheets)])
        also = f" So is what it stood on: {len(sheets)} {'sheet' if len(sheets) == 1 else 'sheets'}." if sheets else ""
        updates = dict(zip(listing, look(request, visitor_id, search, limit), strict=True))
        return {**updates, large.status: status_line.ended(f"Deleted.{also}"), here.confirm: gr.update(visible=False),
                **_nothing(large)}  # fmt: skip

    here.delete.click(lambda: gr.update(visible=True), None, [here.confirm], queue=False, **_PRIVATE)
    here.keep.click(lambda: gr.update(visible=False), None, [here.confirm], queue=False, **_PRIVATE)
    here.delete_now.click(
        delete, [*asked, large.shown], [*listing, large.status, here.confirm, *large.of_picture], **_PRIVATE
    )

    def settings(shown: list[Shown]) -> dict[Any, Any]:
        if not shown:
            return settings_back.failed(here.back, "Choose a picture first.")
        try:
            folder = engine.settings.lora_dir
            restored = from_receipt(shown[0].receipt, registry=engine.registry, lora_dir=folder, schedulers=available())
        except InvalidImage as error:
            return settings_back.failed(here.back, str(error))
        return settings_back.show(engine, here.back, restored)

    here.settings.click(settings, [large.shown], here.back.outputs, **_PRIVATE)
    passing_on.offer(large, places, chooser)
    settings_back.listen(engine, here.back, top, kept, tabs, chosen, chooser)


def _count(found: int, total: int, search: str) -> str:
    if not total:
        return EMPTY
    if search.strip():
        return f"{found} of your {total} pictures" if found else f"None of your {total} pictures has these words."
    return f"{total} pictures" if total != 1 else "1 picture"


def _nothing(large: Results) -> dict[Any, Any]:
    hidden = gr.update(visible=False)
    return {large.picture: None, large.actions: hidden, large.receipt: hidden, large.notes: "", large.shown: [],
            large.selected: 0}  # fmt: skip
