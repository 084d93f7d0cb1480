"""Training pictures: rendered once, kept as arrays in the work folder, with several captions each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from transformers import CLIPTokenizer

from sd_demo.embedded import world
from sd_demo.embedded.near_misses import (
    alike,
    kept_from_held_out,
    with_one_thing_mistaken,
    with_one_thing_wrong,
    with_one_too_many,
)
from sd_demo.embedded.negatives import denied
from sd_demo.embedded.other_words import put_otherwise
from sd_demo.embedded.picture import MOST_THINGS, Picture

Kind = Literal["ordinary", "held-out", "near-miss", "denied"]
CAPTIONS_EACH = 6
TOO_MANY_SHARE = 0.3, 0.7  # of training's near misses have one thing too many: without alike things, and with them
MISTAKEN_SHARE = 0.5  # of the others have a thing taken for another, as most of a model's errors are
PLACED_SHARE = 0.5  # of the captions of one too many say where things are all the same; with alike things none does
CHUNK = 250  # pictures one process renders at a time


@dataclass(frozen=True)
class Pictures:
    """images: uint8 [N, size, size, 3], mapped from disk; captions: CAPTIONS_EACH texts for each picture."""

    images: np.ndarray
    captions: list[list[str]]


def render_pictures(
    work: Path, count: int, size: int, seed: int, *, kind: Kind = "ordinary", processes: int | None = None
) -> Pictures:
    """`count` random pictures of the world at size x size pixels, rendered now or read from `work`.

    Picture k depends on `seed` and k alone, so that any machine makes the same ones. kind "held-out": only pictures
    with a pair of object and colour that training never sees. "near-miss": each picture is wrong in one thing, and its
    one caption, of what it should have been, the ordinary picture k, tells the two apart. "denied": the ordinary
    picture k without something in it, and negative prompts that deny that.

    What `work` holds is read whatever wrote it, so that a training which goes on keeps its pictures and their latents:
    after a change of the world or its captions another seed or folder makes new ones.
    """
    stem = work / f"pictures-{size}-{count}-{seed}{'' if kind == 'ordinary' else f'-{kind}'}"
    images, captions = stem.with_suffix(".npy"), stem.with_suffix(".json")
    if not captions.is_file():  # written last: where it is, the images are whole
        _render_all(images, captions, count, size, seed, kind, processes or os.cpu_count() or 1)
    return Pictures(np.load(images, mmap_mode="r"), json.loads(captions.read_text(encoding="utf-8")))


def pictured(seed: int, number: int, is_held_out: bool = False) -> Picture:
    """What picture `number` of render_pictures shows."""
    return world.sample(np.random.default_rng((seed, int(is_held_out), number)), held_out=is_held_out)


def near_miss(seed: int, number: int) -> tuple[Picture, str]:
    """What picture `number` would show with one thing wrong, and a caption of the right one.

    It tells all of it; where there is one too many, mostly not where things are: "two red balloons in space".
    """
    rng, right = np.random.default_rng((seed, 2, number)), pictured(seed, number)
    has_twins = bool(alike(right.things))
    is_counted = (has_twins or 0 < len(right.things) < MOST_THINGS) and rng.random() < TOO_MANY_SHARE[has_twins]

    def wrong() -> Picture:
        if is_counted:
            return with_one_too_many(right, rng)
        is_mistaken = bool(right.things) and rng.random() < MISTAKEN_SHARE
        return (with_one_thing_mistaken if is_mistaken else with_one_thing_wrong)(right, rng)

    is_placed = not is_counted or (not has_twins and rng.random() < PLACED_SHARE)
    shown = kept_from_held_out(wrong)
    told = world.caption(right, rng, is_complete=True, is_placed=is_placed)
    return shown, put_otherwise(told, right, rng, is_complete=True, is_placed=is_placed)


def without(seed: int, number: int, size: int) -> tuple[Image.Image, list[str]]:
    """Picture `number`, size x size pixels, without something in it, and negative prompts that deny that."""
    picture = pictured(seed, number)
    picture, left_out, said = denied(picture, np.random.default_rng((seed, 3, number)))
    return world.draw(picture, size, left_out), said


def _render_all(images: Path, captions: Path, count: int, size: int, seed: int, kind: Kind, processes: int) -> None:
    images.parent.mkdir(parents=True, exist_ok=True)
    target = np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    texts: list[list[str]] = []
    starts = range(0, count, CHUNK)
    if count <= CHUNK or processes == 1:
        chunks: Iterable[tuple[np.ndarray, list[list[str]]]] = map(
            _render_chunk, starts, repeat(count), repeat(size), repeat(seed), repeat(kind)
        )
        _collect(target, texts, chunks)
    else:  # spawn: a fork of a process with torch's threads may hang
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            rendered = pool.map(_render_chunk, starts, repeat(count), repeat(size), repeat(seed), repeat(kind))
            _collect(target, texts, rendered)
    target.flush()
    captions.write_text(json.dumps(texts), encoding="utf-8")


def _collect(target: np.ndarray, texts: list[list[str]], chunks: Iterable[tuple[np.ndarray, list[list[str]]]]) -> None:
    for pictures, captions in chunks:
        target[len(texts) : len(texts) + len(captions)] = pictures
        texts.extend(captions)


def _render_chunk(start: int, count: int, size: int, seed: int, kind: Kind) -> tuple[np.ndarray, list[list[str]]]:
    stop = min(start + CHUNK, count)
    images = np.empty((stop - start, size, size, 3), dtype=np.uint8)
    captions = []
    for k in range(start, stop):
        if kind == "near-miss":
            picture, told_of_right = near_miss(seed, k)
            told = [told_of_right]
            image = world.draw(picture, size)
        elif kind == "denied":
            image, told = without(seed, k, size)
        else:
            rng = np.random.default_rng((seed, int(kind == "held-out"), k))
            picture = world.sample(rng, held_out=kind == "held-out")
            told = [world.caption(picture, rng) for _ in range(CAPTIONS_EACH)]
            image = world.draw(picture, size)
        images[k - start] = np.asarray(image)
        captions.append(told)
    return images, captions


def tokenise(tokenizer: CLIPTokenizer, captions: list[list[str]], seed: int) -> np.ndarray:
    """Token ids int16 [N, captions each, 77] of captions, one in twelve with words in it that mean nothing.

    People write "a beautiful red car, highly detailed": the words that the world does not know must do no harm,
    and they do none if such words were met in training.
    """
    rng = np.random.default_rng((seed, 1))
    texts = [_with_strange_words(text, rng) if rng.random() < 1 / 12 else text for each in captions for text in each]
    return token_ids(tokenizer, texts).reshape(len(captions), len(captions[0]), -1)


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Token ids int16 [N, 77] of texts as they are; what is too long is cut."""
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).input_ids
    return np.asarray(ids, dtype=np.int16)


def _with_strange_words(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    for _ in range(rng.integers(1, 4)):
        syllables = ["".join((rng.choice(list("bcdfghlmnprstvw")), rng.choice(list("aeiou")))) for _ in range(3)]
        strange = "".join(syllables[: rng.integers(1, 4)]) + rng.choice(["", "n", "r", "s", "ed", "ing"])
        words.insert(int(rng.integers(0, len(words) + 1)), strange)
    return " ".join(words)
