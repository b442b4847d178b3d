"""Times of the flux schedule and the scores of three benchmarks against the authors' functions, exactly."""

import pytest

from pipelines.compass.schedule import flux_schedule, shift_of
from pipelines.compass.scoring import (
    Detected,
    geneval_position,
    geneval_relations,
    t2i_position,
    visor,
    visor_image,
)
from tests.parity.compass.recorded import recorded


@pytest.mark.parametrize("case", recorded("flux_schedule", "json"))
def test_schedules(case):
    entries = {name: entry for name, entry in case.json().items() if isinstance(entry, dict)}
    assert entries
    for name, entry in entries.items():
        times, expected = flux_schedule(entry["num_steps"], entry["image_seq_len"]), entry["timesteps"]
        assert shift_of(entry["image_seq_len"]) == pytest.approx(entry["mu"], abs=1e-12), name
        if isinstance(expected, list):
            assert times == pytest.approx(expected, abs=1e-6)
            continue
        assert len(times) == expected["len"]
        middle = len(times) // 2 - len(expected["middle"]) // 2
        for part, start in (("first", 0), ("middle", middle), ("last", len(times) - len(expected["last"]))):
            ours = times[start : start + len(expected[part])]
            assert ours == pytest.approx(expected[part], abs=1e-6), (name, part)


@pytest.mark.parametrize("case", recorded("scoring", "json"))
def test_visor(case):
    data = case.json()["visor"]
    images = []
    prompts = {prompt["unique_id"]: prompt for prompt in data["prompts"]}
    for key, seen in data["detections"].items():
        prompt = prompts[int(key.rsplit("_", 1)[0])]
        names = [prompt[f"obj_{number}_attributes"][0] for number in (1, 2)]
        found = [
            Detected(names[label], score, tuple(box))
            for box, score, label in zip(seen["boxes"], seen["scores"], seen["labels"], strict=True)
        ]
        image = visor_image(prompt["unique_id"], found, names[0], prompt["rel_type"], names[1])
        expected = data["per_image"][key]
        assert image.has_first + image.has_second == expected["recall"], key
        assert int(image.has_both and image.is_right) == expected["sra"], key
        images.append(image)
    scores, expected = visor(images), data["scores"]
    ours = {
        "OA_A": scores.first,
        "OA_B": scores.second,
        "OA": scores.both,
        "cond": scores.conditional,
        "uncond": scores.unconditional,
        "VISOR_1..4": scores.at_least,
    }
    assert set(ours) == set(expected)
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert scores.unconditional == pytest.approx(sum(scores.at_least) / 4)


@pytest.mark.parametrize("case", recorded("scoring", "json"))
def test_geneval(case):
    data = case.json()
    relative = data["geneval_relative_position"]
    assert relative["cases"] and data["geneval_evaluate_position"]["cases"]
    for record in relative["cases"]:
        held = geneval_relations(record["a"], record["b"], relative["position_threshold"])
        assert sorted(held) == sorted(record["relations"])
    for record in data["geneval_evaluate_position"]["cases"]:
        objects = {
            name: [box[:4] for box in boxes] for name, boxes in record["objects_sorted_by_score"].items()
        }
        correct, reasons = geneval_position(objects, record["metadata"]["include"])
        assert (correct, len(reasons)) == (record["correct"], record["num_reasons"]), record["metadata"][
            "prompt"
        ]


@pytest.mark.parametrize("case", recorded("scoring", "json"))
def test_t2i_compbench(case):
    data = case.json()["t2i_compbench_determine_position"]
    assert data["cases"]
    for record in data["cases"]:
        first, second = (
            tuple(record[name][side] for side in ("x_min", "y_min", "x_max", "y_max"))
            for name in ("box1", "box2")
        )
        score = t2i_position(
            record["locality"], first, second, data["iou_threshold"], data["distance_threshold"]
        )
        assert score == pytest.approx(record["score"], abs=1e-9), record["locality"]
