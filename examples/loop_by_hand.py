"""The denoising loop from its parts: tokenizer, text encoder, UNet, VAE and a K-LMS scheduler."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, LMSDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

model = Path(__file__).parents[1] / "sd_demo" / "embedded" / "weights"
prompt, steps, guidance_scale = "a red house by the sea", 20, 5.0

tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet", dtype=torch.float32)
vae = AutoencoderKL.from_pretrained(model, subfolder="vae", dtype=torch.float32)
scheduler = LMSDiscreteScheduler.from_pretrained(model, subfolder="scheduler")


@torch.inference_mode()
def embed(text: str) -> torch.Tensor:
    """The text encoder's answer, [1, 77, features]."""
    tokens = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return text_encoder(tokens.input_ids)[0]


with torch.inference_mode():
    # Without and with the prompt, in one batch: classifier-free guidance needs both at every step.
    embeddings = torch.cat([embed(""), embed(prompt)])
    scheduler.set_timesteps(steps)
    side = unet.config.sample_size
    latents = torch.randn(1, unet.config.in_channels, side, side, generator=torch.Generator().manual_seed(7))
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        rows = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        without, with_prompt = unet(rows, t, encoder_hidden_states=embeddings).sample.chunk(2)
        prediction = without + guidance_scale * (with_prompt - without)
        latents = scheduler.step(prediction, t, latents).prev_sample
    pixels = vae.decode(latents / vae.config.scaling_factor).sample[0]

values = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
path = Path("outputs") / "loop_by_hand.png"
path.parent.mkdir(exist_ok=True)
Image.fromarray(values).save(path)
print(path)
