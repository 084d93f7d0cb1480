"""Every text of the theme can be read on what it stands on, in light and in dark."""

from __future__ import annotations

import re
from itertools import product

import pytest
from PIL import ImageColor

from sd_demo.ui import theme

LINKS = tuple(f"link-text-color{state}" for state in ("", "-hover", "-active", "-visited"))
TEXTS = (*LINKS, "body-text-color", "body-text-color-subdued", "block-info-text-color", "block-title-text-color")
PAIRS = (
    *product(TEXTS, ("body-background-fill", "block-background-fill")),
    *(
        (f"button-{kind}-text-color{state}", f"button-{kind}-background-fill{state}")
        for kind, state in product(("primary", "secondary", "cancel"), ("", "-hover"))
    ),
    ("block-label-text-color", "block-label-background-fill"),
    ("input-placeholder-color", "input-background-fill"),
    ("error-text-color", "error-background-fill"),
)


@pytest.fixture(scope="module")
def variables() -> dict[str, dict[str, str]]:
    """The CSS variables of both looks, by their names."""
    light, dark = (
        dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))
        for block in re.findall(r"\{([^{}]*)\}", theme.make()._get_theme_css())
    )
    return {"light": light, "dark": light | dark}


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    parts = [value / 255 for value in ImageColor.getrgb(colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("look", ["light", "dark"])
def test_texts_have_a_contrast_of_at_least_four_and_a_half(look: str, variables: dict[str, dict[str, str]]) -> None:
    known = variables[look]

    def colour(name: str) -> str:
        value = known[name].strip()
        return colour(value[6:-1].strip()) if value.startswith("var(--") else value

    found = {}
    for text, ground in PAIRS:
        darker, lighter = sorted(luminance(colour(name)) for name in (text, ground))
        found[text, ground] = round((lighter + 0.05) / (darker + 0.05), 2)
    assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}
