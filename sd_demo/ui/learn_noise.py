"""Two lessons on one picture: noise added to it, and its way through the autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import gradio as gr

from sd_demo.errors import InvalidRequest
from sd_demo.ui import lesson
from sd_demo.ui.lesson import ClassroomOf
from sd_demo.ui.line_chart import line_chart

LAST_T: Final = 999
FIRST_T: Final = 300
SEED: Final = 1


def build_forward(classroom: ClassroomOf) -> Callable[[gr.Tab], None]:
    """The forward process: a slider over t, the formula with its numbers, and the curve they come from."""
    lesson.explain(
        "How a picture becomes noise",
        "Training adds noise to pictures, a little or a lot, and asks the model to tell the noise from the picture. "
        "Move t: at 0 all is picture, at 999 all is noise, and the curve says how much of each is left.",
    )
    with gr.Row(elem_classes=["lesson"]):
        with gr.Column():
            image = lesson.own_picture("learn-noise-image")
            t = gr.Slider(
                0, LAST_T, FIRST_T, step=1, label="Timestep t", elem_id="learn-noise-t", elem_classes=["control"]
            )
            show = gr.Button("Show", variant="primary", elem_id="learn-noise-show")
            formula = gr.HTML(js_on_load=None, elem_id="learn-noise-formula")
            status = lesson.status_place()
        with gr.Column(), gr.Row():
            latents = lesson.shown("Latents, 3 of 4 channels", "learn-noise-latents")
            decoded = lesson.shown("The same, decoded", "learn-noise-decoded")
    code = lesson.code("learn-noise-code")

    def add_noise(value: Any, wanted: Any) -> Iterator[dict[Any, Any]]:
        from sd_demo.learn import forward, scripts

        t = whole(wanted, 0, LAST_T, "The timestep")
        noised = forward.add_noise(classroom(), lesson.given_picture(value), t, SEED)
        kept = forward.alphas_bar(classroom())
        yield {
            latents: noised.latents,
            decoded: noised.decoded,
            formula: _formula(noised.t, noised.signal, noised.noise, kept),
            code: scripts.noise_script(t, SEED),
        }

    changed = lesson.answering("adding noise", status, add_noise)
    parts = [latents, decoded, formula, code, status]
    return lesson.listen(changed, [show.click, t.input, t.release, image.change], [image, t], parts)


def build_round_trip(classroom: ClassroomOf) -> Callable[[gr.Tab], None]:
    """The autoencoder: latents, what comes back, and what does not."""
    lesson.explain(
        "Why it is called latent",
        "Denoising every pixel would be slow, so an autoencoder first squeezes the picture into a small grid of "
        "numbers, the latents, and turns them back at the end. What is lost is shown four times as strong as it is.",
    )
    with gr.Row(elem_classes=["lesson"]):
        with gr.Column():
            image = lesson.own_picture("learn-latents-image")
            show = gr.Button("Encode and decode", variant="primary", elem_id="learn-latents-show")
            figures = gr.HTML(js_on_load=None, elem_id="learn-latents-figures")
            status = lesson.status_place()
        with gr.Column(), gr.Row():
            latents = lesson.shown("Latents, 3 of 4 channels", "learn-latents-latents")
            decoded = lesson.shown("Decoded again", "learn-latents-decoded")
            difference = lesson.shown("What is lost, 4 times", "learn-latents-difference")
    code = lesson.code("learn-latents-code")

    def encode(value: Any) -> Iterator[dict[Any, Any]]:
        from sd_demo.learn import scripts
        from sd_demo.learn.round_trip import round_trip

        trip = round_trip(classroom(), lesson.given_picture(value))
        yield {
            latents: trip.latents,
            decoded: trip.decoded,
            difference: trip.difference,
            figures: f'<p class="formula">{trip.before:,} numbers become {trip.after:,}: {trip.factor:.0f} times '
            f"fewer. What comes back is {trip.psnr:.1f} dB like it (PSNR).</p>",
            code: scripts.round_trip_script(),
        }

    encoded = lesson.answering("the round trip", status, encode)
    parts = [latents, decoded, difference, figures, code, status]
    return lesson.listen(encoded, [show.click, image.change], [image], parts)


def whole(value: Any, low: int, high: int, name: str) -> int:
    """`value` as a whole number of low to high. Raises InvalidRequest."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or value != value or not low <= value <= high:
        raise InvalidRequest(f"{name} must be a number from {low} to {high}.")
    return int(value)


def _formula(t: int, signal: float, noise: float, kept: list[float]) -> str:
    curves = {
        "picture": [(float(k), kept[k] ** 0.5) for k in range(0, len(kept), 9)],
        "noise": [(float(k), (1 - kept[k]) ** 0.5) for k in range(0, len(kept), 9)],
    }
    chart = line_chart(curves, label="The shares of picture and noise at each timestep", across="t =", mark=float(t))
    return (
        f'<p class="formula">x<sub>{t}</sub> = √ᾱ<sub>t</sub> · picture + √(1 − ᾱ<sub>t</sub>) · noise '
        f"= {signal:.3f} · picture + {noise:.3f} · noise</p>{chart}"
    )
