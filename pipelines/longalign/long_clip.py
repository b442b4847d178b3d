"""Long-CLIP: a CLIP text tower that reads 248 tokens in one pass instead of 77.

The first 20 positions, which training has seen most, stay as they are; the others are spread four-fold with
linear interpolation. After stretching a tower works at once, and better after some training on long captions.
Stock Stable Diffusion and SDXL pipelines take a stretched tower with its tokenizer: both ask the encoder and
tokenizer for their lengths (Stable Diffusion reads the last layer after the norm, SDXL the last but one
without it, for its second tower as well).

Shape letters: N positions before, M after, W width.
Source: arXiv 2403.15378 and its checkpoints.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KEPT, RATIO = 20, 4
COMPONENTS = 32


def stretch_positions(table: Tensor, keep: int = KEPT, ratio: int = RATIO) -> Tensor:
    """Position embeddings `[N, W]` -> `[keep + ratio (N - keep), W]`, in the table's dtype.

    Row keep + q lies between rows i = keep + q // ratio and i + 1, at the share a = (q % ratio) / ratio;
    behind the last row the last step goes on. N = 77 gives 248. The published weights were stretched in
    float16, which differs from float32 by up to 3e-4.

    Raises:
        ValueError: fewer than keep + 2 rows.
    """
    rows = len(table)
    if rows < keep + 2:
        raise ValueError(f"a table of {rows} positions can't be stretched; at least {keep + 2} are needed")
    steps = torch.arange(ratio * (rows - 1 - keep), device=table.device)
    index = keep + steps // ratio
    shares = (torch.arange(ratio, device=table.device).float() / ratio).to(table.dtype)[:, None]
    share = shares.repeat(rows - 1 - keep, 1)
    between = (1 - share) * table[index] + share * table[index + 1]
    beyond = table[-1] + shares * (table[-1] - table[-2])
    return torch.cat([table[:keep], between, beyond])


def is_plain_stretch(table: Tensor, keep: int = KEPT, ratio: int = RATIO) -> bool:
    """Whether a table `[M, W]` is what `stretch_positions` makes of a shorter one, no training added.

    Rounding to half precision is no training.
    """
    short = torch.cat([table[:keep], table[keep::ratio]]).float()
    if len(short) < keep + 2 or len(table) != keep + ratio * (len(short) - keep):
        return False
    gap = (stretch_positions(short, keep, ratio) - table.float()).abs().max()
    return bool(gap <= 2e-3 * table.float().abs().max())


def effective_positions(frozen: Tensor, trained: Tensor, keep: int = KEPT) -> Tensor:
    """The table a checkpoint really uses: rows below `keep` from the frozen one, others from the trained."""
    return torch.cat([frozen[:keep], trained[keep:]])


def stretch_text_encoder(model: Any, keep: int = KEPT, ratio: int = RATIO) -> Any:
    """A copy of a `CLIPTextModel` or `CLIPTextModelWithProjection` with positions stretched in float32.

    The original stays as it is. Its tokenizer has to be told too: `stretch_tokenizer`.
    """
    model = copy.deepcopy(model)
    inner = getattr(model, "text_model", model)
    old = inner.embeddings.position_embedding
    table = stretch_positions(old.weight.detach().float(), keep, ratio).to(old.weight.dtype)
    inner.embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
    positions = torch.arange(len(table), device=table.device)[None]
    inner.embeddings.register_buffer("position_ids", positions, persistent=False)
    for config in (model.config, inner.config):
        config.max_position_embeddings = len(table)
    return model


def stretch_tokenizer(tokenizer: Any, length: int, pad_id: int | None = None) -> Any:
    """A copy that cuts at `length` tokens and pads with `pad_id`.

    Args:
        pad_id: default: as before (Stable Diffusion has seen end marks as padding). The authors pad with 0.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = length
    if pad_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_id)
    return tokenizer


def convert_long_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower of a Long-CLIP checkpoint, named as in `CLIPTextModelWithProjection`.

    Args:
        state: the authors' state dict; entries of the vision tower are left out.
    """
    tables = state["positional_embedding"], state["positional_embedding_res"]
    out = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": effective_positions(*tables),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
    }
    renamed = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }  # fmt: skip
    prefix = "transformer.resblocks."
    for name, value in state.items():
        if not name.startswith(prefix):
            continue
        layer, part = name.removeprefix(prefix).split(".", 1)
        target = f"text_model.encoder.layers.{layer}"
        stem, kind = part.replace(".in_proj_", ".in_proj.").rsplit(".", 1)
        if stem == "attn.in_proj":
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                out[f"{target}.self_attn.{letter}_proj.{kind}"] = third.contiguous()
        else:
            out[f"{target}.{renamed[stem]}.{kind}"] = value
    return out


def long_clip_config(state: Mapping[str, Tensor], **changes: Any) -> dict[str, Any]:
    """`CLIPTextConfig` values of a checkpoint's text tower (heads of 64, as in every CLIP)."""
    vocabulary, width = state["token_embedding.weight"].shape
    layers = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
    config = {
        "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": len(layers),
        "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.bias"]),
        "num_attention_heads": width // 64, "hidden_act": "quick_gelu",
        "max_position_embeddings": len(state["positional_embedding"]),
        "projection_dim": state["text_projection"].shape[1],
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1,
    }  # fmt: skip
    return {**config, **changes}


def principal_components(features: Tensor, count: int = COMPONENTS) -> Tensor:
    """Features `[B, E]` reduced to their `count` main directions within the batch, mean included."""
    mean = features.mean(0)
    centred = features - mean
    _, _, directions = torch.linalg.svd(centred.float(), full_matrices=False)
    chosen = directions[:count].to(features.dtype)
    return centred @ chosen.T @ chosen + mean


def component_matching_loss(
    pictures: Tensor, long_texts: Tensor, short_texts: Tensor, scale: Tensor, count: int = COMPONENTS
) -> Tensor:
    """Long captions match pictures, short captions match the pictures' main components.

    Args:
        pictures, long_texts, short_texts: `[B, E]`, normalised here; row i belongs to row i.
        scale: logit scale (the exponential of CLIP's parameter).
        count: components of the coarse picture features, at most the batch size.
    """
    pictures, long_texts, short_texts = (F.normalize(x, dim=-1) for x in (pictures, long_texts, short_texts))
    coarse = principal_components(pictures, count)
    return _contrast(pictures, long_texts, scale) + _contrast(coarse, short_texts, scale)


def _contrast(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    logits = scale * pictures @ texts.T
    target = torch.arange(len(logits), device=logits.device)
    rows = F.cross_entropy(logits, target, label_smoothing=0.1)
    return 0.5 * (rows + F.cross_entropy(logits.T, target, label_smoothing=0.1))
