"""The companion CLIP: tells how well a picture of the world fits a prompt (Radford et al., CLIP, arXiv 2103.00020).

    python -m sd_demo.embedded.clip --work DIR --minutes 30

An ordinary CLIPModel with processor and tokenizer in one folder, trained on captions and pictures: half of them the
renderer's, half such pictures drawn again by the model (`redrawn.py`), as it is the model's that it will rank. Every
picture also meets a caption that is wrong in one thing alone, as "a red car" for a blue one: among the other pictures
of a batch such neighbours are too rare to learn from. Whether such a caption fits is asked of each pair by itself too
(a sigmoid loss, Zhai et al., arXiv 2303.15343): ranking compares pictures for one prompt, and a softmax over the
captions of one picture would let every picture have a level of its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextModel, CLIPTokenizer

from sd_demo.embedded import world
from sd_demo.embedded.architecture import MAX_TOKENS, TEXT_WIDTH
from sd_demo.embedded.dataset import pictured
from sd_demo.embedded.judge import Judge
from sd_demo.embedded.judge_training import Labelled, labelled, losses
from sd_demo.embedded.judge_views import softened
from sd_demo.embedded.near_misses import kept_from_held_out, mirrored, with_one_thing_wrong
from sd_demo.embedded.picture import Picture
from sd_demo.embedded.redrawn import redrawn
from sd_demo.embedded.tokenizer import with_aliases
from sd_demo.embedded.training_commands import check_settings, run_command
from sd_demo.embedded.training_state import Stage, load_averaged
from sd_demo.flags import Parser
from sd_demo.known_models import EMBEDDED_FOLDER

LOGGER = logging.getLogger(__name__)
CLIP_FOLDER = Path(__file__).parent / "companions" / "clip"
SIDE, PATCH = 96, 8  # pixels
LAYERS = 4
DRAWN_AT = 128
BATCH = 48
MOST_SHIFT = 4  # pixels; what the captions say of places stays true
HINT_WEIGHT = 0.25
FITS_FROM = 0.4  # where the cosine above which a caption is taken to fit begins, before it is learned


class WithHints(nn.Module):
    """A CLIP in training: the judge's questions, asked of its patches and its whole, teach it what to look at."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        asked = Judge()
        self.clip = clip
        self.cells = nn.Sequential(nn.LayerNorm(TEXT_WIDTH), nn.Linear(TEXT_WIDTH, asked.cells.out_channels))
        self.wholes = nn.Linear(TEXT_WIDTH, asked.wholes.out_features)
        self.fits_from = nn.Parameter(torch.tensor(FITS_FROM))

    def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pictures [B, 3, 96, 96] to unit vectors [B, 128], the judge's cells [B, 48, 12, 12] and wholes [B, 20]."""
        seen = self.clip.vision_model(pixel_values=pixels)
        patches = seen.last_hidden_state[:, 1:]  # [B, 144, 128], the first is the whole picture's
        cells = self.cells(patches).unflatten(1, (SIDE // PATCH, SIDE // PATCH)).movedim(3, 1)
        vectors = F.normalize(self.clip.visual_projection(seen.pooler_output), dim=-1)
        return vectors, cells, self.wholes(seen.pooler_output)

    def read(self, texts: list[str], tokenizer: CLIPTokenizer) -> torch.Tensor:
        """Texts to unit vectors [B, 128]."""
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return F.normalize(self.clip.text_projection(self.clip.text_model(**tokens).pooler_output), dim=-1)


def build_clip(model: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """A small CLIP that begins with the text encoder and the tokenizer of the diffusion model in the folder `model`.

    That encoder has learned the world's words already, and of how they belong together; the ViT, of four layers over
    96x96 pixels, begins with nothing.
    """
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)
    read = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32, local_files_only=True)
    tower = {"hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH, "num_attention_heads": 4}
    vision = {**tower, "num_hidden_layers": LAYERS, "image_size": SIDE, "patch_size": PATCH}
    config = CLIPConfig(text_config=read.config.to_dict(), vision_config=vision, projection_dim=TEXT_WIDTH)
    # The backward pass of fused attention is slow on a CPU.
    clip = CLIPModel._from_config(config, attn_implementation="eager")
    words = {name.removeprefix("text_model."): value for name, value in read.state_dict().items()}
    clip.text_model.load_state_dict(words)
    return clip, tokenizer


@torch.no_grad()
def whiten_patches(clip: CLIPModel, images: np.ndarray) -> None:
    """Let the patch embedding begin with the principal components of patches of `images`, each of deviation 1.

    A random embedding must first learn that neighbouring pixels are alike, which a few hundred pictures tell at once.
    """
    patches = images.reshape(-1, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3).transpose(0, 1, 3, 5, 2, 4)
    rows = torch.from_numpy(patches.reshape(-1, 3 * PATCH * PATCH)).float() / 127.5 - 1.0  # [patches, 192]
    mean = rows.mean(dim=0)
    strength, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    strongest = directions[:, -TEXT_WIDTH:] / (strength[-TEXT_WIDTH:] + 1e-3).sqrt()
    clip.vision_model.embeddings.patch_embedding.weight.copy_(0.5 * strongest.T.reshape(TEXT_WIDTH, 3, PATCH, PATCH))


def train_clip(
    stage: Stage,
    model: WithHints,
    tokenizer: CLIPTokenizer,
    data: Labelled,
    drawn: np.ndarray,
    pictures: list[Picture],
    seed: int,
) -> None:
    """Train within the stage's budget.

    data and pictures are the same ones, as pixels and as what they show; drawn: the first of them, redrawn.
    """
    for step in stage.steps():
        rng = np.random.default_rng((seed, 4, step))
        of_model = rng.choice(len(drawn), min(BATCH // 2, len(drawn)), replace=False)
        chosen = np.concatenate([of_model, rng.choice(len(pictures), BATCH - len(of_model), replace=False)])
        images = np.concatenate([drawn[of_model], data.images[chosen[len(of_model) :]]])
        shown, things, pixels = _mirrored_half([pictures[k] for k in chosen], images, data.things[chosen], rng)
        vectors, cells, wholes = model.see(softened(pixels, rng))
        said = [world.caption(picture, rng) for picture in shown]
        exact = [world.caption(picture, rng, is_complete=True) for picture in shown]
        nearly = [kept_from_held_out(partial(with_one_thing_wrong, picture, rng)) for picture in shown]
        wrong = [world.caption(picture, rng, is_complete=True) for picture in nearly]
        texts = model.read([*said, *exact, *wrong], tokenizer)
        scale = model.clip.logit_scale.exp().clamp(max=100.0)
        loss, right, right_hard = contrast(vectors, texts, scale, model.fits_from)
        hints = losses(cells, wholes, things, torch.from_numpy(data.wholes[chosen]))["loss"]
        stage.update(loss + HINT_WEIGHT * hints, hints=hints, right=right, right_hard=right_hard)
    stage.swap_ema()


def contrast(
    vectors: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, fits_from: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, and the parts (0 to 1) of pictures that find their caption among all, and among all and wrong ones.

    vectors: of pictures [B, D]; texts: [3B, D], of a caption of each picture, then of one that tells all of it, then
    of one that is wrong in one thing; scale: what cosines are multiplied by; fits_from: the cosine of a fair fit.
    """
    own = torch.arange(len(vectors))
    among, *hard = (scale * vectors @ part.T for part in texts.chunk(3))  # [B, B] each
    among_hard = torch.cat(hard, dim=1)
    pairs = torch.stack([part.diagonal() for part in hard]) - scale * fits_from  # [right and wrong, B]
    fits = torch.tensor([[1.0], [0.0]]).expand_as(pairs)
    loss = (F.cross_entropy(among, own) + F.cross_entropy(among.T, own)) / 2 + F.cross_entropy(among_hard, own)
    loss = loss + F.binary_cross_entropy_with_logits(pairs, fits)
    return loss, (among.argmax(1) == own).float().mean(), (among_hard.argmax(1) == own).float().mean()


def _mirrored_half(
    pictures: list[Picture], images: np.ndarray, things: np.ndarray, rng: Generator
) -> tuple[list[Picture], torch.Tensor, torch.Tensor]:
    """A batch with half its pictures mirrored and all moved a few pixels: as said, as labels, as pixels."""
    is_mirrored = rng.random(len(pictures)) < 0.5
    said = [mirrored(picture) if turn else picture for picture, turn in zip(pictures, is_mirrored, strict=True)]
    images[is_mirrored] = images[is_mirrored, :, ::-1]
    is_thing = things[..., :1] >= 0
    dx, dy = (int(shift) for shift in rng.integers(-MOST_SHIFT, MOST_SHIFT + 1, 2))
    x = np.where(is_mirrored[:, None], 1 - things[..., 2], things[..., 2]) + dx / SIDE
    places = np.stack([x, things[..., 3] + dy / SIDE], axis=2)
    things[..., 2:4] = np.where(is_thing, places, -1)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    room = MOST_SHIFT
    padded = F.pad(pixels, (room,) * 4, mode="replicate")
    moved = padded[:, :, room - dy : room - dy + SIDE, room - dx : room - dx + SIDE]
    return said, torch.from_numpy(things), moved


def export_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path = CLIP_FOLDER) -> Path:
    """Write model (float16), processor and tokenizer into one folder that CLIPModel and CLIPProcessor load."""
    tokenizer = with_aliases(tokenizer, clip.text_model)
    clip.to(torch.float16).save_pretrained(folder)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    for part in (settings, settings["text_config"], settings["vision_config"]):
        part["dtype"] = "float32"  # float16 is how it is stored; a CPU computes in float32
        part.pop("_name_or_path", None)  # a folder of the machine that it was trained on
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    even = [0.5, 0.5, 0.5]
    # resample 4 is BOX: the same averaging that the pictures had in training.
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 4}
    CLIPImageProcessorPil(**sizes, image_mean=even, image_std=even).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt, for older programs
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """The command, with its arguments (default: those of the process)."""
    parser = Parser(prog="python -m sd_demo.embedded.clip", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="budget of the training steps (30)")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, rendered pictures and log")
    parser.add_argument("--output", type=Path, default=CLIP_FOLDER, help="the folder to write (the project's own)")
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER, help="where the text encoder is taken from")
    parser.add_argument("--pictures", type=int, default=12_000, help="how many to train on (12000)")
    parser.add_argument("--redrawn", type=int, default=4_000, help="how many of them the model draws again (4000)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    check_settings(chosen.minutes, chosen.seed, work=chosen.work, output=chosen.output)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(chosen.seed)
    clip, tokenizer = build_clip(chosen.model)
    model = WithHints(clip)
    stage = Stage("clip", chosen.work, chosen.minutes, model, learning_rate=1.5e-3, ema_decay=0.995, is_muon=True)
    if not stage.is_finished:
        data = labelled(chosen.work, chosen.pictures, chosen.seed, drawn_at=DRAWN_AT, side=SIDE)
        pictures = [pictured(chosen.seed, k) for k in range(chosen.pictures)]
        drawn = redrawn(chosen.work, chosen.redrawn, chosen.seed, SIDE, chosen.model)
        if stage.step == 0:
            whiten_patches(clip, data.images[:500])
        train_clip(stage, model, tokenizer, data, drawn, pictures, chosen.seed)
    load_averaged(chosen.work, "clip", model)
    LOGGER.info("written: %s", export_clip(model.clip, tokenizer, chosen.output))


if __name__ == "__main__":
    run_command(main)
