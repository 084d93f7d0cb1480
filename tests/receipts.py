"""A receipt with every field filled in, for tests that need one and do not care which."""

from __future__ import annotations

from typing import Any

from sd_demo.receipt import Done, Receipt


def make_receipt(*, prompt: str = "a red ball", notes: list[str] | None = None, **done: Any) -> Receipt:
    """A text-to-image receipt of `prompt`; further arguments replace what was done."""
    values: dict[str, Any] = {
        "model": "picture-book",
        "model_hash": "0123456789abcdef" * 4,
        "seed": 7,
        "index": 0,
        "num_inference_steps": 20,
        "effective_steps": 20,
        "height": 256,
        "width": 256,
        "scheduler": "dpmpp_2m",
        "guidance_scale": 5.0,
        "attention": "sdpa",
        "dtype": "float32",
        "device": "cpu",
        "torch": "2.13.0",
        "diffusers": "0.42.1",
        "encode_s": 0.1,
        "denoise_s": 1.5,
        "decode_s": 0.2,
    }
    asked = {"prompt": prompt, "negative_prompt": "", "seed": None}
    return Receipt(task="text_to_image", asked=asked, done=Done(**{**values, **done}), notes=notes or [])
