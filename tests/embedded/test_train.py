"""A training run of seconds, with the real networks: it must leave a folder that plain diffusers loads and runs."""

from __future__ import annotations

import json
import re
import timeit
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sd_demo.embedded import train as training
from sd_demo.embedded import training_stages, world
from sd_demo.embedded.architecture import build_unet, build_vae
from sd_demo.embedded.close_ups import close_ups
from sd_demo.embedded.dataset import Pictures, pictured, render_pictures, tokenise
from sd_demo.embedded.initial_vae import initialise
from sd_demo.embedded.known_words import unknown_words
from sd_demo.embedded.layout import layout
from sd_demo.embedded.muon import orthogonal
from sd_demo.embedded.near_misses import MISSED_SHARE, PATCHY_SHARE, NearMisses
from sd_demo.embedded.negatives import DENIED_SHARE, GUIDANCE, SETTLED_BELOW, Denials, also_denied, denied
from sd_demo.embedded.objects import KINDS
from sd_demo.embedded.picture import Picture, Thing
from sd_demo.embedded.tokenizer import train_tokenizer
from sd_demo.embedded.train_text import DETAILS, SCENERY, meanings
from sd_demo.embedded.train_unet import (
    COARSE_FROM,
    DENIED_FROM,
    FINE_BELOW,
    MISSED_FROM,
    PROMPT_DROPOUT,
    NoiseSchedule,
    emphasis,
    train_unet,
)
from sd_demo.embedded.train_vae import (
    MARK_PATCH,
    MARK_STRENGTHS,
    _crops,
    encode_pictures,
    freeze_encoder,
    mark_strengths,
    normalise_latents,
    pixel_art_mark,
    reconstruction_psnr,
    to_tensor,
    train_decoder,
)
from sd_demo.embedded.training_folder import Settings, latents_of, start_from, tokenizer_of
from sd_demo.embedded.training_state import Stage, has_fast_bfloat16
from sd_demo.embedded.vocabulary import OBJECT_WORDS
from sd_demo.errors import InvalidRequest
from sd_demo.known_models import EMBEDDED_FOLDER

TINY = {"device": "cpu", "dtype": "float32", "pictures": 4, "held_out": 2, "batch_size": 2}


@pytest.fixture
def precision_asked_anew() -> Iterator[None]:
    has_fast_bfloat16.cache_clear()
    yield
    has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("has", "is_fast"), [({}, False), ({"amx_bf16": True, "avx512_bf16": True}, True), ({"amx_bf16": False}, False)]
)
def test_instructions_decide_whether_bfloat16_pays(
    has: dict[str, bool], is_fast: bool, precision_asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(timeit, "repeat", lambda *_, **__: pytest.fail("nothing is to be measured here"))
    assert has_fast_bfloat16("cpu") is is_fast


@pytest.mark.parametrize(("seconds", "is_fast"), [((1.0, 2.0), True), ((2.0, 1.0), False)])
def test_where_they_leave_it_open_a_convolution_is_trained_in_both(
    seconds: tuple[float, float], is_fast: bool, precision_asked_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(seconds)

    def repeat(step: Callable[[], None], **_: Any) -> list[float]:
        step()
        return [left.pop(0), 9.0]

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(timeit, "repeat", repeat)
    with torch.inference_mode():  # as the judge asks
        assert has_fast_bfloat16("cpu") is is_fast
    assert left == []


def _steps(work: Path) -> dict[str, int]:
    return {
        name: torch.load(work / f"{name}.pt", map_location="cpu", weights_only=True)["step"] for name in training.STAGES
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("training")
    return work, training.train(minutes=0.005, work=work, output=work / "model", **TINY)


def test_a_run_leaves_a_folder_that_diffusers_loads_and_runs(trained: tuple[Path, Path]) -> None:
    _, folder = trained
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red car", num_inference_steps=2, height=64, width=64, output_type="np").images[0]
    assert picture.shape == (64, 64, 3)
    assert np.isfinite(picture).all()
    assert {parameter.dtype for parameter in pipeline.text_encoder.parameters()} == {torch.float32}
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 40e6


def test_every_stage_took_a_step_and_the_log_is_json(trained: tuple[Path, Path]) -> None:
    work, _ = trained
    assert min(_steps(work).values()) >= 1
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"stage", "step", "elapsed_s", "psnr"} <= lines[0].keys()


def test_a_spent_budget_trains_nothing_and_a_larger_one_goes_on(trained: tuple[Path, Path]) -> None:
    work, _ = trained
    before = _steps(work)
    training.train(minutes=0.005, work=work, **TINY)
    assert _steps(work) == before
    training.train(minutes=1.0, stage="unet-128", work=work, **{**TINY, "batch_size": 1}, max_steps=2)
    assert _steps(work)["unet-128"] == before["unet-128"] + 2


def test_a_training_goes_on_from_weights(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = trained
    work = tmp_path / "work"
    training.train(minutes=0.0, work=work, output=tmp_path / "same", start=folder, **TINY)
    for part in ("vae", "unet"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "same" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"stage": "vea"},
        {"device": "tpu"},
        {"dtype": "float8"},
        {"minutes": float("nan")},
        {"pictures": 0},
        {"seed": -1},
        {"batch_size": 0},
        {"start": Path("weigths")},
    ],
)
def test_wrong_settings_are_refused_in_one_sentence_before_any_work(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"choose|or more|name a folder"):
        training.train(work=tmp_path / "work", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "work").exists()


def test_a_stage_without_the_one_before_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="vae"):
        training.train(work=tmp_path, minutes=0.005, stage="decoder", **TINY)


