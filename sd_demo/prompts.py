"""From words to embeddings: weights, prompts longer than the text encoder reads, a token report, a cache.

A prompt without weights that fits the text encoder gives exactly what diffusers' `encode_prompt` gives. A longer one is
cut into chunks, each encoded by itself between its own begin and end tokens, and the results are joined; a weight
multiplies the embeddings of its tokens. Both as A1111 does, for prompts are passed on from there. `clip_skip` is not
offered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from sd_demo.errors import InvalidRequest
from sd_demo.prompt_chunks import NO_WORD, Token, split_tokens, tokens_of
from sd_demo.prompt_grammar import parse_prompt
from sd_demo.residence import Residence

MAX_CHUNKS: Final = 64  # 4,800 tokens of CLIP: beyond, "BREAK BREAK …" would take memory by the gigabyte
MAX_WEIGHT: Final = 1e9  # 200 nested brackets; the squares of greater ones leave float32


@dataclass(frozen=True)
class TokenReport:
    """How a prompt fits the text encoder."""

    count: int  # tokens of the prompt, without begin, end and padding
    limit: int  # tokens that fit in a chunk: the text encoder's length less begin and end
    chunks: int  # chunks that are encoded, 1 where chunking is off
    dropped_words: tuple[str, ...]  # words past the limit, in their order; empty where chunking is on


@dataclass(frozen=True)
class PromptEmbeds:
    """Both prompts as the UNet reads them, of L tokens a chunk (77 for CLIP), k chunks, D channels."""

    prompt_embeds: torch.Tensor  # [1, L*k, D], or as many as there are images
    negative_prompt_embeds: torch.Tensor  # [1, L*k, D], padded with empty chunks, or padding the other
    dropped_words: tuple[str, ...]  # past the limit where chunking is off: the prompt's, then the negative prompt's
    token_count: int  # tokens of the prompt, without begin, end and padding


class _Tokens(NamedTuple):
    sections: list[list[Token]]  # the stretches between BREAKs
    words: list[str]

    @property
    def all(self) -> list[Token]:
        return [token for section in self.sections for token in section]


class Chunk(NamedTuple):
    """What one call of the text encoder reads, without begin, end and padding. Hashable: the cache's key."""

    ids: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


