"""The studio's page: what a Hugging Face Space runs, and `python app.py` anywhere else."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# server-side rendering is on by default on Spaces and would not know the studio's own routes
os.environ["GRADIO_SSR_MODE"] = "false"

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
