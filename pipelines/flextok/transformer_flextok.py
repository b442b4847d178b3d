"""The two transformers of the tokenizer: picture latents to registers, and registers to a velocity field.

Parameter names are those of published checkpoints without their first word (`encoder.`, `decoder.`).
Sequences are plain batches `[B, S, dim]`, patches first, row by row.

Source: arXiv 2502.13967 (FlexTok: causal registers, nested dropout, rectified-flow decoder).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import nn

from pipelines.flextok.blocks import (
    LinearHead,
    LinearLayer,
    PatchEmbedder,
    PatchHead,
    TimeEmbedder,
    Trunk,
    attention_mask,
    spread_modulation,
)
from pipelines.flextok.fsq import FiniteScalarQuantizer
from pipelines.flextok.positions import PositionTable, time_features
from pipelines.flextok.strict_loading import ConfigMixin, ModelMixin, StrictModel

LEARNED_STD = 0.5  # of learned tokens at the start of training: about as large as what they are added to


class _LearnedVector(nn.Module):
    """One learned tensor under a published name."""

    def __init__(self, name: str, *shape: int) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.randn(shape) * LEARNED_STD))


class FlexTokEncoderModel(StrictModel, ModelMixin, ConfigMixin):
    """Latents to up to `num_registers` vectors for quantisation, ordered from coarse to fine.

    Args:
        in_channels, patch_size: of the latents; a patch is one token.
        dim, depth, head_dim, mlp_ratio: the trunk.
        grid: rows and columns of the position table.
        num_registers: longest token sequence.
        levels: of the quantiser.
        posemb_type, posemb_scaling: see `PositionTable`.
        mask_mode: who sees whom; "causal_last" in published models: patches see patches, a register sees all
            patches and the registers up to itself.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        patch_size: tuple[int, int] = (2, 2),
        dim: int = 768,
        depth: int = 12,
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        grid: tuple[int, int] = (16, 16),
        num_registers: int = 256,
        levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5),
        posemb_type: str = "sincos",
        posemb_scaling: str = "absolute",
        mask_mode: str = "causal_last",
    ) -> None:
        super().__init__()
        self.module_dict = nn.ModuleDict(
            {
                "enc_patch_emb": PatchEmbedder(in_channels, patch_size, dim),
                "enc_posemb_module": PositionTable(dim, grid, posemb_type, posemb_scaling),
                "enc_register_module": _LearnedVector("registers", num_registers, dim),
                "enc_transformer": Trunk(dim, depth, head_dim, mlp_ratio),
                "enc_to_latents": LinearHead(dim, len(levels)),
            }
        )
        self.quantizer = FiniteScalarQuantizer(tuple(levels))
        attention_mask((1, 1), mask_mode)  # refuses unknown modes

    def embed(self, latents: torch.Tensor) -> torch.Tensor:
        """Patch tokens with their positions, `[B, h, w, dim]`."""
        parts = self.module_dict
        return parts["enc_posemb_module"](parts["enc_patch_emb"](latents.to(self.dtype)))

    def trunk(self, patches: torch.Tensor, num_registers: int) -> torch.Tensor:
        """Registers `[B, num_registers, dim]` after all blocks, from patch tokens `[B, P, dim]`."""
        registers = self.module_dict["enc_register_module"].registers[:num_registers]
        x = torch.cat([patches, registers.expand(len(patches), -1, -1)], dim=1)
        lengths = (patches.shape[1], num_registers)
        mask = attention_mask(lengths, self.config.mask_mode).to(x.device)
        for block in self.module_dict["enc_transformer"].blocks:
            x = block(x, mask)
        return x[:, patches.shape[1] :]

    def forward(
        self, latents: torch.Tensor, num_tokens: int | None = None, truncate: bool = True
    ) -> torch.Tensor:
        """Quantiser inputs `[B, num_tokens, len(levels)]` float32 of latents `[B, C, H, W]`.

        Args:
            num_tokens: how many of the ordered tokens are wanted. Default: all.
            truncate: compute no more registers than wanted. Exact, because none sees a later one.
        Raises:
            ValueError: `num_tokens` out of range, or latents that don't fit the patches or the table.
        """
        most = self.config.num_registers
        wanted = most if num_tokens is None else num_tokens
        if not 1 <= wanted <= most:
            raise ValueError(f"{wanted} tokens were asked for; this model gives 1 to {most}")
        computed = wanted if truncate and self.config.mask_mode != "full" else most
        registers = self.trunk(self.embed(latents).flatten(1, 2), computed)
        return self.module_dict["enc_to_latents"](registers[:, :wanted])


