"""Recorded autoregressive models: logits, greedy ids with and without guidance, with and without cache."""

import re

import pytest
import torch

from pipelines.flextok.token_sampling import TokenSampling
from tests.parity.flextok.recorded import assert_near, autoregressive, below, discover


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def greedy(model, condition, count, scale, rows, use_cache, later=None):
    """Ids by the largest logit; `later` replaces the condition from the second step on."""
    sampling = TokenSampling(scale, temperature=0.0)
    copies = 2 if scale is not None else 1
    cache = model.new_cache(copies * rows) if use_cache else None
    ids, logits = torch.zeros(rows, 0, dtype=torch.long), None
    while ids.shape[1] < count:
        seen = ids[:, -1:] if use_cache and ids.shape[1] else ids
        told = later if later is not None and ids.shape[1] else condition
        logits = model(seen.repeat(copies, 1), told, cache)
        conditional, null = logits[:, -1].chunk(2) if copies == 2 else (logits[:, -1], None)
        ids = torch.cat([ids, sampling.draw(conditional, null, [None] * rows)[:, None]], 1)
    return ids, logits


def scales(tensors, prefix):
    """(scale or None, its spelling, tokens kept, expected ids) of the recorded greedy runs."""
    for name, ids in below(tensors, prefix).items():
        match = re.fullmatch(r"cfg(None|[\d.]+)\.keep(\d+)", name)
        if match:
            yield None if match[1] == "None" else float(match[1]), match[1], int(match[2]), ids


@pytest.mark.parametrize("case", discover("ar_c2i"))
def test_classes(case):
    model, tensors, record = autoregressive(case), case.tensors(), case.json
    found = re.search(r"class ids \[([\d, ]+)\]", record["note"])
    classes = record.get("class_ids") or [int(n) for n in found.group(1).split(",")]
    rows, runs = len(classes), 0
    for scale, spelling, count, expected in scales(tensors, "greedy."):
        if scale is None:
            condition = model.class_condition(classes)
            for use_cache in (True, False):
                ids, logits = greedy(model, condition, count, None, rows, use_cache)
                assert torch.equal(ids, expected)
            later = None
        else:
            # recorded with the defect: from the second step on, guidance contrasts with class 0
            condition = model.class_condition([*classes, *[None] * rows])
            later = model.class_condition([*classes, *[0] * rows])
            ids, logits = greedy(model, condition, count, scale, rows, False, later)
            assert torch.equal(ids, expected)
        if count == record["tokens"]:
            assert_near(logits, tensors[f"logits_all_rows_last_step.cfg{spelling}"], 1e-4)
        runs += 1
    for scale, spelling, count, expected in scales(tensors, "greedy_fixed."):
        condition = model.class_condition([*classes, *[None] * rows])
        for use_cache in (True, False):
            ids, logits = greedy(model, condition, count, scale, rows, use_cache)
            assert torch.equal(ids, expected)
        if count == record["tokens"]:
            assert_near(logits, tensors[f"fixed_logits_all_rows_last_step.cfg{spelling}"], 1e-4)
        runs += 1
    assert runs


@pytest.mark.parametrize("case", discover("ar_t2i"))
def test_texts(case):
    model, tensors, record = autoregressive(case), case.tensors(), case.json
    texts = below(tensors, "text_hidden.")
    names = sorted((name for name in texts if name != "empty"), key=list(record["text_lengths"]).index)
    rows, runs = len(names), 0
    for scale, spelling, count, expected in scales(tensors, "greedy."):
        told = names + ["empty"] * (rows if scale is not None else 0)
        states = torch.stack([texts[name] for name in told])
        real = torch.tensor([record["text_lengths"][name] for name in told])
        condition = model.text_condition(states, torch.arange(states.shape[1]) < real[:, None])
        for use_cache in (True, False):
            ids, logits = greedy(model, condition, count, scale, rows, use_cache)
            assert torch.equal(ids, expected)
        if count == record["tokens"]:
            assert_near(logits, tensors[f"logits_all_rows_last_step.cfg{spelling}"], 1e-4)
        runs += 1
    assert runs
