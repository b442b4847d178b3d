"""The authors' FLUX layout as diffusers keys, for tests: names, fused projections, swapped halves."""

import re
from typing import Any

import torch

DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
SINGLE = {
    "modulation.lin": "norm.linear",
    "norm.query_norm.scale": "attn.norm_q.weight",
    "norm.key_norm.scale": "attn.norm_k.weight",
    "linear2": "proj_out",
}
OUTER = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
}


def build(config: dict[str, Any], state: dict[str, torch.Tensor], whole: bool = True) -> Any:
    """A `FluxTransformer2DModel` of the recorded config and weights; `whole=False`: those of some blocks."""
    from diffusers import FluxTransformer2DModel

    width = config["hidden_size"]
    assert config["mlp_ratio"] == 4.0 and config["qkv_bias"] and config["theta"] == 10_000
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=config["in_channels"],
        num_layers=config["depth"],
        num_single_layers=config["depth_single_blocks"],
        attention_head_dim=width // config["num_heads"],
        num_attention_heads=config["num_heads"],
        joint_attention_dim=config["context_in_dim"],
        pooled_projection_dim=config["vec_in_dim"],
        guidance_embeds=config["guidance_embed"],
        axes_dims_rope=tuple(config["axes_dim"]),
    )
    model.load_state_dict(convert(state, width), strict=whole)
    return model.eval()


def convert(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"double_blocks\.(\d+)\.(img|txt)_attn\.qkv\.(\w+)", key):
            number, stream, kind = match.groups()
            names = (
                ("to_q", "to_k", "to_v") if stream == "img" else ("add_q_proj", "add_k_proj", "add_v_proj")
            )
            for name, part in zip(names, value.chunk(3), strict=True):
                out[f"transformer_blocks.{number}.attn.{name}.{kind}"] = part
        elif match := re.fullmatch(r"single_blocks\.(\d+)\.linear1\.(\w+)", key):
            number, kind = match.groups()
            parts = value.split([width, width, width, value.shape[0] - 3 * width])
            for name, part in zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), parts, strict=True):
                out[f"single_transformer_blocks.{number}.{name}.{kind}"] = part
        elif key.startswith("final_layer.adaLN_modulation.1."):
            shift, scale = value.chunk(2)
            out["norm_out.linear." + key.rsplit(".", 1)[1]] = torch.cat([scale, shift])
        else:
            out[_renamed(key)] = value
    return out


def _renamed(key: str) -> str:
    prefix, table = "", OUTER
    for old, new, names in (
        ("double_blocks", "transformer_blocks", DOUBLE),
        ("single_blocks", "single_transformer_blocks", SINGLE),
    ):
        if match := re.match(rf"{old}\.(\d+)\.", key):
            prefix, table, key = f"{new}.{match[1]}.", names, key[match.end() :]
    whole = table.get(key)
    if whole is None:
        stem, kind = key.rsplit(".", 1)
        whole = f"{table[stem]}.{kind}"
    return prefix + whole
