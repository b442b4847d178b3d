"""ZeroGPU Spaces: a card that is lent for seconds, only inside functions marked for it."""

from __future__ import annotations

import os
import subprocess

import gradio as gr


def add_device_report() -> bool:
    """Add the endpoint /device on a ZeroGPU Space; False anywhere else.

    Such a Space does not start without a function marked for its card. The worker that paints is a thread of
    the main process, where the card is never visible, so it paints on the CPU; this endpoint tells what could
    be lent.
    """
    if not os.environ.get("SPACES_ZERO_GPU"):
        return False
    import spaces

    @spaces.GPU(duration=10)
    def device() -> str:
        """Name and memory of the card this Space is lent."""
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout.strip()

    gr.api(device, api_name="device")
    return True
