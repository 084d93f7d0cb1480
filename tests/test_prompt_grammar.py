"""The weight grammar: golden cases, what it does with what is no grammar, and time that grows with length alone."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_demo.prompt_grammar import WeightedText, has_words, parse_prompt, plain_text

LESS = 1 / 1.1

GOLDEN: list[tuple[str, list[tuple[str, float]]]] = [
    ("normal text", [("normal text", 1)]),
    ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
    ("((very)) [little]", [("very", 1.21), (" ", 1), ("little", LESS)]),
    ("[[little]]", [("little", LESS**2)]),
    ("(word:1.3)", [("word", 1.3)]),
    ("(word: 1.3 )", [("word", 1.3)]),
    ("(word:.5)", [("word", 0.5)]),
    ("(word:2.)", [("word", 2)]),
    ("(word:+1.5)", [("word", 1.5)]),
    ("(word:-0.5)", [("word", -0.5)]),
    ("(word:0)", [("word", 0)]),
    ("(two words, a comma:1.2)", [("two words, a comma", 1.2)]),
    ("((a:1.5) b)", [("a", 1.65), (" b", 1.1)]),
    ("((a) b:2)", [("a", 2.2), (" b", 2)]),
    ("([a])", [("a", 1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            ("a ", 1),
            ("house", 1.3 * 1.1 * 1.1),
            (" ", 1.1),
            ("on", 1),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.1**4),
            (".", 1.1),
        ],
    ),
    # neighbours of equal weight are one text
    ("(red)(ball)", [("redball", 1.1)]),
    ("()(a:1)b", [("ab", 1)]),
    # escapes
    (r"\(literal\) \[too\]", [("(literal) [too]", 1)]),
    (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
    (r"back\\slash", [(r"back\slash", 1)]),
    (r"back\slash \ ", [(r"back\slash \ ", 1)]),
    (r"\\(a)", [("\\", 1), ("a", 1.1)]),
    ("end\\", [("end\\", 1)]),
    # brackets without a partner
    ("(unbalanced", [("unbalanced", 1.1)]),
    ("a [un (balanced", [("a ", 1), ("un ", LESS), ("balanced", 1)]),
    ("un) balanced] :1.3)", [("un) balanced] :1.3)", 1)]),
    ("(a)) b", [("a", 1.1), (") b", 1)]),
    ("[a) b:1.3) c", [("a) b:1.3) c", LESS)]),
    ("(a] b", [("a] b", 1.1)]),
    ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", LESS)]),
    # what only looks like a weight
    ("a smile :) 16:9 :", [("a smile :) 16:9 :", 1)]),
    ("(16:9 view)", [("16:9 view", 1.1)]),
    ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ("(a:.)", [("a:.", 1.1)]),
    ("(a:1e5)", [("a:1e5", 1.1)]),
    ("(a:nan)", [("a:nan", 1.1)]),
    ("[a:1.3]", [("a:1.3", LESS)]),
    # emptiness
    ("", []),
    ("([])", []),
    ("   ", [("   ", 1)]),
]


@pytest.mark.parametrize(("prompt", "expected"), GOLDEN)
def test_golden(prompt: str, expected: list[tuple[str, float]]) -> None:
    (section,) = parse_prompt(prompt)
    assert [text for text, _ in section] == [text for text, _ in expected]
    assert [weight for _, weight in section] == pytest.approx([weight for _, weight in expected], rel=1e-9)


BREAKS: list[tuple[str, list[list[tuple[str, float]]]]] = [
    ("a BREAK b", [[("a", 1)], [("b", 1)]]),
    ("a,\n BREAK\tb BREAK c", [[("a,", 1)], [("b", 1)], [("c", 1)]]),
    ("BREAK a", [[], [("a", 1)]]),
    ("a BREAK", [[("a", 1)], []]),
    ("a BREAK BREAK b", [[("a", 1)], [], [("b", 1)]]),
    ("(a BREAK b:1.5) c", [[("a", 1.5)], [("b", 1.5), (" c", 1)]]),
    ("BREAKFAST break a_BREAK", [[("BREAKFAST break a_BREAK", 1)]]),
]


@pytest.mark.parametrize(("prompt", "expected"), BREAKS)
def test_break_parts_sections(prompt: str, expected: list[list[tuple[str, float]]]) -> None:
    assert [list(section) for section in parse_prompt(prompt)] == [
        [WeightedText(text, weight) for text, weight in section] for section in expected
    ]


@given(st.text(alphabet="()[]:\\.15 aBREK"))
def test_anything_is_an_answer(prompt: str) -> None:
    sections = parse_prompt(prompt)
    assert sections
    for section in sections:
        assert all(text for text, _ in section)
        assert all(left.weight != right.weight for left, right in pairwise(section))


@given(st.text().filter(lambda text: not set(text) & set("()[]\\") and "BREAK" not in text))
def test_text_without_syntax_comes_back_whole(prompt: str) -> None:
    assert parse_prompt(prompt) == ((WeightedText(prompt, 1.0),),) if prompt else parse_prompt(prompt) == ((),)


def test_brackets_that_cancel_weigh_exactly_1() -> None:
    for depth in range(1, 12):
        assert parse_prompt("(" * depth + "[" * depth + "a" + "]" * depth + ")" * depth) == ((WeightedText("a", 1.0),),)


def test_200_brackets_deep() -> None:
    assert parse_prompt("(" * 200 + "ball" + ")" * 200) == ((WeightedText("ball", pytest.approx(1.1**200)),),)
    assert parse_prompt("[" * 200 + "ball" + "]" * 200) == ((WeightedText("ball", pytest.approx(1.1**-200)),),)


LONG = [
    "(" * 50_000,
    "(" * 25_000 + "a" + ")" * 25_000,
    "(a" * 25_000,
    "(a" * 12_500 + ")b" * 12_500,
    "[(" * 25_000,
    "\\" * 50_000,
    " " * 50_000,
    ":" + " " * 50_000,
    ": " * 25_000,
    ":1" * 25_000,
    "(:" + "1" * 50_000,
    "(:" + "1" * 25_000 + " " * 25_000,
    "(:1)" * 12_500,
    "BREAK " * 8_000,
]


def test_time_grows_with_length_alone() -> None:
    """In a process that is killed: a pattern that looks at a stretch twice takes minutes for these, and not seconds."""
    script = f"from sd_demo.prompt_grammar import parse_prompt\nfor prompt in {LONG!r}: parse_prompt(prompt)"
    subprocess.run([sys.executable, "-"], input=script, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a  red ball, \n on the beach ", "a  red ball, \n on the beach "),
        ("a (red:1.4)  ball [blurry]", "a red ball blurry"),
        ("a cat BREAK a dog", "a cat a dog"),
        (r"a cat \(sitting\)", "a cat (sitting)"),
        ("", ""),
    ],
)
def test_a_prompt_without_its_syntax(prompt: str, plain: str) -> None:
    assert plain_text(prompt) == plain


def test_a_prompt_has_words_or_none() -> None:
    for none in ("", " \n", "...", "?!", "()", "(:1.3)", "[ ] BREAK", "_ - *", "\N{CAT FACE}", "\N{SNOWMAN}\ufe0f"):
        assert not has_words(none), none
    for some in ("a", "...a", "(é:1.3)", "猫", "2", "\N{CAT FACE} cat"):
        assert has_words(some), some
