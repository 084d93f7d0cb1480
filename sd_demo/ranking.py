"""How well a picture fits a prompt, as a CLIP sees it, so that of several pictures the best can be put first.

Any CLIPModel does: the picture-book model brings its own, other models are served by OpenAI's ViT-B/32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from sd_demo.errors import ModelUnavailable
from sd_demo.known_models import EMBEDDED_FOLDER, GENERAL_CLIP, ModelEntry
from sd_demo.model_files import HUB_ID, downloaded, weights_in
from sd_demo.own_memory import own

PICTURE_BOOK_CLIP: Final = EMBEDDED_FOLDER.parent / "companions" / "clip"
_ROWS: Final = 16


class Ranker:
    """One CLIP in memory, in float32. Not made for several threads at once."""

    def __init__(
        self, model: CLIPModel, processor: CLIPImageProcessorPil, tokenizer: CLIPTokenizer, source: str = ""
    ) -> None:
        self.source = source  # as load_ranker was told
        self._model, self._processor, self._tokenizer = model.eval(), processor, tokenizer

    def score(self, images: Sequence[Image.Image], prompt: str) -> list[float]:
        """How well each picture fits the plain prompt: the cosine of their vectors, -1 to 1, higher is better.

        Only differences between pictures for one prompt mean something. What a prompt holds past the CLIP's own
        limit (77 tokens) is not looked at.
        """
        return [row[0] for row in self.scores(images, [prompt])]

    @torch.inference_mode()
    def scores(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[list[float]]:
        """score() of every picture with every prompt: a list for each picture."""
        if not images or not prompts:
            return [[] for _ in images]
        seen = torch.cat([self._see(images[k : k + _ROWS]) for k in range(0, len(images), _ROWS)])
        return (seen @ self._read(prompts).T).tolist()

    def _see(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        vectors = self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)
        return torch.nn.functional.normalize(vectors, dim=-1)

    def _read(self, prompts: Sequence[str]) -> torch.Tensor:
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )  # fmt: skip
        vectors = self._model.text_projection(self._model.text_model(**tokens).pooler_output)
        return torch.nn.functional.normalize(vectors, dim=-1)


def clip_for(entry: ModelEntry) -> str:
    """The CLIP that knows what a model draws: a folder or hub id for load_ranker."""
    return str(PICTURE_BOOK_CLIP) if entry.is_embedded else GENERAL_CLIP


def load_ranker(source: str | Path = PICTURE_BOOK_CLIP, models_dir: Path | None = None) -> Ranker:
    """The ranker of a CLIPModel folder, or of a hub id that was downloaded to `models_dir` or to the hub's own cache.

    Nothing is fetched. Raises ModelUnavailable with one sentence where the CLIP is not there or cannot be read.
    """
    is_hub_id = HUB_ID.fullmatch(str(source)) is not None and not Path(source).exists()
    place = (downloaded(models_dir, str(source), None) if models_dir and is_hub_id else None) or source
    variant = weights_in(Path(place)) or None  # as a download has it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' own, about its own defaults
            model = CLIPModel.from_pretrained(
                place, dtype=torch.float32, use_safetensors=True, local_files_only=True, variant=variant
            )  # fmt: skip
            own(model)
            processor = CLIPImageProcessorPil.from_pretrained(place, local_files_only=True)
            tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        if str(source) == str(PICTURE_BOOK_CLIP) and not (PICTURE_BOOK_CLIP / "config.json").is_file():
            raise ModelUnavailable(
                "The picture-book model has no CLIP yet; make one with python -m sd_demo.embedded.clip --work DIR, "
                "or leave the pictures in the order of their seeds."
            ) from error
        if Path(place).is_dir():
            why = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
            raise ModelUnavailable(f"The CLIP in {place} cannot be read ({why}); name another folder.") from error
        get_it = f"get it with python -m sd_demo download {source}" if is_hub_id else "look at its path"
        raise ModelUnavailable(
            f"Ranking needs the CLIP {source}, which is not on this machine; {get_it}, or leave the pictures in the "
            "order of their seeds."
        ) from error
    return Ranker(model, processor, tokenizer, str(source))
