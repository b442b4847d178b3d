"""The meter's figures are those of the plans that painting makes."""

import shutil
import subprocess
import sys

import pytest
import torch

from pipelines.compose.painting import load_model
from pipelines.compose.prompt_meter import measure_prompt
from pipelines.compose.sketching import ALIGNED, sketches
from pipelines.longalign.parts import LongAlignParts
from pipelines.longalign.text_adapter import TextAdapter
from pipelines.storybook.text import build_t5_tokenizer
from tests.pipelines.longalign.conftest import build_t5, sd_parts

PAGE = "A Kitten sits on 2 (huge) chairs. It is 3.5 m wide! Is the cup red? " * 30
PROMPTS = {
    "short": "a red ball",
    "sentences": "A red cat. A blue house!",
    "emphasis": "A (red:1.3) Kitten BREAK a ((dog:0.5) cat)",
    "page": PAGE,
    "book": PAGE * 8,
    "one long sentence": "red " * 700,
    "empty": "",
    "dots": "...",
    "cjk": "\u732b\u3002" * 40,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny Stable Diffusion folder."""
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("weights") / "mine"
    StableDiffusionPipeline(**sd_parts(), requires_safety_checker=False).save_pretrained(folder)
    return folder


def aligned(small, mode):
    """The same with LongAlign's adapter and T5, cut officially or smartly."""
    folder = shutil.copytree(small, small.parent / f"storybook-{mode}", dirs_exist_ok=True)
    LongAlignParts(mode, 80, ()).write(folder / ALIGNED)
    torch.manual_seed(0)
    TextAdapter(24, 16, 16).save_pretrained(folder / ALIGNED / "adapter")
    build_t5().save_pretrained(folder / ALIGNED / "text_encoder_2")
    build_t5_tokenizer().save_pretrained(folder / ALIGNED / "tokenizer_2")
    return folder


def plans_of(model, prompt):
    """The plans of a prompt as it is painted, or none where it is read in one piece."""
    from pipelines.compose import painting, sketching

    text = painting.understood(prompt, has_emphasis=True)[0] if model.is_storybook else prompt
    if model.sketcher is None:
        return painting.read_text(model, text)[2]
    stage = painting.count_work(model.folder, 64, 64, 1)[0][0]
    sketching.sketch(model.sketcher, text, stage, 1, torch.Generator(), lambda *_: {})
    return model.sketcher.plans[0] if model.sketcher.plans else ()


@pytest.mark.parametrize("kind", ["flux", "sd", "smart", "official"])
def test_rows_and_cuts_are_those_of_the_plans(kind, saved_folder, small):
    folder = {"flux": saved_folder, "sd": small}.get(kind) or aligned(small, kind)
    model = load_model(folder)
    divided = set()
    for name, prompt in PROMPTS.items():
        found = measure_prompt(folder, prompt)
        plans = plans_of(model, prompt)
        for length, plan in zip(found, plans, strict=False):
            marks = 0 if length.encoder == "T5" or length.reading == "sentences" else 1
            assert length.rows == plan.used + marks, (name, length.encoder)
            assert length.dropped == plan.dropped_tokens, (name, length.encoder)
            assert length.lost == " ".join(cut.text for cut in plan.cuts)[:2000]
        if plans:
            divided.add(name)
            assert len(plans) == (2 if kind in ("smart", "official") else 1)
        first = found[0]
        outside = first.rows - sum(sentence.rows for sentence in first.sentences)
        assert outside == (0 if first.reading == "sentences" else len(first.encoder) // 2)
    page = {"emphasis", "page", "book", "one long sentence"}
    assert divided == (page if kind == "flux" else {*page, "cjk"})
    assert sketches(folder) == (kind != "flux")


def test_the_words_are_those_that_the_model_is_told(saved_folder, small):
    (first, _), (foreign,) = (measure_prompt(folder, PROMPTS["emphasis"]) for folder in (saved_folder, small))
    assert [one.text for one in first.sentences] == ["a red cat", "a dog cat"]
    assert [one.text for one in foreign.sentences] == ["A red Kitten", "a dog cat"]


def test_words_beyond_the_block_are_named_in_their_sentence(small):
    folder = aligned(small, "official")
    clip, _ = measure_prompt(folder, "A red cat. " * 30)
    kept = [sentence for sentence in clip.sentences if not sentence.lost]
    cut = next(sentence for sentence in clip.sentences if sentence.lost)
    assert clip.rows == 80 and 0 < len(kept) < 30 and cut.text.endswith(cut.lost)
    assert all(sentence.rows == 0 for sentence in clip.sentences[len(kept) + 1 :])


def test_a_folder_without_tokenizers_has_no_length(tmp_path):
    assert measure_prompt(tmp_path, "a cat") == []


def test_no_model_and_no_torch_is_loaded(small):
    code = (
        "import sys; from pathlib import Path; from pipelines.compose.prompt_meter import measure_prompt;"
        f"print(bool(measure_prompt(Path({str(small)!r}), 'a cat')));"
        "print(sorted({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True).stdout
    assert said.split() == ["True", "[]"]
