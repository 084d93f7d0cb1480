"""Ranking by any CLIP in the ordinary format; the picture-book's own knows the right caption; one that is not there
is one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from sd_demo.embedded import world
from sd_demo.embedded.clip import build_clip, export_clip, mirrored, whiten_patches, with_one_thing_wrong
from sd_demo.embedded.sampling import sample
from sd_demo.errors import ModelUnavailable
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER
from sd_demo.ranking import GENERAL_CLIP, PICTURE_BOOK_CLIP, Ranker, clip_for, load_ranker
from sd_demo.registry import Registry

RNG = np.random.default_rng(40_000)
SHOWN = [sample(RNG, held_out=k % 3 == 0) for k in range(40)]
IMAGES = [world.draw(picture, 96) for picture in SHOWN]
CAPTIONS = [world.caption(picture, RNG) for picture in SHOWN]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that has learned nothing yet; what is asked of its format and of the ranker holds for any."""
    torch.manual_seed(0)
    clip, tokenizer = build_clip(EMBEDDED_FOLDER)
    whiten_patches(clip, np.stack([np.asarray(image) for image in IMAGES]))
    return export_clip(clip, tokenizer, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def ranker(folder: Path) -> Ranker:
    return load_ranker(folder)


@pytest.mark.skipif(not PICTURE_BOOK_CLIP.is_dir(), reason="the picture-book CLIP has not been trained yet")
def test_the_right_caption_among_twenty() -> None:
    ranker, right = load_ranker(), []
    images = [world.draw(picture) for picture in SHOWN]
    for start in (0, 20):
        table = np.array(ranker.scores(images[start : start + 20], CAPTIONS[start : start + 20]))
        right += list(table.argmax(axis=1) == np.arange(20))
    assert np.mean(right) >= 0.9


def test_scores_are_those_of_each_picture_in_any_batch(ranker: Ranker) -> None:
    together = ranker.scores(IMAGES[:18], CAPTIONS[:3])
    assert len({round(row[0], 6) for row in together}) > 12  # pictures are told apart
    assert len({round(score, 6) for score in together[0]}) == 3  # and so are prompts
    assert ranker.scores(IMAGES[17:18], CAPTIONS[:3])[0] == pytest.approx(together[17], abs=1e-4)
    assert ranker.score(IMAGES[:3], CAPTIONS[1]) == pytest.approx([row[1] for row in together[:3]], abs=1e-4)
    assert ranker.scores([], ["a"]) == []
    assert ranker.scores(IMAGES[:2], []) == [[], []]


def test_any_prompt_and_any_kind_of_picture_is_scored(ranker: Ranker) -> None:
    for prompt in ("", "  ", "猫 🐈", "word " * 500):
        [score] = ranker.score(IMAGES[:1], prompt)
        assert -1 <= score <= 1
    kinds = [IMAGES[0].convert("RGBA"), IMAGES[0].convert("L"), IMAGES[0].resize((200, 120))]
    assert len(ranker.score(kinds, "a red car")) == 3


def test_the_folder_is_an_ordinary_clip(ranker: Ranker, folder: Path) -> None:
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=CAPTIONS[:2], images=IMAGES[:2], return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    assert model.dtype == torch.float32
    assert torch.allclose(logits, torch.tensor(ranker.scores(IMAGES[:2], CAPTIONS[:2])), atol=1e-4)
    assert (folder / "model.safetensors").stat().st_size <= 4e6
    assert {"vocab.json", "merges.txt", "preprocessor_config.json"} <= {file.name for file in folder.iterdir()}


def test_which_clip_a_model_is_served_by() -> None:
    embedded = Registry().get(EMBEDDED)
    assert clip_for(embedded) == str(PICTURE_BOOK_CLIP)
    assert clip_for(embedded.model_copy(update={"is_embedded": False})) == GENERAL_CLIP


def test_a_clip_that_is_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="which is not on this machine; get it with") as caught:
        load_ranker(GENERAL_CLIP)
    assert "\n" not in str(caught.value)
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load_ranker(tmp_path / "broken")


def test_a_wrong_neighbour_is_wrong_in_one_thing() -> None:
    rng = np.random.default_rng(0)
    for picture in SHOWN[:20]:
        other = with_one_thing_wrong(picture, rng)
        assert other != picture
        differs = [name for name in ("scene", "time", "things") if getattr(other, name) != getattr(picture, name)]
        assert len(differs) == 1
        assert mirrored(mirrored(picture)) == picture
