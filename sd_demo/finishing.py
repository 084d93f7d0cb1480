"""The two ends of a job on the device: every choice made before it runs, and its pictures after."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import torch
from PIL import Image

from sd_demo.decoding import decode
from sd_demo.denoising import Denoising
from sd_demo.embedded.placing import placed
from sd_demo.embedded.plain_words import in_plain_words
from sd_demo.embedded.readings import own_prompt, read, undeniable
from sd_demo.errors import InvalidRequest, JobCancelled, PictureWithheld
from sd_demo.events import Decoding
from sd_demo.gate import lowered_size
from sd_demo.job import Job
from sd_demo.notes import notes_of, unknown_words_of
from sd_demo.plan import Plan
from sd_demo.prompt_grammar import has_words, plain_text
from sd_demo.receipt import Done as ReceiptDone
from sd_demo.receipt import Lora
from sd_demo.registry import ModelEntry
from sd_demo.requests import NOTHING_TO_KEEP_BY, SEED_LIMIT, AnyRequest, Inpaint, TextToImage
from sd_demo.running import Running


def make_plan(request: AnyRequest, entry: ModelEntry) -> Plan:
    """Every choice that the request left open, made: the model's defaults and a random seed."""
    plan = Plan(
        task=request.task,
        seeds=tuple(request.seeds(secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed)),
        num_inference_steps=request.num_inference_steps or entry.num_inference_steps,
        guidance_scale=request.guidance_scale or entry.guidance_scale,
        scheduler=request.scheduler or entry.scheduler,
        strength=getattr(request, "strength", None),
        noise_level=getattr(request, "noise_level", None),
    )
    return _as_read(request, plan) if entry.is_embedded else plan


def _as_read(request: AnyRequest, plan: Plan) -> Plan:
    """The plan with both prompts as the embedded model reads them.

    Raises InvalidRequest where the pictures are to be held against a prompt that says nothing.
    """
    prompt, denied = in_plain_words(request.prompt), in_plain_words(request.negative_prompt, is_denied=True)
    heeds_denials = is_placed = False
    if request.keep_best is not None and not has_words(prompt):
        raise InvalidRequest(NOTHING_TO_KEEP_BY, "keep_best")
    if has_words(prompt):
        without, rest = read(prompt, denied)
        read_prompt = placed(without, request.mask_image, request.image) if isinstance(request, Inpaint) else without
        heeds_denials, is_placed = without != prompt, read_prompt != without
        prompts = (read_prompt,) * len(plan.seeds) if read_prompt != request.prompt else ()
    elif request.task == TextToImage.task:  # what is made up has nothing of what is denied
        prompts, rest = tuple(own_prompt(seed, denied) for seed in plan.seeds), undeniable(denied)
        heeds_denials = True
    else:
        prompts, rest = ("",) * len(plan.seeds) if prompt.strip() else (), read("", denied)[1]
    return replace(
        plan,
        read_prompts=prompts,
        read_negative_prompt=None if rest == request.negative_prompt else rest,
        is_reworded=prompt != request.prompt,
        heeds_denials=heeds_denials,
        is_placed=is_placed,
    )


@dataclass(frozen=True)
class Made:
    """A job's pictures as they will be shown, in this order, each with what ran and the notes on it; not saved yet."""

    job: Job
    pictures: tuple[tuple[Image.Image, ReceiptDone, list[str]], ...]


def finish(running: Running) -> Made:
    """Decode, check and rank all pictures of a job whose denoising is finished: the rest of what needs the device.

    Raises PictureWithheld where the model's safety checker flags every one of them, and JobCancelled where it is
    cancelled meanwhile.
    """
    job = running.job

    def go_on() -> None:
        if job.is_cancelled:
            raise JobCancelled("The job was cancelled.")

    go_on()
    job.tell(Decoding())
    start = time.perf_counter()
    try:
        decoded = decode(running.denoising, go_on)
        with_less = _with_less(running.denoising)
        flags = _flags(running, decoded.images)
        chosen = _chosen(running, {k: image for k, image in enumerate(decoded.images) if not flags[k]})
    finally:  # what was cancelled meanwhile took the device's time, too
        running.decode_s = time.perf_counter() - start
    pictures = []
    for rank, (index, score) in enumerate(chosen.items(), start=1):
        image = decoded.images[index]
        done = what_ran(running, index, image, [*with_less, *decoded.retries[index]], score)
        pictures.append((image, done, notes_of(running, done, sum(flags), rank)))
    return Made(job, tuple(pictures))