def test_windows_of_pictures_begin_where_latents_do() -> None:
    places = np.arange(64 * 64 * 3, dtype=np.int64).reshape(1, 64, 64, 3)
    corners = _crops(places, 200, 24, np.random.default_rng(0))[:, 0, [0, -1], 0].min(axis=1) // 3
    assert set(corners % 64) == {0, 8, 16, 24, 32, 40}
    assert set(corners // 64) == {0, 8, 16, 24, 32, 40}


def test_latents_of_pixel_art_alone_are_marked_and_the_decoder_learns_what_the_mark_means(tmp_path: Path) -> None:
    settings = Settings(tmp_path, torch.device("cpu"), None, 0, 24, 2, None, None)
    is_pixel_art = settings.is_pixel_art()
    assert 0 < is_pixel_art.sum() < 12
    vae = build_vae()
    initialise(vae)
    pictures = settings.rendered(32)
    plain = encode_pictures(vae, pictures.images, torch.device("cpu")).astype(np.float32)
    added = latents_of(vae, pictures, 32, settings).astype(np.float32) - plain
    assert np.abs(added[~is_pixel_art]).max() == 0
    assert np.allclose(added[is_pixel_art], pixel_art_mark((4, 4)), atol=0.01)
    assert np.allclose(pixel_art_mark((4, 4))[0, :2, :2], [[0.5, -0.5], [-0.5, 0.5]])

    other = replace(settings, seed=1)  # in the same folder
    assert not np.array_equal(latents_of(vae, other.rendered(32), 32, other), latents_of(vae, pictures, 32, settings))

    # Pixel art is white here and everything else black, on latents that are alike but for the mark.
    white = np.zeros((8, 32, 32, 3), dtype=np.uint8)
    white[::2] = 255
    latents = np.zeros((8, 4, 4, 4), dtype=np.float16)
    latents[::2] += pixel_art_mark((4, 4)).astype(np.float16)
    freeze_encoder(vae)
    stage = Stage("decoder", tmp_path, 60, vae, learning_rate=3e-3, warmup_steps=1, max_steps=60, is_muon=True)
    is_white, device = np.arange(8) % 2 == 0, torch.device("cpu")
    train_decoder(
        stage,
        vae,
        white,
        latents,
        is_white,
        lambda _: white[0],
        white,
        seed=0,
        device=device,
        autocast=None,
        batch_size=8,
    )
    stage.swap_ema()  # the average is young; what was trained itself tells more
    with torch.no_grad():
        decoded = vae.decode(torch.from_numpy(latents[:2].astype(np.float32))).sample.mean(dim=(1, 2, 3))
    assert decoded[0] > 0 > decoded[1]


def test_the_decoder_meets_marks_of_both_signs_on_pixel_art_and_on_other_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, met, redrawn = build_vae(), [], []
    pictures, is_pixel_art = np.zeros((8, 64, 64, 3), dtype=np.uint8), np.arange(8) < 2
    mark = pixel_art_mark((8, 8))
    latents = is_pixel_art[:, None, None, None] * mark
    latents[:, 1] = np.arange(8)[:, None, None]  # which picture it is; the mark is on channel 0

    def decode(some: torch.Tensor) -> SimpleNamespace:
        met.extend((round(row[1].mean().item()), (row[0].numpy() * mark[0]).sum() / (mark**2).sum()) for row in some)
        return SimpleNamespace(sample=next(vae.post_quant_conv.parameters()).sum() * torch.zeros(len(some), 3, 64, 64))

    def as_pixel_art(k: int) -> np.ndarray:
        redrawn.append(k)
        return pictures[k]

    monkeypatch.setattr(vae, "decode", decode)
    freeze_encoder(vae)
    stage = Stage("decoder", tmp_path, 60, vae, learning_rate=1e-6, max_steps=40)
    device = torch.device("cpu")
    train_decoder(
        stage,
        vae,
        pictures,
        latents,
        is_pixel_art,
        as_pixel_art,
        pictures,
        seed=0,
        device=device,
        autocast=None,
        batch_size=8,
    )
    on_pixel_art = np.array([strength for k, strength in met if k < 2])
    elsewhere = np.array([strength for k, strength in met if k >= 2])
    assert on_pixel_art.min() < -0.4
    assert on_pixel_art.max() > 0.4
    assert (np.abs(on_pixel_art) < 0.05).mean() > 0.05, "pixel art that somebody brings has no mark"
    assert elsewhere.min() < -0.4
    assert elsewhere.max() > 0.4
    assert (np.abs(elsewhere) < 0.05).mean() > 0.4, "most other pictures have none"
    assert min(redrawn) >= 2, "the renderer's pixel art is its own target"
    assert len(redrawn) == pytest.approx((np.abs(elsewhere) > 0.05).sum(), rel=0.25)


def test_the_mark_changes_sign_within_a_picture_and_never_from_one_latent_to_the_next() -> None:
    strengths = mark_strengths(16, np.random.default_rng(0))
    assert strengths.shape == (16, 16)
    assert strengths.min() < 0 < strengths.max()
    assert np.abs(strengths).max() <= MARK_STRENGTHS[1]
    assert np.abs(np.diff(strengths, axis=0)).max() <= 2 * MARK_STRENGTHS[1] / MARK_PATCH


def test_pictures_are_the_same_in_every_run_and_read_back_from_disk(tmp_path: Path) -> None:
    first = render_pictures(tmp_path / "a", 3, 32, seed=7)
    again = render_pictures(tmp_path / "b", 5, 32, seed=7)
    assert np.array_equal(first.images, again.images[:3])
    assert first.captions == again.captions[:3]
    (tmp_path / "a" / "pictures-32-3-7.npy").touch()
    assert np.array_equal(render_pictures(tmp_path / "a", 3, 32, seed=7).images, first.images)


def test_a_third_of_the_captions_are_put_otherwise(tmp_path: Path) -> None:
    settings = Settings(tmp_path, torch.device("cpu"), None, 0, 300, 2, None, None)
    given = [[world.caption(pictured(0, k), np.random.default_rng(k))] for k in range(300)]
    told = settings.captions_of(Pictures(np.empty(300), given))
    otherwise = np.mean([one.startswith(text) for (one,), (text,) in zip(told, given, strict=True)])
    assert 0.5 < otherwise < 0.8


def test_the_unet_learns_no_prompt_from_no_words_whatever_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = next(k for k in range(100) if np.random.default_rng((k, 1)).random() < 1 / 12)  # words that mean nothing
    settings = Settings(tmp_path, torch.device("cpu"), None, seed, 2, 2, None, None)
    start_from(EMBEDDED_FOLDER, settings)
    given: list[Any] = []
    monkeypatch.setattr(training_stages, "train_unet", lambda *values, **_: given.extend(values))
    training_stages.run("unet-256", 1, settings)
    tokenizer = tokenizer_of(settings)
    assert given[4].tolist() == [tokenizer.bos_token_id, *[tokenizer.eos_token_id] * 76]


def test_a_close_up_shows_its_thing_and_says_nothing_of_places() -> None:
    tokenizer = train_tokenizer(["a red car"], world.vocabulary()["words"])
    made = close_ups(60, 0, tokenizer)
    assert made is not None
    pictures = [world.sample(np.random.default_rng((0, 0, k))) for k in range(60)]
    shown = set()
    for row, (top, left) in zip(made.rows, made.corners, strict=True):
        assert {top, left} <= set(range(0, 17, 2))
        places = layout(pictures[row])
        across = [max(0.0, min(p.right * 32, left + 16) - max(p.left * 32, left)) for p in places]
        down = [max(0.0, min(p.bottom * 32, top + 16) - max(p.top * 32, top)) for p in places]
        boxes = [(p.right - p.left) * (p.bottom - p.top) * 1024 for p in places]
        shares = [x * y / box for x, y, box in zip(across, down, boxes, strict=True)]
        assert max(shares) >= 0.6, "a close-up is of a thing"
        assert not [share for share in shares if 0.02 < share < 0.59], "and shows no part of one that it does not name"
        shown |= {(row, k) for k, share in enumerate(shares) if share >= 0.6}
    assert len(shown) > 0.6 * sum(len(picture.things) for picture in pictures)
    said = tokenizer.batch_decode(made.token_ids.reshape(-1, 77), skip_special_tokens=True)
    assert not [text for text in said if re.search(r"\b(on|to|at|in) the (left|right|middle|cent\w+)\b(?! of)", text)]
    alone = [k for k, row in enumerate(made.rows) if len(pictures[row].things) == 1]
    assert alone
    forms = {form for forms in OBJECT_WORDS.values() for one in forms for form in one}
    assert all(any(form in said[3 * k] for form in forms) for k in alone)

    latents = np.arange(60 * 4 * 32 * 32).reshape(60, 4, 32, 32)
    cut = made.cut(latents, np.array([5, 9]))
    assert cut.shape == (2, 4, 16, 16)
    assert cut[0, 0, 0, 0] == latents[made.rows[5], 0, made.corners[5][0], made.corners[5][1]]


def test_every_word_is_one_token_and_any_text_can_be_tokenised() -> None:
    words = ["crimson", "automobile", "lighthouse"]
    tokenizer = train_tokenizer(["a red car, next to a tree", "two kittens"], words)
    for word in [*words, "kittens", "tree", "Crimson", "TREE"]:
        assert len(tokenizer.tokenize(word)) == 1
    for text in ("漢字 🙂 ünïcödé", "\x00\x07 tab\t", "x" * 5000, "a\u200bb <|endoftext|> ''"):
        ids = tokenizer(text, truncation=True, max_length=77).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert len(ids) <= 77
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    ids = tokenise(tokenizer, [["a red car", "two kittens"]], seed=0)
    assert ids.shape == (1, 2, 77)


def test_a_fresh_autoencoder_already_knows_block_averages() -> None:
    torch.manual_seed(0)
    vae = build_vae()
    initialise(vae)
    ramp = np.linspace(40, 220, 64, dtype=np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], -1)
    assert reconstruction_psnr(vae, picture[None], torch.device("cpu")) > 15


