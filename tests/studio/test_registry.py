"""Models: known, whole, loaded, and few enough of them at once."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from studio.doors.painting import PipelinePainter
from studio.errors import StudioError
from studio.registry import Registry
from studio.settings import Settings
from tests.studio.painters import DrawingPainter, make_weights


def registry_of(settings: Settings, painter: DrawingPainter | None = None) -> Registry:
    return Registry(settings, painter or DrawingPainter())


def test_embedded_models_have_cards_and_an_alias(settings: Settings) -> None:
    registry = registry_of(settings)
    (card,) = registry.cards()
    assert (card.name, card.state, card.paints, card.embedded) == ("storybook-flux", "ok", True, True)
    assert card.aliases == ("storybook",) and registry.card("storybook") == card
    assert card.size_bytes == sum(path.stat().st_size for path in card.folder.iterdir())


def test_unknown_models_list_the_known_ones(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StudioError) as refused:
        registry_of(settings).load("flux-dev")
    assert refused.value.message == "model: given 'flux-dev', allowed storybook, storybook-flux."
    assert (refused.value.exit_code, refused.value.http_status) == (2, 404)
    empty = registry_of(replace(settings, weights_dir=tmp_path / "nothing"))
    with pytest.raises(StudioError, match=r"allowed none \(nothing found in nothing/\)"):
        empty.load("storybook")


def test_missing_and_damaged_models_say_what_is_wrong(settings: Settings) -> None:
    folder = settings.weights_dir / "storybook-flux"
    weights = folder / "unet.safetensors"
    whole = weights.read_bytes()
    registry = registry_of(settings)
    weights.write_bytes(b"X" + whole[1:])
    assert registry.card("storybook").state == "ok", "sizes alone"
    assert registry.card("storybook", verify=True).problems == (
        "file unet.safetensors does not have the recorded contents.",
    )
    weights.unlink()
    card = registry.card("storybook")
    assert (card.state, card.problems) == ("damaged", ("file unet.safetensors is not there.",))
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StudioError, match="is missing: there is no folder storybook-flux") as refused:
        registry.load("storybook")
    assert refused.value.kind == "missing_model" and refused.value.exit_code == 1


def test_real_manifest_and_files(settings: Settings, tmp_path: Path) -> None:
    """The pipelines' own reading and checking of weights, on files that are really safetensors."""
    weights = make_weights(tmp_path / "real")
    model = weights / "storybook-flux" / "unet.safetensors"
    model.write_bytes(struct.pack("<Q", 2) + b"{}")
    manifest = json.loads((weights / "MANIFEST.json").read_text())
    manifest["models"]["storybook-flux"]["files"][model.name] = {
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "bytes": 10,
    }
    (weights / "MANIFEST.json").write_text(json.dumps(manifest))
    registry = Registry(replace(settings, weights_dir=weights), PipelinePainter())
    assert registry.card("storybook", verify=True).state == "ok"
    model.write_bytes(b"pickled!!!")
    card = registry.card("storybook", verify=True)
    assert (
        card.state == "damaged" and "unet.safetensors is damaged (its checksum differs)" in card.problems[0]
    )
    assert all(problem.endswith(".") for problem in card.problems)
    for content in ("{", "[]", '{"models": []}'):
        (weights / "MANIFEST.json").write_text(content)
        with pytest.raises(StudioError, match="MANIFEST.json can't be read") as refused:
            registry.load("storybook")
        assert refused.value.kind == "damaged_model"


def test_least_recently_used_models_are_let_go(settings: Settings, tmp_path: Path) -> None:
    names = ("one", "two", "three")
    painter = DrawingPainter()
    registry = registry_of(
        replace(settings, weights_dir=make_weights(tmp_path / "three", names), loaded_models=2), painter
    )
    for name in ("one", "two", "one", "three", "one", "two"):
        registry.load(name)
    assert painter.loads == ["one", "two", "three", "two"]
    assert registry.is_loaded("one") and registry.is_loaded("two") and not registry.is_loaded("three")


def test_changed_files_are_loaded_again(settings: Settings) -> None:
    painter = DrawingPainter()
    registry = registry_of(settings, painter)
    folder = settings.weights_dir / "storybook-flux"
    registry.load("storybook")
    make_weights(settings.weights_dir / "new")
    (settings.weights_dir / "new" / "storybook-flux" / "unet.safetensors").replace(
        folder / "unet.safetensors"
    )
    registry.load("storybook")
    registry.load("storybook-flux")
    assert painter.loads == ["storybook-flux"] * 2


class Borrower(DrawingPainter):
    """Knows what models take from folders beside them."""

    def lenders(self, folder: Path) -> list[Path]:
        return PipelinePainter().lenders(folder)


