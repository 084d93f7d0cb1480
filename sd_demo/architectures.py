"""The networks of the published models, as their config files state them, and a tiny twin of each.

A single-file checkpoint carries weights and no configs, and a random model needs configs and no weights: both read
them here, so that neither needs the hub. Values: the `config.json` files of the repositories named below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

Config = dict[str, Any]

VOCABULARY: Final = 49_408  # tokens of CLIP: 512 bytes, 48,894 merges, start and end
TINY_VOCABULARY: Final = 1_000
MAX_TOKENS: Final = 77

_UNET: Final[Config] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-05,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # diffusers' name for the number of heads
}
_UNET_2: Final[Config] = _UNET | {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
_UNET_X4: Final[Config] = _UNET_2 | {
    "sample_size": 128,
    "in_channels": 7,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
    "attention_head_dim": 8,
    "num_class_embeds": 1000,
    "only_cross_attention": [True, True, True, False],
}
_UNET_X2: Final[Config] = {
    "sample_size": 128,
    "in_channels": 8,
    "out_channels": 5,
    "act_fn": "gelu",
    "attention_head_dim": 64,
    "block_out_channels": [384, 384, 768, 768],
    "conv_in_kernel": 1,
    "conv_out_kernel": 1,
    "cross_attention_dim": 768,
    "down_block_types": ["KDownBlock2D"] + ["KCrossAttnDownBlock2D"] * 3,
    "up_block_types": ["KCrossAttnUpBlock2D"] * 3 + ["KUpBlock2D"],
    "layers_per_block": 4,
    "mid_block_type": None,
    "norm_num_groups": None,
    "resnet_time_scale_shift": "scale_shift",
    "time_cond_proj_dim": 896,  # the pooled prompt (768) beside the noise level (128)
    "time_embedding_type": "fourier",
    "timestep_post_act": "gelu",
}
_VAE: Final[Config] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_VAE_X4: Final[Config] = _VAE | {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [128, 256, 512],
    "sample_size": 256,
    "scaling_factor": 0.08333,
}
_TEXT: Final[Config] = {  # openai/clip-vit-large-patch14
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-05,
    "bos_token_id": 0,
    "eos_token_id": 2,  # as published; the pooled output then takes the highest token, which is the end token
    "pad_token_id": 1,
}
_TEXT_2: Final[Config] = _TEXT | {  # OpenCLIP ViT-H/14 without its last layer
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 512,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
_TEXT_B: Final[Config] = _TEXT | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "projection_dim": 512,
    "num_attention_heads": 8,
}
_VISION_L: Final[Config] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
_VISION_B: Final[Config] = _VISION_L | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
}
_BETAS: Final[Config] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "prediction_type": "epsilon",
}
_PNDM: Final = ("PNDMScheduler", _BETAS | {"set_alpha_to_one": False, "skip_prk_steps": True})
_DDIM_V: Final = ("DDIMScheduler", _BETAS | {"set_alpha_to_one": False, "prediction_type": "v_prediction"})
_DDPM: Final = ("DDPMScheduler", {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02})


@dataclass(frozen=True)
class Architecture:
    """A published model's networks. `unet`, `vae` and `text_encoder` are None where it has no such part."""

    pipeline: str  # class in diffusers, or "" for a network that is used by itself
    published_as: str  # repository whose config files these are
    unet: Config | None = None
    vae: Config | None = None
    text_encoder: Config | None = None
    vision: Config | None = None
    schedulers: tuple[tuple[str, tuple[str, Config]], ...] = ()
    pad_token: str = "<|endoftext|>"  # noqa: S105 - a token of text, no secret
    max_noise_level: int | None = None

    def tiny(self) -> Architecture:
        """The same blocks and wiring, a thousandth of the weights; native size 128 pixels."""
        levels = [32, 64, 64, 64]
        all_parts = (self.unet, self.vae, self.text_encoder, self.vision)
        unet, vae, text, vision = (dict(part) if part else None for part in all_parts)
        if unet:
            is_k = unet["norm_num_groups"] is None
            unet |= {"sample_size": 16, "block_out_channels": levels, "layers_per_block": 1, "cross_attention_dim": 32}
            unet["attention_head_dim"] = [2, 4, 8, 8] if isinstance(unet["attention_head_dim"], list) else 8
            if is_k:
                # Its up blocks need two layers, and levels that widen where the published ones do.
                unet |= {"time_cond_proj_dim": 32 + 128, "layers_per_block": 2, "block_out_channels": [32, 32, 64, 64]}
        if vae:
            widths = levels[: len(vae["block_out_channels"])]
            vae |= {"block_out_channels": widths, "layers_per_block": 1, "sample_size": 128}
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        if text:
            text |= small | {"vocab_size": TINY_VOCABULARY, "projection_dim": 32}
        if vision:
            vision |= small | {"projection_dim": 32}
        return replace(self, unet=unet, vae=vae, text_encoder=text, vision=vision)


