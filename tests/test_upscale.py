"""Upscaling: tiles cover the picture and leave no seam, one receipt tells of all, bad values get one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sd_demo.cli import main
from sd_demo.engine import Engine
from sd_demo.enlarge import enlarge
from sd_demo.errors import InvalidImage, InvalidRequest, JobCancelled, QueueFull
from sd_demo.events import Done
from sd_demo.job import Job
from sd_demo.outputs import Outputs
from sd_demo.receipt import read_receipt_file
from sd_demo.registry import Registry
from sd_demo.requests import AnyRequest, parse_request
from sd_demo.settings import Settings
from sd_demo.together import Jobs, Progress, run_together
from sd_demo.upscale import Tile, blend, joined, plan_upscaling
from sd_demo.upscaling import Upscaled, run_upscaling
from tests.upscale_bar import measure

ENTRY = Registry().get("picture-book")
NATIVE = ENTRY.native_size


def picture(width: int = 160, height: int = 128) -> Image.Image:
    """A smooth picture in which no two places are alike."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("outputs")
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa"), outputs=Outputs(folder))
    engine.start()
    yield engine
    engine.close()


@pytest.mark.parametrize("size", [(64, 64), (160, 128), (300, 97), (257, 256), (511, 700)])
def test_tiles_cover_every_pixel_and_lie_inside(size: tuple[int, int]) -> None:
    plan = plan_upscaling({"image": picture(*size), "scale": 1.5, "seed": 1}, entry=ENTRY)
    width, height = plan.enlarged.size
    assert (width, height) == tuple(round(side * 1.5) for side in size)
    covered = np.zeros((height, width), dtype=int)
    for tile, request in zip(plan.tiles, plan.requests, strict=True):
        assert request.image.size == (tile.width, tile.height) == (min(NATIVE, width), min(NATIVE, height))
        assert 0 <= tile.left <= width - tile.width
        assert 0 <= tile.top <= height - tile.height
        covered[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    assert covered.min() >= 1
    assert [request.seed for request in plan.requests] == [1 + k for k in range(len(plan.tiles))]
    whole = blend(plan.tiles, [np.asarray(request.image) for request in plan.requests], plan.enlarged.size)
    assert np.abs(whole - np.asarray(plan.enlarged)).max() <= 1
    assert all(np.array_equal(a.image, b.image) for a, b in zip(plan.requests, plan.unchanged, strict=True))
    same = [request.image for request in plan.requests]
    assert np.array_equal(joined(plan, same, same), plan.enlarged), "where nothing changed, nothing is added"


def test_between_two_tiles_that_differ_there_is_no_edge() -> None:
    tiles = [Tile(0, 0, 256, 64), Tile(192, 0, 256, 64)]
    grey = [np.full((64, 256, 3), value) for value in (100, 140)]
    row = blend(tiles, grey, (448, 64)).round()[32, :, 0]
    assert (row[0], row[-1]) == (100, 140)
    assert np.diff(row).min() >= 0
    assert np.diff(row).max() <= 2


def test_what_a_weak_refining_changes_is_added_in_part() -> None:
    def ends(strength: float) -> list[int]:
        plan = plan_upscaling({"image": picture(), "scale": 1, "seed": 1, "strength": strength}, entry=ENTRY)
        lines = Image.fromarray(np.indices((128, 160)).sum(axis=0).astype(np.uint8) % 2 * 40).convert("RGB")
        made = joined(plan, [lines] * len(plan.tiles), [Image.new("RGB", lines.size)] * len(plan.tiles))
        return sorted({int(value) for value in (np.asarray(made, int) - np.asarray(plan.enlarged, int)).ravel()})

    assert ends(0.1)[-1] < ends(0.2)[-1] == ends(0.9)[-1], "half of it is added at 0.1, all from 0.2 on"


def test_an_upscaling_is_one_file_with_one_receipt(engine: Engine) -> None:
    values = {"image": picture(200, 150), "scale": 2, "prompt": "a meadow", "num_inference_steps": 4, "seed": 7}
    plan = plan_upscaling(values, entry=ENTRY)
    start = time.perf_counter()
    *progress, end = run_upscaling(engine, plan, visitor="me")
    elapsed_s = time.perf_counter() - start
    assert isinstance(end, Upscaled)
    assert all(isinstance(news, Progress) for news in progress)
    assert end.result.image.size == end.enlarged.size == (400, 300)
    assert [path.name for path in engine.outputs.folder.rglob("*.png")] == [end.result.path.name]
    receipt = read_receipt_file(end.result.path)
    assert (receipt.task, receipt.done.width, receipt.done.height, receipt.done.seed) == ("upscale", 400, 300, 7)
    assert (receipt.asked["scale"], receipt.asked["strength"], receipt.asked["prompt"]) == (2, 0.1, "a meadow")
    assert (receipt.asked["image"]["width"], receipt.asked["image"]["height"]) == (200, 150)
    assert "in 4 tiles of 256x256 that overlap" in receipt.notes[0]
    assert receipt.done.shared_with == 7  # four tiles, each refined and unchanged
    assert receipt.done.encode_s + receipt.done.denoise_s + receipt.done.decode_s <= elapsed_s
    (*_, again) = run_upscaling(engine, plan_upscaling(values, entry=ENTRY), visitor="me")
    assert isinstance(again, Upscaled)
    assert np.array_equal(np.asarray(again.result.image), np.asarray(end.result.image))


def test_enlarging_rings_nowhere_and_made_small_again_is_the_source() -> None:
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((12, 12, 1))).astype(np.uint8)
    small = Image.fromarray(blocks)
    lanczos = small.resize((192, 192), Image.Resampling.LANCZOS)
    large = enlarge(small, (192, 192))
    again = np.asarray(large.resize(small.size, Image.Resampling.BOX), dtype=int)
    assert np.abs(again - blocks).mean() < 0.5
    pixels, most = (
        np.asarray(large, dtype=int),
        np.asarray(small.filter(ImageFilter.MaxFilter(3)).resize((192, 192), 0)),
    )
    assert (pixels - most).max() <= 12
    edges = [np.abs(np.diff(np.asarray(one, dtype=float), axis=1)).max(axis=2).max() for one in (lanczos, large)]
    assert edges[1] > edges[0]
    assert np.array_equal(enlarge(small, small.size), small)


