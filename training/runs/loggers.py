"""The loggers that a run reports to, besides its own folder: found before the work begins."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from ..recipes.errors import RecipeError, check_choice
from ..tasks.image_grids import ImageGrids

# the modules of a logger, of which one must be there, and the package that brings it; others: a package of their name
LOGGER_PACKAGES = {
    "azure_ml": (("azureml",), "azureml-sdk"),
    "dagshub": (("dagshub",), "dagshub mlflow"),
    "flyte": (("flytekit",), "flytekit"),
    "kubeflow": (("kubeflow",), "kubeflow"),
    "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
}


def check_loggers(names: Sequence[str] | str | None) -> None:
    """Raises RecipeError for a logger of `training.report_to` that transformers does not know, or whose package is not
    installed; the message says what to install."""
    for name in [names] if isinstance(names, str) else names or ():
        if name in ("none", "all"):
            continue
        check_choice("training.report_to", name, list(INTEGRATION_TO_CALLBACK))
        modules, package = LOGGER_PACKAGES.get(name, ((name,), name.replace("_", "-")))
        if not any(find_spec(module) for module in modules):
            raise RecipeError(f"training.report_to is {name!r}, which is not installed: pip install {package}")


@contextmanager
def move_writers(callbacks: Sequence[TrainerCallback], rebase: Callable[[str], str]) -> Iterator[None]:
    """Opens a context in which the run folder is moved: the files of TensorBoard, which it opens anew by their path for
    every event, are closed before and continued after it where `rebase` says."""
    moved: list[tuple[Any, str]] = []
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            moved.append((callback, callback.tb_writer.log_dir))
            callback.tb_writer.close()
        if isinstance(callback, ImageGrids) and callback.writer is not None:
            callback.writer.close()
            callback.writer = None  # opened again with the next grid
    yield
    for callback, folder in moved:
        callback.tb_writer = type(callback.tb_writer)(log_dir=rebase(folder))
