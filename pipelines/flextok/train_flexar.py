"""Recipe of Storybook's FlexAR: next-token prediction on the tokens of drawings, told by their captions.

Most batches end early: the first tokens say what there is, and attention is causal, so a short sequence
trains them just as well as a long one.
"""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import T5EncoderModel, T5Tokenizer

from pipelines.flextok.pipeline_flexar import FlexARPipeline
from pipelines.flextok.token_sampling import TokenSampling
from pipelines.flextok.token_stream import TokenStream
from pipelines.flextok.train_tokenizer import DRAWN, HELD_OUT_SEED, SEED, SIZE
from pipelines.flextok.transformer_flexar import ARCondition, FlexARModel
from pipelines.flextok.transformer_flextok import FlexTokDecoderModel, FlexTokEncoderModel
from pipelines.shared_vae import open_vae
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.latents import LatentStream
from pipelines.storybook.scene import SceneMix
from pipelines.training.command import load_weights
from pipelines.training.loop import LoopConfig, runtime_device

MODEL: dict[str, Any] = {"width": 160, "depth": 5, "num_heads": 4, "condition": "text"}
LENGTHS = {16: 0.3, 32: 0.4, 64: 0.15, 256: 0.15}  # tokens of a batch and how often
DROPOUT = 0.1
SHEET_PROMPTS = (
    "a red ball in a meadow",
    "a blue car on a beach",
    "a yellow star under a night sky",
    "a purple house in a room",
    "an orange cat in a snowy field",
    "a green cup in a desert",
)


def flexar_recipe() -> LoopConfig:
    """About an hour on one core for all samples (164 a second); a quarter of an hour on a GPU."""
    return LoopConfig(
        samples=600_000, batch=((0, 32), (200_000, 64)), lr=1e-3, muon_lr=1e-3, warmup=100, decay_from=0.5,
        ema_decay=0.999, weight_decay=0.05, evaluate_every_s=600,
        adamw_names=("embed", "head", "norm", "text_encoder"),
    )  # fmt: skip


class FlexARTask:
    """Cross-entropy of the next token.

    Args:
        tokenizer: published tokenizer folder. parts: model folder with the text encoder (`text_encoder_2`).
    """

    def __init__(self, tokenizer: Path, parts: Path, cache: Path, size: int = SIZE, seed: int = 61) -> None:
        torch.manual_seed(seed)
        device, _ = runtime_device()
        self.encoder = FlexTokEncoderModel.from_pretrained(tokenizer / "encoder").to(device).eval()
        self.decoder = FlexTokDecoderModel.from_pretrained(tokenizer / "decoder").to(device).eval()
        self.vae = open_vae(tokenizer).to(device).eval()
        self.text_tokenizer = T5Tokenizer.from_pretrained(parts / "tokenizer_2")
        self.text = T5EncoderModel.from_pretrained(parts / "text_encoder_2").to(device).eval()
        self.model: nn.Module = FlexARModel(
            **MODEL,
            vocab_size=self.encoder.quantizer.num_codes,
            num_tokens=self.encoder.config.num_registers,
            text_dim=self.text.config.d_model,
        )
        for frozen in (self.encoder, self.decoder, self.vae, self.text):
            frozen.requires_grad_(False)
        self.stream = TokenStream(LatentStream(self.vae, cache, size, DRAWN, SEED), self.encoder, cache)
        unseen = SceneMix(counts=DRAWN.counts, sized=DRAWN.sized, held_out=True)
        self.held_out = TokenStream(
            LatentStream(self.vae, cache, 64, unseen, HELD_OUT_SEED), self.encoder, cache
        )
        self.seed = seed

    def starting_weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Weights to start from."""
        return load_weights(folder / "transformer")

    @torch.no_grad()
    def _told(self, texts: list[str], model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.text_tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        mask = batch.attention_mask.to(self.text.device)
        states = self.text(input_ids=batch.input_ids.to(self.text.device), attention_mask=mask)
        return states.last_hidden_state, mask

    def _entropy(self, model: nn.Module, ids: torch.Tensor, texts: list[str]) -> torch.Tensor:
        """Cross-entropy `[B, n]` of each token of ids `[B, n]`."""
        ids = ids.to(self.text.device)
        condition: ARCondition = model.text_condition(*self._told(texts, model))
        logits = model(ids[:, :-1], condition)
        return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")

    def loss(self, first_sample: int, batch: int) -> tuple[torch.Tensor, dict[str, float]]:
        ids, texts = self.stream.batch(first_sample, batch), []
        for row in range(batch):
            rng = sample_rng(self.seed + 1, first_sample + row)
            scene = self.stream.latents.scene((first_sample + row) % self.stream.latents.size)[0]
            texts.append("" if rng.random() < DROPOUT else caption(scene, rng, 0.0).text)
        lengths = [n for n in LENGTHS if n <= ids.shape[1]] or [ids.shape[1]]
        weights = [LENGTHS.get(n, 1.0) for n in lengths]
        length = Random(f"{self.seed}/{first_sample}").choices(lengths, weights)[0]
        entropy = self._entropy(self.model, ids[:, :length], texts)
        return entropy.mean(), {"first_8": float(entropy[:, :8].detach().mean())}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        texts = []
        for slot in range(64):
            scene, _, rng = self.held_out.latents.scene(slot)
            texts.append(caption(scene, rng, 0.0).text)
        entropy = self._entropy(model, self.held_out.batch(0, 64), texts)
        metrics = {"held_out": float(entropy.mean()), "held_out_first_8": float(entropy[:, :8].mean())}
        self._save_sheet(model, folder)
        return metrics

    def _save_sheet(self, model: nn.Module, folder: Path) -> None:
        pipeline = FlexARPipeline(model, self.vae, self.encoder, self.decoder, self.text, self.text_tokenizer)
        keep = min(64, pipeline.num_tokens)
        ids = pipeline.generate(
            SHEET_PROMPTS, keep=keep, sampling=TokenSampling(3.0), generator=torch.Generator().manual_seed(5)
        )
        flextok = pipeline.flextok
        flextok.set_progress_bar_config(disable=True)
        images = flextok.decode(
            list(ids), num_inference_steps=10, guidance_scale=2.0, generator=torch.Generator().manual_seed(5)
        )
        sheet = np.concatenate([np.asarray(image) for image in images], axis=1)
        Image.fromarray(sheet).save(folder / "sheet.png")