def _with_less(denoising: Denoising) -> list[str]:
    """What ran otherwise, because the memory was too small."""
    said, rung = [], denoising.model.residence.rung
    if denoising.most_parts > 1:
        said.append(
            f"the UNet ran in {denoising.most_parts} parts, because the memory was too small for all rows at once"
        )
    if rung != denoising.first_rung:
        words = rung.replace("_", " ")
        said.append(f"memory ran out, and the rest ran with less on the device ({words})")
    return said


def _flags(running: Running, images: Sequence[Image.Image]) -> list[bool]:
    """Which pictures must not be saved or shown. Raises PictureWithheld where that is all of them."""
    flags = running.denoising.model.flags(images)
    if all(flags):
        what = "the picture" if len(flags) == 1 else f"all {len(flags)} pictures"
        raise PictureWithheld(
            f"The model's safety checker withheld {what}, which it sometimes does without cause; "
            "try another seed or other words."
        )
    return flags


def _chosen(running: Running, images: dict[int, Image.Image]) -> dict[int, float | None]:
    """{number of the picture: its score} of those to keep, in the order in which they are shown."""
    request = running.job.request
    if running.ranker is None:
        return dict.fromkeys(images)
    read_prompts = running.denoising.plan.read_prompts  # as was asked of the model: what is denied must not count
    words = plain_text(read_prompts[0] if read_prompts else request.prompt)
    scores = dict(zip(images, running.ranker.score(list(images.values()), words), strict=True))
    return dict(sorted(scores.items(), key=lambda item: -item[1])[: request.keep_best])


def what_ran(
    running: Running, index: int, image: Image.Image, retries: list[str], score: float | None = None
) -> ReceiptDone:
    """What was done for image `index` of the job. score: its own by CLIP."""
    denoising, request = running.denoising, running.job.request
    model, plan = denoising.model, denoising.plan
    return ReceiptDone(
        model=model.entry.name,
        model_hash=model.model_hash,
        read_prompt=plan.read_prompts[index] if plan.read_prompts else None,
        read_negative_prompt=plan.read_negative_prompt if denoising.has_two_rows or plan.heeds_denials else None,
        seed=plan.seeds[index],
        index=index,
        num_inference_steps=plan.num_inference_steps,
        effective_steps=denoising.total,
        height=image.height,
        width=image.width,
        scheduler=plan.scheduler,
        guidance_scale=plan.guidance_scale,
        strength=plan.effective_strength,
        attention=model.placement.attention,
        dtype=model.placement.dtype_name,
        device=model.placement.device.type,
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        prediction_type=model.scheduler_config.get("prediction_type"),
        native_size=model.entry.native_size,
        work_size=lowered_size(request, denoising.canvas, model.entry.native_size),
        is_guided=denoising.has_two_rows,
        shared_with=denoising.most_shared,
        compiled_steps=denoising.compiled_steps,
        prompt_chunks=running.embeds.prompt_embeds.shape[1] // (model.prompts.limit + 2),
        dropped_words=list(running.embeds.dropped_words),
        loras=[
            Lora(name=w.choice.name, weight=w.choice.weight, sha256=w.sha256, matched=w.matched, total=w.total)
            for w in model.loras
        ],
        unknown_words=unknown_words_of(running) if model.entry.is_embedded else [],
        retries=retries,
        clip=Path(running.ranker.source).name if running.ranker else None,
        clip_score=None if score is None else round(score, 4),
        is_safety_checked=model.safety is not None,
        memory=model.residence.rung,
        encode_s=round(running.encode_s, 4),
        denoise_s=round(running.denoise_s, 4),
        decode_s=round(running.decode_s, 4),
    )
