"""The API as people use it: gradio_client, with the request's field names as parameters."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from sd_demo.receipt import Receipt, read_receipt
from sd_demo.requests import PICTURE_FIELDS, REQUESTS
from sd_demo.soak.server import positional
from tests.fake_page import FakePage
from tests.http_api import HttpApi


@pytest.fixture(scope="module")
def client(fake_page: FakePage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(fake_page.url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A picture and a mask of its size."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.new("RGB", (64, 48), "red").save(folder / "image.png")
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save(folder / "mask_image.png")
    return {name: str(folder / f"{name}.png") for name in PICTURE_FIELDS}


def test_endpoints_have_the_fields_as_parameters_and_only_prompt_and_pictures_are_required(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]  # type: ignore[index]
    assert set(endpoints) == {*(f"/{task}" for task in REQUESTS), "/compare", "/upscale"}
    for task, kind in REQUESTS.items():
        parameters = endpoints[f"/{task}"]["parameters"]
        assert {p["parameter_name"] for p in parameters} == set(kind.model_fields)
        required = {p["parameter_name"] for p in parameters if not p["parameter_has_default"]}
        assert required == {"prompt", *(name for name in PICTURE_FIELDS if name in kind.model_fields)}


@pytest.mark.parametrize("task", REQUESTS)
def test_the_answer_is_png_files_and_their_receipts(client: Client, files: dict[str, str], task: str) -> None:
    pictures = {name: handle_file(files[name]) for name in PICTURE_FIELDS if name in REQUESTS[task].model_fields}
    gallery, receipts = client.predict(
        prompt="a red house", num_images_per_prompt=2, num_inference_steps=2, seed=7, api_name=f"/{task}", **pictures
    )
    assert [receipt["done"]["seed"] for receipt in receipts] == [7, 8]
    for item, receipt in zip(gallery, receipts, strict=True):
        path = Path(item["image"])
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert read_receipt(image) == Receipt(**receipt)


def test_a_comparison_of_which_a_part_is_withheld_says_so(client: Client) -> None:
    job = client.submit(prompt="withheld", x="guidance_scale: 1, 2, 3", api_name="/compare")
    _, gallery, receipts = job.result()
    assert [receipt["done"]["guidance_scale"] for receipt in receipts] == [1, 3]
    assert len(gallery) == 2
    assert job.communicator is not None
    news = job.communicator.updates
    logs = [update.log[0] for update in (news.get_nowait() for _ in range(news.qsize())) if getattr(update, "log", 0)]
    assert [text.partition(",")[0] for text in logs] == ["The model's safety checker withheld 1 more"]


def test_an_error_is_the_sentence_alone(client: Client) -> None:
    with pytest.raises(Exception, match=r"^num_inference_steps must be a whole number from 1 to 150\.$"):
        client.predict(prompt="a red house", num_inference_steps=0, api_name="/text_to_image")


def test_a_request_that_gradio_starts_a_second_time_stops_its_job_and_makes_no_other(
    fake_page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a /cancel that named another function, where it came between two answers of the handler."""
    monkeypatch.setattr(fake_page.engine, "step_s", 0.05)
    before = len(fake_page.engine.jobs)
    url = f"{fake_page.url}/gradio_api/call/text_to_image"
    data = positional("text_to_image", {"prompt": "a red house", "num_inference_steps": 100})
    event = httpx.post(url, json={"data": data, "session_hash": "twice"}).json()["event_id"]
    with httpx.stream("GET", f"{url}/{event}", timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: generating"
        fake_page.app.iterators_to_reset.add(event)
        (*_, end) = (line for line in lines if line)
    assert "The job was cancelled." in end
    (job,) = fake_page.engine.jobs[before:]
    ends = time.monotonic() + 10
    while not job.is_ended and time.monotonic() < ends:
        time.sleep(0.02)
    assert job.is_ended
    assert job.is_cancelled.is_set()


def test_what_nobody_foresaw_reaches_a_caller_as_an_id_alone(
    fake_page: FakePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a secret path: /etc/shadow")

    monkeypatch.setattr(fake_page.engine, "submit", surprise)
    api = HttpApi(fake_page.url)
    error = api.call("text_to_image", prompt="a ball").error or ""
    api.close()
    assert re.fullmatch(r"Something went wrong here; .* the id [0-9a-f]{8} if it stays\.", error), error
