"""Scores, losses, solver steps and rollouts, with their gradients, against the authors' reward code."""

import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from pipelines.longalign.preference import (
    caption_embeddings,
    common_direction,
    decompose,
    preference_logits,
    preference_loss,
)
from pipelines.longalign.preference_model import PreferenceModel
from pipelines.longalign.rollout import consistency_rollout, guided, rollout, unguided
from pipelines.longalign.solver import boundary_scalings, ddim_step, predict_clean
from tests.parity.longalign.vectors import RecordedTokenizer, every

PICK_WEIGHT = 0.3  # fixed in the authors' one-text-per-picture scores


def assert_close(ours, recorded, share=1e-5):
    """Within `share` of the largest recorded value."""
    error = float((ours.detach().float() - recorded).abs().max())
    assert error <= share * max(1e-3, float(recorded.abs().max()))


@every("d_loss_embeds")
def test_scores_and_losses(case):
    tensors = case.tensors
    index = tensors["in.caption_index"]
    count = len(tensors["in.image_embeds"])
    captions = caption_embeddings(tensors["in.text_embeds"], index, count)
    assert torch.bincount(index).tolist() == case.record["captions_per_image"]
    direction, pictures = common_direction(captions), F.normalize(tensors["in.image_embeds"], dim=-1)
    assert_close(captions, tensors["derived.caption_embeds"])
    assert_close(direction, tensors["derived.V"])
    parts = decompose(captions, direction)
    assert_close(parts.eta, tensors["derived.eta"])
    assert_close(parts.relevant(pictures), tensors["derived.score_relevant"])
    assert_close(parts.irrelevant(pictures), tensors["derived.score_irrelevant"])
    for weight in case.record["weights_w"]:
        recorded = case.below(f"out.w{weight}.")
        embeds = tensors["in.image_embeds"].clone().requires_grad_()
        logits = preference_logits(captions, embeds, direction, weight)
        scores = logits.diagonal()
        loss = preference_loss(scores, weight)
        loss.backward()
        assert_close(logits, recorded["logits"])
        assert_close(scores, recorded["score"])
        assert_close(scores, parts.relevant(pictures) + weight * parts.irrelevant(pictures))
        assert_close(loss, recorded["loss"])
        assert_close(embeds.grad, recorded["grad_image_embeds"])


@every("d_loss_embeds")
def test_scores_without_decomposition_by_segment_and_of_one_text(case):
    tensors = case.tensors
    texts, pictures = tensors["in.text_embeds"], tensors["in.image_embeds"]
    index = tensors["in.caption_index"]
    logits = preference_logits(caption_embeddings(texts, index, len(pictures)), pictures)
    assert_close(logits, tensors["out.plain.logits"])
    assert_close(logits.diagonal(), tensors["out.plain.score"])
    own = texts[index == 0]
    segments = caption_embeddings(own, torch.arange(len(own)), len(own))
    assert_close(preference_logits(segments, pictures[:1]), tensors["out.split0.logits"])
    single = F.normalize(tensors["in.pick_text_embeds"], dim=-1)
    assert_close(preference_logits(single, pictures).diagonal(), tensors["out.pick.plain"])
    reweighted = preference_logits(single, pictures, common_direction(single), PICK_WEIGHT).diagonal()
    assert_close(reweighted, tensors["out.pick.ortho"])
    assert_close(reweighted, tensors["out.clip.ortho"])


