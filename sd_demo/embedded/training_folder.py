"""The work folder of the picture-book model's training: what each stage leaves there for the next.

`pictures-*` rendered pictures and captions, `tokenizer/`, `vae.pt`, `vae-normalised.pt` (the autoencoder whose encoder
is frozen from there on), `text.pt`, `latents-*.npy`, `near-misses-*.npy` and `denied-*.npy` (latents of those),
`unet-128.pt`, `unet-256.pt`, `decoder.pt`, sheets of samples, `log.jsonl`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from sd_demo.embedded import world
from sd_demo.embedded.architecture import NATIVE_SIZE, VAE_SCALE_FACTOR, build_text_encoder, build_unet, build_vae
from sd_demo.embedded.dataset import Pictures, pictured, render_pictures, tokenise
from sd_demo.embedded.export import export
from sd_demo.embedded.layout import belonging
from sd_demo.embedded.near_misses import NearMisses, alike
from sd_demo.embedded.negatives import Denials, also_denied
from sd_demo.embedded.other_words import put_otherwise
from sd_demo.embedded.tokenizer import train_tokenizer, with_aliases
from sd_demo.embedded.train_unet import TextToLatents
from sd_demo.embedded.train_vae import encode_pictures, normalise_latents, pixel_art_mark
from sd_demo.embedded.training_state import load_averaged
from sd_demo.errors import InvalidRequest

LOGGER = logging.getLogger(__name__)
START = "start.pt"  # UNet and text encoder of the weights that a training goes on from
NEAR_MISSES = 0.6  # of the pictures have one
DENIALS = 0.2  # have a negative prompt
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
        return render_pictures(self.work, self.held_out, NATIVE_SIZE, self.seed, kind="held-out")

    def is_pixel_art(self) -> np.ndarray:
        """Which of the rendered pictures are: booleans [N]."""
        return np.array([pictured(self.seed, k).style == "pixel art" for k in range(self.pictures)])

    def repeats(self) -> np.ndarray:
        """How often each of the rendered pictures comes in a round of the UNet's training: integers [N].

        Once, and once more for what is harder than it is frequent: pixel art, whose few colours are small steps that
        are drawn last; pencil drawings; several things, as which of them goes where is harder than what each looks
        like; things that are alike, as "two" is no more than a word; a small thing, which has few latents to be learned
        from.
        """
        drawn = (pictured(self.seed, k) for k in range(self.pictures))
        return np.array(
            [
                1
                + (picture.style == "pixel art")
                + (picture.style == "pencil drawing")
                + (len(picture.things) > 1)
                + bool(alike(picture.things))
                + any(thing.size == "small" for thing in picture.things)
                for picture in drawn
            ]
        )

    def belonging(self, size: int) -> np.ndarray:
        """Layout's `belonging` of the rendered pictures' latents, `size` pixels a side: float16 [N, h, w]."""
        side = size // VAE_SCALE_FACTOR
        return np.stack([belonging(pictured(self.seed, k), side) for k in range(self.pictures)])

    def captions_of(self, pictures: Pictures) -> list[list[str]]:
        """Captions of the rendered pictures, many in freer words, a few with words of what is not there ("no sun")."""
        rng = np.random.default_rng((self.seed, 4))
        shown = (pictured(self.seed, k) for k in range(len(pictures.captions)))
        return [
            [also_denied(put_otherwise(text, picture, rng), picture, rng) for text in each]
            for each, picture in zip(pictures.captions, shown, strict=True)
        ]

    def as_pixel_art(self, k: int) -> np.ndarray:
        """Rendered picture k as it would be in that style, uint8 [NATIVE_SIZE, NATIVE_SIZE, 3]."""
        return np.asarray(world.draw(replace(pictured(self.seed, k), style="pixel art"), NATIVE_SIZE))

    def rows(self, on_cpu: int, on_gpu: int) -> int:
        return self.batch_size or (on_gpu if self.device.type == "cuda" else on_cpu)


def export_trained(settings: Settings, output: Path) -> Path:
    """Write what the work folder holds so far, the newest stage of each network, as a diffusers folder."""
    tokenizer = tokenizer_of(settings)
    model = new_model(tokenizer)
    newest = [name for name in ("unet-256", "unet-128") if (settings.work / f"{name}.pt").is_file()]
    if (settings.work / START).is_file():
        model.load_state_dict(torch.load(settings.work / START, map_location="cpu", weights_only=True))
    if newest:
        load_averaged(settings.work, newest[0], model)
    vae = frozen_vae(settings)
    if (settings.work / "decoder.pt").is_file():
        load_averaged(settings.work, "decoder", vae)
    return export(output, vae, model.unet, model.text_encoder, with_aliases(tokenizer, model.text_encoder))


def start_from(folder: Path, settings: Settings) -> None:
    """Put the networks of a diffusers folder that `export_trained` wrote into the work folder, to go on from them.

    The autoencoder's encoder is frozen already, so only the stages after `vae` can follow. A work folder that was
    started from the same networks keeps what it holds, so that the same command goes on where the last one stopped.

    Raises InvalidRequest where the work folder holds a training of its own or one from other weights, and where
    `folder` holds none that this training can go on from.
    """
    vae = build_vae()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        model = new_model(tokenizer)
        for network, kind, part in (
            (model.unet, UNet2DConditionModel, "unet"),
            (model.text_encoder, CLIPTextModel, "text_encoder"),
            (vae, AutoencoderKL, "vae"),
        ):
            network.load_state_dict(kind.from_pretrained(folder / part, local_files_only=True).float().state_dict())
    except MemoryError:
        raise
    except Exception as error:  # whatever a library says of a folder that is incomplete, damaged or of another kind
        raise InvalidRequest(
            f"start: the weights at {folder} are incomplete or of another kind; name a folder of this training.",
            "start",
        ) from error
    networks = {START: model.state_dict(), "vae-normalised.pt": vae.state_dict()}
    files = {name: settings.work / name for name in networks}
    kept = {
        name: torch.load(file, map_location="cpu", weights_only=True) for name, file in files.items() if file.is_file()
    }
    has_stages = any(
        (settings.work / f"{name}.pt").is_file() for name in ("vae", "vae-normalised", "text", "unet-128", "unet-256")
    )
    is_other = any(
        state.keys() != networks[name].keys() or any(not torch.equal(state[key], networks[name][key]) for key in state)
        for name, state in kept.items()
    )
    if is_other or (has_stages and START not in kept):
        raise InvalidRequest(
            f"start: {settings.work} holds a training {'from other weights' if START in kept else 'of its own'}; "
            f"choose an empty work folder to start from {folder}, or leave --start out to go on with that training.",
            "start",
        )
    settings.work.mkdir(parents=True, exist_ok=True)
    if START not in kept:  # first of all: without it a training makes a tokenizer of its own
        tokenizer.save_pretrained(settings.work / "tokenizer")
    for name in [name for name in networks if name not in kept]:
        fresh = files[name].with_suffix(".new")
        torch.save(networks[name], fresh)
        fresh.replace(files[name])


def new_model(tokenizer: CLIPTokenizer) -> TextToLatents:
    """UNet and text encoder, untrained."""
    return TextToLatents(build_unet(), build_text_encoder(tokenizer))


def tokenizer_of(settings: Settings) -> CLIPTokenizer:
    """The folder's tokenizer, made from the captions if there is none yet."""
    folder = settings.work / "tokenizer"
    if not folder.is_dir():
        captions = settings.rendered(NATIVE_SIZE // 2).captions
        words = world.vocabulary()["words"]
        train_tokenizer((text for each in captions for text in each), words).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def frozen_vae(settings: Settings) -> AutoencoderKL:
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
    fresh = file.with_suffix(".new")
    torch.save(vae.to("cpu").state_dict(), fresh)
    fresh.replace(file)
    return vae


def near_misses_of(vae: AutoencoderKL, tokenizer: CLIPTokenizer, settings: Settings) -> NearMisses:
    """Those of the first NEAR_MISSES of the rendered pictures, each in its picture's style."""
    count = max(1, round(NEAR_MISSES * settings.pictures))
    pictures = render_pictures(settings.work, count, NATIVE_SIZE, settings.seed, kind="near-miss")
    latents = latents_of(vae, pictures, NATIVE_SIZE, settings, "near-misses")
    return NearMisses(latents, tokenise(tokenizer, pictures.captions, settings.seed)[:, 0])


def denials_of(vae: AutoencoderKL, tokenizer: CLIPTokenizer, settings: Settings) -> Denials:
    """Negative prompts for the first DENIALS of the rendered pictures."""
    count = max(1, round(DENIALS * settings.pictures))
    pictures = render_pictures(settings.work, count, NATIVE_SIZE, settings.seed, kind="denied")
    latents = latents_of(vae, pictures, NATIVE_SIZE, settings, "denied")
    return Denials(latents, tokenise(tokenizer, pictures.captions, settings.seed))


def latents_of(
    vae: AutoencoderKL, pictures: Pictures, size: int, settings: Settings, name: str = "latents"
) -> np.ndarray:
    """Latents float16 [N, 4, h, w] of all pictures, pixel art with its mark, encoded now or read from the folder.

    The file has the pictures' number and seed in its name, as theirs has: others get latents of their own.
    """
    file = settings.work / f"{name}-{size}-{len(pictures.images)}-{settings.seed}.npy"
    if not file.is_file():
        latents = encode_pictures(vae, pictures.images, settings.device, settings.autocast)
        latents[settings.is_pixel_art()[: len(latents)]] += pixel_art_mark(latents.shape[-2:]).astype(np.float16)
        fresh = file.with_suffix(".new.npy")
        np.save(fresh, latents)
        fresh.replace(file)
    return np.load(file)
