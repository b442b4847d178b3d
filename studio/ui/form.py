"""The left side of the Create screen: its fields, in the order a person meets them."""

from __future__ import annotations

from html import escape

import gradio as gr

from studio.checks import MAX_SEED
from studio.errors import StudioError
from studio.recipes import Recipe
from studio.requests import DEFAULT_MODEL
from studio.studio import Studio
from studio.ui import create
from studio.ui.create import CUSTOM, NO_STYLE, SCALES, SHAPES
from studio.ui.scripts import on_load

_DEFAULT_SCALE = 1024
_FALLBACK_STEPS = 8
_MOST_STEPS = 50


class CreateForm:
    """Builds the fields inside the `gr.Column` that is open, and knows how to fill them.

    Args:
        studio: Knows styles and models.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._models = [card.name for card in studio.registry.cards() if card.paints]
        self._build_prompt()
        self._build_size()
        self._build_choices()
        self._build_more()
        with gr.Column(elem_id="t-dock", min_width=0):
            self.forecast = gr.HTML(
                elem_id="t-forecast",
                js_on_load=on_load("mountForecast", "props, watch"),
                apply_default_css=False,
            )
            with gr.Row(elem_id="t-actions"):
                self.generate = gr.Button("Generate", variant="primary", elem_id="t-generate")
                self.cancel = gr.Button("Cancel", elem_id="t-cancel")
        self.fields = [self.prompt, self.width, self.height, self.seed, self.style, self.steps, self.model]
        self.fillable = [*self.fields, self.shape, self.scale, self.sides, self.keep, self.tenor]

    def values_of(self, recipe: Recipe) -> tuple[object, ...]:
        """What fills `fillable` so that the form asks for the picture of `recipe` again.

        A style this studio does not have is taken as the words it added; a model it does not have leaves
        the chosen one as it is.
        """
        request = recipe.request
        shape, scale = create.preset_of(request.width, request.height)
        has_style = any(style.name == request.style for style in self._studio.styles)
        return (
            request.prompt if has_style else recipe.prompt,
            request.width,
            request.height,
            request.seed,
            request.style if has_style else NO_STYLE,
            gr.Slider(value=recipe.steps, maximum=max(_MOST_STEPS, recipe.steps)),
            request.model if request.model in self._models else gr.skip(),
            shape,
            gr.Radio(value=scale, visible=shape != CUSTOM),
            gr.Row(visible=shape == CUSTOM),
            True,
            request.tenor is not False,
        )

    def default_steps(self, model: str) -> int:
        """Steps the model takes when nobody chooses."""
        try:
            return self._studio.painter.default_steps(self._studio.registry.paintable(model).folder)
        except StudioError:
            return _FALLBACK_STEPS

    def steps_hint(self, model: str) -> str | None:
        """What fewer steps mean to a model that has an adapter for them."""
        try:
            most = self._studio.painter.few_steps(self._studio.registry.paintable(model).folder)
        except StudioError:
            most = 0
        return f"{most} or fewer: several times faster, by an adapter made for it" if most else None

    def of_model(self, model: str) -> tuple[object, ...]:
        """What `steps` and `tenor` become when another model is chosen."""
        steps = gr.Slider(value=self.default_steps(model), info=self.steps_hint(model))
        return steps, gr.Checkbox(visible=create.has_tenor(self._studio, model))

    def _build_prompt(self) -> None:
        self.prompt = gr.Textbox(
            label="Describe the picture",
            value=create.EXAMPLES[0],
            placeholder="a red cat to the left of a blue house",
            lines=3,
            max_lines=12,
            elem_id="t-prompt",
        )
        self.length = gr.HTML(
            elem_id="t-length",
            html_template="<div></div>",
            apply_default_css=False,
            js_on_load=on_load("mountLength", "props, watch"),
        )
        self.said = gr.HTML(elem_id="t-said", js_on_load=None, apply_default_css=False)
        buttons = "".join(
            f'<button type="button" data-example>{escape(text)}</button>' for text in create.EXAMPLES[1:]
        )
        gr.HTML(
            elem_id="t-examples",
            html_template=f'<span class="t-label">Or try</span><div class="t-examples">{buttons}</div>',
            apply_default_css=False,
            js_on_load=on_load("mountExamples"),
        )
        self.space = gr.HTML(
            elem_id="t-space",
            html_template="<div></div>",
            apply_default_css=False,
            js_on_load=on_load("mountRelations", "props, watch"),
        )
        self.verify = gr.Radio(
            [("Off", 0), ("2 tries", 2), ("4 tries", 4), ("8 tries", 8)],
            value=0,
            label="Verify: paint small until one is right",
            visible=self._studio.registry.has("eyes"),
            elem_id="t-verify",
            elem_classes="t-segments",
        )

    def _build_size(self) -> None:
        with gr.Column(elem_id="t-size", min_width=0):
            self.shape = gr.Radio(
                list(SHAPES), value=SHAPES[0], label="Size", elem_id="t-shape", elem_classes="t-segments"
            )
            self.scale = gr.Radio(
                [(str(scale), scale) for scale in SCALES],
                value=_DEFAULT_SCALE,
                label="Longer side in pixels",
                show_label=False,
                elem_id="t-scale",
                elem_classes="t-segments",
            )
            with gr.Row(elem_id="t-sides", visible=False) as self.sides:
                self.width = gr.Number(_DEFAULT_SCALE, label="Width", precision=0, step=16, min_width=0)
                self.height = gr.Number(_DEFAULT_SCALE, label="Height", precision=0, step=16, min_width=0)

    def _build_choices(self) -> None:
        names = [NO_STYLE, *(style.name for style in self._studio.styles)]
        self.style = gr.Radio(names, value=NO_STYLE, label="Style", elem_id="t-styles")
        with gr.Row(elem_id="t-seed-row"):
            self.seed = gr.Number(
                0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, elem_id="t-seed", min_width=0
            )
            self.dice = gr.Button("Roll a new seed", elem_id="t-dice", min_width=0)
            self.keep = gr.Checkbox(False, label="Keep", elem_id="t-keep", min_width=0)

    def _build_more(self) -> None:
        preferred = self._preferred(self._models)
        with gr.Accordion("Steps, model, settings from a picture", open=False, elem_id="t-more"):
            self.steps = gr.Slider(
                1,
                _MOST_STEPS,
                value=self.default_steps(preferred),
                step=1,
                label="Steps",
                info=self.steps_hint(preferred),
                elem_id="t-steps",
                buttons=[],
            )
            self.model = gr.Dropdown(
                self._models or [DEFAULT_MODEL], value=preferred, label="Model", elem_id="t-model"
            )
            self.tenor = gr.Checkbox(
                True,
                label="TENOR: words know their places in the prompt",
                visible=create.has_tenor(self._studio, preferred),
                elem_id="t-tenor",
            )
            gr.HTML(html_template='<span class="t-label">Settings from a picture</span>', js_on_load=None)
            self.drop = gr.File(
                label="A picture of this studio, to take its settings",
                show_label=False,
                file_types=[".png", ".jpg", ".webp"],
                type="filepath",
                height=132,
                elem_id="t-drop",
            )
            self.dropped = gr.HTML(js_on_load=None, apply_default_css=False)

    def _preferred(self, models: list[str]) -> str:
        try:
            return self._studio.registry.card(DEFAULT_MODEL).name
        except StudioError:
            return models[0] if models else DEFAULT_MODEL