def clip_model(case):
    record = case.record
    special = {name: record["text_config"][name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config={**record["text_config"], "projection_dim": record["projection_dim"]},
        vision_config={**record["vision_config"], "projection_dim": record["projection_dim"]},
        projection_dim=record["projection_dim"],
        **special,
    )
    model = CLIPModel(config).eval()
    missing, unexpected = model.load_state_dict(case.below("model."), strict=False)
    assert not missing and not [name for name in unexpected if "position_ids" not in name]
    return model, special


@every("d_e2e_")
def test_from_pictures_to_the_loss(case):
    tensors = case.tensors
    model, special = clip_model(case)
    marks = (special["bos_token_id"], special["eos_token_id"])
    judge = PreferenceModel(model, RecordedTokenizer([], marks, [0], special["pad_token_id"]))
    lists = zip(tensors["in.input_ids"], tensors["in.attention_mask"], strict=True)
    texts = judge.embed_ids([tuple(ids[: int(mask.sum())].tolist()) for ids, mask in lists])
    assert_close(F.normalize(texts, dim=-1), F.normalize(tensors["out.text_features"], dim=-1))
    small = next(value for name, value in tensors.items() if name.startswith("in.image_")).float() / 255
    side = small.shape[-1]
    block = judge.picture_input.crop // side  # enlarged to the crop's size, so that the crop is the identity
    pictures = small.repeat_interleave(block, -1).repeat_interleave(block, -2).requires_grad_()
    pixels = judge.prepare(pictures)
    pooled = F.avg_pool2d(pixels, pixels.shape[-1] // tensors["out.pixels_pooled"].shape[-1])
    assert_close(pooled, tensors["out.pixels_pooled"])
    embeds = judge.embed_pictures(pictures)
    assert_close(F.normalize(embeds, dim=-1), F.normalize(tensors["out.image_features"], dim=-1))
    captions = caption_embeddings(texts, tensors["in.caption_index"], len(small))
    weight = case.record.get("w", 0.3)
    scores = preference_logits(captions, embeds, common_direction(captions), weight).diagonal()
    loss = preference_loss(scores, weight)
    loss.backward()
    assert_close(scores, tensors["out.score"])
    assert_close(loss, tensors["out.loss"])
    blocks = pictures.grad.unflatten(-1, (side, block)).unflatten(-3, (side, block)).sum((-1, -3))
    recorded = next(value for name, value in tensors.items() if name.startswith("out.grad_image_pooled"))
    assert_close(blocks, recorded)


@every("f_solver")
def test_solver_steps(case):
    tensors = case.tensors
    x, eps, t = tensors["in.x"], tensors["in.eps"], tensors["in.t"]
    alphas = tensors["alphas_cumprod_sd15"]
    clean = predict_clean(eps, x, t, alphas)
    assert_close(clean, tensors["out.x0_eps"])
    assert_close(predict_clean(eps, x, t, alphas, "v_prediction"), tensors["out.x0_v"])
    assert_close(ddim_step(clean, eps, t - 20, alphas), tensors["out.ddim_prev20"])
    assert_close(ddim_step(clean, eps, t - 20, alphas), tensors["out.ddim_prev_default"])
    assert_close(ddim_step(clean, eps, t - 250, alphas), tensors["out.lcm_step250"])
    skip, out = boundary_scalings(t)
    assert_close(skip, tensors["out.c_skip"])
    assert_close(out, tensors["out.c_out"])


class Toy(torch.nn.Module):
    """The recorded noise predictor: a convolution, the mean of the context, and the time."""

    def __init__(self, channels, width):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.ctx = torch.nn.Linear(width, channels)
        self.tw = torch.nn.Parameter(torch.zeros(channels))

    def forward(self, x, t, context):
        words = self.ctx(context.mean(1))[:, :, None, None]
        time = self.tw.view(1, -1, 1, 1) * (t.float() / 1000).view(-1, 1, 1, 1)
        return torch.tanh(self.conv(x) + words + time)


def sd15_alphas():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)


@every("i_rollout_")
def test_rollouts(case):
    tensors, record = case.tensors, case.record
    toy = Toy(tensors["in.x_T"].shape[1], tensors["in.cond"].shape[-1])
    toy.load_state_dict(case.below("toy."))
    alphas = sd15_alphas()
    if record["lcm"]:
        noises = tensors["in.step_noise"]
        predict = unguided(toy, tensors["in.cond"])
        steps = len(record["timesteps"])
        clean = consistency_rollout(predict, tensors["in.x_T"], alphas, lambda i: noises[i], steps=steps)
    else:
        predict = guided(toy, tensors["in.cond"], tensors["in.uncond"], record["guidance"])
        clean = rollout(predict, tensors["in.x_T"], alphas, start=record["rand_start"])
    (clean * tensors["in.G"]).sum().backward()
    assert_close(clean, tensors["out.pred_x0"])
    for name, parameter in toy.named_parameters():
        assert_close(parameter.grad, case.below("grad.")[name])
