"""Redrawn training pictures have the model's look and still show what they did; an interruption loses nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_demo.embedded import redrawn as module
from sd_demo.embedded import world
from sd_demo.embedded.dataset import pictured
from sd_demo.known_models import EMBEDDED_FOLDER

SIDE = 32


def test_pictures_are_redrawn_once_and_go_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 2)
    monkeypatch.setattr(module, "STEPS", 3)
    draw = world.draw
    drawn: list[int] = []

    def counted(picture: object, size: int) -> Image.Image:
        drawn.append(size)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(picture, size)  # type: ignore[arg-type]

    monkeypatch.setattr(world, "draw", counted)
    with pytest.raises(KeyboardInterrupt):
        module.redrawn(tmp_path, 4, 0, SIDE, EMBEDDED_FOLDER)
    assert not np.load(tmp_path / f"redrawn-{SIDE}-4-0.npy")[2:].any()
    images = module.redrawn(tmp_path, 4, 0, SIDE, EMBEDDED_FOLDER)
    assert len(drawn) == 5, "the first two are there already"
    assert module.redrawn(tmp_path, 4, 0, SIDE, EMBEDDED_FOLDER) is not None
    assert len(drawn) == 5
    for k in range(4):
        own = np.asarray(draw(pictured(0, k), 256).resize((SIDE, SIDE), Image.Resampling.BOX), dtype=float)
        others = [np.abs(own - images[other]).mean() for other in range(4)]
        assert int(np.argmin(others)) == k
        assert others[k] > 0.5, "it is another drawing of the same"
