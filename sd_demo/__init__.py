"""A Stable Diffusion v1 playground: one engine, three tasks, one honest receipt for every image."""

__version__ = "0.1.0"
