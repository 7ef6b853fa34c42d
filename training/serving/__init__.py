"""A page in the browser and a JSON API for a trained model of any task, and the files of a Hugging Face Space.

    from plait.training.serving import build_blocks, launch_blocks

    launch_blocks(build_blocks("runs/mine"))

Needs gradio (`pip install 'plait[serve]'`). May import: training/runs and below.
"""

from .blocks import build_blocks
from .launch import launch_blocks, serve
from .served_model import ServedModel
from .settings import ServeSettings
from .space import write_space

__all__ = ["ServeSettings", "ServedModel", "build_blocks", "launch_blocks", "serve", "write_space"]
