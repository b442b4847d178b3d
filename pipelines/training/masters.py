"""fp32 master copies of low-precision weights, split between Muon and AdamW."""

from collections.abc import Iterable

import torch
from torch import nn


class MasterWeights:
    """Trainable fp32 masters of a model that computes in `dtype`, with their exponential moving average.

    Matrices and convolution kernels of hidden layers (two or more axes, flattened to two) go to Muon,
    everything else (norms, biases, embeddings, first and last layers) to AdamW.

    Args:
        model: moved to `dtype` in place; its fp32 values become the masters.
        dtype: what forward and backward compute in.
        ema_decay: decay per step after warm-up; the effective one grows as (1 + n) / (10 + n).
        adamw_names: substrings of parameter names that go to AdamW whatever their shape.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, ema_decay: float, adamw_names: Iterable[str] = ()
    ) -> None:
        self.ema_decay = ema_decay
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.masters = [self._flat(p.detach().float().clone()).requires_grad_(True) for p in parameters]
        self.ema = [m.detach().clone() for m in self.masters]
        model.to(dtype)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        special = tuple(adamw_names)
        self.is_matrix = [
            p.ndim >= 2 and min(m.shape) > 1 and not any(part in name for part in special)
            for name, p, m in zip(self.names, self.parameters, self.masters, strict=True)
        ]

    @staticmethod
    def _flat(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten(1) if tensor.ndim > 2 else tensor

    def optimizers(self, lr: float, muon_lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        """Muon for the matrices (when `muon_lr` > 0) and AdamW for the rest."""
        matrices = [m for m, flag in zip(self.masters, self.is_matrix, strict=True) if flag and muon_lr > 0]
        chosen = {id(m) for m in matrices}
        others = [m for m in self.masters if id(m) not in chosen]
        adamw = torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
        if not matrices:
            return [adamw]
        muon = torch.optim.Muon(
            matrices, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw", ns_steps=4
        )
        return [adamw, muon]

    def take_gradients(self, clip: float) -> float:
        """Move gradients from the model to the masters, clip their norm, return the norm before clipping."""
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            grad = parameter.grad
            master.grad = torch.zeros_like(master) if grad is None else self._flat(grad.float())
            parameter.grad = None
        return float(nn.utils.clip_grad_norm_(self.masters, clip))

    def _copy_to_model(self) -> None:
        # the masters are reshaped, never the parameters: flattening a channels-last kernel gives a copy
        shaped = [m.view(p.shape) for m, p in zip(self.masters, self.parameters, strict=True)]
        torch._foreach_copy_([p.data for p in self.parameters], shaped)

    @torch.no_grad()
    def publish(self, step: int) -> None:
        """Copy masters into the model and update the average."""
        self._copy_to_model()
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.ema, self.masters, 1 - decay)

    @torch.no_grad()
    def ema_state(self, model: nn.Module, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
        """State dict of the averaged weights in `dtype` (buffers from the model)."""
        state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        for name, average, parameter in zip(self.names, self.ema, self.parameters, strict=True):
            state[name] = average.view(parameter.shape).clone()
        return {k: v.to(dtype).contiguous() if v.is_floating_point() else v for k, v in state.items()}

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        return {"masters": [m.detach() for m in self.masters], "ema": self.ema}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        for target, value in zip(self.masters, state["masters"], strict=True):
            target.copy_(value)
        for target, value in zip(self.ema, state["ema"], strict=True):
            target.copy_(value)
        self._copy_to_model()
