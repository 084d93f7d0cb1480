"""What stands where the first picture will be: what the model is and knows, and what to do first."""

from __future__ import annotations

from html import escape

from sd_demo.embedded.known_words import vocabulary
from sd_demo.errors import InvalidRequest
from sd_demo.registry import ModelEntry, check_task
from sd_demo.requests import REQUESTS, TextToImage

FIRST_STEP = {
    "image_to_image": "Choose a picture, say what it should become, and press Generate.",
    "upscale": "Choose a picture, say how much larger it shall be, and press Upscale. A prompt that says what it shows "
    "helps.",
    "inpaint": "Choose a picture, paint over the part to change, say what should be there, and press Generate.",
}


def html(task: str, entry: ModelEntry, *, is_here: bool) -> str:
    """One short text, as HTML. `is_here`: the model's weights are on this machine."""
    if not is_here:
        return _of_absent(entry)
    try:
        if task in REQUESTS:
            check_task(entry, REQUESTS[task].task)
    except InvalidRequest as error:
        return f"<p>{escape(str(error))}</p>"
    if task != TextToImage.task:
        return f"<p>{escape(FIRST_STEP[task])}</p>"
    if not entry.is_embedded:
        return (
            f"<p><b>{escape(entry.title)}</b>: {escape(entry.summary)}</p>{_limits(entry)}"
            f"<p>Licence: {escape(entry.licence)}</p>"
        )
    words = vocabulary()
    known = "".join(
        f"<li><b>{escape(kind)}</b> {escape(', '.join(str(word).replace('_', ' ') for word in words[kind]))}</li>"
        for kind in ("objects", "colours", "scenes", "styles")
    )
    return (
        f"<p><b>{escape(entry.title)}</b>: {escape(entry.summary)} Words that it knows:</p><ul>{known}</ul>"
        "<p>For everything else, choose a Stable Diffusion model above.</p>"
    )


def _of_absent(entry: ModelEntry) -> str:
    return (
        f"<p><b>{escape(entry.title)}</b> is not on this machine yet: {escape(entry.summary)}</p>"
        f"{_limits(entry)}<p>Licence: {escape(entry.licence)}. A download of {entry.download_mib / 1024:.1f} GiB:</p>"
        f"<p><code>python -m sd_demo download {escape(entry.name)}</code></p>"
    )


def _limits(entry: ModelEntry) -> str:
    return f"<p>{escape(entry.limits)}</p>" if entry.limits else ""
