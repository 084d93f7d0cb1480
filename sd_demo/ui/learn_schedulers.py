"""The lesson on schedulers: the same first noise, other ways to the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import gradio as gr

from sd_demo.errors import InvalidRequest
from sd_demo.schedulers import available
from sd_demo.ui import lesson, status_line
from sd_demo.ui.controls import SCHEDULER_TITLES
from sd_demo.ui.learn_steps import FIRST_PROMPT, SEED, STEPS, plan_of
from sd_demo.ui.lesson import ClassroomOf
from sd_demo.ui.line_chart import line_chart

FIRST: Final = ["ddim", "euler_a", "dpmpp_2m_karras"]
AT_MOST: Final = 4


def build(classroom: ClassroomOf) -> None:
    """Lay the lesson out, with its wires, where this is called."""
    lesson.explain(
        "Schedulers: how large the steps are",
        "A scheduler decides how much noise is left after each step; some, like Euler ancestral, also add a little "
        "new noise. The same seed, so the same first noise, through up to four of them.",
    )
    with gr.Row(elem_classes=["lesson-ask"]):
        prompt = gr.Textbox(FIRST_PROMPT, label="Prompt", max_lines=2, scale=4, elem_id="learn-schedulers-prompt")
        names = gr.Dropdown(
            [(SCHEDULER_TITLES[name], name) for name in available()],
            value=FIRST,
            multiselect=True,
            max_choices=AT_MOST,
            label="Schedulers",
            scale=4,
            elem_id="learn-schedulers-names",
        )
        seed = gr.Number(SEED, label="Seed", precision=0, minimum=0, scale=1, min_width=90)
        start = gr.Button("Run", variant="primary", scale=1, min_width=90, elem_id="learn-schedulers-run")
    status = lesson.status_place()
    pictures = gr.Gallery(
        show_label=False, label="Pictures", columns=AT_MOST, height="auto", object_fit="contain", allow_preview=False,
        buttons=[], elem_id="learn-schedulers-pictures", elem_classes=["words"],
    )  # fmt: skip
    chart = gr.HTML(js_on_load=None, elem_id="learn-schedulers-chart")
    code = lesson.code("learn-schedulers-code")

    def compare(prompt: Any, names: Any, seed: Any) -> Iterator[dict[Any, Any]]:
        from sd_demo.learn import scripts
        from sd_demo.learn.schedules import paths

        if not isinstance(names, list) or not 1 <= len(names) <= AT_MOST or set(names) - set(available()):
            raise InvalidRequest(f"Choose one to {AT_MOST} schedulers.")
        text, plan = plan_of(classroom, prompt, seed, scheduler=names[0])
        made = []
        yield {status: status_line.running(f"{SCHEDULER_TITLES[names[0]]} …", 0.0), pictures: [], chart: ""}
        for path in paths(classroom(), plan, text, "", names):
            made.append(path)
            curves = {SCHEDULER_TITLES[p.scheduler]: [(k + 1.0, s) for k, s in enumerate(p.sigmas)] for p in made}
            yield {
                status: status_line.running(f"{len(made)} of {len(names)}", len(made) / len(names)),
                pictures: [(p.picture, SCHEDULER_TITLES[p.scheduler]) for p in made],
                chart: line_chart(curves, label="Noise over signal at each step", across=f"{STEPS} steps; call"),
            }
        yield {code: scripts.steps_script(plan, text, "")}

    ran = lesson.answering("the lesson on schedulers", status, compare)
    inputs, everything = [prompt, names, seed], [status, pictures, chart, code]
    gr.on([start.click, prompt.submit], ran, inputs, everything, **lesson.PRIVATE)
