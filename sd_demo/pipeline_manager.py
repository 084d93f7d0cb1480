"""Weights in memory once, shared by all tasks; switched on request, and freed whole."""

from __future__ import annotations

import gc
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sd_demo import random_model
from sd_demo.captured_calls import CapturedCalls
from sd_demo.checkpoints import assemble, check_model, hash_of, read_model, weights_of
from sd_demo.compiled_calls import CompiledBehind, Ordinary, keep_compiled_in, pays
from sd_demo.errors import ModelUnavailable, OutOfMemory, PlaygroundError
from sd_demo.host_memory import give_back
from sd_demo.known_models import RANDOM, latents_side, not_here, read_random, what_suits
from sd_demo.loaded_model import LoadedModel
from sd_demo.lora import take_off
from sd_demo.memory_errors import is_out_of_memory
from sd_demo.memory_need import MemoryNeed
from sd_demo.newer_weights import NewerWeights
from sd_demo.placement import choose_device, choose_dtype, place
from sd_demo.pooled_prompts import PooledPromptEncoder
from sd_demo.prompts import PromptEncoder
from sd_demo.ranking import Ranker, clip_for, load_ranker
from sd_demo.recordings import RecordOnCuda
from sd_demo.registry import ModelEntry, Registry
from sd_demo.requests import LoraChoice
from sd_demo.residence import Residence, empty_cache, every_network
from sd_demo.row_independence import are_rows_independent
from sd_demo.safety import read_safety_checker
from sd_demo.settings import Settings
from sd_demo.traced_calls import TracedCalls
from sd_demo.tuned_networks import must_rows_agree, tune
from sd_demo.weight_hashes import stamp_of
from sd_demo.worn_loras import are_worn, put_loras_on

log = logging.getLogger(__name__)


