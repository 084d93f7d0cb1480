"""The five stages of the picture-book model's training, and what they hand to each other in the work folder.

`pictures-*` rendered pictures and captions, `tokenizer/`, `vae.pt`, `vae-normalised.pt` (the autoencoder whose encoder
is frozen from there on), `text.pt`, `latents-*.npy`, `unet-128.pt`, `unet-256.pt`, `decoder.pt`, sheets of samples,
`log.jsonl`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sd_demo.embedded import world
from sd_demo.embedded.architecture import NATIVE_SIZE, build_text_encoder, build_unet, build_vae
from sd_demo.embedded.close_ups import close_ups
from sd_demo.embedded.dataset import Pictures, render_pictures, tokenise
from sd_demo.embedded.export import build_pipeline, export
from sd_demo.embedded.initial_vae import initialise
from sd_demo.embedded.samples import sample_sheet
from sd_demo.embedded.tokenizer import train_tokenizer
from sd_demo.embedded.train_text import Reader, train_text
from sd_demo.embedded.train_unet import TextToLatents, train_unet
from sd_demo.embedded.train_vae import (
    encode_pictures,
    freeze_encoder,
    normalise_latents,
    reconstruction_psnr,
    train_decoder,
    train_vae,
)
from sd_demo.embedded.training_state import Stage, load_averaged

LOGGER = logging.getLogger(__name__)
START = "start.pt"  # UNet and text encoder of the weights that a training goes on from
NORMALISED_ON = 512  # pictures whose latents give the mean and deviation that are folded into the autoencoder


@dataclass(frozen=True)
class Settings:
    """What all stages of one training share."""

    work: Path
    device: torch.device
    autocast: torch.dtype | None
    seed: int
    pictures: int
    held_out: int
    batch_size: int | None
    max_steps: int | None

    def rendered(self, size: int) -> Pictures:
        return render_pictures(self.work, self.pictures, size, self.seed)

    def rendered_held_out(self) -> Pictures:
        return render_pictures(self.work, self.held_out, NATIVE_SIZE, self.seed, is_held_out=True)

    def rows(self, on_cpu: int, on_gpu: int) -> int:
        return self.batch_size or (on_gpu if self.device.type == "cuda" else on_cpu)


def export_trained(settings: Settings, output: Path) -> Path:
    """Write what the work folder holds so far, the newest stage of each network, as a diffusers folder."""
    tokenizer = _tokenizer(settings)
    model = _model(tokenizer)
    newest = [name for name in ("unet-256", "unet-128") if (settings.work / f"{name}.pt").is_file()]
    if (settings.work / START).is_file():
        model.load_state_dict(torch.load(settings.work / START, map_location="cpu", weights_only=True))
    if newest:
        load_averaged(settings.work, newest[0], model)
    vae = _frozen_vae(settings)
    if (settings.work / "decoder.pt").is_file():
        load_averaged(settings.work, "decoder", vae)
    return export(output, vae, model.unet, model.text_encoder, tokenizer)


def start_from(folder: Path, settings: Settings) -> None:
    """Put the networks of a diffusers folder that `export_trained` wrote into the work folder, to go on from them.

    The autoencoder's encoder is frozen already, so only the stages after `vae` can follow. Raises ValueError where the
    work folder holds a training of its own.
    """
    if any((settings.work / f"{name}.pt").is_file() for name in ("vae", "vae-normalised", "unet-128", "unet-256")):
        raise ValueError(
            f"{settings.work} holds a training already; choose an empty work folder to start from weights."
        )
    settings.work.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = _model(tokenizer)
    model.unet.load_state_dict(UNet2DConditionModel.from_pretrained(folder / "unet").state_dict())
    model.text_encoder.load_state_dict(CLIPTextModel.from_pretrained(folder / "text_encoder").float().state_dict())
    torch.save(AutoencoderKL.from_pretrained(folder / "vae").state_dict(), settings.work / "vae-normalised.pt")
    torch.save(model.state_dict(), settings.work / START)
    tokenizer.save_pretrained(settings.work / "tokenizer")


def run(name: str, minutes: float, settings: Settings) -> None:
    """Train the stage called `name` (vae, text, unet-128, unet-256 or decoder) until its minutes are spent."""
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
    tokenizer = _tokenizer(settings)
    reader = Reader(build_text_encoder(tokenizer)).to(settings.device)
    stage = Stage("text", settings.work, minutes, reader, learning_rate=1e-3, max_steps=settings.max_steps)
    if not stage.is_finished:
        train_text(stage, reader, tokenizer, seed=settings.seed, device=settings.device)


def _run_unet(name: str, minutes: float, settings: Settings) -> None:
    size = int(name.removeprefix("unet-"))
    is_first = size < NATIVE_SIZE
    tokenizer = _tokenizer(settings)
    vae = _frozen_vae(settings).to(settings.device)
    model = _model(tokenizer)
    if (settings.work / START).is_file():
        model.load_state_dict(torch.load(settings.work / START, map_location="cpu", weights_only=True))
    if (settings.work / "text.pt").is_file():
        reader = Reader(model.text_encoder)
        load_averaged(settings.work, "text", reader)
    if not is_first and (settings.work / "unet-128.pt").is_file():
        load_averaged(settings.work, "unet-128", model)
    elif not is_first and not (settings.work / START).is_file():
        raise FileNotFoundError(f"{settings.work} has no unet-128.pt; train that stage first.")
    model.to(settings.device)
    stage = Stage(
        name,
        settings.work,
        minutes,
        model,
        learning_rate=1e-3 if is_first else 8e-4,
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
        _latents(vae, pictures, size, settings),
        tokenise(tokenizer, pictures.captions, settings.seed),
        tokenise(tokenizer, [[""]], settings.seed)[0, 0],
        None if is_first else close_ups(settings.pictures, settings.seed, tokenizer),
        seed=settings.seed,
        device=settings.device,
        autocast=settings.autocast,
        batch_size=settings.rows(32, 256),
        at_checkpoint=look,
    )


def _run_decoder(minutes: float, settings: Settings) -> None:
    vae = _frozen_vae(settings)
    freeze_encoder(vae)
    vae.to(settings.device)
    stage = Stage("decoder", settings.work, minutes, vae, learning_rate=5e-4, max_steps=settings.max_steps)
    if stage.is_finished:
        return
    pictures = settings.rendered(NATIVE_SIZE)
    train_decoder(
        stage,
        vae,
        pictures.images,
        _latents(vae, pictures, NATIVE_SIZE, settings),
        settings.rendered_held_out().images[:32],
        seed=settings.seed,
        device=settings.device,
        autocast=settings.autocast,
        batch_size=4 if settings.device.type == "cpu" else 32,
    )


def _model(tokenizer: CLIPTokenizer) -> TextToLatents:
    return TextToLatents(build_unet(), build_text_encoder(tokenizer))


def _tokenizer(settings: Settings) -> CLIPTokenizer:
    folder = settings.work / "tokenizer"
    if not folder.is_dir():
        captions = settings.rendered(NATIVE_SIZE // 2).captions
        words = world.vocabulary()["words"]
        train_tokenizer((text for each in captions for text in each), words).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def _frozen_vae(settings: Settings) -> AutoencoderKL:
    """The trained autoencoder with normalised latents; from here on its encoder never changes."""
    file = settings.work / "vae-normalised.pt"
    vae = build_vae()
    if file.is_file():
        vae.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return vae
    load_averaged(settings.work, "vae", vae)
    vae.to(settings.device)
    some = encode_pictures(vae, settings.rendered(NATIVE_SIZE).images[:NORMALISED_ON], settings.device)
    mean, deviation = normalise_latents(vae, some)
    LOGGER.info("latents had mean %s and deviation %s", mean.round(3), deviation.round(3))
    torch.save(vae.to("cpu").state_dict(), file)
    return vae


def _latents(vae: AutoencoderKL, pictures: Pictures, size: int, settings: Settings) -> np.ndarray:
    file = settings.work / f"latents-{size}.npy"
    if not file.is_file():
        fresh = file.with_suffix(".new.npy")
        np.save(fresh, encode_pictures(vae, pictures.images, settings.device))
        fresh.replace(file)
    return np.load(file)
