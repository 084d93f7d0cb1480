"""The lesson on the reverse process: the steps of one run, its guidance taken apart, and what heard each word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from sd_demo.errors import InvalidRequest
from sd_demo.requests import SEED_LIMIT, parse_request
from sd_demo.ui import lesson, status_line
from sd_demo.ui.learn_noise import whole
from sd_demo.ui.lesson import ClassroomOf

if TYPE_CHECKING:
    from PIL import Image

    from sd_demo.learn.reverse import Frame
    from sd_demo.plan import Plan

FIRST_PROMPT: Final = "a red ball and a blue house on the beach"
STEPS: Final = 20
GUIDANCE: Final = 5.0
SEED: Final = 8
KEPT_S: Final = 3600


@dataclass
class Run:
    """One run as it was: a frame a step, the picture, and each word with its heat picture."""

    frames: list[Frame] = field(default_factory=list)
    picture: Image.Image | None = None
    words: list[tuple[Image.Image, str]] = field(default_factory=list)


def plan_of(classroom: ClassroomOf, prompt: Any, seed: Any, *, scheduler: str = "ddim") -> tuple[str, Plan]:
    """The checked prompt and the plan of a lesson's run.

    Raises InvalidRequest, also for weights and for what fills more than one chunk of tokens: a lesson looks at each
    token, and its script reads prompts as diffusers does.
    """
    from sd_demo.diffusers_script import is_plain
    from sd_demo.plan import Plan

    asked = parse_request("text_to_image", {"prompt": prompt, "seed": whole(seed, 0, SEED_LIMIT - 1, "The seed")})
    if not asked.prompt.strip():
        raise InvalidRequest("The prompt is empty; say what the picture shall show.", "prompt")
    if not is_plain(asked.prompt):
        raise InvalidRequest("A lesson reads plain words; leave brackets, weights and BREAK out.", "prompt")
    with classroom().turn() as model:
        report = model.prompts.report(asked.prompt)
    if report.chunks > 1 or report.dropped_words:
        raise InvalidRequest(f"A lesson reads at most {report.limit} tokens; shorten the prompt.", "prompt")
    return asked.prompt, Plan("text_to_image", (asked.seed or 0,), STEPS, GUIDANCE, scheduler)


def build(classroom: ClassroomOf) -> None:
    """Lay the lesson out, with its wires, where this is called."""
    lesson.explain(
        "How noise becomes a picture",
        "From pure noise, the model guesses the finished picture again and again; each step takes a little of the "
        "noise away, so that the next guess has more to go by. Run it, then move through its steps.",
    )
    with gr.Row(elem_classes=["lesson-ask"]):
        prompt = gr.Textbox(FIRST_PROMPT, label="Prompt", max_lines=2, scale=5, elem_id="learn-steps-prompt")
        seed = gr.Number(SEED, label="Seed", precision=0, minimum=0, scale=1, min_width=90, elem_id="learn-steps-seed")
        start = gr.Button("Run", variant="primary", scale=1, min_width=90, elem_id="learn-steps-run")
    status = lesson.status_place()
    kept = gr.State(None, time_to_live=KEPT_S)
    step = gr.Slider(1, STEPS, 1, step=1, label="Step", elem_id="learn-steps-step", elem_classes=["control"])
    with gr.Row():
        noisy = lesson.shown("Into the model: noisy latents", "learn-steps-noisy")
        clean = lesson.shown("Its guess of the finished picture", "learn-steps-clean")
        final = lesson.shown("After the last step", "learn-steps-final")
    lesson.explain(
        "Guidance: with the prompt, and without",
        "At each step the model answers twice, with the prompt and without it, and the difference is what the prompt "
        "says. Guidance goes on in that direction: try the step chosen above with more and with less.",
    )
    scale = gr.Slider(
        0, 20, GUIDANCE, step=0.5, label="Guidance scale", elem_id="learn-scale", elem_classes=["control"]
    )
    with gr.Row():
        parts = [
            lesson.shown(label, f"learn-guidance-{k}")
            for k, label in enumerate(("Without the prompt", "With it", "The difference", "Guided"))
        ]
    lesson.explain(
        "Which word was heard where",
        "In cross-attention every place of the picture listens to the words. The bright places listened to that word "
        "more than others, over all steps.",
    )
    words = gr.Gallery(
        show_label=False, label="Words", columns=6, height="auto", object_fit="contain", allow_preview=False,
        buttons=[], elem_id="learn-words", elem_classes=["words"],
    )  # fmt: skip
    code = lesson.code("learn-steps-code")

    def run_it(prompt: Any, seed: Any, scale: Any) -> Iterator[dict[Any, Any]]:
        from sd_demo.learn import scripts
        from sd_demo.learn.attention import Watch, heat_picture, word_maps
        from sd_demo.learn.reverse import Frame, trace

        whole(scale, 0, 20, "The guidance scale")
        text, plan = plan_of(classroom, prompt, seed)
        run, watch = Run(), Watch()
        for part in trace(classroom(), plan, text, "", watch):
            if isinstance(part, Frame):
                run.frames.append(part)
                done = len(run.frames)
                yield {
                    status: status_line.running(f"Step {done} of {STEPS}", done / STEPS),
                    step: done,
                    noisy: part.noisy,
                    clean: part.clean,
                }
            else:
                run.picture = part
                with classroom().turn() as model:
                    heard = word_maps(model, text, watch)
                run.words = [(heat_picture(values, part), word) for word, values in heard]
                yield {
                    final: part,
                    words: run.words,
                    code: scripts.steps_script(plan, text, ""),
                    kept: run,
                    **_taken_apart(run, STEPS // 3, float(scale)),
                    step: STEPS // 3,
                    noisy: run.frames[STEPS // 3 - 1].noisy,
                    clean: run.frames[STEPS // 3 - 1].clean,
                }

    def _taken_apart(run: Run, number: int, scale: float) -> dict[Any, Any]:
        from sd_demo.learn.reverse import guided

        shown = guided(classroom(), run.frames[number - 1], scale)
        made = (shown.without_prompt, shown.with_prompt, shown.difference, shown.together)
        return dict(zip(parts, made, strict=True))

    def look(run: Run | None, number: Any, scale: Any) -> Iterator[dict[Any, Any]]:
        if run is None:
            raise InvalidRequest("There is no run to look at yet; press Run first.")
        number = whole(number, 1, len(run.frames), "The step")
        whole(scale, 0, 20, "The guidance scale")
        frame = run.frames[number - 1]
        yield {noisy: frame.noisy, clean: frame.clean, **_taken_apart(run, number, float(scale))}

    everything = [status, step, noisy, clean, final, words, code, kept, *parts]
    ran = lesson.answering("the lesson on steps", status, run_it)
    gr.on([start.click, prompt.submit], ran, [prompt, seed, scale], everything, **lesson.PRIVATE)
    looked = lesson.answering("the lesson on steps", status, look)
    gr.on(
        [step.input, scale.input, step.release, scale.release],  # a key in a slider is no release
        looked,
        [kept, step, scale],
        [status, noisy, clean, *parts],
        trigger_mode="always_last",
        **lesson.PRIVATE,
    )