class PipelineManager:
    """Keeps the models that were asked for last, as many as the memory for them allows, and frees the others whole.

    Only the engine's worker calls it, and a model that is not the current one runs nothing.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()  # the one used last stands last
        self._newer = NewerWeights(registry)
        self._ranker: Ranker | None = None

    @property
    def current(self) -> LoadedModel | None:
        """The model that was used last, if one is in memory."""
        return next(reversed(self._models.values()), None)

    @property
    def loaded(self) -> tuple[LoadedModel, ...]:
        """All models in memory, the one used last at the end."""
        return tuple(self._models.values())

    @property
    def lull_s(self) -> float | None:
        """Seconds without a request after which to `prepare`; None where there is nothing to be prepared."""
        return self.current.lull_s if self.current else None

    def prepare(self) -> None:
        """Make what lets the current model's later pictures be faster."""
        if self.current:
            self.current.prepare()

    def holds(self, name: str, loras: Sequence[LoraChoice]) -> bool:
        """Whether the model called `name` is in memory with exactly these LoRAs."""
        model = self.current
        is_there = model is not None and model.entry.name == name and are_worn(model.loras, loras)
        return is_there and not self._newer.are_here(name)

    def get(
        self,
        name: str,
        on_load: Callable[[], None] = lambda: None,
        loras: Sequence[LoraChoice] = (),
        *,
        renews: bool = False,
    ) -> LoadedModel:
        """The model called `name` with `loras` on it, in memory; `on_load` is called before a slow load begins.

        renews: read it anew where its weights are others by now; only while nothing runs.
        Unless it `holds` that already, nothing may be running. Raises ModelUnavailable where its weights are not here
        (the model before stays) or cannot be loaded (the model before may be gone then), and InvalidRequest where a
        LoRA does not fit (it wears none then).
        """
        if renews and name in self._models and self._newer.are_here(name):
            log.info("%s has other weights by now, and is read anew", name)
            self._free(name)
        model = self._model(name, on_load)
        if are_worn(model.loras, loras):
            return model
        pipe = model.pipeline("text_to_image", model.components["scheduler"])
        if model.captured is not None:
            model.captured.forget()
        with model.residence.changing():
            if model.loras:
                take_off(pipe)
                self._models[name] = model = replace(model, loras=())
            self._models[name] = model = replace(model, loras=put_loras_on(pipe, loras, self._settings.lora_dir))
        return model

    def _model(self, name: str, on_load: Callable[[], None]) -> LoadedModel:
        if name not in self._models:
            entry = self._registry.get(name)
            path = self._registry.weights(entry)
            if path is None and not entry.source.startswith(RANDOM):
                raise ModelUnavailable(not_here(entry))
            on_load()
            device = choose_device(self._settings.device)
            dtype = choose_dtype(self._settings.dtype, device)
            stamp = stamp_of(path)
            self._models[name] = self._loaded(entry, path, device, dtype)
            self._newer.note(name, stamp)
            log.info("%s: %s", name, self._models[name].placement.reason)
        self._models.move_to_end(name)
        return self._models[name]

    def ranker(self, entry: ModelEntry) -> Ranker:
        """The CLIP that ranks what the model of `entry` draws. Raises ModelUnavailable where it is not here."""
        source = self._settings.clip or clip_for(entry)
        if self._ranker is None or self._ranker.source != source:
            self._ranker = None  # two need not be in memory
            self._ranker = load_ranker(source, self._registry.models_dir)
        return self._ranker

    def free(self) -> None:
        """Let go of all models in memory, and give their memory back to the device."""
        while self._models:
            self._free_oldest()

    def _make_room(self, path: Path | None, dtype: torch.dtype, title: str) -> None:
        """Free the models used longest ago until one at `path` fits beside the others; None stands for any size."""
        count = math.inf if path is None else weights_of(path, title, has_checker=self._settings.safety_checker)
        needed = count * dtype.itemsize / 2**20
        while self._models:
            if needed + sum(model.weights_mib for model in self._models.values()) <= self._settings.model_memory_mib:
                return
            self._free_oldest()

    def _free_oldest(self) -> None:
        self._free(next(iter(self._models)))

    def _free(self, name: str) -> None:
        model = self._models.pop(name)
        self._newer.forget(name)
        model.prompts.clear()
        if model.captured is not None:
            model.captured.forget()
            model.captured.wait()
        model.components.clear()
        del model
        gc.collect()
        empty_cache()
        give_back()

    def _free_idle(self, name: str) -> bool:
        """Free all models but the one called `name`, which was used last; False where there are no others."""
        others = [other for other in self._models if other != name]
        for _ in others:
            self._free_oldest()
        return bool(others)

    def _loaded(self, entry: ModelEntry, path: Path | None, device: torch.device, dtype: torch.dtype) -> LoadedModel:
        try:
            model_hash = self._checked(entry, path)  # while the model before is there: this one may be refused
            self._make_room(path, dtype, entry.title)
            try:
                return self._load(entry, path, model_hash, device, dtype)
            except Exception as error:
                if not self._models or not is_out_of_memory(error):
                    raise
            self.free()  # out here, where the error no longer holds what it had loaded
            return self._load(entry, path, model_hash, device, dtype)
        except PlaygroundError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                words = f"{entry.title} does not fit into the memory of {device}; choose another one."
                raise OutOfMemory(words) from error
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ModelUnavailable(f"{entry.title} could not be loaded: {said[:200]}.") from error

    def _checked(self, entry: ModelEntry, path: Path | None) -> str:
        if path is None:
            return entry.source
        has_checker = self._settings.safety_checker
        check_model(path, self._registry.tokenizers(), entry.title, has_checker=has_checker)
        return hash_of(path, entry.title, has_checker=has_checker)

    def _load(
        self, entry: ModelEntry, path: Path | None, model_hash: str, device: torch.device, dtype: torch.dtype
    ) -> LoadedModel:
        if path is None:
            components = assemble(random_model.build(*read_random(entry.source), dtype=dtype), entry.name)
        else:
            components = read_model(path, dtype, self._registry.tokenizers(), entry.title)
        unet = components["unet"]  # diffusers' pipelines of pictures compare its size with a number
        unet.register_to_config(sample_size=latents_side(unet.config.sample_size))
        if path is not None and path.is_file():
            entry = entry.model_copy(update=what_suits(unet.config))
        safety = read_safety_checker(path, dtype, device, entry.title) if self._settings.safety_checker else None
        networks = every_network(components) | ({"safety_checker": safety.network} if safety else {})
        tune(unet, components["vae"], device, dtype, is_embedded=entry.is_embedded)
        is_alike = must_rows_agree(device, dtype, is_embedded=entry.is_embedded)
        need = MemoryNeed.of(networks, dtype).attending(self._settings.attention, unet, dtype)
        rung = need.rung_at_load(entry, self._settings, device)
        while rung != "resident" and self._settings.memory == "auto" and self._models:
            self._free_oldest()  # a model that nobody uses is worth less than speed for this one
            rung = need.rung_at_load(entry, self._settings, device)
        residence = Residence(networks, device, rung, lambda: self._free_idle(entry.name))
        placement = residence.run("unet", lambda: place(unet, self._settings, device, dtype))
        need = need.attending(placement.attention, unet, dtype)
        is_choice = is_alike and self._settings.dtype == "auto"
        if is_choice and not are_rows_independent(unet, model_hash, placement.attention):
            log.info("%s runs in float32: in bfloat16 pictures would depend on who shares the loop", entry.name)
            return self._load(entry, path, model_hash, device, torch.float32)
        reader = PooledPromptEncoder if entry.upscale_factor == 2 else PromptEncoder
        prompts = reader(components["tokenizer"], components["text_encoder"], residence=residence)
        captured = _captured_calls(self._settings, device, is_embedded=entry.is_embedded)
        residence.spare = lambda: (captured is not None and captured.forget()) or self._free_idle(entry.name)
        return LoadedModel(
            entry, components, placement, prompts, model_hash, residence, need, safety=safety, captured=captured,
            in_pairs=is_alike, max_rows=self._settings.max_rows,
        )  # fmt: skip


def _captured_calls(
    settings: Settings, device: torch.device, *, is_embedded: bool
) -> CapturedCalls | TracedCalls | None:
    has_graphs = device.type == "cuda" and settings.cuda_graphs
    if not pays(settings.compile, device):
        if has_graphs:
            return CapturedCalls(RecordOnCuda())
        return TracedCalls() if device.type == "cpu" and is_embedded else None
    keep_compiled_in(settings.data_dir.resolve() / "compiled")
    behind = CompiledBehind(RecordOnCuda() if has_graphs else Ordinary)
    return CapturedCalls(behind, behind.wait, behind.settle)
