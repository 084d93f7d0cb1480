"""The memory ladder: every rung gives the same picture, a run that is out of memory goes on, and it is told before."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import save_file

from sd_demo import memory_need, preflight, random_model
from sd_demo.architectures import ARCHITECTURES
from sd_demo.canvas import working_size
from sd_demo.checkpoints import read_model
from sd_demo.engine import Engine
from sd_demo.errors import OutOfMemory
from sd_demo.file_header import FIRST
from sd_demo.health import as_expected, is_fatal
from sd_demo.known_models import EMBEDDED_FOLDER, what_suits
from sd_demo.loaded_model import LoadedModel
from sd_demo.memory_need import UNET_FACTOR, VAE_FACTOR, MemoryNeed, Shape, free_mib
from sd_demo.memory_outline import outlined
from sd_demo.outputs import Outputs
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.placement import LeanAttention
from sd_demo.random_model import outline
from sd_demo.registry import Registry
from sd_demo.requests import parse_request
from sd_demo.residence import RUNGS, Residence
from sd_demo.settings import Settings
from sd_demo.speed import Estimate, Speed
from sd_demo.tuned_networks import WINOGRAD_ROWS
from sd_demo.weight_hashes import stamp_of, weight_files
from tests.memory_factors import Living, factors

MODEL = "random:sd-1.5:tiny"
ASKED = {"prompt": "a house", "negative_prompt": "rain", "num_inference_steps": 3, "seed": 4, "scheduler": "euler_a"}
STEADY = {"memory_limit_mib": 1000}  # for what is told of the memory that is free, which changes all the time
NETWORKS = ("unet", "vae", "text_encoder", "safety_checker")


def engine_on(rung: str, folder: Path, **settings: Any) -> Engine:
    engine = Engine(
        Settings(
            **{"device": "cpu", "dtype": "float32", "attention": "sdpa", "model": MODEL, "memory": rung, **settings}
        ),
        outputs=Outputs(folder),
    )
    engine.start()
    return engine


def made(engine: Engine, task: str = "text_to_image", **values: Any) -> Any:
    return engine.submit(parse_request(task, {**ASKED, **values})).result(120).images[0]


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = engine_on("resident", tmp_path_factory.mktemp("resident"))
    yield engine
    engine.close()


@pytest.mark.parametrize("rung", RUNGS[1:])
def test_every_rung_gives_the_same_pictures(rung: str, resident: Engine, tmp_path: Path) -> None:
    picture = {"image": Image.linear_gradient("L").resize((96, 64)), "strength": 0.7}
    engine = engine_on(rung, tmp_path)
    try:
        for task, values in (("text_to_image", {}), ("image_to_image", picture)):
            here, there = (made(one, task, **values) for one in (resident, engine))
            assert here.image.tobytes() == there.image.tobytes()
            assert (here.receipt.done.memory, there.receipt.done.memory) == ("resident", rung)
            assert not there.receipt.done.retries
    finally:
        engine.close()


@pytest.mark.parametrize("rung", ["resident", "layer_by_layer"])
def test_a_half_precision_decoder_that_answers_nan_is_run_again_in_float32(
    rung: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = AutoencoderKL.decode

    def overflowing(self: AutoencoderKL, z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        (pixels,) = decode(self, z, *args, **kwargs)
        return (pixels * torch.nan if z.dtype == torch.bfloat16 else pixels,)

    small = {"width": 64, "height": 64, "num_inference_steps": 1, "guidance_scale": 1.0}  # a CPU may emulate bfloat16
    engine = engine_on(rung, tmp_path, dtype="bfloat16")
    try:
        expected = np.asarray(made(engine, **small).image, dtype=float)
        assert expected.std() > 5, "a picture of one colour would prove nothing"
        monkeypatch.setattr(AutoencoderKL, "decode", overflowing)
        again = made(engine, **small)
        assert any("decoded again in float32" in text for text in again.receipt.done.retries)
        assert np.abs(np.asarray(again.image, dtype=float) - expected).mean() < 3
        monkeypatch.setattr(AutoencoderKL, "decode", decode)
        last = made(engine, **small)
        assert (np.asarray(last.image) == expected).all(), "the decoder is as it was"
        assert not last.receipt.done.retries
    finally:
        engine.close()


def test_out_of_memory_in_mid_flight_goes_down_the_ladder_and_on(
    resident: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made(resident)
    engine = engine_on("resident", tmp_path)
    try:
        made(engine, num_inference_steps=1)
        model = engine._manager.current
        assert model is not None
        residence, calls = model.residence, [0]
        monkeypatch.setattr(residence, "_can_step_down", True)  # as on a device with memory of its own
        forward = model.unet.forward

        def short(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] > 1 and residence.rung != "layer_by_layer":
                raise torch.OutOfMemoryError("out of memory")
            return forward(*args, **kwargs)

        monkeypatch.setattr(model.unet, "forward", short)
        told = made(engine)
        assert told.image.tobytes() == expected.image.tobytes()
        assert told.receipt.done.memory == "layer_by_layer"
        assert any("memory ran out" in note for note in told.receipt.notes)
        monkeypatch.setattr(model.unet, "forward", forward)
        assert not made(engine).receipt.done.retries, "the next one starts where that ended"
    finally:
        engine.close()


class Network(torch.nn.Module):
    """Where it was sent, in place of going there."""

    def __init__(self) -> None:
        super().__init__()
        self.place = "nowhere"

    def to(self, place: torch.device) -> Network:  # type: ignore[override]
        self.place = place.type
        return self


@pytest.mark.parametrize(
    ("rung", "at_rest", "in_turn"),
    [
        ("resident", "cuda cuda cuda cuda", "cuda cuda cuda cuda"),
        ("text_encoder_away", "cuda cuda cpu cuda", "cuda cuda cpu cuda"),
        ("one_at_a_time", "cpu cpu cpu cpu", "cuda cpu cpu cpu"),
    ],
)
def test_networks_are_where_the_rung_has_them(rung: Any, at_rest: str, in_turn: str) -> None:
    networks = {name: Network() for name in NETWORKS}

    def places() -> str:
        return " ".join(network.place for network in networks.values())

    residence = Residence(networks, torch.device("cuda"), rung)
    assert places() == at_rest
    residence.run("text_encoder", lambda: None)
    assert networks["text_encoder"].place == "cuda"
    assert residence.run("unet", places) == in_turn


def test_a_ladder_has_an_end_and_a_cpu_has_none() -> None:
    networks = {name: Network() for name in NETWORKS}
    rungs: list[str] = []

    def never(residence: Residence) -> None:
        rungs.append(residence.rung)
        raise torch.OutOfMemoryError

    for device, expected in (("cuda", [*RUNGS]), ("cpu", ["resident"])):
        rungs.clear()
        residence = Residence(networks, torch.device(device))
        with pytest.raises(torch.OutOfMemoryError):
            residence.run("unet", lambda residence=residence: never(residence))
        assert rungs == expected


class Shortage:
    """A network whose first calls find the memory short, and hold a tensor while they do."""

    def __init__(self, error: Exception, count: int = 1) -> None:
        self.error, self.count, self.held = error, count, 0

    def __call__(self) -> str:
        if self.count:
            self.count -= 1
            activations = torch.ones(3)
            weakref.finalize(activations, self._let_go)
            self.held += 1
            raise self.error
        return f"drawn with {self.held} held"

    def _let_go(self) -> None:
        self.held -= 1


def cuda_residence() -> Residence:
    return Residence({name: Network() for name in NETWORKS}, torch.device("cuda"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_ran_out_holds_no_memory_while_the_next_rung_is_tried(error: Exception) -> None:
    residence = cuda_residence()
    assert residence.run("unet", Shortage(error)) == "drawn with 0 held"
    assert residence.rung == "text_encoder_away"
    assert not is_fatal(error), "the device is not lost"


def test_memory_that_runs_out_on_a_cpu_is_told_by_its_own_words() -> None:
    with pytest.raises(RuntimeError) as here:
        torch.empty(10**15)
    on_windows = RuntimeError("[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you …")
    for error in (here.value, on_windows):
        assert isinstance(as_expected(error, "4711"), OutOfMemory), "which says what to do"


def test_another_error_is_no_lack_of_memory() -> None:
    residence = cuda_residence()
    with pytest.raises(RuntimeError, match="sizes"):
        residence.run("unet", Shortage(RuntimeError("sizes do not match")))
    assert residence.rung == "resident"


def test_what_is_held_only_to_be_faster_goes_before_a_rung_does() -> None:
    residence, held = cuda_residence(), ["recording"]
    residence.spare = lambda: bool(held and held.pop())
    short = torch.OutOfMemoryError("CUDA out of memory")
    assert residence.run("vae", Shortage(short)) == "drawn with 0 held"
    assert residence.rung == "resident"
    assert not held
    assert residence.run("vae", Shortage(short)) == "drawn with 0 held"
    assert residence.rung == "text_encoder_away"


@pytest.mark.parametrize(
    ("has_idle_model", "device", "expected"),
    [(False, "cuda", "one_at_a_time"), (True, "cuda", "resident"), (False, "cpu", None)],
)
def test_networks_that_do_not_fit_as_they_are_loaded_take_the_next_rung(
    has_idle_model: bool, device: str, expected: str | None
) -> None:
    held = ["the model before"] * has_idle_model

    class Large(Network):
        def to(self, place: torch.device) -> Network:  # type: ignore[override]
            self.place = place.type
            there = sum(network.place == device for network in networks.values())
            if there == len(NETWORKS) - 1 and not has_room():
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self

    def has_room() -> bool:
        return has_idle_model and not held

    networks: dict[str, Network] = {name: Large() for name in NETWORKS}
    if expected is None:
        with pytest.raises(torch.OutOfMemoryError):
            Residence(networks, torch.device(device))
        return
    residence = Residence(networks, torch.device(device), spare=lambda: bool(held and held.pop()))
    assert residence.rung == expected, "speed is worth more than a model that nobody uses"


def test_an_apple_gpu_gives_back_what_pytorch_keeps_on_each_step_down(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    residence = Residence({name: Network() for name in NETWORKS}, torch.device("mps"))
    emptied.clear()
    assert residence.step_down()
    assert emptied == ["mps"] * 2, "as the networks leave and as some return"


def test_a_rung_on_which_the_networks_themselves_do_not_fit_is_passed_over() -> None:
    class Large(Network):
        def to(self, place: torch.device) -> Network:  # type: ignore[override]
            if place.type == "cuda" and is_crowded:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().to(place)

    is_crowded = False
    networks = {name: Large() for name in NETWORKS}
    residence = Residence(networks, torch.device("cuda"))
    is_crowded = True
    assert residence.step_down()
    assert residence.rung == "one_at_a_time"
    assert {network.place for network in networks.values()} == {"cpu"}


@pytest.fixture(scope="module")
def need() -> MemoryNeed:
    """Of Stable Diffusion 1.5 in float16, whose weights need not be there to be counted."""
    networks = outline(ARCHITECTURES["sd-1.5"])
    for network in networks.values():
        network.to(torch.float16)
    return MemoryNeed.of(networks, torch.float16)


def test_stable_diffusion_fits_where_it_is_said_to(need: MemoryNeed) -> None:
    usual, large = Shape(2, 512, 512), Shape(8, 1024, 1024)
    assert 2000 < sum(need.weights.values()) < 2100
    assert 2300 < need.peak_mib(usual) < 2600
    peaks = [need.peak_mib(large, rung) for rung in RUNGS]
    assert peaks == sorted(peaks, reverse=True)
    assert [need.rung_for(usual, free) for free in (8000, 2600, 2100, 1000)] == list(RUNGS)
    assert need.rung_for(large, 8000) == "resident"
    assert need.rung_for(large, 100) == RUNGS[-1], "the last one is tried in any case"


def test_the_scores_of_plain_attention_are_counted(model: LoadedModel) -> None:
    unet, words, held = model.unet, torch.zeros(2, 77, model.unet.config.cross_attention_dim), {}
    before = unet.attn_processors
    for attention, processor in (("plain", AttnProcessor), ("sdpa", LeanAttention)):
        unet.set_attn_processor(processor())
        with torch.inference_mode(), Living(unet) as living:
            unet(torch.zeros(2, 4, 64, 64), torch.ones(2), encoder_hidden_states=words)
        need = replace(model.need.attending(attention, unet, torch.float32), weights={}, decode=0.0)
        said = need.peak_mib(Shape(2, 512, 512))
        held[attention] = living.most / 2**20
        assert held[attention] < said < 2 * held[attention]
    unet.set_attn_processor(before)
    assert held["plain"] > 2 * held["sdpa"], "else it would prove nothing"


def test_an_encoder_holds_less_than_what_is_counted_for_its_decoder() -> None:
    held = factors(random_model.build("sd-1.5", "tiny"), 32)
    assert held["encoder"] < held["vae"]
    assert held["encoder"] < memory_need.VAE_FACTOR


@pytest.mark.parametrize("rows", [2, WINOGRAD_ROWS])
def test_the_picture_book_holds_no_more_than_what_is_counted(rows: int) -> None:
    held = factors(read_model(EMBEDDED_FOLDER, torch.float32), 32, rows, is_embedded=True)
    assert held["unet"] < memory_need.UNET_FACTOR
    assert held["vae"] < memory_need.VAE_FACTOR


def test_a_loaded_model_counts_the_scores_of_the_attention_that_it_got() -> None:
    scores = {}
    for attention in ("plain", "sdpa"):
        manager = PipelineManager(Settings(device="cpu", dtype="float32", attention=attention), Registry())
        scores[attention] = manager.get(MODEL).need.scores_per_row > 0
    assert scores == {"plain": True, "sdpa": False}


def test_what_will_not_fit_is_told_with_something_smaller(resident: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made(resident)
    usual = resident.estimate({})
    assert usual.fits
    assert (usual.smaller, usual.seconds is not None) == ({}, True)
    assert usual.peak_mib is not None
    many = {"num_images_per_prompt": 16, "width": 128, "height": 128}
    assert (resident.estimate(many).peak_mib or 0) > usual.peak_mib
    limited = resident.settings.model_copy(update={"memory_limit_mib": int(usual.peak_mib) + 1})
    monkeypatch.setattr(resident, "settings", limited)
    assert resident.estimate({}).fits
    short = resident.estimate(many)
    assert not short.fits
    assert short.smaller
    assert resident.estimate({**many, **short.smaller}).fits
    wide = resident.estimate({"width": 1024, "height": 512})
    assert not wide.fits
    assert set(wide.smaller or {}) == {"num_images_per_prompt", "width", "height"}
    assert (wide.smaller or {})["width"] == pytest.approx(2 * (wide.smaller or {})["height"], rel=0.15)
    assert resident.estimate({"width": 1024, "height": 512, **(wide.smaller or {})}).fits


def test_what_a_given_picture_costs_is_told_of_the_size_that_it_is_worked_on(
    resident: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(resident)
    monkeypatch.setattr(resident, "settings", resident.settings.model_copy(update=STEADY))
    native = resident.defaults().native_size
    longest = min(1024, round(native * 1.5))
    for picture, size in (((2000, 2000), (longest, longest)), ((2000, 1000), (longest, longest // 2))):
        given = resident.estimate({"strength": 0.5, "image": picture})
        assert given == resident.estimate({"strength": 0.5, "width": size[0], "height": size[1]})
        assert given != resident.estimate({"strength": 0.5})
    heun, ten, nineteen = (
        resident.estimate({"scheduler": name, "num_inference_steps": steps}).seconds
        for name, steps in (("heun", 10), ("euler", 10), ("euler", 19))
    )
    assert heun == pytest.approx(nineteen), "it looks twice at each step but the last"
    assert heun > 1.5 * (ten or 0)


@pytest.mark.parametrize("max_side", [64, 160])
def test_what_is_told_before_is_what_runs_under_the_limits(
    max_side: int, resident: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(resident)
    native, own = resident.defaults().native_size, resident.defaults().num_inference_steps
    assert (native, own) == (128, 25)
    limited = resident.settings.model_copy(update={"max_side": max_side, "max_steps": 5, **STEADY})
    monkeypatch.setattr(resident, "settings", limited)
    most = max(max_side, native)
    for picture, size in (((2000, 2000), (most, most)), ((2000, 1000), (most, most // 2))):
        sides = {"width": size[0], "height": size[1]}
        asked = {"strength": 0.6, "image": picture}
        assert resident.estimate(asked) == resident.estimate({"strength": 0.6, "num_inference_steps": 9, **sides})
        assert resident.estimate({**asked, "width": 192}) != resident.estimate(asked), "what is asked for stays"
    assert resident.estimate({}) == resident.estimate({"num_inference_steps": 5})
    assert resident.estimate({}) != resident.estimate({"num_inference_steps": 6})


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [((1200, 600), (1024,)), ((601, 1199), (1024,)), ((1000, 999), (1024,)), ((1000, 667), (1000, 667)),
     ((1202, 1998), (601, 999))],
)  # fmt: skip
def test_something_smaller_does_not_crop_a_given_picture(
    resident: Engine, picture: tuple[int, int], wanted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(resident)
    asked = {"strength": 0.5, "image": picture, **dict(zip(("width", "height"), wanted, strict=False))}
    room = int(resident.estimate({"width": 256, "height": 256}).peak_mib or 0) + 1
    monkeypatch.setattr(resident, "settings", resident.settings.model_copy(update={"memory_limit_mib": room}))
    smaller = resident.estimate(asked).smaller or {}
    assert resident.estimate({**asked, **smaller}).fits
    *size, notes = working_size("image_to_image", picture, (smaller["width"], smaller["height"]), 512)
    assert (tuple(size), notes) == ((smaller["width"], smaller["height"]), ())
    unknown = {"strength": 0.5, "width": 1024}
    assert resident.estimate(unknown).smaller == {}, "any size could crop the picture that will be given"
    cropped = {"strength": 0.5, "image": picture, "width": 1024, "height": 512}
    smaller = resident.estimate(cropped).smaller or {}
    assert smaller["width"] == pytest.approx(2 * smaller["height"], rel=0.15), "the shape asked for, which crops anyway"


class OnGpu:
    """What a preflight sees of a model on a GPU: Stable Diffusion 1.5 in float16, none of which need be there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, need: MemoryNeed, room_mib: float) -> None:
        self.config, self.speed, nothing = SimpleNamespace(time_cond_proj_dim=None), Speed(), MagicMock()
        self.entry, parts = Registry().get("sd-1.5"), {"unet": SimpleNamespace(config=self.config)}
        placement, residence = SimpleNamespace(device=torch.device("cuda")), SimpleNamespace(rung="resident")
        self.model: Any = LoadedModel(self.entry, parts, placement, nothing, "", residence, need)  # type: ignore[arg-type]
        monkeypatch.setattr(preflight, "room_mib", lambda *_: room_mib)

    def estimate(self, **values: Any) -> Estimate:
        return preflight.estimate(values, self.entry, self.speed, [self.model], None, Settings())

    def ran(self, rows: int, elapsed_s: float, decode_s: float = 0.0) -> None:
        """A step and the decoding of one picture of this model were measured, at 512x512."""
        denoising = SimpleNamespace(rows=rows, latents=torch.empty(1, 4, 64, 64), model=self.model)
        running: Any = SimpleNamespace(denoising=denoising, decode_s=decode_s, total_s=9.0)
        self.speed.learn_step([running], elapsed_s)
        self.speed.learn_job(running)


