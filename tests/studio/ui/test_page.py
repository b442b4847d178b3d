"""The page as a tree of components, its handlers, and how it is launched."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from studio.errors import StudioError
from studio.ui.page import build_page, free_port, launch_options
from studio.ui.tab_create import CreateTab
from studio.ui.theme import TesseraTheme
from tests.studio.conftest import finished


@pytest.fixture(scope="module")
def studio(served):
    """Building a page takes a second, so these tests share one."""
    return served.studio


@pytest.fixture(scope="module")
def tab(studio):
    with gr.Blocks(analytics_enabled=False):
        return CreateTab(studio)


def test_the_page_offers_three_named_endpoints_and_no_more(served):
    info = served.page.get_api_info()
    assert set(info["named_endpoints"]) == {"/image", "/forecast", "/job"}
    names = [parameter["parameter_name"] for parameter in info["named_endpoints"]["/image"]["parameters"]]
    assert names == ["prompt", "width", "height", "seed", "steps", "model", "style", "tenor"]


def test_no_component_counts_the_time_of_an_event(served):
    # one that missed the end of an event would go on with every frame, on pages that do nothing
    events = [event for event in served.page.config["dependencies"] if event["api_visibility"] == "private"]
    assert len(events) >= 15
    assert [event["id"] for event in events if event["show_progress_on"] != []] == []


def test_no_template_holds_anything_that_changes(served):
    # Gradio evaluates templates as script literals; only its own plain "${value}" is safe
    blocks = [block for block in served.page.blocks.values() if isinstance(block, gr.HTML)]
    assert len(blocks) >= 5
    for block in blocks:
        assert block.html_template == "${value}" or (
            "${" not in block.html_template and "{{" not in block.html_template
        )


def test_a_missing_model_still_gives_a_page_and_a_sentence(settings, painter, tmp_path):
    from studio.studio import Studio

    with Studio(replace(settings, weights_dir=tmp_path / "nothing"), painter) as empty, gr.Blocks():
        tab = CreateTab(empty)
        with pytest.raises(gr.Error, match="model: given"):
            tab._submit("a red ball", 256, 256, 1, "None", 4, "storybook", True)


def test_submit_follows_the_job_it_made(tab, studio):
    order, remembered, seed = tab._submit("a red ball", 256.0, 256.0, 11, "None", 4, "storybook-flux", True)
    assert order == {"follow": remembered} and seed == 11
    request = finished(studio, remembered).request
    assert (request.prompt, request.size, request.seed, request.steps) == ("a red ball", "256x256", 11, 4)


def test_a_seed_that_is_not_kept_changes(tab, studio):
    seeds = {tab._submit("a red ball", 256, 256, 11, "None", 4, "storybook", False)[2] for _ in range(3)}
    assert len(seeds) == 3


def test_bad_input_is_one_sentence(tab):
    with pytest.raises(gr.Error) as refusal:
        tab._submit("a red ball", 100, 256, 1, "None", 4, "storybook", True)
    assert "width: given 100, allowed multiples of 16" in refusal.value.message


def test_a_fault_of_ours_gets_a_number_and_no_detail(tab, studio, monkeypatch, caplog):
    def broken(*arguments):
        raise RuntimeError("inner detail /root")

    monkeypatch.setattr(studio, "submit", broken)
    with pytest.raises(gr.Error) as refusal:
        tab._submit("a red ball", 256, 256, 1, "None", 4, "storybook", True)
    assert "incident" in refusal.value.message and "inner detail" not in refusal.value.message
    assert "inner detail" in caplog.text


def test_a_picture_fills_the_form_that_made_it(tab, studio):
    job = tab._submit("a red ball", 512, 288, 5, "Night", 3, "storybook", True)[1]
    finished(studio, job)
    values = tab._restore_picture(SimpleNamespace(id=job))
    named = dict(
        zip(["prompt", "width", "height", "seed", "style", "steps", "model", "shape"], values, strict=False)
    )
    assert (named["prompt"], named["width"], named["height"]) == ("a red ball", 512, 288)
    assert (named["seed"], named["style"], named["steps"].value) == (5, "Night", 3)
    assert (named["model"], named["shape"], values[-1]) == ("storybook-flux", "Custom", True)


def test_a_dropped_file_fills_the_form_or_is_refused(tab, studio, tmp_path):
    job = tab._submit("a red ball", 256, 256, 5, "None", 4, "storybook", True)[1]
    finished(studio, job)
    *values, said = tab._restore_file(str(studio.gallery.get(job).path))
    assert values[0] == "a red ball" and 'data-kind="good"' in said
    other = tmp_path / "other.png"
    other.write_bytes(b"GIF89a")
    *values, said = tab._restore_file(str(other))
    assert 'data-kind="problem"' in said and all(value == gr.skip() for value in values)


def test_another_seed_of_a_picture_keeps_everything_else(tab, studio):
    job = tab._submit("a red ball", 256, 256, 5, "Night", 4, "storybook", True)[1]
    finished(studio, job)
    order, again, *_ = tab._paint_again(SimpleNamespace(id=job))
    assert order == {"follow": again} and again != job
    first, second = studio.watch(job).request, finished(studio, again).request
    assert replace(second, seed=5, model=first.model) == first and second.seed != 5


def test_a_recipe_of_another_studio_fills_what_can_be_filled(tab, studio):
    job = tab._submit("a red ball", 256, 256, 5, "Night", 4, "storybook", True)[1]
    finished(studio, job)
    recipe = studio.gallery.get(job).recipe
    foreign = replace(recipe, request=replace(recipe.request, style="Elsewhere", model="unknown"))
    prompt, *_, style, _, model, _, _, _, _, _ = tab._form.values_of(foreign)
    assert prompt == recipe.prompt != recipe.request.prompt and style == "None" and model == gr.skip()


def test_a_picture_that_is_gone_is_one_sentence(tab):
    for event in (SimpleNamespace(id="../../etc/passwd"), SimpleNamespace(id=None), SimpleNamespace()):
        with pytest.raises(gr.Error, match="no such picture"):
            tab._restore_picture(event)


def test_the_size_fields_are_shown_only_to_be_typed():
    from studio.ui.tab_create import _choose_size

    assert _choose_size("Landscape", 1024, 1, 2)[:2] == (1024, 576)
    width, height, row, scale = _choose_size("Custom", 1024, 640, 320)
    assert (width, height, row.visible, scale.visible) == (640, 320, True, False)


def test_the_launch_leaves_nothing_open(studio):
    options = launch_options(studio)
    for name in ("enable_monitoring", "run_history", "share", "mcp_server", "show_error", "ssr_mode"):
        assert options[name] is False, name
    assert options["strict_cors"] is True and options["footer_links"] == []


def test_a_space_may_be_framed_and_answers_to_its_own_name(space_studio, studio):
    (here,), (there, cookie) = (
        launch_options(each)["app_kwargs"]["middleware"] for each in (studio, space_studio)
    )
    assert cookie.kwargs == {"is_framed": True}
    assert "frame-ancestors" in here.kwargs["policy"] and there.kwargs["policy"] == ""
    assert ".hf.space" in there.kwargs["hosts"] and ".hf.space" not in here.kwargs["hosts"]


def test_vibe_mode_is_refused(studio, monkeypatch):
    monkeypatch.setenv("GRADIO_VIBE_MODE", "1")
    with pytest.raises(StudioError, match="GRADIO_VIBE_MODE"):
        launch_options(studio)


def test_a_busy_port_gives_way_to_the_next(settings):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert free_port(replace(settings, port=port)) > port


def test_a_foreign_address_is_refused(settings):
    with pytest.raises(StudioError, match="not an address here"):
        free_port(replace(settings, host="192.0.2.1"))


def test_the_theme_names_no_font_and_no_colour_of_its_own():
    theme = TesseraTheme()
    assert theme._stylesheets == [] and theme._font_css == []
    assert theme.body_background_fill == theme.body_background_fill_dark == "var(--t-plaster)"


@pytest.mark.slow
def test_the_entry_file_only_opens_a_studio(repository, tmp_path):
    code = "import app; print(type(app.demo).__name__, app.demo.is_running)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=170, check=True,
        env={"TESSERA_DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert answer.stdout.strip() == "Blocks False"


def test_a_zero_gpu_space_gets_a_function_for_its_card(studio, monkeypatch):
    marked = []

    def gpu(duration):
        return lambda function: marked.append(function.__name__) or function

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    assert "/device" in build_page(studio).get_api_info()["named_endpoints"]
    assert marked == ["device"]
