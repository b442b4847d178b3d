"""Preference scores, the score of each sentence, and what evaluations count."""

import json

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from pipelines.longalign import preference_model
from pipelines.longalign.measures import FeatureSpace, attributes_present, diversity, frechet_distance, look
from pipelines.longalign.pages import held_out_pages, page_of
from pipelines.longalign.preference import common_direction, decompose, preference_logits
from pipelines.longalign.preference_model import PictureInput, PreferenceModel, Reference, measure_reference
from pipelines.longalign.segment_scores import picture_tensor, score_segments
from pipelines.storybook.detector import Detection, Detections, StorybookJudge
from pipelines.storybook.scene import has_held_out
from pipelines.storybook.text import build_clip_tokenizer
from pipelines.storybook.vocabulary import unknown_words
from tests.pipelines.longalign.conftest import MARKS


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("clip"), build_clip_tokenizer()
    torch.manual_seed(3)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "projection_dim": 8, **shape, **MARKS}
    vision = {"image_size": 32, "patch_size": 16, "projection_dim": 8, **shape}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8, **MARKS)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(clip_folder):
    return PreferenceModel.from_pretrained(clip_folder, PictureInput((0.5,) * 3, (0.5,) * 3, crop=24))


def reference_of(model, monkeypatch, pictures=None):
    monkeypatch.setattr(preference_model, "LEAST_CAPTIONS", 8)
    return measure_reference(model, [page_of(1, index).text for index in range(8)], pictures)


def test_the_parts_add_up_for_every_weight():
    captions, pictures = torch.randn(6, 8), torch.randn(6, 8)
    direction = common_direction(captions)
    parts, unit = decompose(captions, direction), torch.nn.functional.normalize(pictures, dim=-1)
    assert (parts.perpendicular @ direction).abs().max() < 1e-6
    for weight in (0.0, 0.3, 1.0):
        score = preference_logits(captions, pictures, direction, weight).diagonal()
        expected = parts.relevant(unit) + weight * parts.irrelevant(unit)
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)


def test_one_caption_has_no_common_direction(model):
    with pytest.raises(ValueError, match="several captions"):
        common_direction(torch.randn(1, 8))
    with pytest.raises(ValueError, match="at least 1000 captions, got 2"):
        measure_reference(model, ["a cat", "a dog"])


def test_the_picture_path_keeps_its_gradient_and_the_text_has_none(model):
    pictures = torch.rand(2, 3, 32, 32, requires_grad=True)
    captions = model.embed_captions(["a red cat. A dog.", "a house"])
    assert not captions.requires_grad
    preference_logits(captions, model.embed_pictures(pictures)).diagonal().sum().backward()
    assert pictures.grad.abs().sum() > 0


def test_one_crop_serves_the_whole_batch(model):
    picture = torch.rand(1, 3, 40, 40)
    twice = model.prepare(picture.expand(2, -1, -1, -1), torch.Generator().manual_seed(1))
    assert twice.shape == (2, 3, 32, 32) and torch.equal(twice[0], twice[1])
    assert not torch.equal(twice[0], model.prepare(picture, torch.Generator().manual_seed(2))[0])
    assert torch.equal(model.prepare(picture, crop=False), model.prepare(picture, crop=False))


def test_statistics_come_from_the_folder(clip_folder):
    assert PreferenceModel.from_pretrained(clip_folder).picture_input == PictureInput()
    written = clip_folder / "preprocessor_config.json"
    written.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}))
    try:
        assert PreferenceModel.from_pretrained(clip_folder).picture_input.mean == (0.1, 0.2, 0.3)
    finally:
        written.unlink()


def test_each_sentence_gets_a_score(model, monkeypatch, tmp_path):
    pictures = torch.rand(4, 3, 32, 32)
    reference = reference_of(model, monkeypatch, pictures)
    reference.save(tmp_path / "reference.safetensors")
    reference = Reference.load(tmp_path / "reference.safetensors")
    prompt = "A red cat is in a meadow. A blue house stands on the left!"
    picture = Image.new("RGB", (48, 32), (200, 30, 20))
    scores = score_segments(model, picture, prompt, reference)
    assert [prompt[s.start : s.end] for s in scores] == [
        "A red cat is in a meadow",
        "A blue house stands on the left",
    ]
    captions = model.embed_captions([s.text for s in scores])
    seen = model.embed_pictures(picture_tensor(picture)[None], crop=False)
    plain = preference_logits(captions, seen)[:, 0]
    torch.testing.assert_close(torch.tensor([s.score for s in scores]), plain, rtol=1e-4, atol=1e-5)
    assert all(s.above_average is not None for s in scores)
    mean = sum(score_segments(model, p, prompt, reference)[0].above_average for p in pictures) / 4
    assert abs(mean) < 1e-6  # pictures are average on average
    bare = Reference(reference.direction)
    assert score_segments(model, picture, prompt, bare)[0].above_average is None


def test_pages_are_long_known_and_held_out():
    pages = held_out_pages(60)
    assert {word for page in pages for word in unknown_words(page.text)} == set()
    assert all(len(page.text.split()) >= 80 and has_held_out(page.scene) for page in pages)
    assert all(f"{item.colour} {item.kind}" in page.text for page in pages for item in page.wanted.objects)
    assert sum(page.relation is not None for page in pages) > 20
    assert pages[3].text == held_out_pages(4)[3].text and not has_held_out(page_of(1, 0).scene)


def drawn(page, **changes):
    """What a perfect detector sees in the page's drawing."""
    found = []
    for item in page.scene.objects:
        box = (item.box[0], item.box[1], item.box[2], item.box[3])
        found.append(Detection(item.kind, changes.get("colour", item.colour), item.pattern, box, 1.0))
    return Detections(page.scene.place, 1.0, tuple(found))


def test_attributes_are_all_present_in_the_drawing_itself():
    for page in held_out_pages(30):
        answers = attributes_present(drawn(page), page)
        assert all(all(own) for own in answers.values())
        wrong = attributes_present(drawn(page, colour="none"), page)
        assert all(wrong["kind"]) and not any(wrong["colour"]) and not any(wrong["pattern"])
        assert wrong["relation"] in ([], [False]) and len(answers["kind"]) == len(page.scene.objects)


def test_distances_of_known_distributions():
    torch.manual_seed(0)
    first = torch.randn(4000, 4).double()
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(first, first + 2.0) == pytest.approx(16.0, rel=1e-6)
    assert frechet_distance(first, 3 * first) == pytest.approx(4 * 4.0, rel=0.05)  # (3 - 1)^2 in 4 directions
    space = FeatureSpace(torch.randn(200, 40) * torch.arange(1, 41))
    assert space.project(torch.randn(5, 40)).shape == (5, 32)
    assert diversity(torch.zeros(3, 4, 2)) == 0.0
    assert diversity(torch.tensor([[[0.0], [2.0]]])) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="two seeds"):
        diversity(torch.zeros(3, 1, 2))


def test_the_judge_s_features_are_those_of_its_head():
    torch.manual_seed(0)
    judge = StorybookJudge(widths=(16, 16, 16, 16), layers=1, pyramid=16).eval()
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green")]
    seen, features = look(judge, pictures)
    assert len(seen) == 3 and features.shape == (3, 32)
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    assert not judge.head._forward_pre_hooks
