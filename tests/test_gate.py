"""The gate: each limit refuses one more and lets exactly that many through, with the field or the seconds named."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from PIL import Image

from sd_demo import schedulers
from sd_demo.errors import InvalidRequest, QueueFull
from sd_demo.gate import HOUR_S, MAX_VISITORS, Gate
from sd_demo.job import Job
from sd_demo.limits import PROFILES, Limits
from sd_demo.registry import EMBEDDED, Registry
from sd_demo.requests import AnyRequest, parse_request
from sd_demo.upscale import plan_upscaling

ENTRY = Registry().get(EMBEDDED)
STRICT = Limits(
    max_visitor_jobs=2,
    max_device_seconds=100,
    max_visitors_per_address=3,
    max_side=512,
    max_steps=20,
    max_images=2,
    max_prompt_characters=10,
)


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(**values: Any) -> AnyRequest:
    return parse_request("text_to_image", {"prompt": "a ball", **values})


def job(visitor: str, origin: str = "") -> Job:
    return Job(ask(), visitor=visitor, origin=origin, has_previews=False)


@pytest.mark.parametrize(
    ("name", "most", "more"),
    [
        ("height", 512, 513),
        ("width", 512, 513),
        ("num_inference_steps", 20, 21),
        ("num_images_per_prompt", 2, 3),
        ("prompt", "x" * 10, "x" * 11),
        ("negative_prompt", "x" * 10, "x" * 11),
    ],
)
def test_each_limit_lets_its_own_value_through_and_names_its_field_beyond(name: str, most: Any, more: Any) -> None:
    gate = Gate(STRICT)
    gate.check_request(ask(**{name: most}), ENTRY)
    with pytest.raises(InvalidRequest, match=rf"^{name} may .+ on this server; .+\.$") as caught:
        gate.check_request(ask(**{name: more}), ENTRY)
    assert caught.value.field == name


def test_only_steps_that_run_count() -> None:
    gate, picture = Gate(STRICT), Image.new("RGB", (64, 64))
    changed = {"prompt": "a ball", "image": picture, "num_inference_steps": 50}
    gate.check_request(parse_request("image_to_image", {**changed, "strength": 0.4}), ENTRY)
    with pytest.raises(InvalidRequest, match="num_inference_steps may be at most 20"):
        gate.check_request(parse_request("image_to_image", {**changed, "strength": 0.5}), ENTRY)


@pytest.mark.parametrize("task", ["image_to_image", "inpaint"])
def test_what_a_request_leaves_open_is_brought_within_the_limits(task: str) -> None:
    picture, mask = Image.new("RGB", (1000, 500)), {"mask_image": Image.new("L", (1000, 500), 255)}
    gate = Gate(Limits(max_side=256, max_steps=5))
    values = {"prompt": "a ball", "image": picture, "strength": 0.6, **(mask if task == "inpaint" else {})}
    ran = gate.lowered(parse_request(task, values), ENTRY)
    assert (ran.width, ran.height, ran.num_inference_steps) == (256, 128, 9)
    gate.check_request(ran, ENTRY)
    assert gate.lowered(ran, ENTRY) is ran, "what is asked for stays"
    assert gate.lowered(ask(), ENTRY).num_inference_steps == 5
    for request in (parse_request(task, values), ask()):
        assert Gate(PROFILES["shared"]).lowered(request, ENTRY) is request


def test_what_an_upscaling_compares_with_passes_the_strictest_limit() -> None:
    gate = Gate(Limits(max_steps=2))
    values = {"image": Image.new("RGB", (64, 64)), "num_inference_steps": 2, "strength": 0.5}
    plan = plan_upscaling(values, entry=ENTRY)
    for request in (*plan.requests, *plan.unchanged):
        gate.check_request(request, ENTRY)


def test_parts_of_what_was_let_in_are_not_ended_by_seconds_but_by_jobs() -> None:
    gate = Gate(STRICT)
    gate.charge(job("a"), 1000)
    later = Job(ask(), visitor="a", has_previews=False, is_accepted=True)
    gate.check_visitor(later, [], 1.0)
    with pytest.raises(QueueFull, match="2 at once is the most"):
        gate.check_visitor(later, [job("a")] * 2, 1.0)


def test_a_models_own_size_is_always_allowed() -> None:
    small = STRICT.model_copy(update={"max_side": 64})
    Gate(small).check_request(ask(), ENTRY)
    Gate(small).check_request(ask(height=ENTRY.native_size), ENTRY)


def test_pictures_that_come_in_are_no_side_that_was_asked_for() -> None:
    request = parse_request("image_to_image", {"prompt": "a ball", "image": Image.new("RGB", (900, 900))})
    Gate(STRICT).check_request(request, ENTRY)


@pytest.mark.parametrize(("asked", "other"), [("height", "width"), ("width", "height")])
def test_one_side_of_a_picture_does_not_let_the_other_grow(asked: str, other: str) -> None:
    size = (800, 400) if asked == "height" else (400, 800)
    request = parse_request("image_to_image", {"prompt": "a ball", "image": Image.new("RGB", size), asked: 512})
    with pytest.raises(InvalidRequest, match=f"{other} may be at most 512 on this server, and would be 1024 for this"):
        Gate(STRICT).check_request(request, ENTRY)
    Gate(STRICT).check_request(request.model_copy(update={asked: 256}), ENTRY)


def test_on_ones_own_machine_everything_a_request_can_say_goes_through() -> None:
    largest = ask(height=1024, width=1024, num_inference_steps=150, num_images_per_prompt=16, prompt="x" * 4000)
    gate = Gate(PROFILES["local"])
    gate.check_request(largest, ENTRY)
    gate.charge(job("a", "1.2.3.4"), 1e9)
    gate.check_visitor(job("a", "1.2.3.4"), [job("a", "1.2.3.4")] * 10_000, 1.0)


def test_a_visitor_with_enough_jobs_is_told_when_to_come_back() -> None:
    gate = Gate(STRICT)
    gone = job("a")
    gone.cancel()
    gate.check_visitor(job("a"), [job("a"), gone, job("b")], 7.2)
    with pytest.raises(QueueFull, match=r"^You have 2 jobs .+ try again in about 8 s\.$") as caught:
        gate.check_visitor(job("a"), [job("a"), job("b"), job("a")], 7.2)
    assert caught.value.retry_after_s == 7.2


def test_new_names_from_one_address_gain_little() -> None:
    gate = Gate(STRICT)
    others = [job(f"v{k}", "1.2.3.4") for k in range(6)]
    gate.check_visitor(job("new", "1.2.3.4"), others[:5], 7.2)
    gate.check_visitor(job("new", "1.2.3.5"), others, 7.2)
    gate.check_visitor(job("new"), [job(f"v{k}") for k in range(6)], 7.2)  # no address is known: nothing to go by
    with pytest.raises(QueueFull, match=r"^6 jobs of your network address .+ 6 at once is the most; .+ 8 s\.$"):
        gate.check_visitor(job("new", "1.2.3.4"), others, 7.2)


def test_device_seconds_of_one_address_run_out_whatever_its_visitors_are_called() -> None:
    gate = Gate(STRICT)
    for k in range(5):
        gate.charge(job(f"v{k}", "1.2.3.4"), 60.0)
        if k < 4:
            gate.check_visitor(job("new", "1.2.3.4"), [], 1.0)
    with pytest.raises(QueueFull, match=r"^Your network address has used the 300 s"):
        gate.check_visitor(job("new", "1.2.3.4"), [], 1.0)
    gate.check_visitor(job("new", "1.2.3.5"), [], 1.0)
    gate.check_visitor(job("new"), [], 1.0)


def test_device_seconds_of_an_hour_run_out_for_one_visitor_and_come_back() -> None:
    clock = Clock()
    gate = Gate(STRICT, clock=clock)
    gate.charge(job("a"), 60.0)
    clock.now += 600
    gate.check_visitor(job("a"), [], 1.0)
    gate.charge(job("a"), 40.0)
    with pytest.raises(QueueFull, match=r"^You have used the 100 s of the device") as caught:
        gate.check_visitor(job("a"), [], 1.0)
    gate.check_visitor(job("b"), [], 1.0)
    assert caught.value.retry_after_s <= HOUR_S
    clock.now += caught.value.retry_after_s - 1
    with pytest.raises(QueueFull):
        gate.check_visitor(job("a"), [], 1.0)
    clock.now += 1
    gate.check_visitor(job("a"), [], 1.0)
    clock.now += HOUR_S + 60
    assert gate.used_s("a") == 0


def test_forgotten_visitors_cost_no_memory() -> None:
    gate = Gate(STRICT)
    for k in range(MAX_VISITORS + 5):
        gate.charge(job(str(k)), 1.0)
    assert gate.used_s("0") == 0
    assert gate.used_s(str(MAX_VISITORS)) == 1.0


@pytest.mark.parametrize(
    ("name", "class_name", "title", "package"),
    [
        ("dpmpp_sde", "DPMSolverSDEScheduler", "DPM++ SDE", "torchsde"),
        ("lms", "LMSDiscreteScheduler", "LMS (K-LMS)", "scipy"),
    ],
)
def test_a_scheduler_whose_package_is_missing_is_refused_before_it_waits(
    name: str, class_name: str, title: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dummy = type(class_name, (), {"__module__": f"diffusers.utils.dummy_torch_and_{package}_objects"})
    monkeypatch.setattr(diffusers, class_name, dummy)
    schedulers.available.cache_clear()
    gate = Gate(PROFILES["local"])
    with pytest.raises(InvalidRequest) as caught:
        gate.check_request(ask(scheduler=name), ENTRY)
    assert str(caught.value).startswith(f"The scheduler {title} needs the package {package}; choose")
    assert caught.value.field == "scheduler"
    assert name not in schedulers.available()
    for other in schedulers.available():
        gate.check_request(ask(scheduler=other), ENTRY)
    schedulers.available.cache_clear()
