"""What a receipt says in sentences: where a picture was not made just as it was asked for, and why."""

from __future__ import annotations

from sd_demo.embedded.known_words import unknown_words
from sd_demo.plan import Plan
from sd_demo.prompt_grammar import taken_as_words
from sd_demo.receipt import Done
from sd_demo.requests import Inpaint
from sd_demo.running import Running


def unknown_words_of(running: Running) -> list[str]:
    """The words of both prompts that neither the world nor a LoRA knows; of the negative one only where it acts.

    "not" is how people write a negative prompt, and goes unnamed there.
    """
    request, denoising = running.job.request, running.denoising
    taught = ["not", *(worn.trigger_words for worn in denoising.model.loras)]
    named = unknown_words(denoising.plan.read_prompts[0] if denoising.plan.read_prompts else request.prompt, taught[1:])
    if denoising.has_two_rows:
        named += unknown_words(_negative_prompt(running), [*taught, *named])
    return named


def notes_of(running: Running, done: Done, withheld: int, rank: int) -> list[str]:
    """Where what was done is not what was asked for, in sentences.

    withheld: how many pictures of the job nobody will see; rank: the picture's place among the others by CLIP.
    """
    request, plan = running.job.request, running.denoising.plan
    notes, own_steps = list(running.denoising.canvas.notes), running.denoising.model.entry.num_inference_steps
    if done.work_size and request.task == Inpaint.task:  # the canvas has told the size
        notes.append("This server allows no larger size.")
    elif done.work_size:
        notes.append(
            "The picture was worked on at {width}x{height}, as this server allows no more.".format(**done.work_size)
        )
    steps = plan.num_inference_steps
    if request.num_inference_steps is None and steps < own_steps:
        most = int(steps * (plan.strength or 1.0))
        words = f", so that at most {most} run" if most < steps else ""
        notes.append(f"This server allows fewer than the model's own {own_steps} steps; {steps} were set{words}.")
    is_made_up = bool(done.read_prompt) and not request.prompt.strip()
    if not request.prompt.strip():
        follows_picture = request.task in ("image_to_image", "super_resolution")
        chosen = "the model chose what to show" + (f": {done.read_prompt}" if is_made_up else "")
        notes.append(f"The prompt is empty, so {'only the picture was followed' if follows_picture else chosen}.")
    if done.read_prompt and not is_made_up:
        notes.append(f"{_reason(plan)}: {done.read_prompt.rstrip(' .')}.")
    if done.read_negative_prompt and done.is_guided and not is_made_up:
        notes.append(f"The negative prompt was read as: {done.read_negative_prompt}.")
    elif plan.read_negative_prompt == "" and not plan.heeds_denials:
        notes.append("What the negative prompt denies was not found in the prompt, so it changed nothing.")
    notes += taken_as_words(request.prompt, request.negative_prompt if done.is_guided else "")
    if plan.effective_strength != plan.strength:
        ran = "one step" if running.denoising.total == 1 else f"{running.denoising.total} steps"
        notes.append(f"Strength {plan.strength:g} of {plan.num_inference_steps} steps is less than one; {ran} ran.")
    if done.unknown_words:
        notes.append("The picture-book model does not know: " + ", ".join(done.unknown_words) + ".")
    for lora in done.loras:
        if lora.matched < lora.total:
            notes.append(f"Of the LoRA {lora.name} {lora.matched} of {lora.total} tensors fit the model and were used.")
    if done.dropped_words:
        notes.append("Past the limit of the text encoder and not used: " + " ".join(done.dropped_words) + ".")
    rest = _negative_prompt(running)
    if rest.strip() and not running.denoising.has_two_rows:
        cause = "this model is distilled and reads none" if running.denoising.is_distilled else "guidance_scale is 1"
        what = (
            f"The rest of the negative prompt, {rest},"
            if plan.heeds_denials and not is_made_up
            else "The negative prompt"
        )
        effect = "was heeded only in what the model chose" if is_made_up else "had no effect"
        notes.append(f"{what} {effect}, because {cause}.")
    count = request.num_images_per_prompt
    if done.clip_score is not None:
        notes.append(f"Number {rank} of {count - withheld} pictures by CLIP score, {done.clip_score:.3f}.")
    if withheld:
        notes.append(f"The safety checker withheld {withheld} of {count} pictures; try another seed or other words.")
    return notes + done.retries


def _reason(plan: Plan) -> str:
    """Why the prompt was read otherwise than it was written."""
    if not plan.is_placed:
        return "What the negative prompt denies was left out of the prompt"
    if not plan.heeds_denials:
        return "What the prompt leaves open was read from the mask"
    return (
        "What the negative prompt denies was left out of the prompt, and what that leaves open was read from the mask"
    )


def _negative_prompt(running: Running) -> str:
    """As the model reads it, or would if it read any."""
    read = running.denoising.plan.read_negative_prompt
    return running.job.request.negative_prompt if read is None else read
