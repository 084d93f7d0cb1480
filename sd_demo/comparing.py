"""A comparison on the engine: its cells run together, and are answered as one labelled sheet."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from sd_demo.compare import Comparison
from sd_demo.contact_sheet import contact_sheet
from sd_demo.events import ResultImage
from sd_demo.together import Jobs, Progress, run_together

if TYPE_CHECKING:
    from sd_demo.engine import Engine

WITHHELD: Final = (214, 211, 209)  # of a cell that nobody may see


@dataclass(frozen=True)
class Compared:
    """The end: the sheet's file and pixels (RGB), and each cell on its own, row by row.

    withheld: the numbers, from 0, of cells that the model's safety checker withheld: grey on the sheet, and no images.
    """

    path: Path
    sheet: Image.Image
    images: tuple[ResultImage, ...]
    withheld: tuple[int, ...] = ()

    @property
    def about_withheld(self) -> str:
        """A sentence on what is withheld; "" where nothing is."""
        count = len(self.withheld)
        who = "The model's safety checker withheld"
        return f"{who} {count} more, grey on the sheet; try another seed or other words there." if count else ""


def run_comparison(
    engine: Engine, comparison: Comparison, *, visitor: str = "local", origin: str = "", jobs: Jobs | None = None
) -> Generator[Progress | Compared]:
    """Run all cells and yield their progress, then the end; see run_together for cancelling and errors."""
    cells = yield from run_together(engine, comparison.requests, visitor=visitor, origin=origin, jobs=jobs)
    images = [one for one in cells if one is not None]
    nothing = Image.new("RGB", images[0].image.size, WITHHELD)
    sheet = contact_sheet(
        [nothing if one is None else one.image for one in cells],
        columns=comparison.columns,
        column_labels=comparison.column_labels,
        row_labels=comparison.row_labels,
        title=comparison.title,
    )
    path = engine.outputs.save_sheet(sheet, [one.receipt for one in images], visitor=visitor)
    yield Compared(path, sheet, tuple(images), tuple(k for k, one in enumerate(cells) if one is None))