_SD_15: Final = Architecture(
    "StableDiffusionPipeline",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    unet=_UNET,
    vae=_VAE,
    text_encoder=_TEXT,
    schedulers=(("scheduler", _PNDM),),
)
_SD_21: Final = Architecture(
    "StableDiffusionPipeline",
    "stabilityai/stable-diffusion-2-1",
    unet=_UNET_2 | {"sample_size": 96, "upcast_attention": True},
    vae=_VAE,
    text_encoder=_TEXT_2,
    schedulers=(("scheduler", _DDIM_V),),
    pad_token="!",  # noqa: S106 - a token of text, no secret
)

ARCHITECTURES: Final[dict[str, Architecture]] = {
    "sd-1.5": _SD_15,
    "sd-1.4": replace(_SD_15, published_as="CompVis/stable-diffusion-v1-4"),
    "sd-1.5-inpainting": replace(
        _SD_15,
        pipeline="StableDiffusionInpaintPipeline",
        published_as="stable-diffusion-v1-5/stable-diffusion-inpainting",
        unet=_UNET | {"in_channels": 9},
    ),
    "lcm": replace(
        _SD_15,
        pipeline="LatentConsistencyModelPipeline",
        published_as="SimianLuo/LCM_Dreamshaper_v7",
        unet=_UNET | {"time_cond_proj_dim": 256},
        schedulers=(("scheduler", ("LCMScheduler", _BETAS | {"set_alpha_to_one": True})),),
    ),
    "sd-2.1": _SD_21,
    "sd-2-inpainting": replace(
        _SD_21,
        pipeline="StableDiffusionInpaintPipeline",
        published_as="stabilityai/stable-diffusion-2-inpainting",
        unet=_UNET_2 | {"in_channels": 9},
        schedulers=(("scheduler", _PNDM),),
    ),
    "x4-upscaler": replace(
        _SD_21,
        pipeline="StableDiffusionUpscalePipeline",
        published_as="stabilityai/stable-diffusion-x4-upscaler",
        unet=_UNET_X4,
        vae=_VAE_X4,
        schedulers=(("low_res_scheduler", _DDPM), ("scheduler", _DDIM_V)),
        max_noise_level=350,
    ),
    "x2-latent-upscaler": replace(
        _SD_15,
        pipeline="StableDiffusionLatentUpscalePipeline",
        published_as="stabilityai/sd-x2-latent-upscaler",
        unet=_UNET_X2,
        schedulers=(("scheduler", ("EulerDiscreteScheduler", _BETAS | {"prediction_type": "original_sample"})),),
    ),
    "safety-checker": Architecture("", "CompVis/stable-diffusion-safety-checker", vision=_VISION_L),
    "clip-vit-base-patch32": Architecture("", "openai/clip-vit-base-patch32", text_encoder=_TEXT_B, vision=_VISION_B),
}
