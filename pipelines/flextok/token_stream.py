"""Tokens of the seeded drawings, for what learns with a finished encoder."""

from pathlib import Path

import numpy as np
import torch

from pipelines.flextok.checkpoint import fingerprint
from pipelines.flextok.transformer_flextok import FlexTokEncoderModel
from pipelines.storybook.latents import LatentStream


class TokenStream:
    """Tokens of the seeded drawings, computed on first use and kept in a file per tokenizer."""

    def __init__(self, latents: LatentStream, encoder: FlexTokEncoderModel, folder: Path) -> None:
        self.latents, self.encoder = latents, encoder
        name = f"tokens_{fingerprint(encoder)}_{latents.seed}_{latents.size}_{latents.drawn}.npy"
        mode = "r+" if (folder / name).exists() else "w+"
        shape = (latents.size, encoder.config.num_registers)
        # ids are stored plus one: zero is a slot that hasn't been computed
        self._file = np.lib.format.open_memmap(
            folder / name, mode=mode, dtype=np.uint16, shape=None if mode == "r+" else shape
        )

    @torch.no_grad()
    def batch(self, first: int, count: int) -> torch.Tensor:
        """Ids `[count, num_registers]` int64."""
        slots = [index % self.latents.size for index in range(first, first + count)]
        missing = sorted({slot for slot in slots if not self._file[slot, 0]})
        if missing:
            latents = torch.cat([self.latents.batch(slot, 1)[0][:, 0] for slot in missing])
            ids = self.encoder.quantizer.quantize(self.encoder(latents.to(self.encoder.device)))[1]
            self._file[missing] = (ids + 1).cpu().numpy().astype(np.uint16)
        return torch.from_numpy(np.stack([self._file[slot] for slot in slots]).astype(np.int64)) - 1
