"""Recipe of `scale-dit-lora`: a LoRA that makes the enlarging step paint the detail that its guide lacks.

Each sample is a crop of a large drawing (256 to 4096 px) at its true token positions, and as guide the part
of the same scene's small drawing around it, 2 to 4 times smaller (`enlarging_data`). Plain rectified flow
would start from noise; a step of Scale-DiT starts from the enlarged guide at noise level s. The adapter is
therefore trained on the very path that the step takes: with z = (1 - s) enlarged + s noise the network sees

    x_t = x_0 + (t / s) (z - x_0)    and learns    v = (z - x_0) / s,    t uniform in (0, s],

so that Euler steps from s to 0, as the pipeline makes them, lead from the enlarged guide to the drawing.
Tokens see the box around them that they see in a large picture, and some guides get a little noise, since
the next step's guide is the result of this one.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image
from torch import Tensor, nn

from pipelines.scale_dit.detail import octave_energies
from pipelines.scale_dit.enlarging_data import CROP, Batch, EnlargingStream, whole_drawing
from pipelines.scale_dit.high_res import RADIUS
from pipelines.scale_dit.lora_routing import ADAPTER, LoraRouting, LoraScope
from pipelines.scale_dit.pipeline_staged import ADAPTED_STRENGTH as STRENGTH
from pipelines.scale_dit.schedule import blend_noise
from pipelines.scale_dit.shared_norm import shared_statistics
from pipelines.scale_dit.train_flux import TextParts
from pipelines.scale_dit.transformer_scale_dit import denoise, encode_guide, pack, unpack
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.latents import encode
from pipelines.storybook.scene import SceneMix
from pipelines.training.loop import LoopConfig, runtime_device
from pipelines.training.short_attention import ShortAttention

SCOPE: LoraScope = "all"  # every token of an enlarging step passes through the adapter
GUIDE_NOISE = 0.15  # the most that is put on a guide, and only on every second one
DROPOUT = 0.1  # of captions
HELD_OUT = 12  # samples of an evaluation
STEPS = 8  # Euler steps of an evaluation, the pipeline's default
# as in the released weights: the guide's way in, and all layers of the blocks but those of the text
TARGETS = (
    r"(x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|proj_out|attn\.to_[qkv]))"
)


def lora_recipe() -> LoopConfig:
    """About two hours on one core, three minutes on a GPU."""
    return LoopConfig(
        samples=40_000, batch=8, lr=1e-3, warmup=100, decay_from=0.5, ema_decay=0.999, weight_decay=0.0,
        evaluate_every_s=600,
    )  # fmt: skip


class LoraTask:
    """Flow from the enlarged guide to the drawing, learned by the adapter alone.

    Args:
        folder: model folder with transformer, autoencoder and text encoders; it stays frozen.
        cache: where latents are kept.
        drawings: number of different drawings.
        rank: of the adapter; alpha is the same.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        drawings: int = 600,
        seed: int = 51,
        rank: int = 64,
    ) -> None:
        from peft import LoraConfig

        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel.from_pretrained(
            folder / "transformer", torch_dtype=torch.float32
        )
        transformer.requires_grad_(False)
        config = LoraConfig(
            r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS
        )  # half of each pair starts at zero: at first the adapter changes nothing
        transformer.add_adapter(config, adapter_name=ADAPTER)
        self.model: nn.Module = transformer
        self.published = ReleasedLayout(transformer)
        self.routing = LoraRouting(scope=SCOPE)
        device, dtype = runtime_device()
        self.text = TextParts(folder)
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        self.vae = vae.to(device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.seed = seed
        self.views = EnlargingStream(self.vae, cache, drawings, SceneMix(), seed)
        self.held_out = EnlargingStream(self.vae, cache, HELD_OUT, SceneMix(), seed + 9)

    def loss(self, first_sample: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        sample = self._sample(self.views, first_sample, batch, noisy_guides=True)
        generator = torch.Generator().manual_seed(first_sample + 1)
        share = torch.rand(batch, generator=generator)
        path = sample["start"] - sample["drawing"]
        x = sample["drawing"] + share[:, None, None] * path
        velocity = self.velocity(self.model, x, share * STRENGTH, sample)
        loss = (velocity - path.to(velocity.device) / STRENGTH).square().mean()
        return loss, {}

    def _sample(
        self, stream: EnlargingStream, first: int, batch: int, noisy_guides: bool
    ) -> dict[str, Tensor]:
        """Packed drawings, starts and guides with positions and text of `batch` samples; on the CPU."""
        crops: Batch = stream.batch(first, batch)
        generator = torch.Generator().manual_seed(first)
        guides = crops.guide
        if noisy_guides:
            level = torch.rand(batch, 1, 1, 1, generator=generator) * GUIDE_NOISE
            level = level * (torch.rand(batch, 1, 1, 1, generator=generator) < 0.5)
            guides = guides + level * torch.randn(guides.shape, generator=generator)
        noise = torch.randn(crops.drawing.shape, generator=generator)
        texts = []
        for row, crop in enumerate(crops.samples):
            rng = sample_rng(stream.seed + 2, first + row)
            texts.append("" if rng.random() < DROPOUT else caption(crop.scene, rng, 0.0).text)
        states, pooled = self.text.encode(texts)
        ids, guide_ids = (
            torch.stack(parts) for parts in zip(*(crop.ids() for crop in crops.samples), strict=True)
        )
        return {
            "drawing": pack(crops.drawing), "start": pack(blend_noise(crops.enlarged, noise, STRENGTH)),
            "enlarged": pack(crops.enlarged), "guide": pack(guides), "ids": ids, "guide_ids": guide_ids,
            "text": states, "pooled": pooled,
        }  # fmt: skip

    def velocity(self, model: nn.Module, x: Tensor, time: Tensor, sample: dict[str, Tensor]) -> Tensor:
        """The network's velocity at `x` `[B, CROP^2, C]`, noise level `time` `[B]`; float32 on its device."""
        parameter = next(model.parameters())
        device, dtype = parameter.device, parameter.dtype
        x, time, guide, text, pooled = (
            part.to(device, dtype) for part in (x, time, sample["guide"], sample["text"], sample["pooled"])
        )
        ids, guide_ids = sample["ids"].to(device), sample["guide_ids"].to(device)
        cache = encode_guide(model, guide, pooled, guide_ids, ShortAttention(0), routing=self.routing)
        attend = ShortAttention(text.shape[1], grid=(CROP, CROP), radius=RADIUS)
        return denoise(
            model, x, text, pooled, time, image_ids=ids, attend=attend, guide=cache, routing=self.routing
        ).float()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Whole steps on held-out crops: error against the drawing and energy of the two finest octaves.

        The same of the enlarged guide, "plain", says what there is to gain. Writes guides, results and
        drawings side by side into `sheet.png`.
        """
        sample = self._sample(self.held_out, 0, HELD_OUT, noisy_guides=False)
        x = sample["start"]
        levels = torch.linspace(STRENGTH, 0, STEPS + 1)
        for now, following in zip(levels[:-1], levels[1:], strict=True):
            v = self.velocity(model, x, now.expand(HELD_OUT), sample)
            x = x + (following - now) * v.cpu()
        decoded = self._decode({"result": x, "plain": sample["enlarged"], "drawing": sample["drawing"]})
        write_sheet(folder / "sheet.png", [decoded["plain"], decoded["result"], decoded["drawing"]])
        energies = {name: _finest(pictures) for name, pictures in decoded.items()}
        metrics = {}
        for name in ("result", "plain"):
            error = (decoded[name] - decoded["drawing"]).square().mean()
            metrics[f"{name}_psnr"] = float(-10 * torch.log10(error))
            for octave in (0, 1):
                ratio = energies[name][octave] / energies["drawing"][octave]
                metrics[f"{name}_octave_{octave + 1}"] = float(ratio)
        return metrics

    def _decode(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pixels `[HELD_OUT, 3, h, w]` in [0, 1] of held-out crops, with the statistics of their drawings."""
        parameter = next(self.vae.parameters())
        rows: dict[str, list[Tensor]] = {name: [] for name in packed}
        for index in range(HELD_OUT):
            whole = encode(self.vae, to_tensor([whole_drawing(self.held_out.crops_of(index)[0])]))
            with shared_statistics(self.vae, whole.to(parameter)):
                for name, values in packed.items():
                    latents = unpack(values[index : index + 1], (CROP, CROP)).to(parameter)
                    rows[name].append(self.vae.decode(latents).sample.float().cpu())
        return {name: (torch.cat(parts).clamp(-1, 1) + 1) / 2 for name, parts in rows.items()}


def _finest(pictures: Tensor) -> Tensor:
    """Energies of the octaves, summed over pictures."""
    return torch.stack([octave_energies(picture) for picture in pictures]).sum(0)


def write_sheet(path: Path, rows: list[Tensor], count: int = 12) -> None:
    """Pictures `[B, 3, h, w]` in [0, 1], one row each."""
    lines = [torch.cat(list(row[:count]), 2) for row in rows]
    pixels = (torch.cat(lines, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


class ReleasedLayout:
    """A transformer's adapter under the names of released files: `transformer.<layer>.lora_A.weight`."""

    def __init__(self, transformer: nn.Module) -> None:
        self.transformer = transformer

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put weights of a released file into the adapter.

        Raises:
            ValueError: names or shapes of another adapter.
        """
        own = {
            name: value for name, value in self.transformer.named_parameters() if f".{ADAPTER}.weight" in name
        }
        renamed = {released_name(name): value for name, value in own.items()}
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in renamed.items()}:
            raise ValueError("the published adapter has other layers or another rank than this recipe's")
        with torch.no_grad():
            for name, value in renamed.items():
                value.copy_(state[name])


def released_name(name: str) -> str:
    """`a.lora_A.scale_dit.weight` -> `transformer.a.lora_A.weight`."""
    return "transformer." + name.replace(f".{ADAPTER}.weight", ".weight")
