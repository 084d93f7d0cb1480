"""The pictures behind the Learn tab: they are those of the real run, and the scripts beside them make the same ones."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from sd_demo.decoding import decode
from sd_demo.denoising import Denoising, advance
from sd_demo.embedded import world
from sd_demo.errors import InvalidRequest
from sd_demo.images import read_picture
from sd_demo.learn import scripts
from sd_demo.learn.attention import Watch, heat_picture, word_maps
from sd_demo.learn.classroom import Classroom, square
from sd_demo.learn.forward import add_noise, alphas_bar
from sd_demo.learn.reverse import Frame, guided, trace
from sd_demo.learn.round_trip import round_trip
from sd_demo.learn.schedules import paths
from sd_demo.loaded_model import LoadedModel
from sd_demo.plan import Plan
from sd_demo.settings import Settings
from sd_demo.ui import learn_steps
from sd_demo.ui.learn_steps import plan_of

PROMPT = "a red ball next to a lighthouse"


def test_the_picture_taken_apart_is_guided_as_the_slider_says(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    picture = Image.new("RGB", (8, 8))
    frame = Frame(0, 999.0, 1.0, picture, picture, torch.zeros(1), torch.zeros(1))
    monkeypatch.setattr("sd_demo.ui.learn_steps.plan_of", lambda *_: ("a ball", plan()))
    monkeypatch.setattr("sd_demo.learn.attention.word_maps", lambda *_: [])
    monkeypatch.setattr("sd_demo.learn.reverse.trace", lambda *_: [*[frame] * 20, picture])
    monkeypatch.setattr("sd_demo.learn.reverse.guided", lambda *given: taken.append(given[2]) or MagicMock())
    with gr.Blocks() as page:
        learn_steps.build(MagicMock())
    run = next(one for one in page.fns.values() if "learn-steps-seed" in [part.elem_id for part in one.inputs])
    values = {"learn-steps-prompt": "a ball", "learn-steps-seed": 8, "learn-scale": 12.5}
    updates = list(run.fn(*(values[part.elem_id] for part in run.inputs)))
    assert len(updates) == 22, "20 steps, the picture, and the line of the status cleared"
    assert taken == [12.5]


def plan(scheduler: str = "ddim", steps: int = 4) -> Plan:
    return Plan("text_to_image", (5,), steps, 4.0, scheduler)


@pytest.fixture(scope="module")
def classroom() -> Classroom:
    return Classroom(Settings(device="cpu", dtype="bfloat16", attention="sdpa"))  # as where that is the faster one


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return world.draw(world.sample(np.random.default_rng(4)), 256)


def run(classroom: Classroom, plan: Plan, watch: Watch | None = None) -> tuple[list[Frame], Image.Image]:
    *frames, final = trace(classroom, plan, PROMPT, "", watch)
    assert isinstance(final, Image.Image)
    return [frame for frame in frames if isinstance(frame, Frame)], final


def run_script(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(text, "script", "exec"), {})


def saved(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_noise_that_does_not_come_from_the_generator_has_its_seed_in_the_script() -> None:
    assert f"noise_sampler_seed=[{plan().seeds[0]}])" in scripts.steps_script(plan("dpmpp_sde"), PROMPT, "")
    assert "noise_sampler_seed" not in scripts.steps_script(plan("euler_a"), PROMPT, "")


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "dpmpp_2m_karras"])
def test_the_steps_are_those_of_the_engines_loop_and_of_the_script(
    classroom: Classroom, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    frames, final = run(classroom, plan(scheduler))
    from sd_demo.canvas import Canvas

    embeds = model.prompts.encode(PROMPT, "", device=torch.device("cpu"), dtype=torch.float32, key=())
    denoising = Denoising(model, plan(scheduler), Canvas(256, 256, 256, 256), embeds)
    while not denoising.is_finished:
        advance([denoising])
    assert np.abs(np.asarray(final).astype(int) - np.asarray(decode(denoising).images[0])).max() <= 1
    run_script(scripts.steps_script(plan(scheduler), PROMPT, ""), tmp_path, monkeypatch)
    assert np.abs(np.asarray(final) - saved(tmp_path / "picture.png")).max() <= 1
    for frame in frames:
        assert np.abs(np.asarray(frame.clean) - saved(tmp_path / f"step_{frame.index:02}.png")).max() <= 1
    assert [frame.sigma for frame in frames] == sorted((frame.sigma for frame in frames), reverse=True)


def test_guidance_is_put_together_from_its_parts(classroom: Classroom) -> None:
    frame = run(classroom, plan())[0][1]
    as_it_was, none, plain = (guided(classroom, frame, scale) for scale in (4.0, 0.0, 1.0))
    assert as_it_was.together.tobytes() == frame.clean.tobytes()
    assert none.together.tobytes() == none.without_prompt.tobytes()
    assert np.abs(np.asarray(plain.together).astype(int) - np.asarray(plain.with_prompt)).max() <= 1
    assert as_it_was.without_prompt.tobytes() != as_it_was.with_prompt.tobytes()


def test_every_word_has_its_own_share_of_attention(classroom: Classroom) -> None:
    watch = Watch()
    with classroom.turn() as model:
        before = dict(model.unet.attn_processors)
    _, final = run(classroom, plan(), watch)
    with classroom.turn() as model:
        assert {type(p) for p in model.unet.attn_processors.values()} == {type(p) for p in before.values()}
        words = word_maps(model, "a redball, lighthouse", watch)
        maps = watch.maps()
        tokens = model.components["tokenizer"]("a redball, lighthouse").input_ids
    assert [word for word, _ in words] == ["a", "redball", "lighthouse"]
    assert len(tokens) > 6, "redball is more than one token"
    assert torch.equal(words[0][1], maps[1])
    assert torch.equal(words[-1][1], maps[len(tokens) - 2])
    assert maps.shape[1:] == (16, 16)
    sums = sum(watch.counts[side] * (side / 16) ** 2 / watch.counts[side] for side in watch.sums)
    assert torch.allclose(maps.sum(dim=0), torch.full((16, 16), float(sums)), atol=1e-3)
    heat = heat_picture(torch.eye(16), final)
    assert heat.size == final.size
    bright, dark = (float(np.asarray(heat.crop(box)).mean()) for box in ((0, 0, 10, 10), (240, 0, 256, 16)))
    whole = [float(np.asarray(final.crop(box)).mean()) for box in ((0, 0, 10, 10), (240, 0, 256, 16))]
    assert bright / whole[0] > dark / whole[1]


def test_noise_is_added_by_the_formula_and_the_script(
    classroom: Classroom, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = alphas_bar(classroom)
    assert len(kept) == 1000
    assert kept == sorted(kept, reverse=True)
    noised = add_noise(classroom, picture, 250, 3)
    assert noised.signal**2 + noised.noise**2 == pytest.approx(1.0)
    assert noised.alpha_bar == kept[250]
    run_script(scripts.noise_script(250, 3), tmp_path, monkeypatch)  # the lesson's own page, as none was given
    assert np.abs(np.asarray(noised.decoded) - saved(tmp_path / "noisy.png")).max() <= 1
    first = add_noise(classroom, picture, 0, 3)
    assert np.abs(np.asarray(first.decoded).astype(float) - np.asarray(picture)).mean() < 12


def test_the_round_trip_tells_what_is_lost(
    classroom: Classroom, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trip = round_trip(classroom, picture)
    assert (trip.before, trip.after, trip.factor) == (196_608, 4096, 48)
    error = np.mean((np.asarray(trip.decoded).astype(float) - np.asarray(picture)) ** 2)
    assert trip.psnr == pytest.approx(10 * np.log10(255**2 / error))
    assert trip.psnr > 25
    given = Image.new("RGBA", (300, 200), (0, 90, 200, 0))  # its hidden colours are nobody's
    given.paste(picture.resize((120, 120)), (90, 40))
    given.save(tmp_path / "picture.png")
    trip = round_trip(classroom, square(read_picture(tmp_path / "picture.png")))
    run_script(scripts.round_trip_script(), tmp_path, monkeypatch)
    assert np.abs(np.asarray(trip.decoded) - saved(tmp_path / "decoded.png")).max() <= 1


def test_schedulers_start_from_one_noise_and_go_their_own_ways(classroom: Classroom) -> None:
    made = list(paths(classroom, plan(steps=3), PROMPT, "", ["ddim", "euler", "heun"]))
    assert [path.scheduler for path in made] == ["ddim", "euler", "heun"]
    assert len(made[2].sigmas) > len(made[0].sigmas), "Heun calls the UNet twice a step"
    assert len({path.picture.tobytes() for path in made}) == 3


def test_any_picture_becomes_a_square() -> None:
    assert square(Image.new("RGBA", (300, 200)), 64).size == (64, 64)
    assert square(Image.new("L", (20, 90)), 64).mode == "RGB"


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a (red:1.4) ball", "reads plain words"),
        ("a cat BREAK a dog", "reads plain words"),
        ("a red ball and " * 40, "reads at most 75 tokens"),
        (" ", "is empty"),
    ],
)
def test_a_lesson_reads_what_its_script_reads(classroom: Classroom, prompt: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        plan_of(lambda: classroom, prompt, 1)
    assert plan_of(lambda: classroom, "a red ball", 1)[0] == "a red ball"
