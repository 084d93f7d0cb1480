"""The step loop against diffusers' own pipelines, and against itself when it is shared."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image, ImageDraw

from sd_demo.canvas import plan as plan_canvas
from sd_demo.denoising import Denoising, advance
from sd_demo.loaded_model import LoadedModel
from sd_demo.plan import Plan
from sd_demo.requests import parse_request
from sd_demo.schedulers import available, make_scheduler, unet_calls

SCHEDULERS = ["ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_karras", "unipc"]
SIZE = (96, 64)  # width, height
PROMPT, NEGATIVE = "a red house by the sea", "snow"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = np.random.default_rng(5)
    small = Image.fromarray(generator.integers(0, 255, (8, 12, 3), dtype=np.uint8))
    return small.resize(SIZE, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    image = Image.new("L", SIZE, 0)
    ImageDraw.Draw(image).ellipse((30, 10, 80, 55), fill=255)
    return image


@pytest.fixture(scope="module")
def nine_channels(model: LoadedModel) -> LoadedModel:
    """The same model with a 9-channel inpainting UNet of random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**model.unet.config, "in_channels": 9}).eval()
    return replace(model, components={**model.components, "unet": unet})


def begin(model: LoadedModel, task: str, values: dict[str, Any], **plan: Any) -> Denoising:
    request = parse_request(task, {"prompt": PROMPT, "negative_prompt": NEGATIVE, **values})
    canvas = plan_canvas(request, native_size=model.entry.native_size, multiple=model.latent_pixels)
    embeds = model.prompts.encode(request.prompt, request.negative_prompt, device="cpu", dtype=torch.float32)
    return Denoising(model, Plan(task=task, **plan), canvas, embeds)


def run(denoisings: Sequence[Denoising]) -> list[torch.Tensor]:
    while running := [d for d in denoisings if not d.is_finished]:
        advance(running)
    return [d.latents for d in denoisings]