def test_a_distilled_model_is_told_for_its_one_row(monkeypatch: pytest.MonkeyPatch, need: MemoryNeed) -> None:
    there = OnGpu(monkeypatch, need, 100_000)
    there.ran(rows=1, elapsed_s=0.5)
    asked: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 8.5}
    guided = there.estimate(**asked)
    assert (guided.seconds, guided.peak_mib) == (4 * 2 * 0.5, need.peak_mib(Shape(2, 512, 512)))
    there.config.time_cond_proj_dim = 256
    there.model = replace(there.model)
    distilled = there.estimate(**asked)
    assert (distilled.seconds, distilled.peak_mib) == (4 * 0.5, need.peak_mib(Shape(1, 512, 512)))
    there.model = replace(there.model, entry=there.entry.model_copy(update=what_suits(vars(there.config))))
    assert there.estimate() == distilled, "of a single file only its weights tell what suits it"


def test_seconds_are_of_this_model_and_count_what_is_around_the_steps(
    monkeypatch: pytest.MonkeyPatch, need: MemoryNeed
) -> None:
    there = OnGpu(monkeypatch, need, 100_000)
    own = there.model
    there.model = replace(own, entry=Registry().get("picture-book"))
    there.ran(rows=2, elapsed_s=0.02, decode_s=0.1)
    there.model = own
    assert there.estimate().seconds is None, "another model's speed is not this one's"
    there.ran(rows=2, elapsed_s=32.0, decode_s=37.0)
    asked: dict[str, Any] = {"num_inference_steps": 2}
    assert there.estimate(**asked).seconds == pytest.approx(64 + 37)
    assert there.estimate(**asked, num_images_per_prompt=3).seconds == pytest.approx(3 * (64 + 37))
    assert there.estimate(**asked, width=256, height=256).seconds == pytest.approx((64 + 37) / 4)
    assert there.estimate(**asked, strength=1.0).seconds == pytest.approx(64 + 1.44 * 37), "its picture is encoded"


