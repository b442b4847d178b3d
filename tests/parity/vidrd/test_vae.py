"""The temporal decoder against the authors' one, with the frames told and not told; and the encoder."""

import pytest
import torch

from pipelines.vidrd.autoencoder_vidrd import VidRDAutoencoderKL
from pipelines.vidrd.convert_vidrd import vae_keys
from tests.parity.vidrd.recorded import discover

ATOL = 2e-5


@pytest.mark.parametrize("case", discover("vae_"))
@torch.no_grad()
def test_temporal_decoder(case):
    record, recorded, weights = case.json, case.tensors("io"), vae_keys(case.tensors("weights"))
    model = VidRDAutoencoderKL(**record["config"]).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # the small copy leaves the encoder out, whole
    without_encoder = not any(name.startswith("encoder.") for name in weights)
    left_out = [name for name in missing if without_encoder and name.startswith(("encoder.", "quant_conv."))]
    assert missing == left_out and unexpected == []
    assert sum(p.numel() for p in model.parameters()) == record["num_params"]
    assert record["cases"]
    for entry in record["cases"]:
        name = f"case{entry['case']}"
        for frames, told in ((entry["num_frames"], "f"), (1, "1")):
            out = model.decode(recorded[f"{name}.z"], num_frames=frames).sample
            torch.testing.assert_close(out, recorded[f"{name}.out_num_frames_{told}"], atol=ATOL, rtol=0)
    assert ("enc.x" in recorded) != without_encoder
    if not without_encoder:
        posterior = model.encode(recorded["enc.x"]).latent_dist
        torch.testing.assert_close(posterior.mean, recorded["enc.mean"], atol=ATOL, rtol=0)
        torch.testing.assert_close(posterior.logvar, recorded["enc.logvar"], atol=ATOL, rtol=0)
