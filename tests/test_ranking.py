"""Ranking by any CLIP in the ordinary format; the picture-book's own knows the right caption; one that is not there
is one sentence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from sd_demo.embedded import world
from sd_demo.embedded.clip import build_clip, contrast, export_clip, whiten_patches
from sd_demo.embedded.near_misses import mirrored, with_one_thing_wrong
from sd_demo.embedded.sampling import sample
from sd_demo.engine import Engine
from sd_demo.errors import InvalidRequest, ModelUnavailable
from sd_demo.known_models import EMBEDDED, EMBEDDED_FOLDER, GENERAL_CLIP
from sd_demo.model_files import MANIFEST, repo_folder
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.ranking import PICTURE_BOOK_CLIP, Ranker, clip_for, load_ranker
from sd_demo.registry import Registry
from sd_demo.requests import AnyRequest, parse_request
from sd_demo.restore import from_receipt
from sd_demo.settings import Settings

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


@pytest.mark.skipif(not PICTURE_BOOK_CLIP.is_dir(), reason="the picture-book CLIP has not been trained yet")
def test_a_caption_that_is_wrong_in_one_thing_scores_less() -> None:
    ranker, rng, is_right = load_ranker(), np.random.default_rng(7), []
    for picture in SHOWN:
        nearly = with_one_thing_wrong(picture, rng)
        texts = [world.caption(one, rng, is_complete=True) for one in (picture, nearly)]
        right, wrong = ranker.scores([world.draw(picture)], texts)[0]
        is_right.append(right > wrong)
    assert np.mean(is_right) >= 0.85


def test_the_lesson_of_the_clip() -> None:
    vectors = torch.eye(8)[:3]
    other = torch.eye(8)[3:6]
    scale, fits_from = torch.tensor(20.0), torch.tensor(0.5)
    learned, right, right_hard = contrast(vectors, torch.cat([vectors, vectors, other]), scale, fits_from)
    assert learned < 0.01
    assert (right, right_hard) == (1, 1)
    swapped, right, right_hard = contrast(vectors, torch.cat([vectors, other, vectors]), scale, fits_from)
    assert swapped > 20
    assert (right, right_hard) == (1, 0)
    # A level of its own for each picture leaves every softmax as it was; only the pair by itself tells.
    low = torch.cat([vectors, vectors, other]) * 0.4
    assert contrast(vectors, low, 2.5 * scale, fits_from)[0] > learned + 1


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


def test_a_clip_that_this_program_downloaded_is_found(folder: Path, tmp_path: Path) -> None:
    entry = Registry(models_dir=tmp_path).for_download(GENERAL_CLIP)
    assert re.fullmatch(r"[0-9a-f]{40}", entry.revision or "")
    place = shutil.copytree(folder, tmp_path / repo_folder(entry.source, entry.parts) / str(entry.revision))
    with pytest.raises(ModelUnavailable, match=f"get it with python -m sd_demo download {GENERAL_CLIP}, or leave"):
        load_ranker(GENERAL_CLIP, tmp_path)  # it has not come whole yet
    (place / MANIFEST).write_text("{}")
    manager = PipelineManager(Settings(device="cpu"), Registry(models_dir=tmp_path))
    ranker = manager.ranker(Registry().get("sd-1.5"))
    assert ranker.source == GENERAL_CLIP
    half = {key: value.half() for key, value in load_file(place / "model.safetensors").items()}
    save_file(half, tmp_path / "half.safetensors", {"format": "pt"})
    whole = (place / "model.safetensors").rename(tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").rename(place / "model.fp16.safetensors")
    assert load_ranker(GENERAL_CLIP, tmp_path).source == GENERAL_CLIP, "of both a download brings the half"
    (place / "model.fp16.safetensors").unlink()
    whole.rename(place / "model.safetensors")
    assert len(ranker.score(IMAGES[:2], "a red car")) == 2
    assert manager.ranker(Registry().get("sd-1.5")) is ranker, "it is read once"
    assert manager.ranker(Registry().get(EMBEDDED)).source == str(PICTURE_BOOK_CLIP)
    (place / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match=f"The CLIP in {place} cannot be read"):
        load_ranker(GENERAL_CLIP, tmp_path)
    with pytest.raises(ModelUnavailable, match="which is not on this machine; look at its path, or leave"):
        load_ranker(tmp_path / "nothing")


def test_a_clip_that_is_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="which is not on this machine; get it with") as caught:
        load_ranker(GENERAL_CLIP)
    assert "\n" not in str(caught.value)
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load_ranker(tmp_path / "broken")


def test_a_picture_book_clip_that_was_never_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_demo.ranking.PICTURE_BOOK_CLIP", tmp_path / "none")
    for was_begun in (False, True):
        if was_begun:  # a training that was interrupted
            (tmp_path / "none").mkdir()
        with pytest.raises(ModelUnavailable, match=r"make one with python -m sd_demo\.embedded\.clip --work DIR, or l"):
            load_ranker(tmp_path / "none")


def test_a_wrong_neighbour_is_wrong_in_one_thing() -> None:
    rng = np.random.default_rng(0)
    wrong = set()
    for picture in SHOWN * 4:
        other = with_one_thing_wrong(picture, rng)
        assert other != picture
        told = ("scene", "time", "weather", "style", "things")
        differs = [name for name in told if getattr(other, name) != getattr(picture, name)]
        assert len(differs) == 1
        assert picture.scene != "space" or differs != ["weather"], "there is none"
        assert mirrored(mirrored(picture)) == picture
        wrong |= set(differs)
    assert wrong == {"scene", "time", "weather", "things"}


def ask(**values: object) -> AnyRequest:
    small = {"prompt": "a red ball", "num_inference_steps": 2, "seed": 1, "width": 64, "height": 64}
    return parse_request("text_to_image", small | {"num_images_per_prompt": 4} | values)


def test_of_several_pictures_the_best_are_kept_the_best_first(folder: Path, ranker: Ranker, tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path, clip=str(folder)))
    engine.start()
    made = engine.submit(ask()).result(120).images
    before = len(list(tmp_path.rglob("*.png")))
    kept = engine.submit(ask(keep_best=2)).result(120).images
    weighed = engine.submit(ask(prompt="a (red:1.4) ball", keep_best=1)).result(120).images[0]
    saved = len(list(tmp_path.rglob("*.png"))) - before
    engine.close()
    scores = ranker.score([one.image for one in made], "a red ball")
    best = sorted(range(4), key=lambda k: -scores[k])[:2]
    assert [one.receipt.done.index for one in kept] == best
    assert [one.receipt.done.seed for one in kept] == [1 + k for k in best]
    assert [one.receipt.done.clip_score for one in kept] == pytest.approx([scores[k] for k in best], abs=1e-3)
    assert all(
        np.array_equal(np.asarray(one.image), np.asarray(made[k].image)) for one, k in zip(kept, best, strict=True)
    )
    assert saved == 3
    plain = ranker.score([weighed.image], "a red ball")[0]
    assert weighed.receipt.done.clip_score == pytest.approx(plain, abs=1e-3), "brackets and numbers are no words"
    assert f"Number 1 of 4 pictures by CLIP score, {kept[0].receipt.done.clip_score:.3f}." in kept[0].receipt.notes
    assert made[0].receipt.done.clip_score is None
    alone = from_receipt(kept[1].receipt, registry=engine.registry, lora_dir=tmp_path)
    assert alone.values["num_images_per_prompt"] == 1
    assert alone.values.get("keep_best") is None


def test_a_clip_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    engine = Engine(Settings(device="cpu", output_dir=tmp_path, clip="nobody/none"))
    engine.start()
    with pytest.raises(ModelUnavailable, match="nobody/none, which is not on this machine"):
        engine.submit(ask(keep_best=1)).result(120)
    assert engine.submit(ask(num_images_per_prompt=1)).result(120).images
    engine.close()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"keep_best": 5}, "keep_best is 5 and num_images_per_prompt 4; make more pictures than you keep."),
        ({"keep_best": 1, "prompt": "  "}, "keep_best needs a prompt that the pictures are held against; write one."),
        ({"keep_best": 0}, "keep_best must be a whole number from 1 to 16."),
        ({"keep_best": True}, "keep_best must be a whole number from 1 to 16."),
    ],
)
def test_what_cannot_be_kept_is_said(values: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(**values)
    assert str(caught.value) == said
    assert caught.value.field == "keep_best"


def test_what_is_denied_does_not_count_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Ranker, "score", lambda _, images, text: (said.append(text), [0.5] * len(images))[1])
    engine = Engine(Settings(device="cpu", dtype="float32", attention="sdpa", output_dir=tmp_path))
    engine.start()
    size = {"width": 64, "height": 64, "num_inference_steps": 1, "num_images_per_prompt": 2, "keep_best": 1}
    try:
        for negative in ("", "sun"):
            asked = parse_request("text_to_image", {"prompt": "a house and a sun", "negative_prompt": negative, **size})
            engine.submit(asked).result(120)
    finally:
        engine.close()
    assert said == ["a house and a sun", "a house"]
