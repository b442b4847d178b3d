"""The command line of recipe tables."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import pipelines.scale_dit.train
import pipelines.storybook.train
from pipelines.training import command
from pipelines.training.loop import LoopConfig


class Task:
    def __init__(self):
        self.model = nn.Linear(2, 2)

    def loss(self, first_sample, batch):
        return self.model(torch.ones(batch, 2, dtype=torch.bfloat16)).square().mean(), {}

    def evaluate(self, model, folder):
        return {}


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def train(*arguments):
    recipes = {"tiny": lambda options: (Task(), LoopConfig(samples=4, batch=2))}
    parser = command.recipe_parser("somewhere.train", "words", recipes)
    command.run_recipe(recipes, parser.parse_args(arguments))


def test_a_recipe_trains_into_its_state_folder(tmp_path):
    train("tiny", "--state", str(tmp_path / "state"), "--threads", "1")
    assert torch.get_num_threads() == 1
    state = torch.load(tmp_path / "state/checkpoint.pt", weights_only=True)
    assert state["samples"] == 4


@pytest.mark.parametrize("inside", ["", "unet", "transformer"])
def test_a_run_can_start_from_published_shards(tmp_path, inside):
    """Of the folder itself, or of the denoiser in a pipeline's folder."""
    published = tmp_path / "published"
    folder = published / inside
    folder.mkdir(parents=True)
    save_file({"weight": torch.full((2, 2), 7.0)}, folder / "model-00001-of-00002.safetensors")
    save_file({"bias": torch.full((2,), 3.0)}, folder / "model-00002-of-00002.safetensors")
    train("tiny", "--state", str(tmp_path / "state"), "--start-from", str(published), "--minutes", "0")
    saved = torch.load(tmp_path / "state/checkpoint.pt", weights_only=True)["weights"]["masters"]
    assert saved[0].eq(7).all() and saved[1].eq(3).all()


def test_a_folder_without_weights_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train("tiny", "--state", str(tmp_path / "state"), "--start-from", str(tmp_path))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"--start-from: {tmp_path} holds no safetensors file\n"
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("arguments", [(), ("tiny",), ("huge", "--state", "x"), ("tiny", "--state")])
def test_bad_arguments_are_explained(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        train(*arguments)
    assert ended.value.code == 2 and "usage: python -m somewhere.train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "recipes"),
    [
        (pipelines.storybook.train, {"vae", "t5", "clip"}),
        (pipelines.scale_dit.train, {"flux"}),
    ],
)
def test_tables_offer_their_recipes(module, recipes, capsys):
    assert recipes <= set(module.RECIPES)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python -m {module.__name__}" in text and Path(module.__file__).name == "train.py"
    assert all(name in text for name in recipes)


PROGRAMS = [
    import_module(f"pipelines.{family}.train")
    for family in ("storybook", "scale_dit", "compass", "longalign", "flextok", "vidrd")
]


@pytest.mark.parametrize(
    ("program", "arguments", "told"),
    [
        ("scale_dit", ["flux"], "flux needs --parts"),
        ("storybook", ["vae-decoder"], "vae-decoder needs --parts"),
        ("storybook", ["vae", "--cache", "c"], "vae has no use for --cache; it is for sd"),
        ("scale_dit", ["fast", "--parts", "p", "--cache", "c"], "--cache; it is for flux, lora"),
        ("compass", ["sd", "--parts", "p", "--rank", "4"], "sd has no use for --rank; it is for flux, flux-"),
        ("compass", ["sd-plain", "--parts", "p", "--profile", "strict"], "sd-plain has no use for --profile"),
        (
            "longalign",
            ["lcm", "--parts", "p", "--longalign", "l", "--reweight", "1"],
            "lcm has no use for --reweight",
        ),
        ("flextok", ["flextok", "--tokenizer", "t"], "--tokenizer; it is for decoder, flexar"),
        ("vidrd", ["decoder", "--parts", "p", "--text", "t"], "--text; it is for video, video-attention"),
    ],
)
def test_an_option_that_a_recipe_lacks_or_would_not_read_is_one_line(program, arguments, told, capsys):
    module = import_module(f"pipelines.{program}.train")
    with pytest.raises(SystemExit) as stopped:
        module.main([arguments[0], "--state", "nowhere", *arguments[1:]])
    assert stopped.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("module", PROGRAMS, ids=lambda module: module.__name__)
def test_tables_of_options_name_recipes_and_options_that_there_are(module):
    assert set(module.USES) <= set(module.RECIPES)
    with pytest.raises(SystemExit):
        module.main(["--help"])
