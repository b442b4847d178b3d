"""Train a stretched CLIP on pages: long texts against pictures, short ones against their main components.

Source: arXiv 2403.15378 (primary component matching). Rows below 20 of the position table never change.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, CLIPModel

from pipelines.longalign.long_clip import KEPT, component_matching_loss, stretch_positions, stretch_tokenizer
from pipelines.longalign.pages import EVALUATION_SEED, HELD_OUT_PAGES, PAGE_MIX, write_page
from pipelines.storybook.captions import short_caption
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import SceneMix, sample_scene
from pipelines.training.loop import LoopConfig, runtime_device


def long_clip_recipe() -> LoopConfig:
    """About half an hour on one core."""
    return LoopConfig(
        samples=60_000, batch=64, lr=2e-4, warmup=50, decay_from=0.5, ema_decay=0.998,
        evaluate_every_s=600,
    )  # fmt: skip


def stretch_clip(model: CLIPModel) -> CLIPModel:
    """Stretch the text tower of a whole CLIP model in place."""
    embeddings = model.text_model.embeddings
    table = stretch_positions(embeddings.position_embedding.weight.detach().float())
    embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
    embeddings.register_buffer("position_ids", torch.arange(len(table))[None], persistent=False)
    model.config.text_config.max_position_embeddings = len(table)
    model.text_model.config.max_position_embeddings = len(table)
    return model


class LongCLIPTask:
    """Primary component matching; the vision tower stays as it is.

    Args:
        folder: a `CLIPModel` with its tokenizer, of 77 positions or already stretched.
    """

    def __init__(self, folder: Path, seed: int = 171) -> None:
        torch.manual_seed(seed)
        model = CLIPModel.from_pretrained(folder)
        if model.config.text_config.max_position_embeddings < 100:
            model = stretch_clip(model)
        # PyTorch's CPU flash kernel is slow backward on short sequences
        model.set_attn_implementation("sdpa" if torch.cuda.is_available() else "eager")
        for part in (model.vision_model, model.visual_projection):
            part.requires_grad_(False)
        table = model.text_model.embeddings.position_embedding.weight
        self.length = len(table)
        moving = (torch.arange(self.length) >= KEPT)[:, None]
        table.register_hook(lambda gradient: gradient * moving.to(gradient))
        self.model: nn.Module = model
        self.tokenizer = stretch_tokenizer(AutoTokenizer.from_pretrained(folder), self.length)
        self.seed = seed

    def _texts(self, texts: list[str]) -> torch.Tensor:
        device, _ = runtime_device()
        options = {"padding": True, "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        ids = self.tokenizer(texts, **options).input_ids
        return self.model.text_projection(
            self.model.text_model(input_ids=ids.to(device)).pooler_output
        ).float()

    def _embeds(self, seed: int, first: int, count: int, mix: SceneMix) -> tuple[torch.Tensor, ...]:
        device, _ = runtime_device()
        long, short, pictures = [], [], []
        for index in range(first, first + count):
            rng = sample_rng(seed, index)
            scene = sample_scene(rng, mix)
            long.append(write_page(scene, rng).text)
            short.append(short_caption(scene, rng).text)
            side = self.model.config.vision_config.image_size
            pictures.append(draw_scene(scene, side, side))
        with torch.no_grad():
            pixels = to_tensor(pictures).to(device, self.model.logit_scale.dtype)
            vision = self.model.vision_model(pixel_values=pixels).pooler_output
            seen = self.model.visual_projection(vision).float()
        return seen, self._texts(long), self._texts(short)

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        seen, long, short = self._embeds(self.seed, first_sample, batch, PAGE_MIX)
        scale = self.model.logit_scale.float().exp()
        return component_matching_loss(seen, long, short, scale), {}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        seen, long, short = (
            nn.functional.normalize(x, dim=-1) for x in self._embeds(EVALUATION_SEED, 0, 64, HELD_OUT_PAGES)
        )
        target = torch.arange(64, device=seen.device)
        tops = {name: seen @ texts.T for name, texts in (("long", long), ("short", short))}
        return {
            f"held_out_{name}_top1_of_64": float((scores.argmax(1) == target).float().mean())
            for name, scores in tops.items()
        }
