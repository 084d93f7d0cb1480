"""When a waiting job is likely to begin, by what was measured."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from sd_demo.forecast import Forecast, Part, starts_s
from sd_demo.gate import Gate
from sd_demo.limits import Limits
from sd_demo.registry import Registry
from sd_demo.requests import AnyRequest, LoraChoice, SuperResolution, parse_request
from sd_demo.speed import Speed, Work

MAX_ROWS = 8
STEP_S, DECODE_S = 0.001, 0.01  # for a row of latents of a side of 32, and for a picture of them


def part(calls: int, room: int = 2, key: str = "a", rows: int = 0, decode_s: float = 0.0) -> Part:
    return Part(key, room, rows or room, Work(calls, 1.0, decode_s))


@pytest.mark.parametrize(
    ("running", "waiting", "expected"),
    [
        ([], [part(10)], [0]),
        ([part(5)], [part(10)], [0]),  # there is room: it begins at the next step
        ([part(5, room=8)], [part(10), part(10)], [5, 5]),
        ([part(5, room=8, decode_s=3)], [part(10)], [8]),
        ([part(5, room=8)], [part(10, room=8), part(1)], [5, 15]),
        # Two that share the loop take turns; the first to end makes room, though the other goes on.
        ([part(3, room=4), part(9, room=4)], [part(7, room=4), part(1, room=4)], [6, 6 + 2 * 6]),
        # Another model waits for all of them, and whoever stands behind it as well.
        ([part(3), part(9)], [part(1, key="b"), part(1)], [12, 13]),
        ([part(2)], [part(1, room=20), part(1)], [2, 3]),  # more than there ever is room for, so alone
        ([], [part(5, room=8, rows=4), part(1, room=4)], [0, 0]),  # it is let in as with guidance, and has none
    ],
)
def test_the_loop_is_played_through(running: list[Part], waiting: list[Part], expected: list[float]) -> None:
    assert starts_s(running, waiting, MAX_ROWS) == expected


def denoising(name: str, *, rows: int, done: int, total: int, side: int = 32) -> Any:
    model = SimpleNamespace(entry=SimpleNamespace(name=name))
    latents = torch.zeros(max(1, rows // 2), 4, side, side)
    return SimpleNamespace(model=model, rows=rows, index=done, total=total, latents=latents)


def running(name: str, request: AnyRequest, **about: Any) -> Any:
    return SimpleNamespace(
        denoising=denoising(name, **about), job=SimpleNamespace(request=request), decode_s=DECODE_S, total_s=2.5
    )


def waiting(request: AnyRequest) -> Any:
    return SimpleNamespace(request=request, entry=Registry().get(request.model or "picture-book"))


def job(**values: Any) -> Any:
    task = "image_to_image" if "image" in values else "text_to_image"
    return waiting(parse_request(task, {"prompt": "a", **values}))


def learned(name: str = "picture-book", step_s: float = STEP_S) -> Speed:
    speed = Speed()
    one = running(name, job().request, rows=2, done=20, total=20)
    speed.learn_step([one], 2 * step_s)
    speed.learn_job(one)
    return speed


def forecast(speed: Speed, **limits: int) -> Forecast:
    return Forecast(speed, Gate(Limits(**limits)), MAX_ROWS)


def taken(speed: Speed, one: Any, **limits: int) -> float:
    """Seconds that `one` is taken for, by whoever stands behind it with too many rows to join it."""
    starts = forecast(speed, **limits).starts_s([], [one, job(num_images_per_prompt=4)])
    assert starts is not None
    return starts[1]


def test_nothing_is_told_before_a_job_has_ended() -> None:
    assert forecast(Speed()).starts_s([], [job()]) is None


def test_steps_pictures_guidance_and_size_make_the_wait() -> None:
    busy = [running("picture-book", job().request, rows=8, done=5, total=1005)]  # 1000 steps of 8 rows: 8 s
    ahead = [
        job(num_inference_steps=100, num_images_per_prompt=4),  # 100 steps of 8 rows, four decoded: 0.84 s
        job(num_inference_steps=100, num_images_per_prompt=4, guidance_scale=1.0),  # half of the rows
        job(num_inference_steps=100, num_images_per_prompt=4, width=512, height=512),  # four times as many latents
        job(num_inference_steps=100, num_images_per_prompt=4, scheduler="heun"),  # two calls a step but for the last
        job(num_inference_steps=100, num_images_per_prompt=4, image=Image.new("RGB", (256, 256)), strength=0.5),
        job(),
    ]
    starts = forecast(learned()).starts_s(busy, ahead)
    assert starts is not None
    steps = [b - a for a, b in pairwise(starts)]
    assert starts[0] == pytest.approx(8 + DECODE_S * 4)
    assert steps[:4] == pytest.approx([0.84, 0.44, 4 * 0.84, 199 * 8 * STEP_S + 0.04])
    assert 0.44 < steps[4] < 0.45, "half of the steps, and its picture is encoded"


def test_who_can_begin_at_once_is_told_the_least_there_is() -> None:
    assert forecast(learned()).starts_s([], [job()]) == [1.0]


def test_another_model_or_another_lora_waits_for_all_that_run() -> None:
    busy = [running("picture-book", job().request, rows=2, done=0, total=2000)]  # 2000 steps of 2 rows: 4 s
    tell = forecast(learned()).starts_s
    for other in (job(model="random:sd-1.5:tiny"), job(loras=[LoraChoice(name="x")])):
        first, behind = tell(busy, [other, job()]) or ()
        assert first == pytest.approx(4 + DECODE_S)
        assert behind > first
    assert tell(busy, [job(), job(model="picture-book")]) == [1.0, 1.0], "its own name is no other model"


def test_of_a_model_that_never_ran_here_a_usual_job_is_taken() -> None:
    first, second = forecast(learned()).starts_s([], [job(model="random:sd-1.5:tiny"), job()]) or ()
    assert (first, second) == (1.0, 2.5)
    strange = running("new", job().request, rows=8, done=0, total=50)
    assert forecast(learned()).starts_s([strange], [job(num_images_per_prompt=4)]) == [2.5]


def test_a_picture_to_start_from_has_its_own_size() -> None:
    whole, half = (
        taken(learned(step_s=0.1), job(image=Image.new("RGB", size), strength=1.0)) for size in ((256, 256), (256, 128))
    )
    assert half == pytest.approx(whole / 2)


def test_what_the_server_lowers_takes_less() -> None:
    slow = learned(step_s=0.1)
    assert taken(slow, job()) == pytest.approx(20 * 0.2 + DECODE_S)
    assert taken(slow, job(), max_steps=10) == pytest.approx(10 * 0.2 + DECODE_S)


def test_a_distilled_model_brings_one_row_a_picture() -> None:
    name = "random:lcm:tiny"
    both = {"model": name, "num_inference_steps": 8, "width": 256, "height": 256, "guidance_scale": 8.0}
    speed = learned(name)
    speed.learn_step([running(name, job().request, rows=1, done=0, total=8)], 1.0)
    row_s = 0.7 * STEP_S + 0.3 * 1.0  # the running mean
    assert taken(speed, job(**both)) == pytest.approx(8 * row_s + DECODE_S)


def test_an_upscaling_takes_what_it_usually_takes() -> None:
    name = "random:x4-upscaler:tiny"
    speed, one = learned(), running(name, job().request, rows=2, done=20, total=20)
    one.total_s = 7.0
    speed.learn_step([one], 2.0)
    speed.learn_job(one)
    request = SuperResolution(prompt="", image=Image.new("RGB", (64, 64)), model=name)
    assert taken(speed, waiting(request)) == pytest.approx(7)
    assert taken(speed, job(model="random:sd-1.5:tiny")) == pytest.approx(0.7 * 2.5 + 0.3 * 7), "any job's"
