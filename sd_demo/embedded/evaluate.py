"""An evaluation: the model draws what held-out prompts ask for, and the judge marks it.

What draws comes from above (cli/evaluate.py gives the engine itself), so that what is marked is what people get.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sd_demo.embedded import evaluation_prompts as prompts
from sd_demo.embedded import language_figures as language
from sd_demo.embedded import world
from sd_demo.embedded.architecture import NATIVE_SIZE
from sd_demo.embedded.evaluation_prompts import Asked, Denied
from sd_demo.embedded.figures import Figure, figure, share
from sd_demo.embedded.judge import Judge
from sd_demo.embedded.marking import ABOUT_THINGS, ABOUT_WHOLE, Mark, mark
from sd_demo.embedded.near_misses import with_one_thing_wrong
from sd_demo.embedded.sight import Judgement
from sd_demo.embedded.train_vae import reconstruction_psnr
from sd_demo.requests import AnyRequest, ImageToImage, Inpaint, TextToImage

AMONG = 20  # captions that the right one is found among
BARRED_CORES = 2  # of the CPU that the bars of seconds are set for
STRENGTH = 0.6  # of image to image
DIVERSITY_SIDE = 64  # pixels; finer differences than these are no variety


@dataclass(frozen=True)
class Made:
    """A drawn picture, the seconds from its prompt to its pixels (alone, if it was drawn alone), and to decode of them.

    Saving it comes on top.
    """

    image: Image.Image
    elapsed_s: float
    decode_s: float


Draw = Callable[[Sequence[AnyRequest]], list[Made]]
"""Draws a picture for each request, in order."""
Score = Callable[[Sequence[Image.Image], Sequence[str]], list[list[float]]]
"""How well each picture fits each prompt: a list for each picture, higher is better."""


@dataclass(frozen=True)
class Evaluator:
    """What an evaluation works with. options: fields of every request (steps, guidance, scheduler).

    score: None where there is no CLIP; its figures are left out then. is_on_cpu, is_as_usual: where it draws, and
    whether with the model's own options; for others the bars of seconds are not set.
    """

    draw: Draw
    score: Score | None
    judge: Judge
    weights: Path
    options: dict[str, Any]
    seed: int = 0
    tell: Callable[[str], None] = lambda line: None
    is_on_cpu: bool = True
    is_as_usual: bool = True

    def figures(self, count: int) -> list[Figure]:
        """All of them. count: pictures drawn from words; the other parts follow it."""
        few, some = max(4, count // 8), max(4, count // 5)
        return [
            *self.prompts_followed(count),
            self.reconstruction(min(64, some)),
            *self.retrieval(max(1, count // 40)),
            *self.language(some),
            self.recoloured(some),
            self.added(some),
            self.added(some, is_placed=False),
            self.diversity(min(3, max(1, count // 40)), min(20, max(5, few))),
            *self.seconds(3),
            self.megabytes(),
        ]

    def prompts_followed(self, count: int) -> list[Figure]:
        """Text to image: each attribute, and everything at once by the number of objects."""
        parts = {
            "one_object": prompts.ask(max(1, round(count * 0.4)), 1, self.seed),
            "one_object_held_out": prompts.ask(max(1, round(count * 0.2)), 1, self.seed, held_out=True),
            "two_objects": prompts.ask(max(1, round(count * 0.25)), 2, self.seed),
            "three_objects": prompts.ask(max(1, round(count * 0.15)), 3, self.seed),
        }
        drawn, own = {}, {}
        for name, asked in parts.items():
            self.tell(f"{len(asked)} pictures: {name.replace('_', ' ')}")
            drawn[name] = self.mark_drawn(asked)
            own[name] = self._marked(asked, [world.draw(a.picture, NATIVE_SIZE) for a in asked])
        both = [(marks, own[name]) for name, marks in drawn.items()]
        everywhere = [m for marks, _ in both for m in marks], [m for _, marks in both for m in marks]
        figures = [
            share(name, *([m.whole[name] for m in marks] for marks in everywhere)) for name in ABOUT_WHOLE
        ] + [
            share(name, *([t[name] for m in marks for t in m.things] for marks in everywhere))
            for name in ABOUT_THINGS
        ]  # fmt: skip
        related = [[m.is_relation_right for m in marks if m.is_relation_right is not None] for marks in everywhere]
        if related[0]:
            figures.append(share("relation", *related))
        one = [*drawn["one_object"], *drawn["one_object_held_out"]]
        one_own = [*own["one_object"], *own["one_object_held_out"]]
        for name in ("object", "colour"):
            pairs = ([m.things[0][name] for m in marks] for marks in (one, one_own))
            figures.append(share(f"{name}_one_object", *pairs))
        for name, marks in drawn.items():
            rights = ([m.is_all_right for m in some] for some in (marks, own[name]))
            figures.append(share(f"all_correct_{name}", *rights))
        return figures

    def mark_drawn(self, asked: Sequence[Asked]) -> list[Mark]:
        """Draw what is asked for, and mark it."""
        made = self.draw([TextToImage(prompt=a.prompt, seed=a.seed, **self.options) for a in asked])
        return self._marked(asked, [m.image for m in made])

    def _marked(self, asked: Sequence[Asked], images: Sequence[Image.Image]) -> list[Mark]:
        return [mark(a.picture, seen) for a, seen in zip(asked, self.judge.judge(images), strict=True)]

    def reconstruction(self, count: int) -> Figure:
        """Mean PSNR of pictures that went through the autoencoder and back; a third are of held-out pairs."""
        self.tell(f"{count} pictures through the autoencoder")
        asked = [*prompts.ask(count - count // 3, 1, self.seed), *prompts.ask(count // 3, 1, self.seed, held_out=True)]
        vae = AutoencoderKL.from_pretrained(self.weights / "vae", local_files_only=True)
        pixels = np.stack([np.asarray(world.draw(a.picture, NATIVE_SIZE)) for a in asked])
        return figure("reconstruction_psnr", reconstruction_psnr(vae, pixels, torch.device("cpu")), "dB", count)

    def retrieval(self, rounds: int) -> list[Figure]:
        """The right caption of a picture of the world: among those of 19 others, and among 19 almost right ones."""
        if self.score is None:
            self.tell("no CLIP, so no captions are found for pictures")
            return []
        self.tell(f"{AMONG * rounds} pictures and their captions")
        right, right_hard = [], []
        for number in range(rounds):
            rng = prompts.stream(self.seed, "retrieval", number)
            pictures = [world.sample(rng, held_out=k % 3 == 0) for k in range(AMONG)]
            images = [world.draw(picture, NATIVE_SIZE) for picture in pictures]
            table = self.score(images, [world.caption(picture, rng) for picture in pictures])
            right += [int(np.argmax(row)) == k for k, row in enumerate(table)]
            for picture, image in list(zip(pictures, images, strict=True))[:5]:
                wrong = [with_one_thing_wrong(picture, rng) for _ in range(AMONG - 1)]
                captions = [world.caption(p, rng, is_complete=True) for p in (picture, *wrong)]
                right_hard.append(int(np.argmax(self.score([image], captions)[0])) == 0)
        return [
            share(f"clip_right_among_{AMONG}", right),
            share(f"clip_right_among_{AMONG}_nearly_right", right_hard),
        ]

    def language(self, count: int) -> list[Figure]:
        """What people type beside plain prompts: free phrasings, plurals, negative prompts, nothing."""
        self.tell(f"{5 * count} pictures of other words, places left open, twins, negative prompts and no prompt")

        def judged(asked: Sequence[Asked]) -> list[Judgement]:
            told = [(a, a.negative_prompt if isinstance(a, Denied) else "") for a in asked]
            requests = [
                TextToImage(prompt=a.prompt, negative_prompt=negative, seed=a.seed, **self.options)
                for a, negative in told
            ]
            return self.judge.judge(made.image for made in self.draw(requests))

        def own(asked: Sequence[Asked]) -> list[Judgement]:
            return self.judge.judge(world.draw(a.picture, NATIVE_SIZE) for a in asked)

        return language.figures(judged, own, count, self.seed)

    def recoloured(self, count: int) -> Figure:
        """Image to image with another colour in the prompt."""
        self.tell(f"{count} pictures from pictures")
        asked = prompts.recolour(count, self.seed, NATIVE_SIZE)
        requests = [
            ImageToImage(prompt=a.prompt, seed=a.seed, image=a.image, strength=STRENGTH, **self.options) for a in asked
        ]
        marks = self._marked(asked, [made.image for made in self.draw(requests)])
        # Where it was, and nothing beside it: the old thing left there with a new one is no change of colour.
        kept = [
            m.is_number_right and all(m.things[0][name] for name in ("object", "colour", "position")) for m in marks
        ]
        return share("image_to_image_recoloured", kept)

    def added(self, count: int, *, is_placed: bool = True) -> Figure:
        """Inpainting: a thing put into an empty place; is_placed: the prompt says where, too."""
        self.tell(f"{count} pictures inpainted")
        asked = prompts.add(count, self.seed, NATIVE_SIZE, is_placed=is_placed)
        requests = [
            Inpaint(prompt=a.prompt, seed=a.seed, image=a.image, mask_image=a.mask, **self.options) for a in asked
        ]
        judged = self.judge.judge(made.image for made in self.draw(requests))
        right = []
        for a, seen in zip(asked, judged, strict=True):
            wanted = a.picture.things[0]
            inside = [thing for thing in seen.things if a.holds(thing.x, thing.y)]
            right.append(any((t.object, t.colour) == (wanted.object, wanted.colour) for t in inside))
        return share("inpaint_added" if is_placed else "inpaint_added_where_the_mask_is", right)

    def diversity(self, different: int, seeds: int) -> Figure:
        """Mean distance of two pictures of one prompt, in percent of that of the world's own for that prompt."""
        self.tell(f"{different} x {seeds} pictures of one prompt each")
        parts = []
        for number in range(different):
            prompt, picture = prompts.open_prompt(self.seed, number)
            rng = prompts.stream(self.seed, "diversity", number)
            made = self.draw([TextToImage(prompt=prompt, seed=k, **self.options) for k in range(seeds)])
            own = [world.draw(prompts.meant_by_open_prompt(picture, rng), NATIVE_SIZE) for _ in range(seeds)]
            parts.append(100 * mean_distance(m.image for m in made) / mean_distance(own))
        return figure("diversity", statistics.mean(parts), "%", different * seeds)

    def seconds(self, count: int) -> list[Figure]:
        """Median seconds of a picture that is drawn alone, from its prompt to its pixels, and of its decoding."""
        self.tell(f"{count} pictures, one after another")
        asked = prompts.ask(count, 1, self.seed)
        made = [self.draw([TextToImage(prompt=a.prompt, seed=a.seed, **self.options)])[0] for a in asked]
        figures = [
            figure("picture_s", statistics.median(m.elapsed_s for m in made), "s", count),
            figure("decode_s", statistics.median(m.decode_s for m in made), "s", count),
        ]
        has_bars = self.is_on_cpu and self.is_as_usual and torch.get_num_threads() == BARRED_CORES
        return figures if has_bars else [replace(f, bar=None) for f in figures]

    def megabytes(self) -> Figure:
        """Size of all weight files: the model's, and the project's companions to it."""
        companions = Path(__file__).parent / "companions"
        files = [file for folder in (self.weights, companions) for file in folder.rglob("*.safetensors")]
        return figure("weights_mb", sum(file.stat().st_size for file in files) / 1e6, "MB", len(files))


def mean_distance(images: Iterable[Image.Image]) -> float:
    """Mean over all pairs of the root mean square difference of two pictures at DIVERSITY_SIDE, 0 to 255."""
    size = (DIVERSITY_SIDE, DIVERSITY_SIDE)
    small = [np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float64) for image in images]
    return statistics.mean(float(np.sqrt(((a - b) ** 2).mean())) for a, b in combinations(small, 2))