class PromptEncoder:
    """Encodes prompts with one model's tokenizer and text encoder, and remembers the latest chunks.

    `report` may be called from any thread while another one encodes.

    tokenizer: a fast CLIP tokenizer; chunks are `model_max_length` long, padded with its pad token.
    text_encoder: a CLIPTextModel. Whoever changes its weights passes another `key` to `encode`, or calls `clear`.
    is_chunking: off, a prompt is cut at one chunk as diffusers does, the lost words are named, and BREAK only parts
        words.
    cache_entries: chunks remembered; 64 of Stable Diffusion 1's are 15 MB in float32.
    residence: what brings the text encoder to the device, where it does not stay there.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        is_chunking: bool = True,
        cache_entries: int = 64,
        residence: Residence | None = None,
    ) -> None:
        self.is_chunking = is_chunking
        self._residence = residence
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._length: int = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
        self._cache_entries = cache_entries
        self._cache: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._cache_lock = threading.Lock()
        # A fast tokenizer is one mutable object in Rust: a second thread in it raises "Already borrowed".
        self._tokenizer_lock = threading.Lock()

    @property
    def limit(self) -> int:
        """Tokens of a prompt that fit in a chunk: 75 for CLIP."""
        return self._length - 2

    @torch.inference_mode()
    def encode(
        self, prompt: str, negative_prompt: str, *, device: Any, dtype: torch.dtype, key: Hashable = None
    ) -> PromptEmbeds:
        """The embeddings of both prompts, on `device` in `dtype`, equally long.

        key: stands for whatever else the text encoder's answer hangs on, such as the LoRAs in it.
        Raises InvalidRequest for a weight beyond MAX_WEIGHT or more than MAX_CHUNKS chunks.
        """
        tokens, negative_tokens = self._tokenize(prompt), self._tokenize(negative_prompt)
        chunks = _checked(self._chunks(tokens), "prompt")
        negative_chunks = _checked(self._chunks(negative_tokens), "negative_prompt")
        count = max(len(chunks), len(negative_chunks))

        def joined(chunks: list[Chunk]) -> torch.Tensor:
            padded = chunks + [Chunk()] * (count - len(chunks))
            return torch.cat([self._encoded(chunk, device, dtype, key) for chunk in padded], dim=1)

        return PromptEmbeds(
            prompt_embeds=joined(chunks),
            negative_prompt_embeds=joined(negative_chunks),
            dropped_words=self._dropped_words(tokens) + self._dropped_words(negative_tokens),
            token_count=len(tokens.all),
        )

    def report(self, prompt: str) -> TokenReport:
        """How `prompt` fits, without the text encoder: milliseconds, for a count beside the text as it is typed."""
        tokens = self._tokenize(prompt)
        return TokenReport(len(tokens.all), self.limit, len(self._chunks(tokens)), self._dropped_words(tokens))

    def clear(self) -> None:
        """Forgets every remembered chunk."""
        with self._cache_lock:
            self._cache.clear()

    def _tokenize(self, prompt: str) -> _Tokens:
        """Each weighted text is tokenized by itself, as A1111 does: "(un)stable" is "un" and "stable"."""
        sections = parse_prompt(prompt)
        texts = [part.text for section in sections for part in section]
        if not texts:
            return _Tokens([[] for _ in sections], [])
        with self._tokenizer_lock:  # `verbose`: else a warning about length is logged, which does not apply here
            found = self._tokenizer(
                texts,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
        encoded = zip(found["input_ids"], found["offset_mapping"], strict=True)
        words: list[str] = []
        return _Tokens(
            [[token for part in section for token in tokens_of(part, *next(encoded), words)] for section in sections],
            words,
        )

    def _chunks(self, tokens: _Tokens) -> list[Chunk]:
        if self.is_chunking:
            sections = tokens.sections
            if len(sections) > 1 and not sections[-1]:  # a BREAK at the very end has nothing to begin
                sections = sections[:-1]
            runs = [run for section in sections for run in split_tokens(section, self.limit)]
        else:
            runs = [tokens.all[: self.limit]]
        return [Chunk(tuple(token.id for token in run), tuple(token.weight for token in run)) for run in runs]

    def _dropped_words(self, tokens: _Tokens) -> tuple[str, ...]:
        """The words of which any token is lost: half a word is not what was asked for."""
        if self.is_chunking:
            return ()
        lost = dict.fromkeys(token.word for token in tokens.all[self.limit :] if token.word != NO_WORD)
        return tuple(tokens.words[word] for word in lost)

    def _encoded(self, chunk: Chunk, device: Any, dtype: torch.dtype, key: Hashable) -> torch.Tensor:
        """The embeddings of one chunk, [1, L, D], remembered."""
        cache_key = (chunk, str(device), dtype, key)
        with self._cache_lock:
            if cache_key in self._cache:
                self._cache.move_to_end(cache_key)
                return self._cache[cache_key]
        embeds = self._encode_chunk(chunk, device).to(device=device, dtype=dtype)
        with self._cache_lock:
            self._cache[cache_key] = embeds
            while len(self._cache) > self._cache_entries:
                self._cache.popitem(last=False)
        return embeds

    def _encode_chunk(self, chunk: Chunk, device: Any) -> torch.Tensor:
        """One chunk at a time: in a larger batch the same words would come out a last bit different."""
        tokenizer, encoder = self._tokenizer, self._text_encoder
        padding = self._length - 2 - len(chunk.ids)
        ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
        mask = None
        if getattr(encoder.config, "use_attention_mask", False):
            mask = torch.tensor([[1] * (self._length - padding) + [0] * padding], device=device)  # [1, L]
        row = torch.tensor([ids], device=device)
        embeds = (
            self._residence.run("text_encoder", lambda: self._read(row, mask))
            if self._residence
            else self._read(row, mask)
        )
        if all(weight == 1 for weight in chunk.weights):
            return embeds
        weights = torch.tensor([1.0, *chunk.weights, 1.0, *[1.0] * padding], device=embeds.device)  # [L]
        return _weighted(embeds, weights)

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """What the UNet gets of token ids [1, L]: the text encoder's last features, [1, L, D]."""
        return self._ask(ids, attention_mask=mask)[0]

    def _ask(self, ids: torch.Tensor, **options: Any) -> Any:
        """The text encoder's answer, wherever it has to come from."""
        if self._residence is None:
            return self._text_encoder(ids, **options)
        return self._residence.run("text_encoder", lambda: self._text_encoder(ids, **options))


def _checked(chunks: list[Chunk], field: str) -> list[Chunk]:
    """`chunks`, unless they are too many or a weight is out of bounds."""
    if len(chunks) > MAX_CHUNKS:
        raise InvalidRequest(
            f"The {field.replace('_', ' ')} fills {len(chunks)} chunks of tokens and at most {MAX_CHUNKS} can be "
            "encoded; shorten it, or use BREAK less often.",
            field,
        )
    if not all(abs(weight) <= MAX_WEIGHT for chunk in chunks for weight in chunk.weights):  # infinity times 0 is NaN
        raise InvalidRequest(
            f"The {field.replace('_', ' ')} has a weight beyond {MAX_WEIGHT:,.0f}, or one that is no number; weights "
            "from 0.5 to 1.5 do most of what weights can do.",
            field,
        )
    return chunks


def _weighted(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`embeds` [1, L, D] times `weights` [L], then scaled back to its former mean, computed in float32.

    So does A1111 ("Original" emphasis, modules/sd_emphasis.py): without it a stressed word would raise the contrast of
    the whole picture. That presumes tokens whose means agree, as Stable Diffusion's do: the mean then grows by about
    the average weight. In a text encoder whose means scatter around zero the quotient is noise, of any size and sign,
    and a picture would go grey or glaring for one stressed word. There the root mean square is restored.
    """
    before = embeds.float()
    after = before * weights[None, :, None]
    size = before.square().mean().sqrt()
    growth = after.mean() / before.mean()
    is_mean_telling = before.mean().abs() > 0.01 * size and 0.5 <= growth / weights.mean() <= 2
    return after / (growth if is_mean_telling else after.square().mean().sqrt() / size)