@pytest.mark.parametrize("rung", RUNGS)
def test_what_is_told_is_of_the_rung_that_the_model_is_on(
    rung: Any, monkeypatch: pytest.MonkeyPatch, need: MemoryNeed
) -> None:
    there, usual = OnGpu(monkeypatch, need, 100_000), Shape(2, 512, 512)
    there.model.residence.rung = rung  # as asked for, or where memory ran out before
    assert there.estimate().peak_mib == need.peak_mib(usual, rung)
    short = OnGpu(monkeypatch, need, 1.05 * need.peak_mib(usual, RUNGS[-1]) / memory_need.ROOM)
    short.model.residence.rung = rung
    assert short.estimate().peak_mib == need.peak_mib(usual, RUNGS[-1]), "where the ladder will end"


def test_a_model_that_is_not_in_memory_is_told_of_by_its_files(resident: Engine, tmp_path: Path) -> None:
    folder = random_model.save("sd-1.4", tmp_path / "other", "tiny")
    asked = {"width": 512, "height": 256, "num_images_per_prompt": 2}
    before = resident.estimate({**asked, "model": str(folder)})
    picture = parse_request("text_to_image", {"prompt": "a", "num_inference_steps": 1, "model": str(folder)})
    resident.submit(picture).result(60)
    after = resident.estimate({**asked, "model": str(folder)})
    assert before.seconds is None
    assert after.seconds is not None
    assert before.peak_mib == pytest.approx(after.peak_mib, rel=0.001)
    assert resident.estimate({"model": "sd-1.5"}).peak_mib is None, "whose files are not here"
    distilled = random_model.save("lcm", tmp_path / "lcm", "tiny")
    many = {"num_images_per_prompt": 16}  # else decoding outweighs drawing
    rows = [resident.estimate({**many, "model": str(one)}).peak_mib or 0 for one in (folder, distilled)]
    weights = [sum(outline_of(one).weights.values()) for one in (folder, distilled)]
    assert rows[0] - weights[0] == pytest.approx(2 * (rows[1] - weights[1]), rel=0.01), "one row an image, not two"


