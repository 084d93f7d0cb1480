"""A diffusers model as one .safetensors file in the layout of the original code, as most checkpoints are shared.

The inverse of what diffusers' from_single_file reads; https://github.com/CompVis/stable-diffusion has the names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm": "ln_",
    "self_attn": "attn",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_checkpoint(pipe: Any, file: Path, metadata: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Write UNet, VAE and text encoder of `pipe` to `file`; the tensors are returned.

    The text encoder as version 2 has it, in OpenCLIP's names, where the UNet has version 2's linear projections.
    """
    depth = pipe.unet.config.layers_per_block + 1
    tensors: dict[str, torch.Tensor] = {}
    for key, value in pipe.unet.state_dict().items():
        tensors["model.diffusion_model." + _unet_key(key, depth)] = value
    for key, value in pipe.vae.state_dict().items():
        name = _vae_key(key, len(pipe.vae.config.block_out_channels))
        is_convolution = ".attn_1." in name and value.dim() == 2
        tensors["first_stage_model." + name] = value[:, :, None, None] if is_convolution else value
    text = {key.removeprefix("text_model."): value for key, value in pipe.text_encoder.state_dict().items()}
    if pipe.unet.config.use_linear_projection:
        tensors |= {f"cond_stage_model.model.{key}": value for key, value in _open_clip(text).items()}
    else:
        tensors |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
        ids = torch.arange(pipe.text_encoder.config.max_position_embeddings)[None]
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = ids  # as published files have
    tensors["alphas_cumprod"] = torch.ones(1000)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, file, metadata)
    return tensors


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text encoder's tensors in OpenCLIP's names, query, key and value in one."""
    made: dict[str, torch.Tensor] = {}
    for key, value in text.items():
        name = re.sub(r"encoder\.layers\.(\d+)\.", r"transformer.resblocks.\1.", key)
        for theirs, ours in OPEN_CLIP.items():
            name = name.replace(theirs, ours)
        if ".attn.q_proj." in name:
            all_three = torch.cat([text[key.replace("q_proj", f"{one}_proj")] for one in "qkv"])
            made[name.replace("q_proj.", "in_proj_")] = all_three
        elif not re.search(r"\.attn\.[kv]_proj\.", name):
            made[name] = value
    return made


def _unet_key(key: str, depth: int) -> str:
    for ours, theirs in UNET_ENDS.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_resnet(match[3])}"
    match = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    assert match, key
    side, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * depth}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # behind the attention, where the block has one: all but the first here
        return f"output_blocks.{block * depth + depth - 1}.{1 if block == 0 else 2}.{rest}"
    place = block * depth + index + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{place}.{int(kind == 'attentions')}.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    first, _, tail = rest.partition(".")
    return f"{RESNET[first]}.{tail}" if first in RESNET else rest


def _vae_key(key: str, levels: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if match := re.match(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", key):
        return f"{match[1]}mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
