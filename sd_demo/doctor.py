"""What is here, what will be used, and why: every attention and precision tried once, for people and for programs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any, Final

import torch

from sd_demo import __version__
from sd_demo.checkpoints import check_model, hash_of
from sd_demo.compiled_calls import pays
from sd_demo.errors import PlaygroundError
from sd_demo.hub.repository import has_own_token
from sd_demo.hub.sentences import offline_by
from sd_demo.known_models import EMBEDDED
from sd_demo.model_files import missing_in
from sd_demo.pipeline_manager import PipelineManager
from sd_demo.placement import ATTENTIONS, Placement, choose_device, choose_dtype
from sd_demo.registry import Registry, default_model, what_is_missing
from sd_demo.settings import Settings

PACKAGES: Final = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "peft", "xformers", "gradio",
    "huggingface_hub", "scipy", "torchsde", "triton",
)  # fmt: skip
CHOSEN: Final = ("device", "dtype", "attention", "memory", "cuda_graphs", "compiles", "reason")
DTYPES: Final = ("float32", "bfloat16", "float16")


def examine(settings: Settings) -> dict[str, Any]:
    """Everything that decides how this program runs here, as JSON. Takes some seconds; loads the default model."""
    registry = Registry(models_dir=settings.models_dir)
    try:
        device, device_error = choose_device(settings.device), None
    except PlaygroundError as error:
        device, device_error = torch.device("cpu"), str(error)
    has_gpu = device.type != "cpu"
    name = settings.model or default_model(registry, has_gpu=has_gpu)
    choice = _choice(settings, registry, name, device_error)
    tried = EMBEDDED if choice["error"] else name  # what cannot be loaded says nothing of attention
    return {
        "program": {"version": __version__, "python": platform.python_version(), "system": platform.platform()},
        "packages": {package: _version_of(package) for package in PACKAGES},
        "machine": _machine(),
        "devices": _devices(),
        "precisions": [_try_dtype(dtype, device) for dtype in DTYPES],
        "attentions": [_try_attention(attention, settings, registry, tried) for attention in ATTENTIONS],
        "models": [_model(registry, entry.name) for entry in registry],
        "folders": {
            "outputs": _folder(settings.output_dir),
            "data": _folder(settings.data_dir),
        },
        "hub": {
            "endpoint": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            "is_offline": bool(offline_by()),
            "has_token": has_own_token(),
        },
        "will_use": choice,
        "missing": what_is_missing(registry, has_gpu=has_gpu),
    }


def readable(found: dict[str, Any]) -> str:
    """The findings in lines for a person: the decision first, then what it rests on."""
    use, machine, hub = found["will_use"], found["machine"], found["hub"]
    lines = [f"will use   {use['model']}: {use['reason'] or use['error']}"]
    if found["missing"]:
        lines.append(f"           {found['missing']}")
    lines.append(f"program    sd_demo {found['program']['version']}, Python {found['program']['python']}")
    have = [f"{name} {version}" for name, version in found["packages"].items() if version]
    lines.append(f"packages   {', '.join(have)}")
    lacks = [name for name, version in found["packages"].items() if not version]
    lines.append(f"not here   {', '.join(lacks) or 'nothing of the optional packages is missing'}")
    memory = f"{machine['memory_mib']:,} MiB of memory" if machine["memory_mib"] else "memory unknown"
    lines.append(f"machine    {machine['cpu_count']} CPU cores, {memory}, {found['program']['system']}")
    lines += [f"device     {_line_of_device(device)}" for device in found["devices"]]
    lines += [f"precision  {_line_of(trial)}" for trial in found["precisions"]]
    lines += [f"attention  {_line_of(trial)}" for trial in found["attentions"]]
    lines += [f"model      {model['name']}: {model['state']}" for model in found["models"]]
    for name, folder in found["folders"].items():
        lines.append(f"{name:<10} {folder['path']} ({folder['free_mib']:,} MiB free{_writable(folder)})")
    states = [(f"offline by {offline_by()}", hub["is_offline"]), ("with a token", hub["has_token"])]
    lines.append(", ".join([f"hub        {hub['endpoint']}", *(words for words, is_so in states if is_so)]))
    return "\n".join(lines)


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    names = getattr(os, "sysconf_names", {})
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else 0
    can = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "unknown")
    return {
        "cpu_count": os.cpu_count(),
        "memory_mib": pages >> 20,
        "cpu_capability": can(),
        "torch_threads": torch.get_num_threads(),
    }


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = [{"device": "cpu", "title": platform.processor() or platform.machine()}]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "title": torch.cuda.get_device_name(index),
                "memory_mib": total >> 20,
                "free_mib": free >> 20,
                "capability": f"{major}.{minor}",
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "title": "Apple GPU"})
    return devices


def _try_dtype(name: str, device: torch.device) -> dict[str, Any]:
    """One convolution of the UNet's kind: whether it runs, is finite, and its milliseconds after a warm-up."""
    dtype = getattr(torch, name)
    try:
        layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(device, dtype)
        x = torch.ones(2, 128, 32, 32, device=device, dtype=dtype)
        milliseconds = []
        with torch.inference_mode():
            for _ in range(3):
                start = time.perf_counter()
                is_finite = bool(torch.isfinite(layer(x)).all())  # reading it waits for the device
                milliseconds.append(1e3 * (time.perf_counter() - start))
    except Exception as error:  # whatever a precision raises that this device lacks
        return {"name": name, "runs": False, "error": _first_line(error)}
    return {"name": name, "runs": is_finite, "milliseconds": round(min(milliseconds[1:]), 3)}