def outline_of(path: Path) -> MemoryNeed:
    need = outlined(path, torch.float32, has_checker=False)
    assert need is not None
    return need


def test_of_a_file_alone_the_widths_are_stable_diffusions(tmp_path: Path) -> None:
    shapes = {FIRST: (8, 4), "first_stage_model.x": (16,), "cond_stage_model.x": (4,), "model_ema.x": (99,)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "a.safetensors")
    need = outline_of(tmp_path / "a.safetensors")
    assert need.weights == {part: count * 4 / 2**20 for part, count in
                            {"unet": 32, "vae": 16, "text_encoder": 4}.items()}  # fmt: skip
    size = 4 / 2**20
    assert (need.unet_per_row, need.decode) == (UNET_FACTOR * 320 * size, VAE_FACTOR * 128 * size)
    assert need.latent_pixels == 8
    save_file({FIRST: torch.zeros(1)}, tmp_path / "a.safetensors")
    assert outlined(tmp_path / "a.safetensors", torch.float32, has_checker=False) is None, "another file by now"
    (tmp_path / "a.safetensors").write_bytes(b"no weights")
    assert outlined(tmp_path / "a.safetensors", torch.float32, has_checker=False) is None


def test_a_folder_whose_configs_or_files_change_is_looked_at_again(tmp_path: Path) -> None:
    folder = random_model.save("sd-1.4", tmp_path / "tiny", "tiny")
    before = outline_of(folder).unet_per_row
    config = folder / "unet" / "config.json"
    told = json.loads(config.read_text())
    told["block_out_channels"] = [2 * width for width in told["block_out_channels"]]
    config.write_text(json.dumps(told))
    assert outline_of(folder).unet_per_row == 2 * before


