"""The panel under the header for a chosen model that is not here yet: what it costs and asks, and its download.

Where strangers can reach the page there is none: they do not fill a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import DownloadFailed, PlaygroundError
from sd_demo.events import Cancelled
from sd_demo.hub.download import Broken, Download, DownloadEvent, Fetched, Fetching, Offer
from sd_demo.hub.downloads import Downloads
from sd_demo.hub.sentences import gib
from sd_demo.known_models import ModelEntry
from sd_demo.ui import header, run, status_line
from sd_demo.ui.header import Header

if TYPE_CHECKING:
    from sd_demo.engine import Engine

NAME: Final = "get-model"
TOKEN_WORDS: Final = "Only for gated and private models; it is sent to the hub, and neither kept nor logged."  # noqa: S105 # words about one
ASKING: Final = "Asking the hub …"
_PRIVATE: Final[dict[str, Any]] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Panel:
    """Its components; `place` is shown while the chosen model is not here."""

    place: gr.Column
    offer: gr.HTML
    accepts: gr.Checkbox
    token: gr.Textbox
    start: gr.Button
    cancel: gr.Button
    status: gr.HTML
    watched: gr.State  # name of the model whose download it shows, which another choice does not change
    arrived: gr.State  # name of the model whose download ended well while the panel watched it


def build() -> Panel:
    """Lay the panel out where this is called, hidden."""
    with gr.Column(visible=False, elem_id=NAME) as place:
        offer = gr.HTML("", elem_id=f"{NAME}-offer", elem_classes=["offer"], js_on_load=None)
        accepts = gr.Checkbox(
            False, label="I have read the licence and accept it", visible=False, elem_id=f"{NAME}-accepts"
        )
        with gr.Row(elem_classes=["go"]):
            token = gr.Textbox(
                label="Token of the hub", info=TOKEN_WORDS, type="password", max_lines=1, visible=False, scale=3,
                elem_id=f"{NAME}-token",
            )  # fmt: skip
            start = gr.Button("Download", variant="primary", elem_id=f"{NAME}-start", scale=1, min_width=120)
            cancel = gr.Button("Cancel", interactive=False, elem_id=f"{NAME}-cancel", scale=1, min_width=80)
        status = gr.HTML("", elem_id=f"{NAME}-status", elem_classes=["status-line"], js_on_load=None)
    return Panel(place, offer, accepts, token, start, cancel, status, gr.State(""), gr.State(""))


def listen(engine: Engine, page: gr.Blocks, top: Header, panel: Panel, downloads: Downloads) -> Any:
    """Wire the panel to the chooser, also to what it shows as the page opens.

    The answer's `.then` follows a download that was asked for here; a page that is opened anew in the middle of one
    sees `panel.arrived` change.
    """
    parts = [panel.place, panel.offer, panel.accepts, panel.token, panel.start, panel.cancel, panel.status]
    shown = [*parts, panel.watched, panel.arrived, top.model]

    def look(model: Any) -> Iterator[dict[Any, Any]]:
        entry = _absent(engine, model)
        if entry is None:
            yield {panel.place: gr.update(visible=False), panel.watched: ""}
            return
        running = downloads.running(entry.name)
        if running is not None and not running.is_over:
            yield from _watch(engine, panel, top, running)
            return
        asking = _now(panel, _title(entry), status_line.running(ASKING), is_busy=True)
        yield _anew(panel, asking) | {panel.watched: ""}
        try:
            offer = downloads.offer(entry)
        except DownloadFailed as error:
            yield _anew(panel, _refused(panel, _title(entry), error))
        except Exception:
            yield _anew(panel, _now(panel, _title(entry), run.unexpected(NAME)))
        else:
            room, start = "", "Go on" if offer.here else "Download"
            if not offer.fits:
                room = status_line.failed("There is not enough room on the disk for it.")
            yield _anew(panel, _now(panel, offer_html(offer), room, asks=_asks(offer), start=start))

    def fetch(model: Any, watched: str, accepts: Any, token: Any) -> Iterator[dict[Any, Any]]:
        entry = _absent(engine, watched or model)  # what the panel shows, which may be a download that was stopped
        if entry is None:
            yield {panel.place: gr.update(visible=False)}
            return
        about, asks = _title(entry), False
        secret = str(token or "").strip() or None
        yield {panel.status: status_line.running(ASKING), panel.start: gr.update(interactive=False)}
        try:
            offer = downloads.offer(entry, secret)
            about, asks = offer_html(offer), _asks(offer)
            download = downloads.start(offer, secret, accepts_licence=accepts is True)
        except DownloadFailed as error:
            yield _refused(panel, about, error, asks=asks)
        except Exception:
            yield _now(panel, about, run.unexpected(NAME))
        else:
            yield from _watch(engine, panel, top, download)

    def look_again(model: Any, watched: str) -> Iterator[dict[Any, Any]]:
        """What was chosen while another one came, which the panel showed."""
        download = downloads.running(watched)
        if download is not None and isinstance(download.latest, Fetched):
            yield from look(model)
        else:
            yield {panel.watched: watched}

    def stop(name: str) -> None:
        download = downloads.running(name)
        if download is not None:
            download.cancel()

    # One listener, which looks again for what was chosen meanwhile: of two the later answer of the hub would stay.
    looks: dict[str, Any] = {"preprocess": False, "trigger_mode": "always_last", **_PRIVATE}
    gr.on([page.load, top.model.change], look, [top.model], shown, **looks)
    panel.cancel.click(stop, [panel.watched], preprocess=False, queue=False, **_PRIVATE)
    asked = [top.model, panel.watched, panel.accepts, panel.token]
    fetched = panel.start.click(fetch, asked, shown, preprocess=False, **_PRIVATE)
    fetched.then(look_again, [top.model, panel.watched], shown, preprocess=False, **_PRIVATE)
    return fetched


def offer_html(offer: Offer) -> str:
    """What a download costs and asks, as HTML."""
    here = f", {gib(offer.here)} of it are here already" if offer.here else ""
    licence = escape(offer.licence or "none named")
    address = escape(offer.licence_url, quote=True)
    lines = [
        f"{gib(offer.size)} in {len(offer.listing.files)} files{here}, from <code>{escape(offer.listing.repo)}</code>",
        f"to <code>{escape(str(offer.destination.parent))}</code>, where {gib(offer.free)} are free",
        f'Licence: <a href="{address}" target="_blank" rel="noopener noreferrer">{licence}</a>',
        escape(offer.restrictions),
    ]
    return _title(offer.entry) + "".join(f"<p>{line}</p>" for line in lines if line)


def progress_line(event: DownloadEvent) -> str:
    """The status line of a download."""
    match event:
        case Fetching(done, total, _, speed, remaining_s):
            words = f"{gib(done)} of {gib(total)}"
            words += f" · {gib(speed)}/s" if speed else ""
            words += f" · {status_line.seconds(remaining_s)} left" if remaining_s is not None else ""
            return status_line.running(words, done / max(total, 1))
        case Fetched():
            return status_line.ended("It is here, and the next picture is made with it.")
        case Broken(error):
            return status_line.failed(str(error))
        case Cancelled():
            return status_line.ended("Stopped. What has come is kept, and the next download goes on from there.")


def _watch(engine: Engine, panel: Panel, top: Header, download: Download) -> Iterator[dict[Any, Any]]:
    about = offer_html(download.offer)
    is_watched = {panel.watched: download.offer.entry.name, panel.token: gr.update(value="")}
    for event in download.events():
        yield _now(panel, about, progress_line(event), is_busy=True, can_stop=True) | is_watched
    if isinstance(download.latest, Fetched):
        gone, name = gr.update(visible=False), download.offer.entry.name
        yield {panel.place: gone, panel.arrived: name, top.model: gr.update(choices=header.choices(engine))}
    else:
        yield _now(panel, about, progress_line(download.latest), start="Go on")


def _now(
    panel: Panel, about: str, status: str, *, asks: bool = False, is_busy: bool = False, can_stop: bool = False,
    start: str = "Download",
) -> dict[Any, Any]:  # fmt: skip
    """The whole panel: of two updates that come close together a page may draw only the last."""
    return {
        panel.place: gr.update(visible=True),
        panel.offer: about,
        panel.accepts: gr.update(visible=asks),
        panel.token: gr.update(visible=False),
        panel.start: gr.update(interactive=not is_busy, value=start),
        panel.cancel: gr.update(interactive=can_stop),
        panel.status: status,
    }


def _refused(panel: Panel, about: str, error: DownloadFailed, *, asks: bool = False) -> dict[Any, Any]:
    state = _now(panel, about, status_line.failed(str(error)), asks=asks)
    needs_token = error.kind in ("gated", "token", "not-found", "rate-limit")  # a private one is "not found" to others
    return state | {panel.token: gr.update(visible=needs_token)}


def _anew(panel: Panel, state: dict[Any, Any]) -> dict[Any, Any]:
    """`state` without the tick of the model before: another one has another licence."""
    return state | {panel.accepts: state[panel.accepts] | {"value": False}}


def _asks(offer: Offer) -> bool:
    return bool(offer.restrictions) and not offer.is_accepted


def _absent(engine: Engine, model: Any) -> ModelEntry | None:
    """The entry of a model that a download can bring and that is not here; None of any other."""
    if not isinstance(model, str):
        return None
    try:
        entry = engine.registry.for_download(model)
    except PlaygroundError:  # the embedded one, a folder, or nothing of that name, which Generate says
        return None
    return None if engine.registry.is_here(entry) else entry


def _title(entry: ModelEntry) -> str:
    return f"<p><b>{escape(entry.title)}</b> is not on this machine yet. The model that is here goes on working.</p>"
