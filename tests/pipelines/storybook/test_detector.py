"""Detectors: shapes and sizes, what decoding makes of perfect answers, training data, learning, release."""

import dataclasses
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open

from pipelines.storybook import train_detector
from pipelines.storybook.dataset import to_tensor
from pipelines.storybook.detector import (
    DenseOutput,
    Detection,
    Detections,
    StorybookEyes,
    StorybookJudge,
    box_overlap,
    decode,
    detect,
    working_size,
)
from pipelines.storybook.detector_data import (
    ASPECTS,
    CANVASES,
    Drawing,
    DrawingPool,
    Framed,
    damage,
    frame,
    make_drawing,
    relative_boxes,
)
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, has_held_out
from pipelines.storybook.train_detector import detector_loss, make_targets, measure, mistakes
from pipelines.storybook.vocabulary import KINDS
from pipelines.training.loop import Run, slice_of

WEIGHTS = Path(__file__).parents[3] / "assets" / "weights"


def small(cls, width: int = 16):
    torch.manual_seed(0)
    if cls is StorybookEyes:
        return cls(widths=(width,) * 3, blocks=(1, 1, 1, 1)).eval()
    return cls(widths=(width,) * 4, layers=1, heads=2, pyramid=width).eval()


both = pytest.mark.parametrize("cls", [StorybookEyes, StorybookJudge])


@both
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (72, 200), (512, 320)])
def test_any_picture_size_gives_answers_for_its_cells(cls, size):
    model, (height, width) = small(cls), size
    output = model(torch.rand(2, 3, height, width) * 2 - 1)
    cells = tuple(-(-side // 16) * 16 // cls.stride for side in size)
    assert output.centre.shape == (2, *cells)
    assert output.kind.shape == (2, 16, *cells) and output.colour.shape == (2, 8, *cells)
    assert output.pattern.shape == (2, 3, *cells) and output.sides.shape == (2, 4, *cells)
    assert output.place.shape == (2, 6)


@both
def test_saved_and_loaded_detectors_agree(cls, tmp_path):
    model = small(cls)
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path).eval()
    x = torch.rand(1, 3, 64, 64)
    assert tuple(again.config.kinds) == KINDS and set(again.config.widths) == {16}
    for name in DenseOutput.__dataclass_fields__:
        # how weights lie in memory decides about the last bits
        torch.testing.assert_close(getattr(model(x), name), getattr(again(x), name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 16, 64)])
def test_pictures_of_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        detect(small(StorybookEyes), torch.zeros(shape))


def test_widths_that_fill_no_group_are_refused():
    with pytest.raises(ValueError, match="multiples of 16"):
        StorybookEyes(widths=(16, 24, 16))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 128), (128, 128)),
        ((4096, 4096), (128, 128)),
        ((64, 64), (128, 128)),
        ((4096, 2304), (176, 96)),
        ((100, 4000), (64, 512)),
    ],  # fmt: skip
)
def test_working_size_keeps_the_aspect(size, expected):
    assert working_size(*size) == expected


def scene_of(*objects: SceneObject, place: str = "desert") -> Scene:
    return Scene(place, objects)


CAT = SceneObject("cat", "blue", "striped", "large", 0.3, 0.5, 0.25, seed=3)
STAR = SceneObject("star", "black", "plain", "small", 0.75, 0.2, 0.09, seed=4)


def as_framed(scene: Scene, side: int = 128) -> tuple[Framed, Drawing]:
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    boxes = relative_boxes(scene)
    return Framed(pixels, boxes * side, np.ones(len(boxes))), Drawing(scene, pixels, boxes)


def perfect_output(targets) -> DenseOutput:
    """The answers that lose nothing against `targets`."""
    words = [
        torch.nn.functional.one_hot(part, count).permute(0, 3, 1, 2) * 20.0
        for part, count in zip(targets.words, (16, 8, 3), strict=True)
    ]
    place = torch.nn.functional.one_hot(targets.place, 6) * 20.0
    return DenseOutput((targets.centre * 16 - 8), *words, targets.sides, place)


