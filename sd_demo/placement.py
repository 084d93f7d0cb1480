"""Where a model runs, in which precision, layout and attention: one policy, with its reason in a sentence.

The attention is chosen by running each candidate on the model's own largest attention shape, not by
importing it: a package can be present and unable to run.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)

from sd_demo.errors import InvalidRequest
from sd_demo.settings import Settings

ATTENTIONS: Final = ("sdpa", "plain", "xformers", "sliced")
CLEAR_WIN: Final = 0.8  # another attention or precision must need at most this share of the time: noise must not decide
MAX_SCORES: Final = 2**28  # bytes of attention scores up to which plain attention is tried

K = TypeVar("K", bound=Hashable)
_counting = threading.Lock()
_chosen: dict[tuple[torch.device, torch.dtype, int, int, int], tuple[str, str]] = {}


@dataclass(frozen=True)
class Placement:
    """The decision for one model. `reason` is one sentence for the log and the doctor."""

    device: torch.device
    dtype: torch.dtype
    attention: str
    reason: str

    @property
    def dtype_name(self) -> str:
        """float32, bfloat16 or float16."""
        return str(self.dtype).removeprefix("torch.")


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises InvalidRequest where a named device is not here."""
    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    if (wanted == "cuda" and not torch.cuda.is_available()) or (wanted == "mps" and not has_mps):
        raise InvalidRequest(f"There is no {wanted} device on this machine; use --device auto.", "device")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` is float16 on CUDA and MPS; on the CPU bfloat16 where it is faster, else float32."""
    if wanted != "auto":
        if wanted == "float16" and device.type == "cpu":
            raise InvalidRequest("float16 is too slow on a CPU to be of use; use --dtype auto.", "dtype")
        return getattr(torch, wanted)
    if device.type != "cpu":
        return torch.float16
    return torch.bfloat16 if _is_bfloat16_faster() else torch.float32


@functools.cache
def _is_bfloat16_faster() -> bool:
    """By the CPU's instructions, and by measurement where they leave it open.

    Without instructions for bfloat16 it takes several times as long, and AMX was made for it. AVX-512's give half the
    time on a Zen 5 and 1.6 times the time on a Xeon whose AMX is hidden from its guests (BENCHMARKS.md): there a
    convolution of the UNet's kind runs in both precisions. In one thread, as beside other work two wait for each
    other, and every start must choose alike.
    """
    has = {name for name, is_there in torch.cpu.get_capabilities().items() if is_there and "bf16" in name}
    if not has or "amx_bf16" in has:
        return bool(has)
    calls = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer, x = torch.nn.Conv2d(64, 64, 3, padding=1, dtype=dtype), torch.ones(1, 64, 32, 32, dtype=dtype)
        calls[dtype] = functools.partial(layer, x)
    with _counting:  # the number is the whole process's: nobody else may take it for usual
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            seconds = fastest(calls, turns=60)
        finally:
            torch.set_num_threads(threads)
    return seconds[torch.bfloat16] < CLEAR_WIN * seconds[torch.float32]


def lay_out(unet: Any, vae: Any, device: torch.device, *, is_embedded: bool) -> None:
    """Keep the channels of a convolution together (channels_last) where that is faster.

    On a CPU, eight requests of the embedded model together then take 2 to 13 % less time and one takes as long as
    before (BENCHMARKS.md); at Stable Diffusion's width no difference was seen, the copy would cost memory, and the
    rounding would no longer be diffusers' own. On CUDA it is what PyTorch and diffusers advise for
    half precision; not measured on a GPU. https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html
    """
    if device.type == "cuda" or (device.type == "cpu" and is_embedded):
        unet.to(memory_format=torch.channels_last)
        vae.to(memory_format=torch.channels_last)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # each shape of a convolution tries its algorithms once


def place(unet: Any, settings: Settings, device: torch.device, dtype: torch.dtype) -> Placement:
    """Choose the attention for `unet` (already on `device` in `dtype`) and set it.

    Raises InvalidRequest where `settings.attention` forces one that cannot run here.
    """
    layer, tokens = largest_attention(unet)
    where = f"{device.type} {str(dtype).removeprefix('torch.')}"
    if settings.attention != "auto":
        try:
            _attend(layer, settings.attention, _tokens(layer, tokens, device, dtype))
        except Exception as error:
            raise InvalidRequest(
                f"The attention {settings.attention} cannot run on {where} here ({_first_line(error)}); "
                "use --attention auto.",
                "attention",
            ) from error
        name, why = str(settings.attention), "as asked"
    else:
        name, why = _fastest_attention(layer, tokens, device, dtype)
    unet.set_attn_processor(_processor(name))
    return Placement(device, dtype, name, f"{where}, attention {name} ({why})")


class LeanAttention(AttnProcessor2_0):
    """PyTorch's fused attention as diffusers calls it, without a division by 1 and what a UNet's layers never have."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, tokens, C], and what is attended to where that is something else, [B, words, D], to [B, tokens, C]."""
        others = attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k, attention_mask
        is_usual = all(one is None for one in others) and not attn.residual_connection and hidden_states.ndim == 3
        if not is_usual or attn.rescale_output_factor != 1:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        words = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = attn.to_q(hidden_states), attn.to_k(words), attn.to_v(words)
        heads = [part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts]  # [B, heads, …, C / heads]
        return attn.to_out[0](torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def _fastest_attention(layer: Attention, tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """The name and why. Measured once for each shape: another attention rounds otherwise, and a model that is read
    anew must give each seed the picture that it gave before. "sliced" is not kept: no memory may have been free."""
    shape = (device, dtype, layer.heads, layer.query_dim, tokens)
    found = _chosen.get(shape) or _measured_attention(layer, tokens, device, dtype)
    if found[0] != "sliced":
        _chosen[shape] = found
    return found


def _measured_attention(layer: Attention, tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    x = _tokens(layer, tokens, device, dtype)
    calls: dict[str, Callable[[], object]] = {}
    failures: list[str] = []
    # Plain attention holds every score at once: at Stable Diffusion's own size that is gigabytes for the probe alone,
    # and it wins only where the work is small.
    is_small = 2 * layer.heads * tokens**2 * dtype.itemsize <= MAX_SCORES
    for name in ("sdpa", "plain", "xformers") if is_small else ("sdpa", "xformers"):
        try:
            _attend(layer, name, x)
            calls[name] = functools.partial(_attend, layer, name, x)
        except Exception as error:  # whatever a candidate raises, it is one that does not run here
            failures.append(f"{name} does not run: {_first_line(error)}")
    if not calls:
        return "sliced", "; ".join(failures)
    seconds = fastest(calls, turns=10)
    best = min(seconds, key=seconds.__getitem__)
    if "sdpa" in seconds and seconds[best] > CLEAR_WIN * seconds["sdpa"]:
        best = "sdpa"
    measured = ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in seconds.items())
    return best, "; ".join([measured, *failures])


def largest_attention(unet: Any) -> tuple[Attention, int]:
    """The self-attention over the most tokens, and that number of tokens at the model's own size."""
    side = unet.config.sample_size if isinstance(unet.config.sample_size, int) else unet.config.sample_size[0]
    deepest = len(unet.down_blocks) - 1
    for level, block in enumerate([*unet.down_blocks, unet.mid_block]):
        for layer in block.modules():
            # Where the width of its keys is the prompt's, it attends to the prompt alone.
            if isinstance(layer, Attention) and layer.to_k.in_features == layer.query_dim:
                return layer, (side >> min(level, deepest)) ** 2
    raise LookupError("The UNet has no self-attention.")


def _tokens(layer: Attention, tokens: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """[2, tokens, width]: both halves of guidance."""
    return torch.ones(2, tokens, layer.query_dim, device=device, dtype=dtype)


@torch.inference_mode()
def _attend(layer: Attention, name: str, x: torch.Tensor) -> None:
    """`layer` over `x` in the attention `name`; raises whatever that raises where it cannot run."""
    before = layer.processor
    try:
        layer.set_processor(_processor(name))
        layer(x)
    finally:
        layer.set_processor(before)


def _processor(name: str) -> Any:
    if name == "sliced":
        return SlicedAttnProcessor(slice_size=1)
    return {"sdpa": LeanAttention, "plain": AttnProcessor, "xformers": XFormersAttnProcessor}[name]()


def fastest(calls: Mapping[K, Callable[[], object]], turns: int) -> dict[K, float]:
    """Seconds of the fastest call of each, after one warm-up: the minimum is what noise disturbs least.

    They run by turns, so that work beside them does not fall on one of them alone.
    """
    with torch.inference_mode():
        for call in calls.values():
            call()
        rounds = [{name: _seconds(call) for name, call in calls.items()} for _ in range(turns)]
    return {name: min(each[name] for each in rounds) for name in calls}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
    return time.perf_counter() - start


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0][:120].rstrip(" :.") if lines else "") or type(error).__name__
