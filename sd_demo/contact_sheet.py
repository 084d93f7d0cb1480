"""Several pictures as one: a labelled sheet of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from sd_demo.errors import InvalidRequest
from sd_demo.prompt_grammar import has_words

if TYPE_CHECKING:
    from sd_demo.events import ResultImage

MAX_SHEET_PIXELS: Final = 25_000_000  # larger ones are made of smaller cells, as most viewers refuse them
GAP: Final = 6
LEAST_CELL: Final = 96  # narrower ones would cut every label
GROUND: Final = (250, 250, 249)
INK: Final = (41, 37, 36)
_FONT_SHARE: Final = 0.055  # of a cell's side
_FONT: Final = "DejaVuSans.ttf"  # knows Greek and Cyrillic too, where it is installed

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    pictures: Sequence[Image.Image],
    *,
    rows: int | None = None,
    columns: int | None = None,
    captions: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """One RGB picture of all `pictures`, row by row.

    rows, columns: chosen, or None for as square as it goes. captions: one under each picture. column_labels,
    row_labels: above and beside. title: a line above all. Raises InvalidRequest where they do not fit the count.
    """
    down, across = layout(len(pictures), rows, columns)
    width, height = (max(p.size[k] for p in pictures) for k in (0, 1))
    scale = min(1.0, (MAX_SHEET_PIXELS / (across * width * down * height)) ** 0.5)
    width, height = max(LEAST_CELL, int(width * scale)), max(1, int(height * scale))
    font = _font(max(12, round(_FONT_SHARE * min(width, 4 * height))))
    line = round(font.getbbox("Ây")[3] * 1.2)
    left = GAP + (min(width, max(int(font.getlength(label)) + 1 for label in row_labels)) + GAP if row_labels else 0)
    top = GAP + (line if title else 0) + (line if column_labels else 0)
    step_x, step_y = width + GAP, height + GAP + (line if captions else 0)
    sheet = Image.new("RGB", (left + across * step_x, top + down * step_y), GROUND)
    draw = ImageDraw.Draw(sheet)

    def write(text: str, at: tuple[int, int], room: int) -> None:
        draw.text(at, _fitted(text, font, room), fill=INK, font=font)

    write(title, (GAP, GAP // 2), sheet.width - 2 * GAP)
    for k, label in enumerate(column_labels):
        write(label, (left + k * step_x, top - line), width)
    for k, label in enumerate(row_labels):
        write(label, (GAP, top + k * step_y + (height - line) // 2), left - 2 * GAP)
    for k, picture in enumerate(pictures):
        x, y = left + k % across * step_x, top + k // across * step_y
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        shown = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(shown, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))
        if k < len(captions):
            write(captions[k], (x, y + height), width)
    return sheet


def sheet_of(images: Sequence[ResultImage], rows: int | None, columns: int | None) -> Image.Image:
    """The pictures of one request as one, each above its seed and its score, or what the model made up for it."""
    captions, title = [], str(images[0].receipt.asked.get("prompt", ""))
    for one in (image.receipt.done for image in images):
        score = "" if one.clip_score is None else f" · {one.clip_score:.3f}"
        made_up = f" · {one.read_prompt}" if one.read_prompt and not has_words(title) else ""
        captions.append(f"seed {one.seed}{score}{made_up}")
    return contact_sheet([one.image for one in images], rows=rows, columns=columns, captions=captions, title=title)


def layout(count: int, rows: int | None, columns: int | None) -> tuple[int, int]:
    """(rows, columns) for `count` pictures; None is chosen. Raises InvalidRequest where both together are too few."""
    if count < 1:
        raise InvalidRequest("A contact sheet needs at least one picture.")
    if any(n is not None and n < 1 for n in (rows, columns)):
        raise InvalidRequest("A contact sheet has at least one row and one column.")
    if rows and columns:
        if rows * columns < count:
            raise InvalidRequest(f"{rows} x {columns} has no room for {count} pictures; choose more rows or columns.")
        return rows, columns
    if rows:
        return rows, -(-count // rows)
    across = columns or next(n for n in range(1, count + 1) if n * n >= count)
    return -(-count // across), across


def _font(size: int) -> Font:
    try:
        return ImageFont.truetype(_FONT, size)
    except OSError:
        return ImageFont.load_default(size)


def _fitted(text: str, font: Font, room: int) -> str:
    """`text` in one line, cut where the `room` in pixels ends."""
    words = " ".join(text.split())[:400]
    if font.getlength(words) <= room:
        return words
    while words and font.getlength(words + "…") > room:
        words = words[:-1]
    return words.rstrip() + "…"