@both
def test_decoding_perfect_answers_gives_the_scene_back(cls):
    scene = scene_of(STAR, CAT)
    framed, drawing = as_framed(scene)
    targets = make_targets([framed], [drawing], cls.stride)
    (shown,) = decode(small(cls), perfect_output(targets), 0.3, [1.0])
    assert shown.place == "desert" and shown.place_score > 0.99
    found = {item.kind: item for item in shown.objects}
    assert len(shown.objects) == 2 and set(found) == {"cat", "star"}
    for item in scene.objects:
        match = found[item.kind]
        assert (match.colour, match.pattern) == (item.colour, item.pattern)
        assert match.box == pytest.approx(item.box, abs=1e-5)
        assert match.score > 0.99


def test_perfect_answers_cost_nothing_and_wrong_ones_do():
    targets = make_targets(*([part] for part in as_framed(scene_of(CAT, STAR))), 8)
    right = perfect_output(targets)
    _, figures = detector_loss(right, targets)
    assert max(figures[name] for name in ("kind", "colour", "pattern", "sides", "place")) < 1e-3
    changes = {
        "kind": right.kind.roll(1, 1),
        "colour": right.colour.roll(1, 1),
        "pattern": right.pattern.roll(1, 1),
        "sides": right.sides + 1,
        "place": right.place.roll(1, 1),
        "centre": -right.centre,
    }
    for name, value in changes.items():
        _, worse = detector_loss(dataclasses.replace(right, **{name: value}), targets)
        assert worse[name] > figures[name] + 1
        assert all(worse[other] == pytest.approx(figures[other]) for other in changes if other != name)


def test_cut_objects_are_neither_wanted_nor_punished():
    framed, drawing = as_framed(scene_of(CAT))
    cut = dataclasses.replace(framed, visible=np.array([0.3]))
    targets = make_targets([cut], [drawing], 8)
    assert targets.centre.max() == 0 and targets.weight.sum() == 0
    assert 0 < targets.watched.sum() < targets.watched.numel()
    gone = make_targets([dataclasses.replace(framed, visible=np.array([0.05]))], [drawing], 8)
    assert gone.watched.min() == 1


def test_a_box_is_reported_once():
    output = DenseOutput(
        torch.full((1, 8, 8), -9.0),
        *(torch.zeros(1, words, 8, 8) for words in (16, 8, 3, 4)),
        torch.zeros(1, 6),
    )
    output.kind[:, 3] = 9.0
    output.centre[0, 2, 2], output.centre[0, 4, 2] = 3.0, 2.0  # two peaks
    output.sides[0, :, 2, 2] = torch.tensor([1.5, 1.5, 1.5, 3.5]).log()
    output.sides[0, :, 4, 2] = torch.tensor(
        [1.5, 3.5, 1.5, 1.5]
    ).log()  # the same box seen from the other one
    (shown,) = decode(small(StorybookEyes), output, 0.3, [1.0])
    assert [item.kind for item in shown.objects] == [KINDS[3]]
    assert shown.objects[0].box == pytest.approx((0.125, 0.125, 0.5, 0.75))
    output.sides[0, :, 4, 2] = torch.tensor([1.5, 0.4, 1.5, 1.5]).log()  # now another one below it
    assert len(decode(small(StorybookEyes), output, 0.3, [1.0])[0].objects) == 2


