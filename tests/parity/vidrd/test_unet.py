"""The video UNet against the numbers that the authors' network gave, key for key."""

import pytest
import torch

from pipelines.vidrd.convert_vidrd import load_weights, unet_keys
from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel, is_temporal
from tests.parity.vidrd.recorded import discover

ATOL = 2e-5


@pytest.mark.parametrize("case", discover("unet_"))
@torch.no_grad()
def test_video_unet(case):
    record, recorded = case.json, case.tensors("io")
    model = VidRDUNet3DModel(**record["config"]).eval()
    assert load_weights(model, unet_keys(case.tensors("weights")), "UNet") == []
    assert sum(p.numel() for p in model.parameters()) == record["num_params"]
    temporal = sum(p.numel() for name, p in model.named_parameters() if is_temporal(name))
    assert temporal == record["num_temporal_params"]
    assert record["cases"]
    for entry in record["cases"]:
        name = f"case{entry['case']}"
        text = recorded[f"{name}.encoder_hidden_states"]
        out = model(recorded[f"{name}.sample"], entry["timestep"], text).sample
        torch.testing.assert_close(out, recorded[f"{name}.out"], atol=ATOL, rtol=0)
