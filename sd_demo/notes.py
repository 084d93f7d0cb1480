"""What a receipt says in sentences: where a picture was not made just as it was asked for, and why."""

from __future__ import annotations

from sd_demo.embedded.known_words import unknown_words
from sd_demo.plan import Plan
from sd_demo.prompt_grammar import has_words, taken_as_words
from sd_demo.receipt import Done
from sd_demo.requests import Inpaint, TextToImage
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
    is_embedded, is_blank = running.denoising.model.entry.is_embedded, not request.prompt.strip()
    is_empty = is_blank or (is_embedded and not has_words(request.prompt))  # a larger model may know what "?!" shows
    is_made_up = bool(done.read_prompt) and is_empty
    if is_empty:
        follows_picture = request.task in ("image_to_image", "super_resolution")
        chosen = "the model chose what to show" + (f": {done.read_prompt}" if is_made_up else "")
        what = "is empty" if is_blank else "has no words"
        notes.append(f"The prompt {what}, so {'only the picture was followed' if follows_picture else chosen}.")
    if done.read_prompt and not is_made_up:
        notes.append(f"{_reason(plan)}: {done.read_prompt.rstrip(' .')}.")
    if done.read_negative_prompt and done.is_guided and not is_made_up:
        notes.append(f"The negative prompt was read as: {done.read_negative_prompt}.")
    elif plan.read_negative_prompt == "" and not plan.heeds_denials:
        beside = "" if request.task == TextToImage.task else "; in the given picture it is not looked for"
        notes.append(f"What the negative prompt denies was not found in the prompt, so it changed nothing{beside}.")
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
    reasons = []
    if plan.is_reworded:
        reasons.append("the prompt was put in words that the model knows")
    if plan.heeds_denials:
        reasons.append(f"what the negative prompt denies was left out of {'it' if reasons else 'the prompt'}")
    if plan.is_placed:
        reasons.append(f"what {'that' if reasons else 'the prompt'} leaves open was read from the mask")
    said = ", and ".join(filter(None, (", ".join(reasons[:-1]), reasons[-1])))
    return said[0].upper() + said[1:]


def _negative_prompt(running: Running) -> str:
    """As the model reads it, or would if it read any."""
    read = running.denoising.plan.read_negative_prompt
    return running.job.request.negative_prompt if read is None else read
