"""How the page looks: Gradio's own theme with fonts of the system, and the small style.css and page.js beside this."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gradio as gr

HERE: Final = Path(__file__).parent
STYLE: Final = HERE / "style.css"
SCRIPT: Final = HERE / "page.js"


def make() -> gr.themes.Base:
    """The theme. No font is fetched from anywhere; texts keep a contrast of at least 4.5:1."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        link_text_color="*primary_700",
        link_text_color_hover="*primary_800",
        link_text_color_active="*primary_700",
        link_text_color_visited="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_visited_dark="*primary_300",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        block_shadow="none",
    )


def head() -> str:
    """What goes into the page's head: the script, once."""
    return f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>"
