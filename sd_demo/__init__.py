"""A Stable Diffusion v1 playground: one engine, three tasks, one honest receipt for every image."""

import logging
import os

__version__ = "0.1.0"

# xformers writes a block of text on every machine where its compiled part does not load; what is used
# for attention, and why, is said in one line by placement.py instead.
logging.getLogger("xformers").setLevel(logging.ERROR)
# transformers warns at import that there is no torchvision, which nothing here needs; it sets its own level
# when first imported, so only its variable can say so in time.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
