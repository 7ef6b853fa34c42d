"""The registry of tasks: TASKS by name, and the look-up by name or model class."""

from ..recipes.errors import check_choice
from .base import Task
from .causal_lm import CausalLM
from .classification import Classification
from .dialogue import Dialogue
from .generation import Generation
from .image_autoencoding import ImageAutoencoding
from .image_generation import ImageGeneration
from .masked_lm import MaskedLM
from .preference import Preference
from .pretraining import PreTraining
from .question_answering import QuestionAnswering
from .retrieval import Retrieval

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        MaskedLM(),
        Generation(),
        CausalLM(),
        Dialogue(),
        Preference(),
        QuestionAnswering(),
        PreTraining(),
        Retrieval(),
        ImageGeneration(),
        ImageAutoencoding(),
    )
}


def find_task(name: str) -> Task:
    """Returns the task of a name.

    Raises:
        RecipeError: an unknown name, with the nearest.
    """
    check_choice("task", name, TASKS)
    return TASKS[name]


def find_class_task(class_name: str) -> Task | None:
    """Returns the first task that trains this model class, None for a class without a task."""
    return next((task for task in TASKS.values() if task.model_class.__name__ == class_name), None)


__all__ = ["TASKS", "Task", "find_class_task", "find_task"]
