"""The diffusers script that makes a picture larger again: diffusers for each tile, this project's tiles around it."""

from __future__ import annotations

from collections.abc import Mapping

from sd_demo.diffusers_script import (
    OUTPUT,
    imports,
    loading,
    lora_lines,
    name_elsewhere,
    needs_encoder,
    scheduling,
)
from sd_demo.errors import InvalidRequest
from sd_demo.receipt import Receipt
from sd_demo.registry import Registry
from sd_demo.restored import Restored
from sd_demo.schedulers import diffusers_class

_BLOCK = 8  # pixels of which a pipeline of diffusers takes whole ones; it would scale a tile that has others


def upscale_script(restored: Restored, receipt: Receipt, registry: Registry, files: Mapping[str, str]) -> str:
    """Python with diffusers, and this project for the tiles.

    Raises InvalidRequest where diffusers alone would make other tiles: of prompts with weights, longer than the text
    encoder, or tiles of odd sizes.
    """
    entry, done, values = registry.get(receipt.done.model), receipt.done, restored.values
    factor, known, scale = entry.upscale_factor, restored.pictures["image"], restored.values["scale"]
    block = {1: _BLOCK, 2: 32, 4: 4}[factor]
    longest = entry.native_size // factor
    sides = [known[name] if factor > 1 else round(known[name] * scale) for name in ("width", "height")]
    if any(min(side, longest) % block for side in sides):
        raise InvalidRequest("Its tiles are no whole blocks of pixels, which diffusers alone would scale; no script.")
    words = done.words_read(values)
    if needs_encoder(words, done):
        raise InvalidRequest("Its prompt has weights or is long, which diffusers alone reads otherwise; no script.")
    kinds = {1: "StableDiffusionImg2ImgPipeline", 2: "StableDiffusionLatentUpscalePipeline"}
    pipeline = kinds.get(factor, "StableDiffusionUpscalePipeline")
    scheduler = diffusers_class(values["scheduler"])[0]
    is_raised = factor == 1 and values["num_inference_steps"] * values["strength"] < 1
    strength = "strength_of_a_step(tile.strength, tile.num_inference_steps)" if is_raised else "tile.strength"
    own = {1: f"strength={strength}", 2: None, 4: "noise_level=tile.noise_level"}[factor]
    asked = {name: value for name, value in (values | words).items() if name not in ("model", "loras")}
    body = [
        f"pipe = {pipeline}.{loading(entry, done, registry)}",
        f'pipe = pipe.to("{done.device}")',
        *lora_lines(values.get("loras", [])),
        f'values = {{"image": {files["image"]!r}}}',
        f"values |= {asked!r}",
        f"plan = plan_upscaling(values, entry=Registry().get({name_elsewhere(entry, registry)!r}))",
        "",
        "",
        "def made(tile):",
        f"    {scheduling(values['scheduler'], entry, done, 'tile.seed')}",
        "    return pipe(",
        "        prompt=tile.prompt,",
        "        negative_prompt=tile.negative_prompt,",
        "        image=tile.image,",
        *([f"        {own},"] if own else []),
        "        num_inference_steps=tile.num_inference_steps,",
        "        guidance_scale=tile.guidance_scale,",
        '        generator=torch.Generator("cpu").manual_seed(tile.seed),',
        "    ).images[0]",
        "",
        "",
        "result = joined(plan, [made(tile) for tile in plan.requests], [made(tile) for tile in plan.unchanged])",
        f'result.save("{OUTPUT}")',
    ]
    return "\n".join([*imports("\n".join(body), {pipeline, scheduler}), "", *body, ""])