@dataclass(frozen=True)
class Condition:
    """What the decoder is told: tokens `[B, S, dim]` and, where needed, a bias on their attention logits.

    Attributes:
        key_bias: `[B, S]`, added wherever a token is looked at: log n for a token that stands for n equal
            ones, -inf for one that isn't there.
    """

    tokens: torch.Tensor
    key_bias: torch.Tensor | None = None


@dataclass(frozen=True)
class StepModulation:
    """All modulations at a time, or at one per picture: blocks `[B or 1, 12 dim]`, head `[B or 1, 2 dim]`."""

    blocks: tuple[torch.Tensor, ...]
    head: torch.Tensor


class FlexTokDecoderModel(StrictModel, ModelMixin, ConfigMixin):
    """Velocity field over latents, given the first k tokens of a picture.

    Args:
        in_channels, patch_size, dim, depth, head_dim, mlp_ratio, grid, levels: as in the encoder.
        num_registers: longest token sequence.
        posemb_type, posemb_scaling: table of the patches.
        register_posemb_type: table of the tokens.
        time_features, max_timestep: time embedding.
        repa_layer: index of the block whose output serves representation alignment.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 16,
        patch_size: tuple[int, int] = (2, 2),
        dim: int = 768,
        depth: int = 12,
        head_dim: int = 64,
        mlp_ratio: float = 4.0,
        grid: tuple[int, int] = (16, 16),
        num_registers: int = 256,
        levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5),
        posemb_type: str = "sincos",
        posemb_scaling: str = "absolute",
        register_posemb_type: str = "learnable_sum",
        time_features: int = 256,
        max_timestep: float = 1000.0,
        repa_layer: int = 1,
    ) -> None:
        super().__init__()
        self.module_dict = nn.ModuleDict(
            {
                "dec_from_latents": LinearLayer(len(levels), dim),
                "dec_registers_posemb_module": PositionTable(dim, (num_registers,), register_posemb_type),
                "dec_nested_dropout": _LearnedVector("dropout_mask_token", dim),
                "dec_latent_dropout": _LearnedVector("nullcond", dim),
                "dec_noise_patch_emb": PatchEmbedder(in_channels, patch_size, dim),
                "dec_patches_posemb_module": PositionTable(dim, grid, posemb_type, posemb_scaling),
                "dec_time_embedder": TimeEmbedder(time_features, dim),
                "dec_transformer": Trunk(dim, depth, head_dim, mlp_ratio, expansion=2),
                "dec_to_patches": PatchHead(dim, in_channels, patch_size),
            }
        )
        self.quantizer = FiniteScalarQuantizer(tuple(levels))
        self._fixed: tuple[float, ...] = ()

    def condition(
        self,
        codes: torch.Tensor,
        keep: Sequence[int],
        is_null: Sequence[bool] | None = None,
        collapse: bool = True,
    ) -> Condition:
        """What to condition on; it stays the same for all steps of a picture.

        Masked tokens have no position, so they are and stay equal in every layer; the null condition is a
        sequence of equal tokens altogether. `collapse` keeps one of them and counts it with log n on its
        attention logit, which is exact.

        Args:
            codes: `[B, K, len(levels)]` of the quantiser, K at least the largest of `keep`.
            keep: tokens used of each picture, 1 to `num_registers`.
            is_null: pictures to leave unconditioned. Default: none.
        Raises:
            ValueError: counts out of range.
        """
        most, null = self.config.num_registers, list(is_null or [False] * len(keep))
        if not len(codes) == len(keep) == len(null):
            raise ValueError(f"{len(codes)} pictures, {len(keep)} token counts, {len(null)} null flags")
        if any(not 1 <= k <= min(most, codes.shape[1]) for k in keep):
            raise ValueError(
                f"token counts {list(keep)}; each must be 1 to {min(most, codes.shape[1])} "
                f"({codes.shape[1]} tokens are there, this model knows {most})"
            )
        parts, device = self.module_dict, codes.device
        counts = torch.tensor([0 if empty else k for k, empty in zip(keep, null, strict=True)], device=device)
        length = max(int(counts.max()), 0) if collapse else most
        known = codes[:, :length]
        tokens = parts["dec_registers_posemb_module"](parts["dec_from_latents"](known))
        filler = torch.where(
            torch.tensor(null, device=device)[:, None],
            parts["dec_latent_dropout"].nullcond.float(),
            parts["dec_nested_dropout"].dropout_mask_token.float(),
        )[:, None]  # [B, 1, dim]
        if not collapse:
            tokens = F.pad(tokens, (0, 0, 0, most - tokens.shape[1]))
            masked = torch.arange(most, device=device) >= counts[:, None]
            return Condition(torch.where(masked[..., None], filler, tokens).to(self.dtype))
        if int(counts.min()) == most:
            return Condition(tokens.to(self.dtype))
        absent = torch.arange(length, device=device) >= counts[:, None]
        bias = torch.zeros(absent.shape, device=device).masked_fill(absent, -math.inf)
        bias = torch.cat([bias, (most - counts).float().log()[:, None]], dim=1)
        return Condition(torch.cat([tokens, filler], dim=1).to(self.dtype), bias)

    def modulation(self, timesteps: torch.Tensor) -> StepModulation:
        """Shifts, scales and gates at times `[T]` in [0, 1]; they depend on nothing else."""
        if self._fixed:
            rows = [self._fixed_row(float(t)) for t in timesteps]
            return StepModulation(tuple(m[rows] for m in self.fixed_blocks), self.fixed_head[rows])
        config, parts = self.config, self.module_dict
        features = time_features(timesteps.to(self.device), config.time_features, config.max_timestep)
        embedding = parts["dec_time_embedder"](features)
        blocks = tuple(block.adaLN_modulation(embedding) for block in parts["dec_transformer"].blocks)
        return StepModulation(blocks, parts["dec_to_patches"].adaLN_modulation(embedding))

    def modulation_table(self, timesteps: Sequence[float]) -> list[StepModulation]:
        """`modulation` of each time of a fixed schedule, computed at once, one row each."""
        table = self.modulation(torch.tensor(list(timesteps), dtype=torch.float32))
        return [
            StepModulation(tuple(m[i : i + 1] for m in table.blocks), table.head[i : i + 1])
            for i in range(len(timesteps))
        ]

    @torch.no_grad()
    def fix_times(self, timesteps: Sequence[float]) -> None:
        """Keep the modulations of these times and give the layers that compute them back (half the weights).

        The decoder then answers at these times only; it can't be trained or saved any more.
        """
        table = self.modulation(torch.tensor(list(timesteps), dtype=torch.float32))
        self.register_buffer("fixed_blocks", torch.stack(table.blocks), persistent=False)
        self.register_buffer("fixed_head", table.head, persistent=False)
        self._fixed = tuple(timesteps)
        for block in self.module_dict["dec_transformer"].blocks:
            block.adaLN_modulation = None
        self.module_dict["dec_to_patches"].adaLN_modulation = None
        del self.module_dict["dec_time_embedder"]

    def _fixed_row(self, t: float) -> int:
        distances = [abs(t - known) for known in self._fixed]
        if min(distances) > 1e-6:
            raise ValueError(f"this decoder was fixed to {len(self._fixed)} times; {t:g} is not one of them")
        return distances.index(min(distances))

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """As diffusers' method.

        Raises:
            ValueError: the time layers have been given back.
        """
        if self._fixed:
            raise ValueError("a decoder that was fixed to a list of times can't be saved")
        super().save_pretrained(*arguments, **options)

    def embed(self, latents: torch.Tensor) -> torch.Tensor:
        """Patch tokens of noised latents with their positions, `[B, h, w, dim]`."""
        parts = self.module_dict
        return parts["dec_patches_posemb_module"](parts["dec_noise_patch_emb"](latents.to(self.dtype)))

    def forward(
        self,
        latents: torch.Tensor,
        condition: Condition,
        timesteps: torch.Tensor | None = None,
        modulation: StepModulation | None = None,
        return_features: bool = False,
    ) -> Any:
        """Velocity `[B, C, H, W]` float32 (noise minus picture) at noised latents `[B, C, H, W]`.

        Args:
            condition: from `condition`.
            timesteps: `[B]` or `[1]` in [0, 1], 1 being noise; or `modulation` of the same.
            return_features: also return the patches `[B, h, w, dim]` after block `repa_layer`.
        """
        if (timesteps is None) == (modulation is None):
            raise ValueError("give either timesteps or their modulation")
        step = self.modulation(timesteps) if modulation is None else modulation
        patches = self.embed(latents)
        grid, lengths = patches.shape[1:3], (patches.shape[1] * patches.shape[2], condition.tokens.shape[1])
        x = torch.cat([patches.flatten(1, 2), condition.tokens], dim=1)
        mask = None
        if condition.key_bias is not None:
            mask = F.pad(condition.key_bias, (lengths[0], 0))[:, None, None]  # [B, 1, 1, S]
        features = None
        for index, block in enumerate(self.module_dict["dec_transformer"].blocks):
            x = block(x, mask, spread_modulation(step.blocks[index], lengths))
            if index == self.config.repa_layer:
                features = x[:, : lengths[0]].unflatten(1, grid)
        out = self.module_dict["dec_to_patches"](x[:, : lengths[0]].unflatten(1, grid), step.head)
        return (out.float(), features) if return_features else out.float()
