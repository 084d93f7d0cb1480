"""Each view of the Learn tab as a short script with diffusers alone, which writes these very pictures."""

from __future__ import annotations

from typing import Final

from sd_demo.plan import Plan
from sd_demo.schedulers import diffusers_class, takes_seeds

_HEAD: Final = """{first}import torch
from diffusers import {imports}
from PIL import Image

{images}from sd_demo.known_models import EMBEDDED_FOLDER{classroom}

pipe = StableDiffusionPipeline.from_pretrained(EMBEDDED_FOLDER, dtype=torch.float32)
vae = pipe.vae


def save(latents, file):
    pixels = vae.decode(latents / vae.config.scaling_factor).sample[0]
    values = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    Image.fromarray(values.permute(1, 2, 0).numpy()).save(file)
"""
_READ: Final = """
own = Path("picture.png")  # yours; without one it is a page of the picture book
image = square(read_picture(own)) if own.exists() else page_of_the_book()
pixels = torch.tensor(list(image.tobytes())).view(image.height, image.width, 3).permute(2, 0, 1)[None] / 127.5 - 1
"""


def noise_script(t: int, seed: int) -> str:
    """The forward process: picture.png at timestep `t`, as noisy.png."""
    return (
        _head(reads_picture=True)
        + _READ
        + f"""with torch.inference_mode():
    clean = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    noise = torch.randn(clean.shape, generator=torch.Generator("cpu").manual_seed({seed}))
    alpha_bar = float(pipe.scheduler.alphas_cumprod[{t}])
    save(alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise, "noisy.png")
"""
    )


def round_trip_script() -> str:
    """The autoencoder's round trip: picture.png as decoded.png."""
    return (
        _head(reads_picture=True)
        + _READ
        + """with torch.inference_mode():
    latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    print(image.width * image.height * 3, "values become", latents.numel())
    save(latents, "decoded.png")
"""
    )


def steps_script(plan: Plan, prompt: str, negative_prompt: str) -> str:
    """The reverse process by hand: step_00.png and on are what the model expects at each step, picture.png the end.

    For a plain prompt; weights such as (word:1.3) are this program's own and not diffusers'.
    """
    name, extra = diffusers_class(plan.scheduler)
    extra |= {"noise_sampler_seed": [plan.seeds[0]]} if takes_seeds(plan.scheduler) else {}
    settings = "".join(f", {key}={value!r}" for key, value in extra.items())
    return (
        _head(name)
        + f"""

def encode(prompt):
    ids = pipe.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids).last_hidden_state


scheduler = pipe.scheduler = {name}.from_config(pipe.scheduler.config{settings})
scheduler.set_timesteps({plan.num_inference_steps})
generator = torch.Generator("cpu").manual_seed({plan.seeds[0]})
extras = pipe.prepare_extra_step_kwargs(generator, 0.0)  # some schedulers add noise on the way
side = pipe.unet.config.sample_size
with torch.inference_mode():
    text = torch.cat([encode({negative_prompt!r}), encode({prompt!r})])
    latents = torch.randn((1, 4, side, side), generator=generator) * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):
        x = scheduler.scale_model_input(latents, t)
        answers = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=text).sample
        without_prompt, with_prompt = answers.chunk(2)
        answer = without_prompt + {plan.guidance_scale} * (with_prompt - without_prompt)
        alpha_bar = scheduler.alphas_cumprod[int(t)]
        clean = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * answer  # this model predicts v
        save(clean, f"step_{{step:02}}.png")
        latents = scheduler.step(answer, t, latents, **extras).prev_sample
    save(latents, "picture.png")
"""
    )


def _head(*schedulers: str, reads_picture: bool = False) -> str:
    classroom = "\nfrom sd_demo.learn.classroom import page_of_the_book, square"
    return _HEAD.format(
        imports=", ".join(sorted({"StableDiffusionPipeline", *schedulers})),
        first="from pathlib import Path\n\n" if reads_picture else "",
        images="from sd_demo.images import read_picture\n" if reads_picture else "",
        classroom=classroom if reads_picture else "",
    )
