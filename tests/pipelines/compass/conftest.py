"""Tiny random models of both kinds, and annotations that somebody could have made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY_UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


def tiny_unet(**changes: Any) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    return UNet2DConditionModel(**{**TINY_UNET, **changes}).eval()


@pytest.fixture
def unet() -> Any:
    return tiny_unet()


@pytest.fixture
def build_unet() -> Callable[..., Any]:
    return tiny_unet


@pytest.fixture
def transformer(build_parts: Callable[..., dict[str, Any]]) -> Any:
    """A FLUX-type transformer with two double and three single blocks, its text loud enough to matter."""
    import torch

    model = build_parts(num_layers=2, num_single_layers=3)["transformer"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2 and "blocks" in name:
                parameter.mul_(2.5)
    return model


@pytest.fixture
def build_sd(build_parts: Callable[..., Any], build_vae: Callable[[], Any]) -> Callable[..., dict[str, Any]]:
    """Components of a `StableDiffusionPipeline` for pictures of 128 px; `changes` go to the UNet."""

    def build(**changes: Any) -> dict[str, Any]:
        from diffusers import DDIMScheduler

        parts = build_parts()
        return {
            "vae": build_vae().eval(),
            "text_encoder": parts["text_encoder"],
            "tokenizer": parts["tokenizer"],
            "unet": tiny_unet(**changes),
            "scheduler": DDIMScheduler(steps_offset=1, clip_sample=False),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    return build


def annotation(
    number: int, box: list[float], image: int = 1, category: int = 1, **more: Any
) -> dict[str, Any]:
    outline = [box[0], box[1], box[0] + box[2], box[1], box[0], box[1] + box[3]]
    return {
        "segmentation": [outline], "area": box[2] * box[3], "iscrowd": 0, "image_id": image, "bbox": box,
        "category_id": category, "id": number, **more,
    }  # fmt: skip


def coco(annotations: list[dict[str, Any]], images: int = 1) -> dict[str, Any]:
    """A COCO file with pictures of 200 x 200 and the categories cat (1), dog (2), bird (3)."""
    return {
        "info": {"year": 2020},
        "images": [
            {"id": i, "width": 200, "height": 200, "file_name": f"{i:012d}.jpg"} for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "bird"}],
    }


@pytest.fixture
def good_pair() -> list[dict[str, Any]]:
    """A cat to the left of a dog, beyond doubt."""
    return [annotation(7, [10, 60, 80, 80]), annotation(8, [110, 60, 80, 80], category=2)]


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Write annotations to a file; gives its path."""

    def write(annotations: list[dict[str, Any]], count: int = 1, **changes: Any) -> Path:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps({**coco(annotations, count), **changes}))
        return path

    return write


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with the pictures 1 and 2."""
    from PIL import Image

    folder = tmp_path / "train2017"
    folder.mkdir()
    for number, colour in ((1, "red"), (2, "blue")):
        Image.new("RGB", (200, 200), colour).save(folder / f"{number:012d}.jpg")
    return folder


@pytest.fixture(scope="session")
def tiny_owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random OWL-ViT as transformers saves it. Read only."""
    import string

    import torch
    from transformers import (
        CLIPTokenizer,
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        OwlViTProcessor,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("owl")
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    # OWL-ViT takes a query that begins with token 0 for padding
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 32
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    text = {**small, **special, "vocab_size": len(words), "max_position_embeddings": 32}
    vision = {**small, "image_size": 64, "patch_size": 16}
    config = OwlViTConfig(text_config=text, vision_config=vision, projection_dim=32)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    OwlViTProcessor(OwlViTImageProcessor(size=size, crop_size=size), tokenizer).save_pretrained(folder)
    return folder
