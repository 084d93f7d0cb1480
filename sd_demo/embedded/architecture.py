"""The networks of the picture-book model: Stable Diffusion v1 made small.

Every part is an ordinary diffusers or transformers class, so that the exported folder loads in any program
that reads the diffusers layout. Sizes were chosen by measuring on two CPU cores (MODEL_CARD.md).
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

NATIVE_SIZE = 256  # pixels, both sides
VAE_SCALE_FACTOR = 8  # pixels per latent, both sides
TEXT_WIDTH = 128  # features of a token as the UNet sees it
MAX_TOKENS = 77  # as in every CLIP text encoder, so that prompt code needs no special case


def build_vae() -> AutoencoderKL:
    """KL autoencoder, [B, 3, H, W] in -1…1 to latents [B, 4, H/8, W/8]. No attention: any size costs its area."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # a group of two channels would lose a flat area's colour, and flat areas are what we draw
        mid_block_add_attention=False,
        sample_size=NATIVE_SIZE,
        scaling_factor=1.0,  # training folds the latents' mean and deviation into the 1x1 convolutions instead
    )


def build_unet() -> UNet2DConditionModel:
    """Denoiser of latents [B, 4, h, w]; attention at the two lower levels only, where it is cheap.

    It starts by answering zero, each branch adding nothing yet (Ho et al., arXiv 2006.11239), which diffusers' own
    start does not do and which saves the first few hundred steps.
    """
    unet = UNet2DConditionModel(
        sample_size=NATIVE_SIZE // VAE_SCALE_FACTOR,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(1, 2, 5),  # diffusers' name for the number of heads; the first level has none
        norm_num_groups=4,
    )
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.proj_out for module in unet.modules() if isinstance(module, Transformer2DModel)]
    for convolution in [*last, unet.conv_out]:
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP text encoder of three layers for `tokenizer`; token ids [B, 77] to features [B, 77, 128].

    Its embeddings start larger than CLIP's 0.02: at the learning rate of a short training the biases outgrow that
    within a hundred steps, every token looks alike after the layer norm, and the UNet never hears the prompt.
    """
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    torch.nn.init.normal_(text_encoder.get_input_embeddings().weight, std=0.5)
    torch.nn.init.normal_(text_encoder.embeddings.position_embedding.weight, std=0.2)
    return text_encoder


def build_scheduler() -> DDIMScheduler:
    """The noise schedule, as the scheduler that is saved with the model.

    Stable Diffusion's scaled-linear betas, but ending at 0.016 in place of 0.012: these pictures are large
    flat areas, whose mean colour would otherwise survive the last timestep and be learned from it (Lin et al.,
    "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891). Trailing spacing starts
    at that last timestep, for the same reason. Every scheduler takes these settings; a zero terminal SNR is not
    something that all of them can do.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.016,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
