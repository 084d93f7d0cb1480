"""What latent diffusion does, taken apart on the picture-book model: the pictures behind the page's Learn tab."""
