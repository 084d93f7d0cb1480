"""`download`: the weights of a model from the hub; stopped or broken off, it goes on where it was."""

from __future__ import annotations

import getpass
import json
import sys
import time
from typing import TYPE_CHECKING, Final

from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.flags import Parser
from sd_demo.known_models import TOKENIZER
from sd_demo.registry import Registry
from sd_demo.settings import Settings

if TYPE_CHECKING:
    from sd_demo.hub.download import Download, Fetching, Offer

LOGGED_EVERY_S: Final = 10.0
EPILOG: Final = """The token for gated and private models is taken from HF_TOKEN or the hub's own login;
--ask-token reads another one without showing it. It is never stored. SD_DEMO_DATA_DIR names the folder in
whose models/ it is put."""


def run(arguments: list[str]) -> int:
    """Fetch one model, or list what there is."""
    options = _parser().parse_args(arguments)
    settings = Settings.read()
    registry = Registry(models_dir=settings.models_dir)
    if options.model is None:
        _list(registry, options.json)
        return 0
    from sd_demo.hub.downloads import Downloads  # after bad input was answered

    try:
        entry = registry.for_download(options.model)
    except ModelUnavailable as error:
        raise InvalidRequest(str(error), "model") from None
    token = _asks_for_token() if options.ask_token else None
    downloads = Downloads(settings.data_dir)
    offer = downloads.offer(entry, token)
    print(describe(offer), file=sys.stderr)
    folder = str(offer.destination)
    if not offer.is_here:
        accepts = options.accept_licence or offer.is_accepted or _asks_whether_accepted(offer)
        folder = _follow(downloads.start(offer, token, accepts_licence=accepts))
    answer = {"model": entry.name, "folder": str(folder), "commit": offer.listing.commit, "size": offer.size}
    print(json.dumps(answer) if options.json else folder)
    return 0


def describe(offer: Offer) -> str:
    """The offer in lines: what, how much, under which licence, where to; or that all of it is here."""
    from sd_demo.hub.sentences import gib

    if offer.is_here:
        return f"{offer.entry.title} is here already; to fetch it anew, delete {offer.destination} first."
    come = f", {gib(offer.here)} of it are here already" if offer.here else ""
    lines = [
        f"{offer.entry.title} from {offer.listing.repo}, commit {offer.listing.commit[:12]}",
        f"size: {gib(offer.size)} in {len(offer.listing.files)} files{come}",
        f"destination: {offer.destination} ({gib(offer.free)} free)",
        f"licence: {offer.licence or 'none named'}, {offer.licence_url}",
    ]
    return "\n".join([*lines, offer.restrictions] if offer.restrictions else lines)


def _parser() -> Parser:
    parser = Parser(prog="python -m sd_demo download", description=__doc__, epilog=EPILOG)
    what = f"A model of the list, a hub id such as owner/name, or {TOKENIZER}. Without it: the list."
    parser.add_argument("model", nargs="?", metavar="MODEL", help=what)
    parser.add_argument("--accept-licence", action="store_true", help="Accept the licence without being asked.")
    parser.add_argument("--ask-token", action="store_true", help="Ask for a token of the hub.")
    parser.add_argument("--json", action="store_true", help="Print the answer as JSON.")
    return parser


def _list(registry: Registry, is_json: bool) -> None:
    rows = [
        {
            "model": entry.name,
            "title": entry.title,
            "is_here": registry.weights(entry) is not None,
            "download_mib": entry.download_mib,
            "licence": entry.licence,
            "source": entry.source,
            "revision": entry.revision,
        }
        for entry in registry
    ]
    if is_json:
        print(json.dumps(rows))
        return
    for row in rows:
        state = "here" if row["is_here"] else f"{row['download_mib']:,} MiB"
        print(f"{row['model']:<20} {state:<10} {row['title']} ({row['licence']})")


def _asks_for_token() -> str | None:
    try:
        return getpass.getpass("Token of the hub (not shown): ").strip() or None
    except EOFError:  # Ctrl+D, or nothing to type it on
        raise InvalidRequest(
            "No token was given; type it where it is asked for, or leave --ask-token out and set HF_TOKEN.", "ask_token"
        ) from None


def _asks_whether_accepted(offer: Offer) -> bool:
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"{offer.licence} has to be accepted: read {offer.licence_url} and add --accept-licence.", "accept_licence"
        )
    print("Do you accept the licence? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidRequest("The licence was not accepted, so nothing was downloaded.", "accept_licence")
    return True


def _follow(download: Download) -> str:
    """Wait for the end, telling progress: in one line for who is looking, else in a line now and then, as for a log.

    Ctrl+C cancels the download.
    """
    from sd_demo.hub.download import Fetching

    is_watched, told = sys.stderr.isatty(), time.monotonic()
    try:
        for event in download.events():
            if is_watched and isinstance(event, Fetching):
                print(f"\r\x1b[K{_words(event)}", end="", file=sys.stderr, flush=True)
            elif isinstance(event, Fetching) and time.monotonic() >= told + LOGGED_EVERY_S:
                told = time.monotonic()
                print(_words(event), file=sys.stderr, flush=True)
        return str(download.result())
    finally:
        download.cancel()
        if is_watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _words(event: Fetching) -> str:
    from sd_demo.hub.sentences import gib

    speed = f", {gib(event.speed)}/s" if event.speed else ""
    left = f", {event.remaining_s:,.0f} s left" if event.remaining_s is not None else ""
    return f"{gib(event.done)} of {gib(event.total)}{speed}{left}  {event.file}"