@pytest.mark.parametrize(
    ("model", "kind", "lender", "key"),
    [
        ("tokens", "FluxPipeline", "storybook-sd", "_shared_vae"),
        ("film", "FluxPipeline", "storybook-sd", "_image_model"),
        ("storybook-mine", "StableDiffusionPipeline", "storybook-flux", ""),  # which enlarges its pictures
    ],
)
def test_changed_files_of_a_folder_beside_it_load_a_model_again(
    model: str, kind: str, lender: str, key: str, settings: Settings, tmp_path: Path
) -> None:
    painter = Borrower()
    folder, beside = tmp_path / model, tmp_path / lender
    for place in (folder, beside):
        place.mkdir()
        (place / "unet.safetensors").write_bytes(b"first")
    taken = {"folder": lender, "files": {"unet.safetensors": {"sha256": "0", "bytes": 5}}}
    index = {"_class_name": kind} | ({key: taken} if key else {})
    (folder / "model_index.json").write_text(json.dumps(index))
    registry = registry_of(replace(settings, model_dirs=(folder,)), painter)
    for _ in range(2):
        registry.load(model)
    assert painter.loads == [model]
    (beside / "unet.safetensors").write_bytes(b"another")
    for _ in range(2):
        registry.load(model)
    assert painter.loads == [model] * 2


def test_a_failed_load_keeps_the_model_that_was_there(settings: Settings, tmp_path: Path) -> None:
    painter = DrawingPainter()
    own = tmp_path / "own"
    own.mkdir()
    (own / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    registry = registry_of(replace(settings, model_dirs=(own,)), painter)
    registry.load("storybook")
    with pytest.raises(StudioError, match=r"The model own can't be loaded \(.*No such file") as refused:
        registry.load("own")
    assert refused.value.kind == "damaged_model" and registry.is_loaded("storybook-flux")


def test_local_folders_paint_only_when_their_class_is_known(settings: Settings, tmp_path: Path) -> None:
    folders = []
    for name, text in (
        ("known", json.dumps({"_class_name": "FluxPipeline"})),
        ("foreign", json.dumps({"_class_name": "os.system"})),
        ("list", "[1]"),
        ("huge", " " * (2 << 20)),
        ("none", None),
    ):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        if text is not None:
            (folders[-1] / "model_index.json").write_text(text)
    registry = registry_of(replace(settings, model_dirs=tuple(folders)))
    paints = {card.name: card.paints for card in registry.cards()}
    assert paints == {
        "storybook-flux": True, "known": True, "foreign": False, "list": False, "huge": False, "none": False,
    }  # fmt: skip
    with pytest.raises(
        StudioError, match="foreign can't paint pictures, allowed known, storybook, storybook-flux"
    ):
        registry.paintable("foreign")


def test_a_local_folder_does_not_hide_an_embedded_model(settings: Settings, tmp_path: Path) -> None:
    impostor = tmp_path / "storybook-flux"
    impostor.mkdir()
    registry = registry_of(replace(settings, model_dirs=(impostor,)))
    assert [card.folder for card in registry.cards()] == [settings.weights_dir / "storybook-flux"]


def test_each_request_is_offered_only_models_that_can_do_it(settings: Settings) -> None:
    manifest = json.loads((settings.weights_dir / "MANIFEST.json").read_text())
    for name, kind in (
        ("storybook-eyes", "pipelines.storybook.detector.StorybookEyes"),
        ("part", "x.AutoencoderKL"),
    ):
        (settings.weights_dir / name).mkdir()
        manifest["models"][name] = {"folder": name, "class": kind, "files": {}}
    (settings.weights_dir / "MANIFEST.json").write_text(json.dumps(manifest))
    registry = registry_of(settings)
    with pytest.raises(StudioError) as refused:
        registry.paintable("nonsense")
    assert refused.value.message == "model: given 'nonsense', allowed storybook, storybook-flux."
    with pytest.raises(
        StudioError, match="storybook-eyes can't paint pictures, allowed storybook, storybook-flux"
    ):
        registry.paintable("storybook-eyes")
    assert registry.usable("storybook", "eyes").name == "storybook-eyes"
    assert {card.name: card.ability for card in registry.cards()} == {
        "storybook-flux": "picture", "storybook-eyes": "eyes", "part": None,
    }  # fmt: skip
    with pytest.raises(
        StudioError, match="No model that can make videos is installed: storybook-video"
    ) as refused:
        registry.usable("storybook", "video")
    assert (refused.value.kind, refused.value.exit_code) == ("not_installed", 2)
    assert registry.has("eyes") and not registry.has("tokens")


@pytest.mark.parametrize(
    ("place", "text", "knows"),
    [
        ("compass-lora", '{"tenor": true}', True),
        ("compass", '{"tenor": true}', True),
        ("", '{"tenor": true}', True),
        ("compass-lora", '{"tenor": false}', False),
        ("compass-lora", '{"tenor": "yes"}', False),
        ("compass-lora", "not json", False),
        ("elsewhere", '{"tenor": true}', False),
    ],
)
def test_only_a_sidecar_of_compass_says_that_a_model_knows_tenor(
    place: str, text: str, knows: bool, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / place).mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (folder / place / "compass.json").write_text(text)
    card = registry_of(replace(settings, model_dirs=(folder,))).card("mine")
    assert card.tenor == (folder / place if knows else None)
    assert registry_of(settings).card("storybook").tenor is None