def test_weights_that_go_while_they_are_looked_at_count_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = random_model.save("sd-1.4", tmp_path / "tiny", "tiny")
    listed = weight_files(folder)
    listed[0].unlink()
    monkeypatch.setattr("sd_demo.weight_hashes.weight_files", lambda _: listed)
    assert [file for file, *_ in stamp_of(folder)] == listed[1:]


def test_where_the_text_encoder_leaves_it_is_there_with_all_others_first(need: MemoryNeed) -> None:
    small = Shape(1, 64, 64)
    assert need.peak_mib(small, "text_encoder_away") >= sum(need.weights.values())


def test_a_prompt_that_is_too_much_to_read_is_said(resident: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made(resident)
    model = resident._manager.current
    assert model is not None
    real = type(model).read

    def steps_down(self: LoadedModel, *given: Any) -> Any:
        self.residence._rung = "text_encoder_away"
        return real(self, *given)

    monkeypatch.setattr(LoadedModel, "read", steps_down)
    try:
        done = made(resident).receipt.done
    finally:
        model.residence._rung = "resident"
    assert any("memory ran out" in line and "text encoder away" in line for line in done.retries), done


def test_where_nobody_knows_what_is_free_all_fits(resident: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_need, "_available_host_mib", lambda: None)
    assert resident.estimate({}).fits


def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path: Path) -> None:
    assert memory_need._left_in_container(tmp_path) == []
    mib = 2**20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{900 * mib}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\nactive_file 7\ninactive_file {300 * mib}\n")
    assert memory_need._left_in_container(tmp_path) == []
    (tmp_path / "memory.max").write_text(f"{4096 * mib}\n")
    assert memory_need._left_in_container(tmp_path) == [4096 - 900 + 300]
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text(f"{2000 * mib}\n")
    (old / "memory.usage_in_bytes").write_text(f"{500 * mib}\n")
    (old / "memory.stat").write_text("cache 9\n")
    assert memory_need._left_in_container(tmp_path) == [3496, 1500]


