"""FLUX.1 and FLUX.2 forwards with a low-res branch against the authors' code, on tiny random weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel
from safetensors.torch import load_file

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.scale_dit import transformer_scale_dit
from pipelines.scale_dit.high_res import HighResOptions, guide_layout
from pipelines.scale_dit.lora_routing import ADAPTER, LoraRouting
from pipelines.scale_dit.positions import RopeFactors
from pipelines.scale_dit.transformer_scale_dit import (
    LiveGuide,
    denoise,
    dense_attention,
    encode_guide,
    local_attention,
)
from tests.parity.cases import discover

TOLERANCE = 2e-5
LINES = {"flux1": FluxTransformer2DModel, "flux2": Flux2Transformer2DModel}
SCOPES = {"flux1": "low+qkv_hi", "flux2": "low"}
CASES = [*discover("scale_dit", "flux1_forward", "cases"), *discover("scale_dit", "flux2_forward", "cases")]


def sibling(case, kind):
    """The file of another kind beside a case: `flux1_weights_b` for `flux1_forward_b`, or the only one."""
    line = case.kind.removesuffix("_forward")
    own = case.file.with_name(case.file.stem.replace(f"{line}_forward", f"{line}_{kind}") + ".safetensors")
    return own if own.exists() else next(case.file.parent.glob(f"{line}_{kind}*.safetensors"))


def model_of(case, with_lora):
    line = case.kind.removesuffix("_forward")
    config = json.loads(case.file.read_text(encoding="utf-8"))["model"]["config"]
    model = LINES[line](**config).eval()
    model.load_state_dict(load_file(sibling(case, "weights")))
    if with_lora:
        model.load_lora_adapter(load_file(sibling(case, "lora")), adapter_name=ADAPTER)
    return model


class Recorded:
    """A recorded case as arguments of `denoise`."""

    def __init__(self, case):
        self.line = case.kind.removesuffix("_forward")
        self.record, tensors = case.record("cases"), case.tensors()
        prefix = f"{case.name}."
        self.tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.config = self.record["model_config"]
        self.model = model_of(case, self.record["lora"])
        part = lambda name: self.tensors.get(f"in.{name}")  # noqa: E731
        self.image, self.text = part("hidden_states"), part("encoder_hidden_states")
        self.pooled, self.time, self.guidance = part("pooled_projections"), part("timestep"), part("guidance")
        self.ids = part("img_ids").float()
        self.guide, self.guide_ids = part("low_res_guidance"), part("low_res_img_ids")
        self.routing = LoraRouting(ADAPTER, SCOPES[self.line]) if self.record["lora"] else None
        if self.guide is not None:
            self.guide = self.guide if self.guide.ndim == 3 else self.guide[None]
            scale = self.config["image_size"][0] // self.config["joint_denoise_size"][0]
            self.guide_ids = self.guide_ids.float()
            if self.config["scale_PE"]:
                self.guide_ids[:, 1:3] *= scale
        doubled = "linear_factor 0.5" in self.record.get("code", "")
        self.rope = RopeFactors(self.config["ntk_factor"], 0.5 if doubled else 1.0)

    @property
    def grid(self):
        return tuple(side // self.config["patch_size"] for side in self.config["image_size"])

    @property
    def low_grid(self):
        return tuple(side // self.config["patch_size"] for side in self.config["joint_denoise_size"])

    @property
    def mask(self):
        packed = self.tensors["token_mask_packed"].numpy()
        length = self.text.shape[1] + self.image.shape[1] + self.guide.shape[1]
        return torch.from_numpy(np.unpackbits(packed, axis=-1)[:, :length].astype(bool))

    @torch.no_grad()
    def run(self, attend, guide=None, **changes):
        options = {"rope": self.rope if guide is not None else None, "routing": self.routing, **changes}
        return denoise(
            self.model, self.image, self.text, self.pooled, self.time,
            image_ids=self.ids, attend=attend, guide=guide, guidance=self.guidance, **options,
        )  # fmt: skip

    def run_live(self, attend, **changes):
        return self.run(attend, LiveGuide(self.guide, self.guide_ids), **changes)

    @torch.no_grad()
    def encoded(self, attend):
        return encode_guide(
            self.model, self.guide, self.pooled, self.guide_ids, attend, self.guidance,
            rope=self.rope, routing=self.routing,
        )  # fmt: skip


def masked(mask):
    """Attention under a boolean mask over [text | image | guide]; an encoded guide gives keys alone."""

    def attend(query, key, value, guide):
        if guide is not None:
            key, value = torch.cat([key, guide[0]], 1), torch.cat([value, guide[1]], 1)
        q, k, v = (part.transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, mask[: q.shape[2], -k.shape[2] :]).transpose(1, 2)

    return attend


def assert_close(ours, recorded):
    assert recorded.std() > 0.1
    torch.testing.assert_close(ours, recorded, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_forwards(case, monkeypatch):
    recorded = Recorded(case)
    states = watch_blocks(monkeypatch)
    if recorded.guide is None:
        ours = recorded.run(dense_attention(recorded.text.shape[1]))
    else:
        ours = recorded.run_live(masked(recorded.mask))
    assert_close(ours, recorded.tensors["out"])
    for name, expected in recorded.tensors.items():
        if name.startswith("block."):
            _, block, part = name.split(".")
            torch.testing.assert_close(states[block][part], expected, rtol=0, atol=TOLERANCE)
    if "out_lora_on_low_res_only" in recorded.tensors:
        expected = recorded.tensors["out_lora_on_low_res_only"]
        routing = replace(recorded.routing, scope="low")
        assert_close(recorded.run_live(masked(recorded.mask), routing=routing), expected)
        assert (expected - recorded.tensors["out"]).abs().max() > 1e-3


def watch_blocks(monkeypatch):
    """What blocks leave behind, under the recorded names: "double0" -> {"text", "hi", "low"}."""
    states = {}
    for kind, names in (("double", ("text", "hi", "low")), ("single", ("text_and_hi", "low"))):
        run = getattr(transformer_scale_dit, f"_{kind}_block")

        def watched(line, block, streams, *rest, kind=kind, names=names, run=run):
            answer = run(line, block, streams, *rest)
            number = sum(name.startswith(kind) for name in states)
            kept = [stream.tokens for stream in streams]
            states[f"{kind}{number}"] = dict(zip(names, kept, strict=False))
            return answer

        monkeypatch.setattr(transformer_scale_dit, f"_{kind}_block", watched)
    return states


def has_layout(case):
    """Whether a layout of ours says what a recorded mask says."""
    if case.name is None:
        return True
    record = case.record("cases")
    config, with_guide = record["model_config"], f"{case.name}.in.low_res_guidance" in case.tensors()
    guide = config["joint_denoise_size"][0] * config["joint_denoise_size"][1] // config["patch_size"] ** 2
    sliding = config["use_sliding_window"] and guide <= 256
    return with_guide and (case.name.startswith("blockmask") or sliding)


@pytest.mark.parametrize("case", [case for case in CASES if has_layout(case.values[0])])
def test_layouts_and_the_encoded_guide_give_the_same(case):
    """What the pipelines run: attention by layout and, under the inference mask, the guide's cache."""
    recorded = Recorded(case)
    grid, low, text = recorded.grid, recorded.low_grid, recorded.text.shape[1]
    if case.name.startswith("blockmask"):
        layout = replace(HighResOptions(attention="block").layout(grid, low), text=text)
        cache = recorded.encoded(local_attention(guide_layout(layout)))
        assert_close(recorded.run(local_attention(layout), cache), recorded.tensors["out"])
    else:
        order = "window_raster" if recorded.config["permute_window_first"] else "raster"
        window = recorded.config["window_size"][0] // recorded.config["patch_size"]
        layout = AttentionLayout(
            text, grid, low, window=window, radius=window // 2, order=order, image_to_guide="all",
            guide_to_text=True,
        )  # fmt: skip
    assert torch.equal(layout.token_mask(), recorded.mask)
    assert_close(recorded.run_live(local_attention(layout)), recorded.tensors["out"])
