"""The files of a training: the LoRA with its settings inside, and the state from which it can go on."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from sd_demo import __version__
from sd_demo.errors import InvalidRequest, OutputFailed
from sd_demo.lora_folder import TRIGGER_KEY
from sd_demo.lora_trainer import LoraTrainer
from sd_demo.training_request import LoraTrainingRequest

SETTINGS_KEY: Final = "sd_demo.training"
_OF_THE_PLACE: Final = {"images", "output", "captions", "resume"}  # where things lay is nobody else's business
_MAY_CHANGE: Final = {*_OF_THE_PLACE, "sample_prompts", "sample_every", "checkpoint_every"}


def save_lora(trainer: LoraTrainer, path: Path, steps: int) -> None:
    """Write the LoRA as it is after `steps` steps, in the names of diffusers and PEFT; alpha is the rank.

    Raises OutputFailed where it cannot be written; what was there before stays then.
    """

    def write(beside: Path) -> None:
        save_file(trainer.lora(), beside, metadata=metadata_of(trainer, path, steps))

    _write(path, write)


def metadata_of(trainer: LoraTrainer, path: Path, steps: int) -> dict[str, str]:
    """What the file says of itself: ModelSpec's words, those that other programs show, and every setting."""
    request, entry = trainer.request, trainer.model.entry
    is_v = trainer.model.scheduler_config.prediction_type == "v_prediction"
    settings = request.model_dump(mode="json", exclude=_OF_THE_PLACE)
    ran = {"model": entry.name, "model_hash": trainer.model.model_hash, "images": len(trainer.pictures), "ran": steps}
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
        "modelspec.date": datetime.now(UTC).date().isoformat(),
        "modelspec.resolution": f"{request.resolution}x{request.resolution}",
        "modelspec.prediction_type": "v" if is_v else "epsilon",
        TRIGGER_KEY: request.trigger,
        "ss_network_dim": str(request.rank),
        "ss_network_alpha": str(request.rank),
        "ss_learning_rate": str(request.learning_rate),
        "ss_steps": str(steps),
        "ss_num_train_images": str(len(trainer.pictures)),
        SETTINGS_KEY: json.dumps({"version": __version__, **settings, **ran}),
    }


def state_path(output: Path) -> Path:
    """Where the state of a training that stopped lies: beside its output."""
    return output.with_suffix(".training")


def save_state(trainer: LoraTrainer, steps: int) -> None:
    """Write what a later run needs to go on after `steps` steps. Raises OutputFailed."""
    state = {"settings": _fingerprint(trainer.request), "steps": steps, **trainer.state()}
    _write(state_path(trainer.request.output), lambda beside: torch.save(state, beside))


def saved_state(request: LoraTrainingRequest) -> dict[str, Any]:
    """The state beside the output, with its "steps" done, for `LoraTrainer.restore`; none of a training from the start.

    One that begins anew removes what another left there, which is not its own to go on from. Raises InvalidRequest
    where there is none to resume, or one of other options.
    """
    path = state_path(request.output)
    if not request.resume:
        remove_state(request.output)
        return {"steps": 0}
    if not path.is_file():
        raise InvalidRequest(f"resume: there is no {path.name} to go on from; start without it.", "resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(state["settings"]), json.loads(_fingerprint(request))
    except Exception:
        raise InvalidRequest(f"resume: {path.name} is damaged; start without it.", "resume") from None
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise InvalidRequest(
            f"resume: {path.name} was made with another {changed[0]}; give the same options.", "resume"
        )
    return state


def remove_state(output: Path) -> None:
    """Nothing is left to go on from: the training is done, or begins anew."""
    with suppress(OSError):
        state_path(output).unlink(missing_ok=True)


def _fingerprint(request: LoraTrainingRequest) -> str:
    names = sorted(path.name for path in request.images)
    return json.dumps({**request.model_dump(mode="json", exclude=_MAY_CHANGE), "images": names})


def _write(path: Path, write: Any) -> None:
    beside = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch and safetensors wrap a full disk in their own errors
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise OutputFailed(f"{path.name} cannot be written there; free some space or choose another folder.") from error
