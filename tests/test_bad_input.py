"""Bad input over the HTTP API of a running page: one sentence, nothing reaches the engine, and the page stays up.

The page's own limits protect nothing here. The command line is held to the same in test_cli.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sd_demo.requests import PICTURE_FIELDS, REQUESTS
from sd_demo.settings import Settings
from tests import fake_page
from tests.fake_engine import FakeEngine
from tests.fake_page import FakePage
from tests.http_api import HttpApi
from tests.test_images import REFUSED, encoded, half_transparent, png_claiming


@dataclass(frozen=True)
class Server:
    """A page over an engine that draws squares; `uploads` are a red picture and a white mask, 64x48."""

    api: HttpApi
    engine: FakeEngine
    uploads: dict[str, Any]

    def refuses(self, task: str, **values: Any) -> str:
        """The sentence that a call gets; checks that it is one, and that nothing reached the engine."""
        before = len(self.engine.jobs)
        sentence = self.api.call(task, **{**self.pictures(task), **values}).error
        assert sentence is not None, "this was accepted"
        assert sentence.endswith("."), sentence
        assert not any(mark in sentence for mark in ("\n", "Traceback", "Error(", "HTTP ", "/tmp")), sentence
        assert len(self.engine.jobs) == before, "it reached the engine"
        return sentence

    def accepts(self, task: str, **values: Any) -> dict[str, Any]:
        """The first receipt of a call that works."""
        return self.api.call(task, **{"num_inference_steps": 2, **self.pictures(task), **values}).receipts[0]

    def pictures(self, task: str) -> dict[str, Any]:
        return {name: self.uploads[name] for name in PICTURE_FIELDS if name in REQUESTS[task].model_fields}


@pytest.fixture(scope="module")
def server(fake_page: FakePage) -> Iterator[Server]:
    api = HttpApi(fake_page.url)
    uploads = {
        "image": api.upload(encoded(Image.new("RGB", (64, 48), "red"))),
        "mask_image": api.upload(encoded(Image.new("L", (64, 48), 255))),
    }
    server = Server(api, fake_page.engine, uploads)
    yield server
    assert server.accepts("text_to_image", prompt="a ball", seed=5)["done"]["seed"] == 5, (
        "after all that it still works"
    )
    api.close()


WRONG_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    "20",
    "many",
    True,
    False,
    [],
    [20],
    {"a": 1},
    -1,
    2**64,
    1e308,
    10**400,
]


@pytest.mark.parametrize("value", WRONG_NUMBERS, ids=lambda value: str(value)[:12])
def test_no_number_slips_through(server: Server, value: Any) -> None:
    names = ["height", "width", "num_inference_steps", "guidance_scale", "seed", "num_images_per_prompt", "strength"]
    for name in names:
        assert server.refuses("image_to_image", **{name: value}).startswith(f"{name} must be a ")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_inference_steps", [0, -1, 7.5, 10_000]),
        ("height", [0, 7, 100_000]),
        ("width", [0, 7, 100_000, 256.5]),
        ("guidance_scale", [0, -7.5, 1000]),
        ("num_images_per_prompt", [0, 17, 1000]),
        ("seed", [-1, 2**32, 2**53, 2**64, 0.5]),
        ("scheduler", ["k_lms", "", "Euler", 3, ["euler"]]),
        ("prompt", ["x" * 50_000, 5, True, ["a"], {"text": "a"}, "a\x00b"]),
        ("negative_prompt", ["x" * 50_000, 5, "\x00"]),
        ("model", ["no-such-model", "../../etc", "x" * 5000, "\x00", 5, ["picture-book"], "https://example.org/model"]),
    ],
)
def test_values_out_of_range_are_refused(server: Server, name: str, values: list[Any]) -> None:
    for value in values:
        sentence = server.refuses("text_to_image", **{"prompt": "a ball", name: value})
        assert name in sentence
        assert len(sentence) < 400


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, math.nan])
@pytest.mark.parametrize("task", ["image_to_image", "inpaint"])
def test_strength_has_its_range(server: Server, task: str, strength: float) -> None:
    assert server.refuses(task, strength=strength) == "strength must be a number above 0 and at most 1."


def test_an_empty_prompt_makes_a_picture(server: Server) -> None:
    assert server.accepts("text_to_image", prompt="")["asked"]["prompt"] == ""
    assert server.accepts("text_to_image")["asked"]["prompt"] == ""


@pytest.mark.parametrize("task", ["image_to_image", "inpaint"])
def test_a_missing_picture_is_said(server: Server, task: str) -> None:
    assert server.refuses(task, image=None) == "image is missing; choose a picture first."


def test_masks_are_checked(server: Server) -> None:
    def mask(image: Image.Image) -> dict[str, Any]:
        return server.api.upload(encoded(image))

    assert "mask_image is missing" in server.refuses("inpaint", mask_image=None)
    assert "mask_image is empty" in server.refuses("inpaint", mask_image=mask(Image.new("L", (64, 48))))
    assert "mask_image is 48x64" in server.refuses("inpaint", mask_image=mask(Image.new("L", (48, 64), 255)))
    assert "mask_image is empty" in server.refuses("inpaint", mask_image=mask(Image.new("RGBA", (64, 48))))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_usable_picture_is_refused(server: Server, name: str) -> None:
    uploaded = server.api.upload(REFUSED[name])
    assert server.refuses("image_to_image", image=uploaded).startswith("image")
    assert server.refuses("inpaint", mask_image=uploaded).startswith("mask_image")


USABLE = {
    "rgba": encoded(half_transparent("RGBA")),
    "la": encoded(half_transparent("LA")),
    "palette": encoded(Image.new("RGB", (64, 48), "red").convert("P")),
    "1-bit": encoded(Image.new("1", (64, 48), 1)),
    "16-bit": encoded(Image.fromarray(np.full((48, 64), 40_000, np.uint16))),
    "float": encoded(Image.new("F", (64, 48), 0.5), "TIFF"),
    "cmyk": encoded(Image.new("CMYK", (64, 48)), "JPEG"),
    "still gif": encoded(Image.new("RGB", (64, 48)), "GIF"),
}


@pytest.mark.parametrize("name", USABLE)
def test_unusual_pictures_work(server: Server, name: str) -> None:
    server.accepts("image_to_image", image=server.api.upload(USABLE[name], "picture.jpg"))
    assert server.engine.jobs[-1].request.image.mode == "RGB"
    assert server.engine.jobs[-1].request.image.size == (64, 48)


def test_a_phone_photo_arrives_upright(server: Server) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    server.accepts("image_to_image", image=server.api.upload(encoded(Image.new("RGB", (64, 48)), "JPEG", exif=exif)))
    assert server.engine.jobs[-1].request.image.size == (48, 64)


FOREIGN = [
    5, True, "photo.png", [], {}, {"path": None}, {"path": "../../etc/passwd"}, {"path": "/etc/passwd"},
    {"path": str(Path(__file__).resolve())}, {"path": "x\x00.png"}, {"path": "http://127.0.0.1:9/x.png"},
    {"url": "http://127.0.0.1:9/x.png"}, {"url": "file:///etc/passwd", "path": "/etc/passwd"}, {"path": ["a"]},
    "data:image/png;base64,iVBORw0KGgo=", {"background": {}, "layers": []},
]  # fmt: skip


@pytest.mark.parametrize("value", FOREIGN, ids=str)
def test_only_uploaded_files_are_pictures(server: Server, value: Any) -> None:
    server.refuses("image_to_image", image=value)
    if isinstance(value, dict):
        server.refuses("image_to_image", image={**value, "meta": {"_type": "gradio.FileData"}})


@pytest.mark.parametrize("data", [[], ["x"] * 40, [None] * 40, [[[]]], [{"a": [1] * 500}], ["x", 1, 2, 3]])
@pytest.mark.parametrize("task", REQUESTS)
def test_too_few_and_too_many_values_are_answered(server: Server, task: str, data: list[Any]) -> None:
    answer = server.api.call_raw(task, data)
    assert answer.data or (answer.error or "").endswith("."), answer


@pytest.mark.parametrize("data", [None, 5, "a ball", {}, {"prompt": "a ball"}])
def test_what_is_no_list_of_values_is_refused_by_its_form(server: Server, data: Any) -> None:
    assert (server.api.call_raw("text_to_image", data).error or "").startswith("HTTP 422")


def test_a_picture_that_claims_200_megapixels_is_not_decoded(server: Server) -> None:
    sentence = server.refuses("image_to_image", image=server.api.upload(png_claiming(20_000, 10_000)))
    assert "million pixels" in sentence


def test_bytes_without_end_are_refused_at_the_door_of_a_page_that_others_reach(tmp_path: Path) -> None:
    with fake_page.serve(tmp_path, Settings(profile="shared")) as page:
        api = HttpApi(page.url)
        with pytest.raises(httpx.HTTPStatusError, match="413"):
            api.upload(REFUSED["too many bytes"])
        api.close()
