"""How noise is added: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, shown in pixels for six timesteps."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image

from sd_demo.embedded import world

model = Path(__file__).parents[1] / "sd_demo" / "embedded" / "weights"
vae = AutoencoderKL.from_pretrained(model, subfolder="vae", dtype=torch.float32)
scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
picture = world.draw(world.sample(np.random.default_rng(4)), 256)
pixels = torch.tensor(list(picture.tobytes())).view(256, 256, 3).permute(2, 0, 1)[None] / 127.5 - 1

shown = []
with torch.inference_mode():
    latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    for t in (0, 100, 250, 450, 700, 999):
        noisy = scheduler.add_noise(latents, noise, torch.tensor([t]))
        decoded = vae.decode(noisy / vae.config.scaling_factor).sample[0]
        shown.append(((decoded / 2 + 0.5).clamp(0, 1) * 255).byte())
        print(f"t = {t:3}: abar = {scheduler.alphas_cumprod[t]:.4f}")

path = Path("outputs") / "forward_process.png"
path.parent.mkdir(exist_ok=True)
Image.fromarray(torch.cat(shown, dim=2).permute(1, 2, 0).numpy()).save(path)
print(path)
