"""What editors send ahead is held within bounds, whatever a caller chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from sd_demo.errors import InvalidImage
from sd_demo.ui import mask_editor
from sd_demo.ui.mask_editor import MAX_EDITORS, MAX_LAYERS, Blobs
from tests.test_images import encoded, png_claiming


def sent(key: Any, content: Any = b"x", *, kind: str = "layer", index: Any = "0") -> SimpleNamespace:
    return SimpleNamespace(data={"type": kind, "id": key, "index": index}, files=[("blob", content)])


def is_forgotten(blobs: Blobs, key: str) -> bool:
    with pytest.raises(InvalidImage, match="no longer held here; paint once more"):
        mask_editor.read({"id": key}, blobs)
    return True


def test_what_is_sent_is_kept() -> None:
    blobs = Blobs()
    blobs.accept(sent("a", b"layer"))
    blobs.accept(sent("a", b"ground", kind="background"))
    blob = blobs.get("a")
    assert blob is not None
    assert (blob.layers, blob.background) == ({0: b"layer"}, b"ground")


@pytest.mark.parametrize("index", ["50000000", "-1", str(MAX_LAYERS), "x", None, [1]])
def test_an_index_allocates_nothing(index: Any) -> None:
    blobs = Blobs()
    with pytest.raises(gr.Error):
        blobs.accept(sent("a", index=index))
    assert blobs.get("a") is None


def test_bytes_of_all_editors_together_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_editor, "MAX_HELD_BYTES", 1000)
    blobs = Blobs()
    for key in "abc":
        blobs.accept(sent(key, b"x" * 400))
    assert is_forgotten(blobs, "a")
    assert blobs.get("b") is not None
    assert blobs.get("c") is not None


def test_editors_have_an_end_in_number() -> None:
    blobs = Blobs()
    for k in range(MAX_EDITORS + 1):
        blobs.accept(sent(str(k)))
    assert is_forgotten(blobs, "0")
    assert blobs.get("1") is not None


def test_what_is_run_again_stays_and_what_was_forgotten_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    # The module's own clock alone: a leap of everybody's would leave the event loops of running pages asleep for hours.
    monkeypatch.setattr(mask_editor, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(mask_editor, "MAX_FORGOTTEN", 2)
    blobs = Blobs()
    for key in "ab":
        blobs.accept(sent(key))
    now = 0.9 * mask_editor.MAX_AGE_S
    assert blobs.get("a") is not None
    now = 1.8 * mask_editor.MAX_AGE_S
    assert blobs.get("a") is not None
    assert is_forgotten(blobs, "b")
    assert mask_editor.read({"id": "of an editor without a picture"}, blobs) == {}
    assert mask_editor.read({"id": ["a"]}, blobs) == {}
    blobs.accept(sent("b"))
    assert blobs.get("b") is not None
    now = 4 * mask_editor.MAX_AGE_S
    for key in "cd":
        blobs.accept(sent(key))
    now = 8 * mask_editor.MAX_AGE_S
    assert is_forgotten(blobs, "d")
    assert blobs.get("a") is None, "ids are not kept for ever either"


def test_a_layer_of_too_many_pixels_is_not_decoded() -> None:
    blobs = Blobs()
    blobs.accept(sent("a", encoded(Image.new("RGB", (64, 64))), kind="background"))
    blobs.accept(sent("a", png_claiming(6_000, 5_000)))
    with pytest.raises(InvalidImage, match="too many pixels"):
        mask_editor.read({"id": "a"}, blobs)