def test_two_times_is_nearer_to_the_worlds_own_than_it_is_soft(engine: Engine) -> None:
    figures = measure(engine, 6)
    assert figures["refined"][0] >= figures["lanczos"][0] - 0.5
    assert figures["lanczos"][1] < 0.8 < figures["refined"][1] < 1.15
    assert figures["seam"][0] < 0.5


class CancelledAtItsEnd(Job):
    """Whoever asks whether it has ended learns that it has, and all are cancelled."""

    jobs: Jobs

    @property
    def is_ended(self) -> bool:
        self.jobs.cancel()
        return super().is_ended


def test_a_cancel_between_two_parts_is_a_cancel() -> None:
    jobs, requests = Jobs(), [parse_request("text_to_image", {"prompt": "x"})] * 2

    def submit(request: AnyRequest, **_: Any) -> Job:
        job = CancelledAtItsEnd(request, visitor="me", has_previews=False)
        job.jobs = jobs
        job.tell(Done(()))
        return job

    engine: Any = SimpleNamespace(settings=Settings(max_rows=2), submit=submit)
    with pytest.raises(JobCancelled):
        list(run_together(engine, requests, visitor="me", jobs=jobs))


def test_an_upscaling_that_was_let_in_ends_though_its_visitors_seconds_are_used_up(tmp_path: Path) -> None:
    settings = Settings(device="cpu", dtype="float32", attention="sdpa", max_rows=2, max_device_seconds=1)
    engine = Engine(settings, outputs=Outputs(tmp_path))
    plan = plan_upscaling({"image": picture(64, 64), "scale": 1, "num_inference_steps": 2, "seed": 1}, entry=ENTRY)
    running = run_upscaling(engine, plan, visitor="me")
    engine.start()
    try:
        next(running)
        engine._gate.charge(Job(plan.requests[0], visitor="me", has_previews=False), 100.0)
        *_, end = running
        assert isinstance(end, Upscaled)
        with pytest.raises(QueueFull, match="You have used the 1 s"):
            next(run_upscaling(engine, plan, visitor="me"))
    finally:
        engine.close()


def test_a_cancelled_upscaling_leaves_no_file_and_no_job(engine: Engine) -> None:
    before = set(engine.outputs.folder.rglob("*.png"))
    jobs = Jobs()
    plan = plan_upscaling({"image": picture(256, 256), "scale": 2, "num_inference_steps": 50}, entry=ENTRY)
    running = run_upscaling(engine, plan, jobs=jobs)
    next(running)
    jobs.cancel()
    with pytest.raises(JobCancelled):
        list(running)
    assert all(job.is_cancelled for job in jobs.jobs)
    assert set(engine.outputs.folder.rglob("*.png")) == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": 0.5}, "scale must be a number from 1 to 4"),
        ({"scale": 5}, "scale must be a number from 1 to 4"),
        ({"scale": float("nan")}, "scale must be"),
        ({"scale": True}, "scale must be"),
        ({"scale": "2"}, "scale must be"),
        ({"width": 512}, "upscale takes no width"),
        ({"num_images_per_prompt": 2}, "upscale takes no num_images_per_prompt"),
        ({"strength": 0}, "strength must be a number above 0"),
        ({"mask_image": picture()}, "upscale has no parameter 'mask_image'"),
        ({"image": picture(1100, 1100)}, "more than four megapixels; choose a scale of at most 1.8"),
        ({"image": picture(2100, 2100), "scale": 1}, "more than four megapixels; choose a smaller picture"),
        ({"image": picture(20, 100)}, "too small to refine"),
        ({"image": None}, "image is missing"),
        ({"image": "nothing.png"}, "nothing.png"),
    ],
)
def test_bad_values_get_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises((InvalidRequest, InvalidImage)) as caught:
        plan_upscaling({"image": picture(), **values}, entry=ENTRY)
    assert words in str(caught.value)
    assert str(caught.value).count(".") <= 3


def test_the_command_makes_a_larger_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(80, 64).save(tmp_path / "small.png")
    place = ["--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["upscale", str(tmp_path / "small.png"), "--scale", "2", "--num-inference-steps", "3", *place]) == 0
    file = Path(capsys.readouterr().out.strip())
    with Image.open(file) as made:
        assert made.size == (160, 128)
    assert main(["upscale", str(tmp_path / "small.png"), "--scale", "9", *place]) == 2
    assert "scale must be a number from 1 to 4" in capsys.readouterr().err
    assert main(["upscale", str(tmp_path / "none.png"), *place]) == 2
    assert main(["upscale", str(tmp_path / "small.png"), "--model", "nope", *place]) == 2
