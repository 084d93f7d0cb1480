"""The five stages of the picture-book model's training, each going on where its checkpoint left it."""

from __future__ import annotations

import torch

from sd_demo.embedded.architecture import NATIVE_SIZE, build_text_encoder, build_vae
from sd_demo.embedded.close_ups import close_ups
from sd_demo.embedded.dataset import token_ids, tokenise
from sd_demo.embedded.export import build_pipeline
from sd_demo.embedded.initial_vae import initialise
from sd_demo.embedded.samples import sample_sheet
from sd_demo.embedded.train_text import Reader, train_text
from sd_demo.embedded.train_unet import train_unet
from sd_demo.embedded.train_vae import (
    freeze_encoder,
    reconstruction_psnr,
    train_decoder,
    train_vae,
)
from sd_demo.embedded.training_folder import (
    START,
    Settings,
    denials_of,
    frozen_vae,
    latents_of,
    near_misses_of,
    new_model,
    tokenizer_of,
)
from sd_demo.embedded.training_state import Stage, load_averaged
from sd_demo.errors import InvalidRequest


def run(name: str, minutes: float, settings: Settings) -> None:
    """Train the stage called `name` (a key of train.STAGES) until its minutes are spent."""
    if name == "vae":
        _run_vae(minutes, settings)
    elif name == "text":
        _run_text(minutes, settings)
    elif name == "decoder":
        _run_decoder(minutes, settings)
    else:
        _run_unet(name, minutes, settings)


def _run_vae(minutes: float, settings: Settings) -> None:
    vae = build_vae()
    initialise(vae)
    vae.to(settings.device)
    stage = Stage("vae", settings.work, minutes, vae, learning_rate=3e-4, max_steps=settings.max_steps)
    if stage.is_finished:
        return
    native, small = settings.rendered(NATIVE_SIZE).images, settings.rendered(NATIVE_SIZE // 2).images
    held_out = settings.rendered_held_out().images
    train_vae(
        stage,
        vae,
        [native, native, native, small],
        held_out[:32],
        seed=settings.seed,
        device=settings.device,
        autocast=settings.autocast,
        batch_size=16 if settings.device.type == "cpu" else 64,
    )
    stage.log(psnr=round(reconstruction_psnr(vae, held_out, settings.device), 2), pictures=len(held_out))


def _run_text(minutes: float, settings: Settings) -> None:
    tokenizer = tokenizer_of(settings)
    reader = Reader(build_text_encoder(tokenizer)).to(settings.device)
    stage = Stage("text", settings.work, minutes, reader, learning_rate=1e-3, max_steps=settings.max_steps)
    if not stage.is_finished:
        train_text(stage, reader, tokenizer, seed=settings.seed, device=settings.device)


def _run_unet(name: str, minutes: float, settings: Settings) -> None:
    size = int(name.removeprefix("unet-"))
    is_first = size < NATIVE_SIZE
    tokenizer = tokenizer_of(settings)
    vae = frozen_vae(settings).to(settings.device)
    model = new_model(tokenizer)
    goes_on = (settings.work / START).is_file()  # from weights that know what things look like
    if goes_on:
        model.load_state_dict(torch.load(settings.work / START, map_location="cpu", weights_only=True))
    if (settings.work / "text.pt").is_file():
        reader = Reader(model.text_encoder)
        load_averaged(settings.work, "text", reader)
    if not is_first and (settings.work / "unet-128.pt").is_file():
        load_averaged(settings.work, "unet-128", model)
    elif not is_first and not goes_on:
        raise InvalidRequest(f"{settings.work} has no unet-128.pt; train that stage first.")
    model.to(settings.device)
    stage = Stage(
        name,
        settings.work,
        minutes,
        model,
        learning_rate=1e-3 if is_first else 5e-4 if goes_on else 8e-4,
        max_steps=settings.max_steps,
        is_muon=True,
    )
    if stage.is_finished:
        return
    pictures = settings.rendered(size)

    def look() -> None:
        pipeline = build_pipeline(vae, model.unet, model.text_encoder, tokenizer)
        sample_sheet(pipeline, settings.work / f"{name}-{stage.step:06d}.png", size)

    train_unet(
        stage,
        model,
        latents_of(vae, pictures, size, settings),
        tokenise(tokenizer, settings.captions_of(pictures), settings.seed),
        token_ids(tokenizer, [""])[0],
        settings.is_pixel_art(),
        settings.repeats(),
        settings.belonging(size),
        None if is_first or goes_on else close_ups(settings.pictures, settings.seed, tokenizer),
        None if is_first else near_misses_of(vae, tokenizer, settings),
        None if is_first else denials_of(vae, tokenizer, settings),
        seed=settings.seed,
        device=settings.device,
        autocast=settings.autocast,
        batch_size=settings.rows(32, 256),
        at_checkpoint=look,
    )


def _run_decoder(minutes: float, settings: Settings) -> None:
    vae = frozen_vae(settings)
    freeze_encoder(vae)
    vae.to(settings.device)
    stage = Stage(
        "decoder", settings.work, minutes, vae, learning_rate=5e-4, max_steps=settings.max_steps, is_muon=True
    )
    if stage.is_finished:
        return
    pictures = settings.rendered(NATIVE_SIZE)
    train_decoder(
        stage,
        vae,
        pictures.images,
        latents_of(vae, pictures, NATIVE_SIZE, settings),
        settings.is_pixel_art(),
        settings.as_pixel_art,
        settings.rendered_held_out().images[:32],
        seed=settings.seed,
        device=settings.device,
        autocast=settings.autocast,
        batch_size=8 if settings.device.type == "cpu" else 32,
    )
