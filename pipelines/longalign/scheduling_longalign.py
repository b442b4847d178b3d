"""The four-step scheduler of the distilled weights."""

from diffusers import LCMScheduler


class LongAlignLCMScheduler(LCMScheduler):
    """LCM sampling whose answer is the network's clean estimate itself (c_skip 0, c_out 1).

    Set `original_inference_steps` to 20, and four steps stand at 999, 749, 499 and 249, where the recipes
    train (`LongAlignLCMScheduler.from_config(scheduler.config, original_inference_steps=20)`).
    """

    def get_scalings_for_boundary_condition_discrete(self, timestep: int) -> tuple[float, float]:
        """As in the authors' sampling script, at every time."""
        return 0.0, 1.0
