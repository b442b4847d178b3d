"""The studio's page: what a Hugging Face Space runs, and `python app.py` anywhere else."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# server-side rendering is on by default on Spaces and would not know the studio's own routes
os.environ["GRADIO_SSR_MODE"] = "false"
# torch reads it once, when it is imported: its threads would spin between operations, and where other
# programs want the same cores, everybody waits for everybody
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401  has to come before anything that touches a card

from studio.settings import Settings
from studio.studio import Studio
from studio.ui.page import build_page, free_port, launch_options

settings = Settings.from_env()
studio = Studio(settings)
demo = build_page(studio)

if __name__ == "__main__":
    demo.launch(server_port=free_port(settings), **launch_options(studio))