def test_normalising_the_latents_changes_them_and_not_the_pictures() -> None:
    torch.manual_seed(0)
    vae = build_vae()
    initialise(vae)
    pictures = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    device = torch.device("cpu")
    with torch.no_grad():
        before = vae.decode(vae.encode(to_tensor(pictures)).latent_dist.mode()).sample
    normalise_latents(vae, encode_pictures(vae, pictures, device))
    latents = encode_pictures(vae, pictures, device).astype(np.float32)
    with torch.no_grad():
        after = vae.decode(vae.encode(to_tensor(pictures)).latent_dist.mode()).sample
    assert np.allclose(latents.mean(axis=(0, 2, 3)), 0, atol=0.01)
    assert np.allclose(latents.std(axis=(0, 2, 3)), 1, atol=0.01)
    assert torch.allclose(after, before, atol=1e-3)


def test_noise_and_velocity_give_the_latents_back() -> None:
    schedule = NoiseSchedule(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(3, 4, 2, 2, generator=generator), torch.randn(3, 4, 2, 2, generator=generator)
    timesteps = torch.tensor([0, 400, 999])
    noisy, velocity = schedule.add_noise(latents, noise, timesteps), schedule.velocity(latents, noise, timesteps)
    signal, amount = schedule._at(schedule._signal, timesteps), schedule._at(schedule._noise, timesteps)
    assert torch.allclose(signal * noisy - amount * velocity, latents, atol=1e-5)
    elsewhere = torch.randn(3, 4, 2, 2, generator=generator)
    velocity = schedule.velocity_towards(elsewhere, noisy, timesteps)
    assert torch.allclose(signal * noisy - amount * velocity, elsewhere, atol=1e-5)


def test_timesteps_come_as_often_as_they_weigh() -> None:
    schedule = NoiseSchedule(torch.device("cpu"))
    drawn = schedule.draw(np.linspace(0, 1, 10_001))
    assert (drawn.min(), drawn.max()) == (0, 999)
    counts = np.bincount(drawn, minlength=1000)
    assert counts[900] > 10 * counts[:20].mean()
    assert counts[500:].std() < 1.0


class Recorder(torch.nn.Module):
    """Keeps the first token, the timestep and the mean of every row it is asked of; answers what `answer` says."""

    def __init__(self, answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.answer = build_unet(), SimpleNamespace(), answer
        self.text_encoder.set_attn_implementation = lambda name: None
        self.met: list[tuple[int, int, float]] = []

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        means = noisy.mean(dim=(1, 2, 3)).tolist()
        self.met += zip(token_ids[:, 0].tolist(), timesteps.tolist(), means, strict=True)
        return self.answer(noisy, timesteps) + 0 * next(self.unet.parameters()).sum()


def test_what_is_hard_comes_more_often_and_half_of_the_rows_where_it_is_settled(tmp_path: Path) -> None:
    model = Recorder(lambda noisy, timesteps: torch.zeros_like(noisy))
    is_pixel_art, numbers = np.arange(12) < 3, np.arange(12)  # a row's tokens tell its number
    token_ids = np.arange(12)[:, None, None] * np.ones((1, 2, 77), dtype=np.int64)
    stage = Stage("unet-256", tmp_path, 60, model, learning_rate=1e-6, max_steps=40)
    train_unet(
        stage,
        model,  # type: ignore[arg-type]
        np.zeros((12, 4, 4, 4), dtype=np.float16),
        token_ids,
        np.full(77, 99),
        is_pixel_art,
        1 + is_pixel_art + (numbers >= 8) + 2 * (numbers == 7),
        np.zeros((12, 4, 4)),
        seed=0,
        device=torch.device("cpu"),
        autocast=None,
        batch_size=38,
    )
    named = [one for one in model.met if one[0] != 99]
    of_pixel_art = np.array([t for row, t, _ in named if row < 3])
    of_several = [row for row, *_ in named if row >= 8]
    of_others = np.array([t for row, t, _ in named if row >= 3])
    of_small = [row for row, *_ in named if row == 7]
    assert len(of_pixel_art) / len(named) == pytest.approx(6 / 21, abs=0.03), "three of twelve, each twice"
    assert len(of_several) / len(named) == pytest.approx(8 / 21, abs=0.03), "four of twelve, each twice"
    assert len(of_small) / len(named) == pytest.approx(3 / 21, abs=0.02), "one of twelve, three times"
    usual = NoiseSchedule(torch.device("cpu")).draw(np.linspace(0, 1, 10_001))
    coarse, fine = 0.5 + 0.5 * (usual >= COARSE_FROM).mean(), 0.5 * (usual < FINE_BELOW).mean()
    assert (of_others >= COARSE_FROM).mean() == pytest.approx(0.75 * coarse, abs=0.06)
    assert (of_others < FINE_BELOW).mean() == pytest.approx(0.25 + 0.75 * fine, abs=0.06)
    assert (of_pixel_art < FINE_BELOW).mean() == pytest.approx(0.5 + 0.5 * fine, abs=0.06)
    assert of_pixel_art.max() > 900, "the other half learns what all learn"


def learn(stage: Stage, model: Recorder, latents: np.ndarray, boxes: np.ndarray | None = None, **others: Any) -> None:
    """Train on 16 pictures whose prompts begin with token 5; that of no prompt is 99."""
    train_unet(
        stage,
        model,  # type: ignore[arg-type]
        latents,
        np.full((16, 1, 77), 5),
        np.full(77, 99),
        np.zeros(16, dtype=bool),
        np.ones(16, dtype=int),
        np.zeros((16, 8, 8)) if boxes is None else boxes,
        seed=0,
        device=torch.device("cpu"),
        autocast=None,
        batch_size=32,
        **others,
    )


@pytest.mark.parametrize(("unsaid", "their_prompt"), [(0.0, 7), (1.0, 99)])
def test_a_near_miss_under_noise_is_led_back_to_its_picture_by_a_caption_that_tells_them_apart(
    unsaid: float, their_prompt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sd_demo.embedded.train_unet.UNSAID_SHARE", unsaid)
    schedule = NoiseSchedule(torch.device("cpu"))
    model = Recorder(lambda noisy, timesteps: schedule.velocity_towards(torch.ones_like(noisy), noisy, timesteps))
    stage = Stage("unet-256", tmp_path, 60, model, learning_rate=1e-6, max_steps=20)
    losses: list[float] = []
    stage.update = lambda loss: losses.append(loss.item())  # type: ignore[method-assign]
    near_misses = NearMisses(np.full((8, 4, 8, 8), -30, dtype=np.float16), np.full((8, 77), 7))
    learn(stage, model, np.ones((16, 4, 8, 8), dtype=np.float16), near_misses=near_misses)
    assert (max(losses) < 1e-6) is (unsaid == 0), "with a caption every row is to come out at the right picture"
    told = [(timestep, mean) for prompt, timestep, mean in model.met if prompt != 5]
    missed = [(timestep, mean) for timestep, mean in told if mean < -1]  # most of the near miss, and little noise
    assert {prompt for prompt, _, mean in model.met if mean < -1} == {their_prompt}
    dropped = PROMPT_DROPOUT * (1 - MISSED_SHARE / 2)
    assert len(told) / len(model.met) == pytest.approx(MISSED_SHARE / 2 + dropped, abs=0.05), "half have one"
    assert min(timestep for timestep, _ in missed) >= MISSED_FROM
    assert min(mean for _, mean in missed) < -5, "what is under the noise is the near miss, or between the two"
    assert min(timestep for prompt, timestep, _ in model.met if prompt == 5) < 100, "the others are where they were"


def test_between_a_picture_and_its_near_miss_no_caption_leads_to_what_is_more_there() -> None:
    count, rng = 400, np.random.default_rng(0)
    near_misses = NearMisses(np.zeros((count, 4, 8, 8), dtype=np.float16), np.zeros((count, 77)))
    clean, numbers, is_unsaid = torch.ones(count, 4, 8, 8), np.arange(count), np.arange(count) % 2 == 0
    begun, meant = near_misses.mixed(clean, numbers, is_unsaid, rng)
    assert begun.min() == 0.0
    assert begun.max() == 1.0
    assert torch.equal(meant[1::2], clean[1::2]), "what the caption tells of"
    part, led_to = begun.mean(dim=(1, 2, 3))[::2], meant.mean(dim=(1, 2, 3))[::2]
    assert torch.equal(led_to, (part >= 0.5).float())
    assert 60 < led_to.sum() < 140
    is_patchy = begun.std(dim=(1, 2, 3)) > 0.05
    assert is_patchy.float().mean() == pytest.approx(PATCHY_SHARE, abs=0.1), "some are one thing here, another there"


def test_a_fault_in_a_things_box_costs_more_than_one_beside_it(tmp_path: Path) -> None:
    schedule, boxes = NoiseSchedule(torch.device("cpu")), np.zeros((16, 8, 8))
    boxes[:, 2:4, 2:4] = 1.0

    def loss(row: int, boxes: np.ndarray) -> float:
        def answer(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            right = schedule.velocity_towards(torch.ones_like(noisy), noisy, timesteps)
            right[:, :, row, 3] += 1.0
            return right

        losses: list[float] = []
        model = Recorder(answer)
        stage = Stage("unet-256", tmp_path / f"{row}-{boxes.any()}", 60, model, learning_rate=0, max_steps=9)
        stage.update = lambda loss: losses.append(loss.item())  # type: ignore[method-assign]
        learn(stage, model, np.ones((16, 4, 8, 8), dtype=np.float16), boxes)
        return float(np.mean(losses))

    without, inside, beside = loss(3, 0 * boxes), loss(3, boxes), loss(6, boxes)
    assert beside < without < inside
    assert inside > 1.3 * beside, "1.5 over all timesteps"


def test_what_a_negative_prompt_denies_is_shown_so_strongly_that_guidance_leaves_nothing_of_it(tmp_path: Path) -> None:
    without, shown = 0.0, 2.0
    schedule = NoiseSchedule(torch.device("cpu"))
    model = Recorder(lambda noisy, timesteps: schedule.velocity_towards(torch.zeros_like(noisy), noisy, timesteps))
    stage = Stage("unet-256", tmp_path, 60, model, learning_rate=1e-6, max_steps=20)
    denials = Denials(np.full((8, 4, 8, 8), without, dtype=np.float16), np.full((8, 3, 77), 7))
    latents = np.full((16, 4, 8, 8), shown, dtype=np.float16)
    learn(stage, model, latents, denials=denials)
    learned = [timestep for prompt, timestep, _ in model.met if prompt == 7]
    assert len(learned) / len(model.met) == pytest.approx(DENIED_SHARE / 2, abs=0.05), "half of the pictures have one"
    assert min(learned) == DENIED_FROM < SETTLED_BELOW < 900 < max(learned)

    clean, numbers = torch.from_numpy(latents[:6]).float(), np.arange(6)
    for timesteps in (np.full(6, 299), np.full(6, 300)):
        begun, answer = denials.exaggerated(clean, numbers, timesteps, np.random.default_rng(1))
        assert len(begun.unique()) == 6
        assert (begun.min().item() > without, begun.max().item() < shown) == (True, True)
        of_prompt = begun if timesteps[0] < SETTLED_BELOW else clean
        guided = GUIDANCE * of_prompt + (1 - GUIDANCE) * answer
        torch.testing.assert_close(guided, torch.full_like(guided, without), atol=1e-5, rtol=0)


def test_denials_name_what_their_picture_has_and_show_all_else_as_it_was(tmp_path: Path) -> None:
    made, again = (render_pictures(tmp_path / n, 80, 64, 3, kind="denied", processes=1) for n in ("a", "b"))
    whole = render_pictures(tmp_path, 80, 64, 3, processes=1)
    assert made.captions == again.captions
    assert np.array_equal(made.images, again.images)
    for k, said in enumerate(made.captions):
        picture = pictured(3, k)
        left, gone, _ = denied(picture, np.random.default_rng((3, 3, k)))
        assert all(re.fullmatch("(no|without) .+", text) and not unknown_words(text) for text in said)
        is_same = np.array_equal(made.images[k], whole.images[k])
        assert is_same == (not gone and left == picture)
        names = {picture.things[j].object for j in gone}
        assert len(names) <= 1
        for name in names:
            words = {form for forms in OBJECT_WORDS[name] for form in forms}
            assert all(text.endswith(tuple(words)) for text in said)
            colours = {picture.things[j].colour for j in gone}
            others = [t for j, t in enumerate(picture.things) if j not in gone]
            assert all(t.object != name or t.colour not in colours for t in others)
        if not gone and left == picture:
            assert (picture.things, picture.weather) == ((), "clear")


def test_captions_seldom_deny_what_their_picture_does_not_show() -> None:
    rng = np.random.default_rng(0)
    picture = pictured(3, 0)
    told = [also_denied("a picture", picture, rng) for _ in range(3000)]
    more = [text.removeprefix("a picture, ") for text in told if text != "a picture"]
    assert len(more) == pytest.approx(100, abs=30)
    shown = {form for thing in picture.things for forms in OBJECT_WORDS[thing.object] for form in forms}
    assert not any(text.split()[-1] in shown for text in more)


@pytest.mark.parametrize(("timestep", "is_even"), [(950, True), (50, False)])
def test_a_thing_weighs_more_only_where_noise_no_longer_hides_its_place(timestep: int, is_even: bool) -> None:
    places = torch.zeros(8, 4, 8, 8)  # one thing a picture, at each of eight places as often
    places[torch.arange(8), :, 4, torch.arange(8)] = 1.0
    kept = NoiseSchedule(torch.device("cpu")).kept(torch.full((8,), timestep))
    weights = emphasis(places, kept)
    answer = (weights * places).sum(0) / weights.sum(0)  # what a UNet that cannot tell the pictures apart learns
    amount = answer[:, 4].sum(1)  # of things in one picture
    assert (amount < 1.02).all() if is_even else (amount > 2).all()
    assert weights.mean(dim=(2, 3)).allclose(torch.ones(8, 1))


def test_a_thing_counts_where_it_does_not_differ_too() -> None:
    latents, kept = torch.zeros(1, 4, 8, 8), torch.ones(1)
    belonging = torch.zeros(1, 1, 8, 8)
    belonging[..., 2:4, 2:4] = 1.6
    weights = emphasis(latents, kept, belonging)
    assert weights[0, 0, 2, 2] == pytest.approx(5.8 * weights[0, 0, 0, 0])
    assert (emphasis(latents, kept) == 1).all()
    assert (emphasis(latents, torch.zeros(1), belonging) == 1).all(), "noise hides where it is"


def test_how_often_pictures_come_and_which_latents_are_things(tmp_path: Path) -> None:
    settings = Settings(tmp_path, torch.device("cpu"), None, 3, 40, 1, None, None)
    repeats, belonging = settings.repeats(), settings.belonging(256)
    assert belonging.shape == (40, 32, 32)
    for k in range(40):
        picture = pictured(3, k)
        small = [thing for thing in picture.things if thing.size == "small"]
        kinds = [(thing.object, thing.colour) for thing in picture.things]
        expected = (
            1 + (picture.style != "picture book") + (len(kinds) > 1) + (len(set(kinds)) < len(kinds)) + bool(small)
        )
        assert repeats[k] == expected
        assert bool(belonging[k].any()) == bool(picture.things)
        for place in layout(picture):
            centre = (place.top + place.bottom) / 2, (place.left + place.right) / 2
            assert belonging[k][tuple(int(part * 32) for part in centre)] >= 0.75
        assert (belonging[k].max() > 1.5) == bool(small)
        boxes = sum(
            (place.right - place.left + 2 / 32) * (place.bottom - place.top + 2 / 32) for place in layout(picture)
        )
        assert (belonging[k] > 0).mean() <= boxes, "nothing beyond them"


def test_meanings_say_what_is_in_a_picture() -> None:
    car = Thing("car", "red", "large", "left", "near")
    pictures = [Picture("beach", "night", "clear", "pixel art", (car,), None, 0)]
    scenery, details = meanings(pictures)
    assert [SCENERY[k] for k in np.flatnonzero(scenery[0])] == ["beach", "night", "clear", "pixel art"]
    assert details.sum() == 5
    said = details[0, list(KINDS).index("car")]
    assert said[0] == 1
    assert [DETAILS[k] for k in np.flatnonzero(said[1:])] == ["red", "large", "left", "near"]


def test_orthogonal_steps_have_singular_values_of_about_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 8, 24), (1, 24, 8), (1, 8, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_muon_learns_convolutions_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = torch.nn.Conv2d(4, 4, 3), torch.randn(8, 4, 6, 6)
    stage = Stage("toy", tmp_path, 1.0, module, learning_rate=0.1, warmup_steps=1, is_muon=True)
    losses = []
    for _ in range(30):
        loss = (module(x) - x[..., 1:-1, 1:-1]).square().mean()
        losses.append(loss.item())
        stage.update(loss)
        stage.step += 1
    assert losses[-1] < 0.2 * losses[0]
    stage.save()
    again = Stage("toy", tmp_path, 1.0, module, learning_rate=0.1, is_muon=True)
    momenta = [stage._optimizers[1].state[module.weight]["momentum"] for stage in (stage, again)]
    assert torch.equal(*momenta)


def test_averaged_weights_are_swapped_in_and_out(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 1, bias=False)
    stage = Stage("toy", tmp_path, 1.0, module, learning_rate=0.1, warmup_steps=1)
    for _ in range(3):
        stage.update(module(torch.ones(1, 2)).square().sum())
        stage.step += 1
    trained = module.weight.detach().clone()
    with stage.averaged():
        assert not torch.equal(module.weight, trained)
    assert torch.equal(module.weight, trained)