def test_what_is_free_is_what_the_tightest_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = memory_need._available_host_mib()
    assert usual is not None
    monkeypatch.setattr(memory_need, "_left_in_container", lambda: [100.0, 10_000_000.0])
    assert memory_need._available_host_mib() == 100.0
    monkeypatch.setattr(memory_need, "_left_in_container", lambda: [10_000_000.0])
    assert memory_need._available_host_mib() == pytest.approx(usual, rel=0.5)


def test_what_a_process_may_not_take_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100_000 * mib, 140_000 * mib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3000 * mib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2000 * mib)
    for share, free in ((1.0, 101_000), (0.05, 5000)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _, share=share: share)
        assert free_mib(torch.device("cuda"), 0) == pytest.approx(free)


def test_what_is_kept_of_a_prompt_is_counted_for_each_row() -> None:
    need = MemoryNeed.told({"unet": 1.0}, [320], [128], torch.float16)
    both, one = (need.peak_mib(Shape(rows, 8, 8)) for rows in (2, 1))
    keys_and_values = 2 * 77 * 24_960 * 2 / 2**20  # Stable Diffusion 1.5's, a request's own and the shared call's
    assert both - one >= keys_and_values
    assert both - one < 1.2 * keys_and_values, "with what the UNet itself holds of so small a picture"
