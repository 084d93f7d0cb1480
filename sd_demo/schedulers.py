"""The schedulers by their field names, each made fresh for a request, because a scheduler is mutable state."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import diffusers

from sd_demo.errors import InvalidRequest

# name: (diffusers class, settings over the model's own, title). Papers are linked in diffusers' class docstrings.
_TABLE: Final[dict[str, tuple[str, dict[str, Any], str]]] = {
    "ddim": ("DDIMScheduler", {}, "DDIM"),
    "ddpm": ("DDPMScheduler", {}, "DDPM"),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}, "PNDM"),
    "lms": ("LMSDiscreteScheduler", {}, "LMS (K-LMS)"),
    "euler": ("EulerDiscreteScheduler", {}, "Euler"),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}, "Euler ancestral"),
    "heun": ("HeunDiscreteScheduler", {}, "Heun"),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, "DPM++ 2M"),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "DPM++ 2M Karras"),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}, "DPM++ SDE"),
    "unipc": ("UniPCMultistepScheduler", {}, "UniPC"),
    "lcm": ("LCMScheduler", {}, "LCM"),
}

_PACKAGES: Final = {"lms": "scipy", "dpmpp_sde": "torchsde"}  # that diffusers does not bring along


def make_scheduler(name: str, config: dict[str, Any]) -> Any:
    """A new scheduler called `name`, configured as `SchedulerClass.from_config(config)` does.

    Raises InvalidRequest where the scheduler needs a package that is not installed.
    """
    check_available(name)
    class_name, overrides, _ = _TABLE[name]
    return getattr(diffusers, class_name).from_config(config, **overrides)


def name_of(scheduler: Any) -> str | None:
    """Our name for the class of a diffusers scheduler, the plainest of several; None where we have none of it."""
    kind = type(scheduler).__name__
    return next((name for name, (class_name, _, _) in _TABLE.items() if class_name == kind), None)


def diffusers_class(name: str) -> tuple[str, dict[str, Any]]:
    """The name of diffusers' class for `name`, and the settings over the model's own."""
    class_name, overrides, _ = _TABLE[name]
    return class_name, dict(overrides)


def takes_seeds(name: str) -> bool:
    """Whether the scheduler `name` draws its noise from seeds of its own, `noise_sampler_seed`, one for each image.

    Without them they come from the process, and its steps take no generators.
    """
    return name == "dpmpp_sde"


def unet_calls(name: str, steps: int) -> int:
    """How often the UNet is called in `steps` steps of the scheduler `name`: some look twice at all but the last."""
    if name in ("heun", "dpmpp_sde"):
        return 2 * steps - 1
    return steps + 1 if name == "pndm" else steps


def title(name: str) -> str:
    """What people call the scheduler `name`."""
    return _TABLE[name][2]


@cache
def available() -> tuple[str, ...]:
    """The names whose packages are installed here."""
    return tuple(name for name, (class_name, _, _) in _TABLE.items() if _is_real(getattr(diffusers, class_name)))


def check_available(name: str) -> None:
    """Raises InvalidRequest where the scheduler needs a package that is not installed."""
    if name not in available():
        raise InvalidRequest(
            f"The scheduler {title(name)} needs the package {_PACKAGES.get(name, 'diffusers')}; choose another one.",
            "scheduler",
        )


def _is_real(kind: type) -> bool:
    # diffusers puts a class from utils.dummy_* in the place of one whose package is missing.
    return ".dummy_" not in kind.__module__
