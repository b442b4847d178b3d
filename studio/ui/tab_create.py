"""The Create screen: a form on the left, the easel on the right, and what happens when something changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.recipes import Recipe, read_recipe
from studio.studio import Studio
from studio.ui import create
from studio.ui.create import CUSTOM, Fields
from studio.ui.form import CreateForm
from studio.ui.refusals import told
from studio.ui.scripts import on_click, on_load
from studio.ui.visitors import visit_of
from studio.visit import Visit

# fixed, so that a browser finds its last job again after the server was restarted; it hides nothing secret
_STORAGE = "tessera-studio"
# no component waits visibly: one that missed the end of an event would count time, frame by frame, for good
_STILL: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
_QUIET = {"queue": False, **_STILL}
_SUBMIT = {"concurrency_limit": 8, **_STILL}
_LATEST = {"trigger_mode": "always_last", **_QUIET}


class CreateTab:
    """Builds the Create screen inside the `gr.Blocks` that is open.

    Args:
        studio: What answers.
    """

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._last_job = gr.BrowserState("", storage_key=_STORAGE, secret=_STORAGE)
        with gr.Row(elem_id="t-desk"):
            with gr.Column(elem_id="t-panel", scale=0, min_width=0):
                self._form = CreateForm(studio)
            with gr.Column(elem_id="t-canvas", min_width=0):
                self._easel = gr.HTML(
                    elem_id="t-easel",
                    # nothing that changes may stand in a template: Gradio evaluates it as script
                    html_template="<div></div>",
                    apply_default_css=False,
                    js_on_load=on_load("mountEasel", "trigger, props, watch", ("restore", "again")),
                )
        self._wire()

    def wire_load(self, page: gr.Blocks) -> None:
        """Say what there is to say about the form, and take up the job this browser started last."""
        form = self._form
        page.load(
            self._say_forecast, [form.width, form.height, form.steps, form.model], form.forecast, **_QUIET
        )
        page.load(self._say_prompt, [form.prompt, form.style, form.model], [form.length, form.said], **_QUIET)
        page.load(self._read_prompt, [form.prompt, form.width, form.height], form.space, **_QUIET)
        page.load(create.new_seed, None, form.seed, **_QUIET)
        page.load(lambda last: {"last": last}, self._last_job, self._easel, **_QUIET)

    def _wire(self) -> None:
        form = self._form
        size = [form.width, form.height]
        cost = [*size, form.steps, form.model]
        words = [form.prompt, form.style, form.model]
        preset = [form.shape, form.scale]
        started = [self._easel, self._last_job]
        gr.on(
            [item.input for item in preset],
            _choose_size,
            [*preset, *size],
            [*size, form.sides, form.scale],
            **_QUIET,
        )
        gr.on([item.change for item in cost], self._say_forecast, cost, form.forecast, **_LATEST)
        gr.on([item.change for item in words], self._say_prompt, words, [form.length, form.said], **_LATEST)
        shape = [form.prompt, *size]
        gr.on([item.change for item in shape], self._read_prompt, shape, form.space, **_LATEST)
        form.model.input(form.of_model, form.model, [form.steps, form.tenor], **_QUIET)
        form.dice.click(create.new_seed, None, form.seed, **_QUIET)
        # whoever types a seed wants it kept
        form.seed.input(lambda: True, None, form.keep, **_QUIET)
        form.generate.click(
            self._submit, [*form.fields, form.keep, form.verify, form.tenor], [*started, form.seed], **_SUBMIT
        )
        form.cancel.click(None, js=on_click("cancel"), **_QUIET)
        form.drop.upload(self._restore_file, form.drop, [*form.fillable, form.dropped], **_QUIET)
        self._easel.restore(self._restore_picture, None, form.fillable, **_QUIET)
        self._easel.again(self._paint_again, None, [*started, *form.fillable], **_SUBMIT)

    def _say_forecast(self, width: Any, height: Any, steps: Any, model: Any) -> str:
        return told(lambda: create.forecast_html(self._studio, width, height, steps, model))

    def _say_prompt(self, prompt: Any, style: Any, model: Any) -> tuple[dict[str, Any], str]:
        """How long the prompt is, and what there is to say about it."""
        return told(
            lambda: (
                create.length_of(self._studio, prompt, style, model),
                create.prompt_html(self._studio, prompt, style, model),
            )
        )

    def _read_prompt(self, prompt: Any, width: Any, height: Any) -> dict[str, Any]:
        return told(lambda: create.reading_of(self._studio, prompt, width, height))

    def _submit(
        self,
        prompt: Any,
        width: Any,
        height: Any,
        seed: Any,
        style: Any,
        steps: Any,
        model: Any,
        keep: Any,
        verify: Any = 0,
        tenor: Any = True,
        asked: gr.Request | None = None,
    ) -> tuple[dict[str, str], str, Any]:
        """Submit; what the easel then follows, what the browser remembers, and the seed that is used."""
        chosen = seed if keep else create.new_seed()
        # the choice is not shown while the prompt says nothing about space
        budget = verify if told(lambda: create.has_relations(self._studio, prompt)) else 0
        switch = tenor if create.has_tenor(self._studio, model) else True
        fields = Fields(prompt, width, height, chosen, style, steps, model, budget, switch)
        job_id = told(lambda: self._visit(asked).submit(fields.request()))
        return {"follow": job_id}, job_id, chosen

    def _restore_file(self, path: str | None) -> tuple[Any, ...]:
        nothing = [gr.skip()] * len(self._form.fillable)
        if path is None:
            return *nothing, ""
        try:
            recipe = read_recipe(Path(path))
        except StudioError as error:
            return *nothing, create.note_html(str(error), "problem")
        said = create.note_html(
            "Prompt, size, style, seed, steps and model were taken from the picture.", "good"
        )
        return *self._form.values_of(recipe), said

    def _restore_picture(self, event: gr.EventData, asked: gr.Request | None = None) -> tuple[Any, ...]:
        recipe = told(lambda: self._recipe_of(event, asked))
        return self._form.values_of(recipe)

    def _paint_again(self, event: gr.EventData, asked: gr.Request | None = None) -> tuple[Any, ...]:
        recipe = told(lambda: self._recipe_of(event, asked))
        request = replace(recipe.request, seed=create.new_seed(), steps=recipe.steps)
        job_id = told(lambda: self._visit(asked).submit(request))
        return {"follow": job_id}, job_id, *self._form.values_of(replace(recipe, request=request))

    def _recipe_of(self, event: gr.EventData, asked: gr.Request | None) -> Recipe:
        return self._visit(asked).picture(str(getattr(event, "id", ""))).recipe

    def _visit(self, asked: gr.Request | None) -> Visit:
        return visit_of(self._studio, asked.headers if asked else {})


def _choose_size(shape: str, scale: int, width: Any, height: Any) -> tuple[Any, ...]:
    """Sides of the chosen preset, and whether they are shown to be typed."""
    if shape == CUSTOM:
        return width, height, gr.Row(visible=True), gr.Radio(visible=False)
    return *create.sides(shape, scale), gr.Row(visible=False), gr.Radio(visible=True)