def oracle(model: LoadedModel, task: str, values: dict[str, Any], plan: dict[str, Any]) -> torch.Tensor:
    """The latents of the diffusers pipeline: n prompts with a generator each."""
    n = len(plan["seeds"])
    pipe = model.pipeline(task, make_scheduler(plan["scheduler"], model.scheduler_config))
    pipe.set_progress_bar_config(disable=True)
    pictures = {key: [values[key]] * n for key in ("image", "mask_image") if key in values}
    size = {} if task == "image_to_image" else {"width": SIZE[0], "height": SIZE[1]}
    strength = {} if plan.get("strength") is None else {"strength": plan["strength"]}
    return pipe(
        prompt=[PROMPT] * n,
        negative_prompt=[NEGATIVE] * n,
        num_inference_steps=plan["num_inference_steps"],
        guidance_scale=plan["guidance_scale"],
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in plan["seeds"]],
        output_type="latent",
        return_dict=False,
        **pictures,
        **size,
        **strength,
    )[0]


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("case", ["text", "image 0.3", "image 0.8", "inpaint 4", "inpaint 4 at 0.7", "inpaint 9"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_equals_diffusers(
    model: LoadedModel,
    nine_channels: LoadedModel,
    picture: Image.Image,
    mask: Image.Image,
    scheduler: str,
    case: str,
    guidance: float,
    images: int,
) -> None:
    used = nine_channels if case == "inpaint 9" else model
    task = {"text": "text_to_image", "image": "image_to_image"}.get(case.split()[0], "inpaint")
    values: dict[str, Any] = {"width": SIZE[0], "height": SIZE[1]}
    if task != "text_to_image":
        values = {"image": picture}
    if task == "inpaint":
        values["mask_image"] = mask
    strength = {"image 0.3": 0.3, "image 0.8": 0.8, "inpaint 4 at 0.7": 0.7, "text": None}.get(case, 1.0)
    plan = {
        "seeds": tuple(range(11, 11 + images)),
        "num_inference_steps": 5,
        "guidance_scale": guidance,
        "scheduler": scheduler,
        "strength": strength,
    }
    ours = run([begin(used, task, values, **plan)])[0]
    if task == "inpaint":  # the loop repaints every latent that the mask touches; theirs reads one pixel of each
        values = {**values, "mask_image": begin(used, task, values, **plan).canvas.mask}
    theirs = oracle(used, task, values, plan)
    assert torch.isfinite(theirs).all()
    assert (ours - theirs).abs().max().item() <= 1e-4


def shared_six(model: LoadedModel, picture: Image.Image, mask: Image.Image) -> list[tuple[str, dict, dict]]:
    size = {"width": SIZE[0], "height": SIZE[1]}
    return [
        (
            "text_to_image",
            size,
            {"seeds": (1,), "num_inference_steps": 6, "guidance_scale": 5.0, "scheduler": "dpmpp_2m"},
        ),
        (
            "text_to_image",
            size,
            {"seeds": (2, 3), "num_inference_steps": 4, "guidance_scale": 1.0, "scheduler": "euler_a"},
        ),
        ("text_to_image", size, {"seeds": (4,), "num_inference_steps": 9, "guidance_scale": 9.0, "scheduler": "heun"}),
        (
            "image_to_image",
            {"image": picture},
            {"seeds": (5,), "num_inference_steps": 8, "guidance_scale": 4.0, "scheduler": "ddim", "strength": 0.5},
        ),
        (
            "inpaint",
            {"image": picture, "mask_image": mask},
            {"seeds": (6,), "num_inference_steps": 5, "guidance_scale": 3.0, "scheduler": "lms", "strength": 1.0},
        ),
        ("text_to_image", size, {"seeds": (7,), "num_inference_steps": 3, "guidance_scale": 2.0, "scheduler": "unipc"}),
    ]


def decoded(model: LoadedModel, latents: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.vae.decode(latents / model.vae.config.scaling_factor).sample.clamp(-1, 1) / 2 + 0.5


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    error = (a - b).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def test_shared_with_five_others_is_the_same_picture(
    model: LoadedModel, picture: Image.Image, mask: Image.Image
) -> None:
    cases = shared_six(model, picture, mask)
    together = run([begin(model, task, values, **plan) for task, values, plan in cases])
    for (task, values, plan), latents in zip(cases, together, strict=True):
        alone = run([begin(model, task, values, **plan)])[0]
        assert psnr(decoded(model, alone), decoded(model, latents)) >= 50, plan


@pytest.mark.parametrize("task", ["text_to_image", "image_to_image", "inpaint"])
def test_image_three_of_four_is_made_again_alone(
    model: LoadedModel, picture: Image.Image, mask: Image.Image, task: str
) -> None:
    values: dict[str, Any] = {"width": SIZE[0], "height": SIZE[1]} if task == "text_to_image" else {"image": picture}
    if task == "inpaint":
        values["mask_image"] = mask
    plan: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "scheduler": "euler_a"}
    if task != "text_to_image":
        plan["strength"] = 0.75
    batch = run([begin(model, task, values, seeds=(20, 21, 22, 23), **plan)])[0]
    alone = run([begin(model, task, values, seeds=(22,), **plan)])[0]
    assert (batch[2:3] - alone).abs().max().item() <= 1e-4
    assert (batch[1:2] - alone).abs().max().item() > 1e-2


class BySetting(EulerAncestralDiscreteScheduler):
    """As DPMSolverSDEScheduler, whose package is not here: its noise comes by a setting, else from the process."""

    noise_sampler_seed: list[int] | None = None
    generators: list[torch.Generator] | None = None

    def step(self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        if self.generators is None and self.noise_sampler_seed is not None:
            assert len(self.noise_sampler_seed) == len(sample)
            self.generators = [torch.Generator().manual_seed(seed) for seed in self.noise_sampler_seed]
        return super().step(model_output, timestep, sample, generator=self.generators, return_dict=return_dict)


def test_a_shared_call_has_the_conditions_of_those_who_are_in_it(model: LoadedModel) -> None:
    size = {"width": 64, "height": 64}
    plan: dict[str, Any] = {"num_inference_steps": 3, "scheduler": "ddim"}
    a, b, c = (
        begin(model, "text_to_image", {**size, "prompt": prompt}, seeds=seeds, guidance_scale=scale, **plan)
        for prompt, seeds, scale in (("a cat", (1,), 5.0), ("a red house", (2, 3), 5.0), ("a tree", (4,), 1.0))
    )
    for others in ([], [b], [b], [c], [b, c], [c, b], []):
        found = a.conditions_with(others)["encoder_hidden_states"]
        expected = torch.cat([d.conditions["encoder_hidden_states"] for d in (a, *others)])
        assert torch.equal(found, expected), [d.rows for d in others]
        assert a.conditions_with(others)["encoder_hidden_states"] is found, "made once"
    assert a._shared is None, "who is alone holds nothing of others"


def test_a_scheduler_that_takes_no_generators_has_the_seeds_of_the_pictures(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_demo.denoising.make_scheduler", lambda name, config: BySetting.from_config(config))
    size = {"width": SIZE[0], "height": SIZE[1]}
    plan = {"num_inference_steps": 4, "guidance_scale": 5.0, "scheduler": "dpmpp_sde"}
    batch, again = (run([begin(model, "text_to_image", size, seeds=(20, 21, 22), **plan)])[0] for _ in range(2))
    alone = run([begin(model, "text_to_image", size, seeds=(21,), **plan)])[0]
    assert torch.equal(batch, again)
    assert (batch[1:2] - alone).abs().max().item() <= 1e-4
    assert (batch[2:3] - alone).abs().max().item() > 1e-2


def test_a_strength_below_one_step_runs_one_step(model: LoadedModel, picture: Image.Image) -> None:
    plan = {"seeds": (1,), "num_inference_steps": 10, "guidance_scale": 5.0, "scheduler": "ddim", "strength": 0.01}
    denoising = begin(model, "image_to_image", {"image": picture}, **plan)
    assert denoising.total == 1
    assert denoising.plan.effective_strength == pytest.approx(0.1)
    assert torch.isfinite(run([denoising])[0]).all()


def test_a_strength_below_one_step_is_raised_to_exactly_one_for_any_number_of_steps() -> None:
    for steps in range(1, 151):
        plan = Plan("image_to_image", (1,), steps, 5.0, "ddim", strength=0.001)
        assert plan.effective_strength is not None
        assert int(steps * plan.effective_strength) == 1, steps
        again = Plan("image_to_image", (1,), steps, 5.0, "ddim", strength=plan.effective_strength)
        assert again.effective_strength == plan.effective_strength


def test_image_to_image_runs_one_step_where_the_part_is_rounded_down(model: LoadedModel, picture: Image.Image) -> None:
    plan = {"seeds": (1,), "num_inference_steps": 49, "guidance_scale": 5.0, "scheduler": "ddim", "strength": 0.01}
    denoising = begin(model, "image_to_image", {"image": picture}, **plan)
    assert denoising.total == 1
    assert denoising.plan.effective_strength == 0.0205


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_last_clean_estimate_is_near_the_result(model: LoadedModel, scheduler: str) -> None:
    """At the end of the schedule there is hardly any noise left, so x0 and the latents must agree.

    80 steps, as LMS by itself leaves more at fewer: by edition 13 0.28 of the latents at 30, 0.16 at 50, 0.06 at 80.
    """
    plan = {"seeds": (3,), "num_inference_steps": 80, "guidance_scale": 3.0, "scheduler": scheduler}
    denoising = begin(model, "text_to_image", {"width": SIZE[0], "height": SIZE[1]}, **plan)
    final = run([denoising])[0]
    assert (denoising.clean_estimate() - final).abs().mean() < 0.2 * final.abs().mean()


@pytest.mark.parametrize(("max_rows", "calls"), [(4, [4, 4, 2]), (5, [4, 4, 2]), (10, [10]), (None, [10])])
def test_one_request_of_many_pictures_keeps_to_the_rows_of_a_call(
    model: LoadedModel, max_rows: int | None, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(model, captured=None)  # Python runs every call
    seen, forward = [], model.unet.forward

    def counted(rows: torch.Tensor, *others: Any, **options: Any) -> Any:
        seen.append(len(rows))
        return forward(rows, *others, **options)

    plan = {
        "seeds": (1, 2, 3, 4, 5), "num_inference_steps": 2, "guidance_scale": 5.0, "scheduler": "ddim",
    }  # fmt: skip
    size = {"width": 64, "height": 64, "num_images_per_prompt": 5}
    whole = run([begin(model, "text_to_image", size, **plan)])[0]
    monkeypatch.setattr(model.unet, "forward", counted)
    denoising = begin(replace(model, max_rows=max_rows), "text_to_image", size, **plan)
    latents = run([denoising])[0]
    assert seen == calls * 2
    assert denoising.most_parts == 1, "the memory was not too small, and no receipt says so"
    torch.testing.assert_close(latents, whole, rtol=1e-3, atol=1e-4)


def test_of_several_calls_a_step_the_one_that_differs_is_told(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(model, captured=None)  # Python runs every call
    seen, forward = [], model.unet.forward

    def scarce(rows: torch.Tensor, *others: Any, **options: Any) -> Any:
        seen.append(len(rows))
        if len(seen) == 1:
            raise torch.OutOfMemoryError("out of memory")
        if len(seen) == 3:  # memory has come back, as a while later
            denoising.model._too_much.clear()
        return forward(rows, *others, **options)

    monkeypatch.setattr(model.unet, "forward", scarce)
    monkeypatch.setattr(LoadedModel, "was_compiled", property(lambda _: seen[-1] == 2))
    size = {"width": 64, "height": 64, "num_images_per_prompt": 5}
    plan = {"seeds": (1, 2, 3, 4, 5), "num_inference_steps": 1, "guidance_scale": 5.0, "scheduler": "ddim"}
    denoising = begin(replace(model, max_rows=4), "text_to_image", size, **plan)
    run([denoising])
    assert seen == [4, 2, 2, 4, 2]
    assert denoising.most_parts == 2, "the parts of the call for which the memory was too small"
    assert denoising.compiled_steps == 0, "the second call of four rows was not compiled"


def test_memory_that_is_short_beside_the_unet_is_made_too(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting the rows of a step together takes some as well."""
    plan = {"seeds": (1,), "num_inference_steps": 3, "guidance_scale": 5.0, "scheduler": "dpmpp_2m"}
    whole = run([begin(model, "text_to_image", {"width": 64, "height": 64}, **plan)])[0]
    held, together = [1], Denoising.rows_in

    def scarce(self: Denoising) -> torch.Tensor:
        if held:
            raise torch.OutOfMemoryError("out of memory")
        return together(self)

    monkeypatch.setattr(model.residence, "spare", lambda: bool(held and held.pop()))
    monkeypatch.setattr(Denoising, "rows_in", scarce)
    latents = run([begin(model, "text_to_image", {"width": 64, "height": 64}, **plan)])[0]
    assert not held
    assert torch.equal(latents, whole)


def test_what_a_picture_was_asked_with_goes_before_it_is_decoded(model: LoadedModel) -> None:
    size = {"width": 64, "height": 64, "num_images_per_prompt": 2}
    plan = {"seeds": (1, 2), "guidance_scale": 5.0, "scheduler": "ddim"}
    short, long = (begin(model, "text_to_image", size, **plan, num_inference_steps=steps) for steps in (1, 2))
    words = [weakref.ref(one.conditions["encoder_hidden_states"]) for one in (short, long)]
    advance([short, long])
    assert (short.is_finished, long.is_finished) == (True, False)
    assert words[0]() is None
    assert words[1]() is not None
    assert short.rows == long.rows == 4, "which are counted all the same"
    run([long])
    assert words[1]() is None


@pytest.mark.parametrize("scheduler", available())
def test_the_calls_that_are_told_before_are_those_that_run(
    model: LoadedModel, picture: Image.Image, scheduler: str
) -> None:
    for task, strength in (("text_to_image", None), ("image_to_image", 0.5), ("image_to_image", 0.13)):
        values = {"width": 64, "height": 64} if strength is None else {"image": picture, "strength": strength}
        plan = {"seeds": (1,), "num_inference_steps": 10, "guidance_scale": 3.0, "scheduler": scheduler}
        denoising = begin(model, task, values, **plan, strength=strength)
        assert unet_calls(scheduler, int(10 * (strength or 1))) == denoising.total