def test_overlap():
    assert box_overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert box_overlap((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert box_overlap((0, 0, 1, 1), (1, 1, 2, 2)) == 0


@both
def test_detections_come_in_the_order_of_the_pictures(cls):
    model = small(cls)
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
        for size in ((128, 128, 3), (96, 176, 3), (128, 128, 3), (300, 300, 3))
    ]
    together = detect(model, pictures, threshold=0.0)
    assert [shown.aspect for shown in together] == [1.0, 176 / 96, 1.0, 1.0]
    for picture, shown in zip(pictures, together, strict=True):
        (alone,) = detect(model, [picture], threshold=0.0)
        assert alone.place == shown.place and alone.place_score == pytest.approx(shown.place_score, abs=1e-4)
        assert [item.kind for item in alone.objects] == [item.kind for item in shown.objects]
    tensor = to_tensor([np.asarray(pictures[0])])
    assert detect(model, tensor)[0].place_score == pytest.approx(together[0].place_score, abs=1e-4)
    assert detect(model, []) == []


def test_framing_moves_boxes_with_the_pixels():
    """An object painted in a colour of its own is found again inside its framed box, and nowhere else."""
    scene = scene_of(SceneObject("ball", "red", "plain", "large", 0.4, 0.6, 0.2))
    boxes = relative_boxes(scene)
    pixels = np.zeros((144, 144, 3), dtype=np.uint8)
    left, top, right, bottom = (boxes[0] * 144).round().astype(int)
    pixels[top:bottom, left:right] = (255, 0, 0)
    for seed in range(40):
        canvas = CANVASES[seed % len(CANVASES)]
        framed = frame(Random(seed), Drawing(scene, pixels, boxes), canvas)
        assert framed.pixels.shape == (canvas[1], canvas[0], 3)
        red = (framed.pixels[..., 0] > 150) & (framed.pixels[..., 1] < 100) & (framed.pixels[..., 2] < 100)
        bars = framed.pixels[0, 0] if framed.pixels[0, 0, 0] > 100 else framed.pixels[-1, -1]
        if framed.visible[0] < 0.3 or (bars[0] > 100 and bars[1] < 150 and bars[2] < 150):
            continue  # cut away, or bars that look like the object
        rows, columns = np.nonzero(red)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(found - framed.boxes[0]).max() <= 5, seed


def test_the_pool_gives_a_sample_its_drawing_whatever_came_before():
    one, other = (DrawingPool(seed=5, size=60, start=30, reuse=4) for _ in range(2))
    for sample in range(0, 300, 20):
        one.pick(sample, Random(sample), sample // 20 % len(ASPECTS))
    for form, aspect in enumerate(ASPECTS):
        first, second = (pool.pick(400, Random(form), form) for pool in (one, other))
        assert first.scene == second.scene and np.array_equal(first.pixels, second.pixels)
        assert first.scene.aspect == aspect
    assert len({one.pick(400, Random(seed), 0).scene.seed for seed in range(40)}) > 5


def test_the_pool_shows_reconstructions_when_asked():
    pool = DrawingPool(seed=5, size=60, start=60, repaint=lambda x: -x, repainted=1.0)
    plain = DrawingPool(seed=5, size=60, start=60)
    negative, drawing = (part.pick(0, Random(1), 0).pixels.astype(int) for part in (pool, plain))
    assert np.abs(negative - (255 - drawing)).max() <= 1


def test_damage_is_seeded_bounded_and_small_enough_to_read():
    drawings = [make_drawing(Random(seed), SceneMix(), 128) for seed in range(6)]
    x = to_tensor([drawing.pixels for drawing in drawings]).repeat(4, 1, 1, 1)
    before = x.clone()
    y = damage(x, torch.Generator().manual_seed(1))
    assert torch.equal(x, before) and y.shape == x.shape and y.abs().max() <= 1
    assert torch.equal(y, damage(x, torch.Generator().manual_seed(1)))
    change = (y - x).abs().mean(dim=(1, 2, 3))
    assert 0.02 < change.mean() < 0.2 and change.max() < 0.5


def shown_like(drawing: Drawing, **changes) -> Detections:
    items = [
        Detection(item.kind, item.colour, item.pattern, tuple(box), 0.9)
        for item, box in zip(drawing.scene.objects, drawing.boxes, strict=True)
    ]
    items[0] = dataclasses.replace(items[0], **changes)
    return Detections(drawing.scene.place, 1.0, tuple(items))


def test_measures_count_what_they_say():
    _, drawing = as_framed(scene_of(CAT, STAR))
    extra = Detection("fish", "red", "plain", (0.8, 0.8, 0.9, 0.9), 0.5)
    right = shown_like(drawing)
    shown = [
        dataclasses.replace(right, objects=(*right.objects, extra), place="room"),
        shown_like(drawing, colour="red"),
        shown_like(drawing, box=(0.0, 0.0, 0.1, 0.1)),
    ]
    counts = {name: (share.right, share.n) for name, share in measure([drawing] * 3, shown).items()}
    assert counts == {
        "right": (4, 6), "found": (5, 6), "kind": (5, 6), "colour": (4, 6), "pattern": (5, 6),
        "false": (2, 7), "place": (2, 3),
    }  # fmt: skip
    assert mistakes([drawing] * 3, shown) == {"blue > red": 1, "large cat > nothing": 1}


def test_evaluation_keeps_seen_and_held_out_scenes_apart():
    for held_out in (False, True):
        drawings = train_detector.held_drawings(held_out, 6, 64)
        assert [has_held_out(drawing.scene) for drawing in drawings] == [held_out] * 6


@both
def test_training_learns_a_picture_by_heart(cls):
    model = small(cls, 32).train()
    scene = scene_of(CAT, dataclasses.replace(STAR, scale=0.14))
    pixels, boxes = draw_scene(scene, 64, 64), relative_boxes(scene)
    drawing = Drawing(scene, pixels, boxes)
    targets = make_targets([Framed(pixels, boxes * 64, np.ones(2))], [drawing], cls.stride)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    x = to_tensor([pixels])
    for _ in range(60):
        loss, _ = detector_loss(model(x), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        (shown,) = decode(model.eval(), model(x), 0.3, [1.0])
    assert {(item.kind, item.colour) for item in shown.objects} == {("cat", "blue"), ("star", "black")}
    assert measure([drawing], [shown])["right"].value == 1


def test_a_run_goes_from_first_step_to_release(tmp_path):
    name = "judge"  # the one whose parts are less like those of other recipes
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    vae.save_pretrained(tmp_path / "vae")
    task = train_detector.DetectorTask(name, tmp_path / "vae", scenes=3)
    config = slice_of(train_detector.RECIPES[name](), samples=4, batch=2)
    Run(task, config, tmp_path / "state").train()
    record = json.loads((tmp_path / "state" / "log.jsonl").read_text().splitlines()[-1])
    assert record["samples"] == 4 and {"seen_right", "held_out_right", "held_out_place"} <= set(record)
    assert Image.open(tmp_path / "state" / "sheet_seen.png").size == (6 * 256, 256)

    folder = tmp_path / "weights"
    model = train_detector.release(name, tmp_path / "state", folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert (folder / "diffusion_pytorch_model.safetensors").stat().st_size < 3_000_000
    with safe_open(folder / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    assert next(model.parameters()).dtype == torch.float32
    report = train_detector.full_report(model, tmp_path / "vae", scenes=3)
    assert set(report["reconstructions_128/held_out"]["right"]) == {"value", "n", "ci95"}
    assert len(report) == 12


@pytest.mark.parametrize("name", ["eyes", "judge"])
def test_embedded_detectors_read_drawings_they_never_saw(name):
    folder = WEIGHTS / f"storybook-{name}"
    if not folder.exists():
        pytest.skip("this checkout carries no detectors")
    model = train_detector.CLASSES[name].from_pretrained(folder).eval()
    drawings = train_detector.held_drawings(True, 60)
    shares = measure(drawings, detect(model, [Image.fromarray(drawing.pixels) for drawing in drawings]))
    assert shares["right"].value >= 0.93 and shares["place"].value >= 0.97 and shares["false"].value <= 0.05