def _try_attention(attention: str, settings: Settings, registry: Registry, model: str) -> dict[str, Any]:
    """A model loaded with this attention forced, and one UNet call with it."""
    forced = settings.model_copy(update={"attention": attention})
    manager = PipelineManager(forced, registry)
    try:
        loaded = manager.get(model)
        unet, place = loaded.unet, loaded.placement
        side = unet.config.sample_size
        shape = (2, unet.config.in_channels, side, side)
        x = torch.ones(shape, device=place.device, dtype=place.dtype)
        words = torch.ones(2, 77, unet.config.cross_attention_dim, device=place.device, dtype=place.dtype)
        # An upscaler is told how much noise its picture has.
        labels = torch.zeros(2, dtype=torch.long, device=place.device) if unet.config.num_class_embeds else None
        milliseconds = []
        with torch.inference_mode():
            for _ in range(2):
                start = time.perf_counter()
                answer = loaded.residence.run("unet", lambda: unet(x, 500, words, labels, return_dict=False)[0])
                is_finite = bool(torch.isfinite(answer).all())
                milliseconds.append(1e3 * (time.perf_counter() - start))
    except Exception as error:  # a broken package may raise anything
        return {"name": attention, "runs": False, "error": _first_line(error)}
    finally:
        manager.free()
    return {"name": attention, "runs": is_finite, "milliseconds": round(milliseconds[-1], 3)}


def _model(registry: Registry, name: str) -> dict[str, Any]:
    entry = registry.get(name)
    path = registry.weights(entry)
    about = {"name": name, "title": entry.title, "licence": entry.licence, "is_here": path is not None}
    if path is None:
        return about | {"state": f"not here; python -m sd_demo download {name} ({entry.download_mib:,} MiB)"}
    about["path"] = str(path)
    try:
        if path.is_dir() and (lacking := missing_in(path)):
            return about | {"state": f"not whole: {path} lacks {', '.join(lacking)}"}
        about["hash"] = hash_of(path, str(path))
        check_model(path, registry.tokenizers(), entry.title)
        return about | {"state": f"here, whole, in {path}"}
    except PlaygroundError as error:
        return about | {"state": str(error)}
    except OSError as error:
        file, why = error.filename or path, error.strerror or type(error).__name__
        return about | {"state": f"{file} cannot be read ({why}); look at its permissions and its disk."}


def _folder(path: Path) -> dict[str, Any]:
    existing = next(parent for parent in (path.resolve(), *path.resolve().parents) if os.path.exists(parent))
    is_writable = os.access(existing, os.W_OK)
    return {"path": str(path), "is_writable": is_writable, "free_mib": shutil.disk_usage(existing).free >> 20}


def _choice(settings: Settings, registry: Registry, name: str, device_error: str | None) -> dict[str, Any]:
    """What a start with these settings would use, and the reason as the log gives it; or why it cannot."""
    manager = PipelineManager(settings, registry)
    chosen: dict[str, Any] = {"model": name, **dict.fromkeys(CHOSEN)}
    if device_error:
        return chosen | {"error": device_error}
    try:
        loaded = manager.get(name)
        place, rung = loaded.placement, loaded.residence.rung
    except PlaygroundError as error:
        return chosen | {"error": str(error)}
    finally:
        manager.free()
    fast = {"cuda_graphs": place.device.type == "cuda" and settings.cuda_graphs}
    fast |= {"compiles": pays(settings.compile, place.device)}
    why = f"{place.reason}, {_why_dtype(settings, place)}, networks {rung.replace('_', ' ')}"
    why += "".join(f", {name.replace('_', ' ')}" for name, is_on in fast.items() if is_on)
    where = {"device": str(place.device), "dtype": place.dtype_name, "attention": place.attention, "memory": rung}
    return chosen | where | fast | {"reason": why, "error": None}


def _why_dtype(settings: Settings, place: Placement) -> str:
    if settings.dtype != "auto":
        return f"{place.dtype_name} as asked"
    if place.device.type != "cpu":
        return "half precision as on any GPU"
    if place.dtype_name == "bfloat16":
        return "bfloat16 as it is faster on this CPU"
    if choose_dtype("auto", place.device) == torch.bfloat16:
        return "float32 as in bfloat16 pictures would depend on who shares the loop"
    return "float32 as bfloat16 is not faster on this CPU"


def _line_of_device(device: dict[str, Any]) -> str:
    memory = f", {device['free_mib']:,} of {device['memory_mib']:,} MiB free" if "free_mib" in device else ""
    return f"{device['device']}: {device['title']}{memory}"


def _line_of(trial: dict[str, Any]) -> str:
    if trial["runs"]:
        return f"{trial['name']}: runs, {trial['milliseconds']:.1f} ms"
    return f"{trial['name']}: does not run ({trial.get('error', 'its answer is not finite')})"


def _writable(folder: dict[str, Any]) -> str:
    return "" if folder["is_writable"] else ", cannot be written"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
