"""Prompt embeddings against diffusers' encode_prompt, and weights, chunks, lost words and the cache by their rules.

The tokenizer here knows no merges, so that a word of n letters is n tokens and every count can be seen in the test.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sd_demo.errors import InvalidRequest
from sd_demo.prompts import MAX_CHUNKS, PromptEmbeds, PromptEncoder

LENGTH = 77
WIDTH = 32
LETTERS = [chr(ord("a") + n % 26) for n in range(400)]  # words of one token each


def tiny_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    words = [*letters, *[letter + "</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=LENGTH, pad_token=pad_token)


def tiny_text_encoder(*, use_attention_mask: bool = False) -> CLIPTextModel:
    """Random weights. The final bias gives all tokens a mean of about -0.5, as trained encoders have one."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    config.use_attention_mask = use_attention_mask
    encoder = CLIPTextModel(config).eval()
    torch.nn.init.constant_(final_norm(encoder).bias, -0.5)
    return encoder


def final_norm(encoder: CLIPTextModel) -> torch.nn.LayerNorm:
    (norm,) = (module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    return norm


def pipeline_of(tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=None,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def diffusers_embeds(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompt: str, negative_prompt: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return pipeline_of(tokenizer, encoder).encode_prompt(prompt, "cpu", 1, True, negative_prompt)


def encode(encoder: PromptEncoder, prompt: str, negative_prompt: str = "", **more: Any) -> PromptEmbeds:
    return encoder.encode(prompt, negative_prompt, device="cpu", **{"dtype": torch.float32, **more})


def chunks_of(embeds: torch.Tensor) -> list[torch.Tensor]:
    return list(embeds.split(LENGTH, dim=1))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    return tiny_text_encoder()


@pytest.fixture
def encoder(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> PromptEncoder:
    return PromptEncoder(tokenizer, text_encoder)


PLAIN = [
    "",
    "   ",
    "a red ball, and a blue house",
    "A Ball; don't: 16:9!  ÇA 🦊 <|endoftext|> red",
    "un) balanced] :)",
    " ".join(LETTERS[:75]),
]


@pytest.mark.parametrize("prompt", PLAIN)
@pytest.mark.parametrize("use_attention_mask", [False, True])
def test_plain_prompt_is_encode_prompts_bit_for_bit(
    tokenizer: CLIPTokenizer, prompt: str, use_attention_mask: bool
) -> None:
    text_encoder = tiny_text_encoder(use_attention_mask=use_attention_mask)
    ours = encode(PromptEncoder(tokenizer, text_encoder), prompt, "blurred, grey")
    expected, expected_negative = diffusers_embeds(tokenizer, text_encoder, prompt, "blurred, grey")
    assert torch.equal(ours.prompt_embeds, expected)
    assert torch.equal(ours.negative_prompt_embeds, expected_negative)
    assert ours.prompt_embeds.shape == (1, LENGTH, WIDTH)


def test_attention_mask_matters_here() -> None:
    """Else the test above could not tell whether the mask was passed. Embeddings past the end are what it changes."""
    masked, unmasked = tiny_text_encoder(use_attention_mask=True), tiny_text_encoder()
    one, other = (encode(PromptEncoder(tiny_tokenizer(), each), "a").prompt_embeds for each in (masked, unmasked))
    assert not torch.equal(one, other)


def test_pad_token_of_its_own(text_encoder: CLIPTextModel) -> None:
    tokenizer = tiny_tokenizer(pad_token="!")  # as Stable Diffusion 2 has it
    ours = encode(PromptEncoder(tokenizer, text_encoder), "a red ball")
    assert torch.equal(ours.prompt_embeds, diffusers_embeds(tokenizer, text_encoder, "a red ball")[0])


def test_dtype_and_gradient(encoder: PromptEncoder) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        ours = encode(encoder, "a (red:1.3) ball", dtype=dtype)
        assert ours.prompt_embeds.dtype == ours.negative_prompt_embeds.dtype == dtype
    assert not ours.prompt_embeds.requires_grad


def test_escaped_brackets_are_the_characters(encoder: PromptEncoder) -> None:
    escaped = encode(encoder, r"a \(red\) \[ball\]").prompt_embeds
    expected, _ = diffusers_embeds(tiny_tokenizer(), tiny_text_encoder(), "a (red) [ball]")
    assert torch.equal(escaped, expected)


# weights


def test_weight_multiplies_its_tokens_and_keeps_the_mean(encoder: PromptEncoder) -> None:
    plain, _ = diffusers_embeds(tiny_tokenizer(), tiny_text_encoder(), "a red ball")
    weights = torch.ones(LENGTH)
    weights[2:5] = 1.3  # begin, a, r e d, b a l l, end
    expected = plain * weights[None, :, None]
    expected = expected * (plain.mean() / expected.mean())
    ours = encode(encoder, "a (red:1.3) ball").prompt_embeds
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(ours.mean(), plain.mean())


def test_negative_prompt_is_weighted_alike(encoder: PromptEncoder) -> None:
    forth, back = encode(encoder, "a [red] ball", "x"), encode(encoder, "x", "a [red] ball")
    assert torch.equal(forth.prompt_embeds, back.negative_prompt_embeds)
    assert not torch.equal(forth.prompt_embeds, encode(encoder, "a red ball").prompt_embeds)


@pytest.mark.parametrize("bias", [0.0, 0.003, -0.02])
def test_weight_is_harmless_where_the_mean_means_nothing(tokenizer: CLIPTokenizer, bias: float) -> None:
    """With a bias near zero the tokens' means differ in sign, and a quotient of two such means is anything at all."""
    text_encoder = tiny_text_encoder()
    norm = final_norm(text_encoder)
    torch.nn.init.normal_(norm.weight, 1, 0.5)
    torch.nn.init.constant_(norm.bias, bias)
    encoder = PromptEncoder(tokenizer, text_encoder)
    plain = encode(encoder, "a red ball").prompt_embeds
    for weight in (-1, 0, 0.5, 1.2, 1.5, 3):
        ours = encode(encoder, f"a (red:{weight}) ball").prompt_embeds
        assert 0.25 < ours.square().mean() / plain.square().mean() < 4
        assert torch.nn.functional.cosine_similarity(ours[0, -1], plain[0, -1], dim=0) > 0.999  # and not turned round


class FixedEncoder(torch.nn.Module):
    """Answers with two channels whose mean is chosen for each token, and whose root mean square is about 1."""

    config = CLIPTextConfig(max_position_embeddings=LENGTH)

    def __init__(self, means: list[float]) -> None:
        super().__init__()
        self.embeds = torch.tensor([[[1 + mean, -1 + mean] for mean in means]])  # [1, 77, 2]

    def forward(self, input_ids: torch.Tensor, attention_mask: None) -> tuple[torch.Tensor]:
        return (self.embeds,)


@pytest.mark.parametrize(
    ("mean", "mean_of_a"),
    [
        pytest.param(0.001, -0.01, id="a mean of 0.1 %, which falls to 0.7 of itself"),
        pytest.param(0.05, -2.0, id="a mean of 2 %, which changes its sign"),
    ],
)
def test_size_is_kept_where_the_mean_says_nothing(tokenizer: CLIPTokenizer, mean: float, mean_of_a: float) -> None:
    fixed = FixedEncoder([mean, mean_of_a, *[mean] * (LENGTH - 2)])
    ours = encode(PromptEncoder(tokenizer, fixed), "(a:3)").prompt_embeds
    expected = fixed.embeds.clone()
    expected[0, 1] *= 3
    expected *= (fixed.embeds.square().mean() / expected.square().mean()).sqrt()
    torch.testing.assert_close(ours, expected)


def test_brackets_that_cancel_are_plain(encoder: PromptEncoder) -> None:
    plain = encode(encoder, "a red ball").prompt_embeds
    assert torch.equal(encode(encoder, "a ([red]) ball").prompt_embeds, plain)
    assert torch.equal(encode(encoder, "(a red ball:1)").prompt_embeds, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_200_brackets_deep_is_finite(encoder: PromptEncoder, dtype: torch.dtype) -> None:
    for opened, closed in ("()", "[]"):
        ours = encode(encoder, f"a {opened * 200}red{closed * 200} ball", dtype=dtype)
        assert ours.prompt_embeds.isfinite().all()


@pytest.mark.parametrize(
    "prompt",
    ["(a:1000000001)", "(a:" + "9" * 400 + ")", "(" * 9000 + "a", "a red ball ((sun:" + "9" * 310 + "):0)"],
)
def test_weight_out_of_bounds_is_refused(encoder: PromptEncoder, prompt: str) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^The prompt has a weight beyond 1,000,000,000, or one that is no number;"
    ) as error:
        encode(encoder, prompt)
    assert error.value.field == "prompt"
    with pytest.raises(InvalidRequest, match=r"^The negative prompt has") as error:
        encode(encoder, "", prompt)
    assert error.value.field == "negative_prompt"


# chunks


def expected_chunks(texts: list[str]) -> list[torch.Tensor]:
    return [diffusers_embeds(tiny_tokenizer(), tiny_text_encoder(), text)[0] for text in texts]


def assert_chunks(embeds: torch.Tensor, texts: list[str]) -> None:
    chunks, expected = chunks_of(embeds), expected_chunks(texts)
    assert len(chunks) == len(expected)
    for chunk, wanted in zip(chunks, expected, strict=True):
        assert torch.equal(chunk, wanted)


LONG = [
    pytest.param(LETTERS[:76], [LETTERS[:75], LETTERS[75:76]], id="one too many"),
    pytest.param(LETTERS[:160], [LETTERS[:75], LETTERS[75:150], LETTERS[150:160]], id="three chunks"),
    pytest.param(
        [*LETTERS[:60], ",", *LETTERS[:20]], [[*LETTERS[:60], ","], LETTERS[:20]], id="cut after a comma near the end"
    ),
    pytest.param(
        [*LETTERS[:55], ",", *LETTERS[:20]], [[*LETTERS[:55], ","], LETTERS[:20]], id="the comma is 20 tokens back"
    ),
    pytest.param(
        [*LETTERS[:54], ",", *LETTERS[:21]], [[*LETTERS[:54], ",", *LETTERS[:20]], LETTERS[20:21]], id="21 tokens back"
    ),
    pytest.param([*LETTERS[:75], ",", "z"], [LETTERS[:75], [",", "z"]], id="the comma is what does not fit"),
    pytest.param(
        [*LETTERS[:60], ",", *LETTERS[:14], ",", "z"],
        [[*LETTERS[:60], ",", *LETTERS[:14]], [",", "z"]],
        id="two commas",
    ),
    pytest.param([*LETTERS[:74], ";", "fox"], [[*LETTERS[:74], ";"], ["fox"]], id="punctuation is no part of a word"),
    pytest.param([*LETTERS[:73], "ball", "z"], [LETTERS[:73], ["ball", "z"]], id="a word is kept whole"),
    pytest.param([*LETTERS[:73], "don't"], [LETTERS[:73], ["don't"]], id="an apostrophe is inside a word"),
]


@pytest.mark.parametrize(("words", "chunks"), LONG)
def test_long_prompt_in_chunks(encoder: PromptEncoder, words: list[str], chunks: list[list[str]]) -> None:
    ours = encode(encoder, " ".join(words))
    assert_chunks(ours.prompt_embeds, [" ".join(chunk) for chunk in chunks])
    assert_chunks(ours.negative_prompt_embeds, [""] * len(chunks))
    assert ours.dropped_words == ()
    assert encoder.report(" ".join(words)).chunks == len(chunks)


def test_word_longer_than_a_chunk_is_cut(encoder: PromptEncoder) -> None:
    assert encoder.report("a " + "b" * 80).chunks == 3  # a, 75 of its letters, the last 5
    assert encode(encoder, "b" * 80).prompt_embeds.shape == (1, 2 * LENGTH, WIDTH)


def test_break_starts_a_chunk(encoder: PromptEncoder) -> None:
    ours = encode(encoder, "a red ball BREAK a blue house", "grey")
    assert_chunks(ours.prompt_embeds, ["a red ball", "a blue house"])
    assert_chunks(ours.negative_prompt_embeds, ["grey", ""])
    assert_chunks(encode(encoder, "a BREAK").prompt_embeds, ["a"])
    assert_chunks(encode(encoder, "BREAK a BREAK BREAK b").prompt_embeds, ["", "a", "", "b"])


def test_longer_negative_prompt_pads_the_prompt(encoder: PromptEncoder) -> None:
    ours = encode(encoder, "a red ball", " ".join(LETTERS[:80]))
    assert_chunks(ours.prompt_embeds, ["a red ball", ""])
    assert_chunks(ours.negative_prompt_embeds, [" ".join(LETTERS[:75]), " ".join(LETTERS[75:80])])


def test_weight_reaches_over_a_chunks_end(encoder: PromptEncoder) -> None:
    one, two = chunks_of(encode(encoder, f"({' '.join(LETTERS[:80])}:1.2)").prompt_embeds)
    assert torch.equal(one, encode(encoder, f"({' '.join(LETTERS[:75])}:1.2)").prompt_embeds)
    assert torch.equal(two, encode(encoder, f"({' '.join(LETTERS[75:80])}:1.2)").prompt_embeds)


def test_too_many_chunks_are_refused(encoder: PromptEncoder) -> None:
    full = "BREAK " * (MAX_CHUNKS - 1) + "a"
    assert encode(encoder, full).prompt_embeds.shape == (1, MAX_CHUNKS * LENGTH, WIDTH)
    with pytest.raises(InvalidRequest, match=f"fills {MAX_CHUNKS + 1} chunks .* at most {MAX_CHUNKS}") as error:
        encode(encoder, "", "BREAK " + full)
    assert error.value.field == "negative_prompt"


# chunking off, and the report


@pytest.fixture
def cutting_encoder(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> PromptEncoder:
    return PromptEncoder(tokenizer, text_encoder, is_chunking=False)


def test_without_chunks_a_long_prompt_is_cut_as_by_diffusers(cutting_encoder: PromptEncoder) -> None:
    prompt = " ".join(LETTERS[:73]) + " Ball, and a [Fox] 🦊"
    ours = encode(cutting_encoder, prompt.replace("[Fox]", "Fox"), "grey")
    assert_chunks(ours.prompt_embeds, [prompt.replace("[Fox]", "Fox")])
    assert ours.dropped_words == ("Ball", "and", "a", "Fox", "🦊")
    assert encode(cutting_encoder, prompt).dropped_words == ("Ball", "and", "a", "Fox", "🦊")


def test_lost_words_of_the_negative_prompt_are_named_too(cutting_encoder: PromptEncoder) -> None:
    assert encode(cutting_encoder, "a", " ".join(LETTERS[:75]) + " (grey:1.2)").dropped_words == ("grey",)
    both = encode(cutting_encoder, " ".join(LETTERS[:75]) + " red", " ".join(LETTERS[:75]) + " grey")
    assert both.dropped_words == ("red", "grey")


def test_lost_punctuation_is_no_lost_word(cutting_encoder: PromptEncoder) -> None:
    assert cutting_encoder.report(" ".join(LETTERS[:75]) + "...").dropped_words == ()
    assert cutting_encoder.report(" ".join(LETTERS[:75]) + ", red, red").dropped_words == ("red", "red")


def test_break_without_chunks_only_parts_words(cutting_encoder: PromptEncoder) -> None:
    assert_chunks(encode(cutting_encoder, "a red BREAK ball").prompt_embeds, ["a red ball"])


def test_report(encoder: PromptEncoder, cutting_encoder: PromptEncoder) -> None:
    empty = encoder.report("")
    assert (empty.count, empty.limit, empty.chunks, empty.dropped_words) == (0, 75, 1, ())
    assert encoder.report("a (red:1.3) ball, BREAK x").count == 10
    prompt = " ".join(LETTERS[:75]) + " fox"
    assert (encoder.report(prompt).chunks, encoder.report(prompt).dropped_words) == (2, ())
    assert (cutting_encoder.report(prompt).chunks, cutting_encoder.report(prompt).dropped_words) == (1, ("fox",))
    assert encoder.report(prompt).count == cutting_encoder.report(prompt).count == 78
    assert encode(encoder, prompt).token_count == 78


def test_report_of_50_000_brackets(encoder: PromptEncoder) -> None:
    assert encoder.report("(" * 50_000).count == 0
    assert encoder.report("(a" * 25_000).count == 25_000
    assert encoder.report("a" * 50_000).count == 50_000


def test_long_prompts_are_silent(text_encoder: CLIPTextModel, caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("transformers")  # it does not propagate, so caplog alone hears nothing
    library.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, logger="transformers"):
            PromptEncoder(tiny_tokenizer(), text_encoder).report("a " * 400)
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.records == []


# the cache and threads


class CountingEncoder(torch.nn.Module):
    """Counts the calls of a real text encoder."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.config = text_encoder.config
        self.calls = 0

    def forward(self, *inputs: Any, **more: Any) -> Any:
        self.calls += 1
        return self.text_encoder(*inputs, **more)


@pytest.fixture
def counting() -> CountingEncoder:
    return CountingEncoder(tiny_text_encoder())


def test_cache_remembers_by_words_weights_key_and_dtype(tokenizer: CLIPTokenizer, counting: CountingEncoder) -> None:
    encoder = PromptEncoder(tokenizer, counting)
    first = encode(encoder, "a red ball")
    assert counting.calls == 2  # the prompt and the empty one
    again = encode(encoder, "a  RED ball")  # the same tokens
    assert counting.calls == 2
    assert torch.equal(first.prompt_embeds, again.prompt_embeds)
    encode(encoder, "a (red:1.3) ball")
    assert counting.calls == 3
    encode(encoder, "a red ball", key=("lora", 0.8))
    assert counting.calls == 5
    encode(encoder, "a red ball", dtype=torch.bfloat16)
    assert counting.calls == 7
    encode(encoder, "a red ball", key=("lora", 0.8))
    assert counting.calls == 7
    encoder.clear()
    encode(encoder, "a red ball")
    assert counting.calls == 9


def test_cache_is_bounded_and_forgets_the_least_recent(tokenizer: CLIPTokenizer, counting: CountingEncoder) -> None:
    encoder = PromptEncoder(tokenizer, counting, cache_entries=2)
    encode(encoder, "a")  # "a" and the empty prompt
    encode(encoder, "b")  # drops "a" first, then the empty prompt is the latest
    assert counting.calls == 3
    encode(encoder, "b")
    assert counting.calls == 3
    encode(encoder, "a")
    assert counting.calls == 4


def test_what_is_remembered_cannot_be_changed_from_outside(encoder: PromptEncoder) -> None:
    first = encode(encoder, "a red ball").prompt_embeds
    kept = first.clone()
    with torch.inference_mode():
        first.zero_()
    assert torch.equal(encode(encoder, "a red ball").prompt_embeds, kept)


class SoloTokenizer:
    """A tokenizer that, like the fast ones, must not be entered by two threads at once, and always notices."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_busy = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **more: Any) -> Any:
        if not self._is_busy.acquire(blocking=False):
            raise RuntimeError("Already borrowed")
        try:
            time.sleep(0.005)
            return self._tokenizer(*texts, **more)
        finally:
            self._is_busy.release()


def test_reports_while_another_thread_encodes(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
    encoder = PromptEncoder(SoloTokenizer(tokenizer), text_encoder)
    texts = [" ".join(LETTERS[:n]) for n in range(1, 120, 17)]
    with ThreadPoolExecutor(4) as threads:
        reports = threads.map(encoder.report, texts * 3)
        for text in texts:
            encode(encoder, text)
    assert [report.count for report in reports] == [text.count(" ") + 1 for text in texts * 3]
