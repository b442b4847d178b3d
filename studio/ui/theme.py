"""Gradio's theme, handed over to the colour and type names of `assets/ui/css/tokens.css`.

Every colour is a CSS variable that has a day and a night value there, so each theme variable is set once for
both.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes import sizes

_SANS = "var(--t-sans)"
_MONO = "var(--t-mono)"

_COLOURS = {
    "body_background_fill": "var(--t-plaster)",
    "body_text_color": "var(--t-ink)",
    "body_text_color_subdued": "var(--t-ink-3)",
    "background_fill_primary": "var(--t-surface)",
    "background_fill_secondary": "var(--t-inset)",
    "border_color_primary": "var(--t-line)",
    "border_color_accent": "var(--t-glaze)",
    "border_color_accent_subdued": "var(--t-line)",
    "color_accent_soft": "var(--t-glaze-soft)",
    "link_text_color": "var(--t-glaze)",
    "link_text_color_hover": "var(--t-glaze-hover)",
    "link_text_color_active": "var(--t-glaze)",
    "link_text_color_visited": "var(--t-glaze)",
    "code_background_fill": "var(--t-inset)",
    "block_background_fill": "transparent",
    "block_border_color": "transparent",
    "block_info_text_color": "var(--t-ink-3)",
    "block_label_background_fill": "transparent",
    "block_label_text_color": "var(--t-ink-2)",
    "block_title_text_color": "var(--t-ink-2)",
    "panel_background_fill": "transparent",
    "accordion_text_color": "var(--t-ink-2)",
    "checkbox_background_color": "var(--t-surface)",
    "checkbox_background_color_focus": "var(--t-surface)",
    "checkbox_background_color_hover": "var(--t-inset)",
    "checkbox_background_color_selected": "var(--t-glaze)",
    "checkbox_border_color": "var(--t-line-strong)",
    "checkbox_border_color_focus": "var(--t-glaze)",
    "checkbox_border_color_hover": "var(--t-ink-3)",
    "checkbox_border_color_selected": "var(--t-glaze)",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_hover": "transparent",
    "checkbox_label_background_fill_selected": "transparent",
    "checkbox_label_text_color": "var(--t-ink-2)",
    "checkbox_label_text_color_selected": "var(--t-ink)",
    "error_background_fill": "var(--t-brick-soft)",
    "error_border_color": "var(--t-brick)",
    "error_text_color": "var(--t-ink)",
    "error_icon_color": "var(--t-brick)",
    "input_background_fill": "var(--t-surface)",
    "input_background_fill_focus": "var(--t-surface)",
    "input_background_fill_hover": "var(--t-surface)",
    "input_border_color": "var(--t-line-strong)",
    "input_border_color_focus": "var(--t-glaze)",
    "input_border_color_hover": "var(--t-ink-3)",
    "input_placeholder_color": "var(--t-ink-3)",
    "loader_color": "var(--t-glaze)",
    "slider_color": "var(--t-glaze)",
    "button_primary_background_fill": "var(--t-glaze)",
    "button_primary_background_fill_hover": "var(--t-glaze-hover)",
    "button_primary_border_color": "transparent",
    "button_primary_text_color": "var(--t-on-glaze)",
    "button_primary_text_color_hover": "var(--t-on-glaze)",
    "button_secondary_background_fill": "var(--t-surface)",
    "button_secondary_background_fill_hover": "var(--t-inset)",
    "button_secondary_border_color": "var(--t-line-strong)",
    "button_secondary_text_color": "var(--t-ink)",
    "button_secondary_text_color_hover": "var(--t-ink)",
}
_SHADOWS = (
    "block_shadow",
    "input_shadow",
    "input_shadow_focus",
    "button_primary_shadow",
    "button_secondary_shadow",
)


class TesseraTheme(gr.themes.Base):
    """The studio's own theme; it downloads no font."""

    def __init__(self) -> None:
        super().__init__(
            spacing_size=sizes.spacing_md,
            radius_size=sizes.radius_sm,
            text_size=sizes.text_md,
            font=[_SANS],
            font_mono=[_MONO],
        )
        self.name = "tessera"
        values = {**_COLOURS, **dict.fromkeys(_SHADOWS, "none")}
        night = {f"{name}_dark": value for name, value in values.items() if hasattr(self, f"{name}_dark")}
        self.set(color_accent="var(--t-glaze)", block_border_width="0px", **values, **night)
